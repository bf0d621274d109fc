"""Gemini as the planner (Sec. IV-A), through the maintained SDK or the user's older one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

from pydantic import BaseModel

from sow.errors import UserError
from sow.planner.calling import CallFailed, Client, Reply, api_key, retriable, retry_after
from sow.planner.mllm import MLLM
from sow.planner.replies import strict_schema
from sow.types import component

KEYS = ("GEMINI_API_KEY", "GOOGLE_API_KEY")


@component("planner")
class Gemini(MLLM):
    """`sdk` google-genai or google-generativeai (its support has ended): the same prompts, the same plans.

    The API key is read from GEMINI_API_KEY or GOOGLE_API_KEY, and only when a plan is not stored yet.
    """

    sdk: Literal["google-genai", "google-generativeai"]

    provider: ClassVar[str] = "gemini"

    def client(self) -> Client:
        """The SDK's client; raises UserError without a key or SDK."""
        key = api_key(KEYS, True, "gemini")
        assert key is not None
        make = _genai if self.sdk == "google-genai" else _generativeai
        return make(key, self.base_url, self.model, self.temperature, self.max_output_tokens)


@dataclass(frozen=True)
class GenaiClient:
    """google-genai 1.50 and later."""

    sdk: Any
    model: str
    temperature: float | None
    max_output_tokens: int

    def ask(self, prompt: str, images: Sequence[bytes], answer: type[BaseModel], timeout: float) -> Reply:
        """One generateContent call with structured output; raises CallFailed."""
        from google.genai import errors, types

        parts = [types.Part.from_bytes(data=data, mime_type="image/png") for data in images]
        config = types.GenerateContentConfig(
            response_mime_type="application/json",
            response_schema=answer,
            temperature=self.temperature,
            max_output_tokens=self.max_output_tokens,
            http_options=types.HttpOptions(timeout=max(1, round(timeout * 1000))),
        )
        contents = [types.Content(role="user", parts=[*parts, types.Part.from_text(text=prompt)])]
        try:
            response = self.sdk.models.generate_content(model=self.model, contents=contents, config=config)
        except errors.APIError as error:
            headers = getattr(error.response, "headers", None)
            raise _failed(error.code, error.message or str(error), headers, str(error.details)) from None
        except Exception as error:
            raise _unreachable(error) from None
        usage = response.usage_metadata
        spent = (getattr(usage, n, None) or 0 for n in ("candidates_token_count", "thoughts_token_count"))
        tokens_in, tokens_out = getattr(usage, "prompt_token_count", None) or 0, sum(spent)
        candidate = response.candidates[0] if response.candidates else None
        found = candidate.content.parts if candidate and candidate.content else None
        text = "".join(p.text for p in found or [] if p.text and not p.thought)
        blocked = response.prompt_feedback.block_reason if response.prompt_feedback else None
        finish = candidate.finish_reason if candidate else None
        return Reply(text, _ended(text, _name(blocked), _name(finish)), tokens_in, tokens_out)


@dataclass(frozen=True)
class GenerativeaiClient:
    """google-generativeai 0.8."""

    sdk: Any
    model: str
    temperature: float | None
    max_output_tokens: int

    def ask(self, prompt: str, images: Sequence[bytes], answer: type[BaseModel], timeout: float) -> Reply:
        """One generateContent call with structured output; raises CallFailed."""
        from google.api_core import exceptions

        config: dict[str, Any] = {
            "response_mime_type": "application/json",
            "response_schema": _without_additional(strict_schema(answer)),
            "max_output_tokens": self.max_output_tokens,
        }
        if self.temperature is not None:
            config["temperature"] = self.temperature
        parts = [{"mime_type": "image/png", "data": data} for data in images]
        try:
            model = self.sdk.GenerativeModel(self.model, generation_config=config)
            response = model.generate_content(
                [*parts, prompt], request_options={"timeout": timeout, "retry": None}
            )
        except exceptions.RetryError as error:
            raise CallFailed(f"no answer in time: {error}", retry=True) from None
        except exceptions.GoogleAPICallError as error:
            headers = getattr(error.response, "headers", None)
            body = getattr(error.response, "text", "")
            raise _failed(int(error.code or 0), str(error.message), headers, str(body)) from None
        except Exception as error:
            raise _unreachable(error) from None
        usage = response.usage_metadata
        candidate = response.candidates[0] if response.candidates else None
        text = "".join(p.text for p in candidate.content.parts) if candidate else ""
        blocked = _name(response.prompt_feedback.block_reason) if response.prompt_feedback else ""
        finish = _name(candidate.finish_reason) if candidate else ""
        return Reply(
            text, _ended(text, blocked, finish), usage.prompt_token_count, usage.candidates_token_count
        )


@lru_cache(maxsize=4)
def _genai(
    key: str, base_url: str | None, model: str, temperature: float | None, max_output_tokens: int
) -> GenaiClient:
    try:
        from google import genai
        from google.genai import types
    except ImportError as error:
        raise UserError("google-genai is not installed: pip install google-genai (planner.sdk)") from error
    options = types.HttpOptions(base_url=base_url, retry_options=types.HttpRetryOptions(attempts=1))
    sdk = genai.Client(api_key=key, vertexai=False, http_options=options)
    return GenaiClient(sdk, model, temperature, max_output_tokens)


def _generativeai(
    key: str, base_url: str | None, model: str, temperature: float | None, max_output_tokens: int
) -> GenerativeaiClient:
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it announces its own end at import
            import google.generativeai as sdk
    except ImportError as error:
        raise UserError(
            "google-generativeai is not installed: pip install google-generativeai, or "
            "planner.sdk=google-genai (planner.sdk)"
        ) from error
    options = {"api_endpoint": base_url.rstrip("/")} if base_url else None
    # pyright: ignore[reportPrivateImportUsage]
    sdk.configure(api_key=key, transport="rest", client_options=options)
    return GenerativeaiClient(sdk, model, temperature, max_output_tokens)


def _failed(status: int, message: str, headers: object, body: str) -> CallFailed:
    words = f"HTTP {status} {re.sub(r'^[A-Z]+ https?://[^ ]+: ', '', message)}"
    if not retriable(status):
        words += _cure(status, message)
    return CallFailed(words, retry=retriable(status), after=retry_after(headers, body))


def _cure(status: int, message: str) -> str:
    if status in (401, 403) or re.search(r"api.?key", message, re.IGNORECASE):
        return f" (check {KEYS[0]} in the environment)"
    if status == 404:
        return " (planner.model)"
    if re.search(r"image|picture|media", message, re.IGNORECASE):
        return " (condition.image)"
    return ""


def _unreachable(error: Exception) -> CallFailed:
    """Time-outs and broken connections of whatever HTTP library the SDK uses;
    anything else is no server's fault."""
    name = f"{type(error).__module__}.{type(error).__name__}"
    if not isinstance(error, OSError) and not re.search(
        r"timeout|connect|protocol|read|transport", name, re.IGNORECASE
    ):
        raise error
    words = "time-out" if "timeout" in name.lower() else "connection failed"
    return CallFailed(f"{words} ({type(error).__name__}: {error})", retry=True)


def _ended(text: str, blocked: str, finish: str) -> str:
    """Why a reply is no answer, in words that the model understands; "" for a normal end."""
    if blocked and blocked != "BLOCK_REASON_UNSPECIFIED":
        return f"the prompt was blocked ({blocked})"
    if finish == "MAX_TOKENS":
        return "the reply was cut off at the token limit: answer shorter"
    if finish in ("", "STOP", "FINISH_REASON_UNSPECIFIED"):
        return "" if text else "the reply was empty"
    return f"the reply was stopped ({finish})"


def _name(value: Any) -> str:
    """The name of an SDK's enum value, or what stands in its place."""
    return "" if value is None else str(getattr(value, "name", value))


def _without_additional(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_additional(v) for v in schema]
    if isinstance(schema, dict):
        return {k: _without_additional(v) for k, v in schema.items() if k != "additionalProperties"}
    return schema
