"""Any server that speaks OpenAI's chat completions with pictures: hosted ones, vLLM, Ollama, llama.cpp."""

from __future__ import annotations

import base64
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


@component("planner")
class OpenAI(MLLM):
    """`api_key_env` names the environment variable with the key; a server at `base_url` may do without one.

    `response_format` json_schema, json_object or text, as far as the server supports them; `token_limit` the
    name of its parameter for `max_output_tokens`.
    """

    api_key_env: str
    response_format: Literal["json_schema", "json_object", "text"]
    token_limit: Literal["max_tokens", "max_completion_tokens"]

    provider: ClassVar[str] = "openai"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[A-Za-z_]\w*", self.api_key_env):
            raise UserError(  # without the value: it may be the key itself
                "planner.api_key_env is no name of an environment variable: put the key into one and "
                "name it (planner.api_key_env)"
            )

    def client(self) -> Client:
        """The SDK's client; raises UserError without a key for OpenAI's own server, or without the SDK."""
        key = api_key([self.api_key_env], self.base_url is None, "openai")
        return ChatClient(
            _sdk(key or "none", self.base_url),
            self.model,
            self.temperature,
            self.max_output_tokens,
            self.response_format,
            self.token_limit,
            self.api_key_env,
        )


@dataclass(frozen=True)
class ChatClient:
    """Chat completions of the openai package."""

    sdk: Any
    model: str
    temperature: float | None
    max_output_tokens: int
    response_format: str
    token_limit: str
    key_name: str

    def ask(self, prompt: str, images: Sequence[bytes], answer: type[BaseModel], timeout: float) -> Reply:
        """One chat completion; raises CallFailed."""
        import openai

        urls = [f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in images]
        content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        options: dict[str, Any] = {self.token_limit: self.max_output_tokens}
        if self.temperature is not None:
            options["temperature"] = self.temperature
        if self.response_format == "json_schema":
            schema = {"name": answer.__name__.lower(), "schema": strict_schema(answer), "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif self.response_format == "json_object":
            options["response_format"] = {"type": "json_object"}
        try:
            response = self.sdk.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}],
                timeout=timeout,
                **options,
            )
        except openai.APITimeoutError as error:
            raise CallFailed(f"time-out ({type(error).__name__})", retry=True) from None
        except openai.APIConnectionError as error:
            raise CallFailed(f"connection failed ({error.__cause__ or error})", retry=True) from None
        except openai.APIStatusError as error:
            raise self._failed(error) from None
        except openai.APIError as error:  # a body that is no completion
            raise CallFailed(f"no chat completion: {error}", retry=True) from None
        return _reply(response)

    def _failed(self, error: Any) -> CallFailed:
        status, body = error.status_code, error.body
        detail = body.get("message") if isinstance(body, dict) else None
        words = f"HTTP {status} {detail or error.message}"
        if status in (401, 403):
            words += f" (check {self.key_name} in the environment)"
        elif status == 404:
            words += " (planner.model, planner.base_url)"
        elif status == 400 and "image" in words.lower():
            words += " (condition.image)"
        elif status == 400:
            words += " (planner.response_format, planner.token_limit)"
        return CallFailed(words, retry=retriable(status), after=retry_after(error.response.headers, ""))


def _reply(response: Any) -> Reply:
    usage = getattr(response, "usage", None)
    tokens_in = getattr(usage, "prompt_tokens", None) or 0
    tokens_out = getattr(usage, "completion_tokens", None) or 0
    choices = getattr(response, "choices", None)
    if not choices:
        return Reply("", "the reply was empty", tokens_in, tokens_out)
    message, finish = choices[0].message, choices[0].finish_reason
    text = message.content or ""
    refusal = getattr(message, "refusal", None)
    if refusal:
        ended = f"the request was refused ({refusal})"
    elif finish == "content_filter":
        ended = "the reply was blocked (content_filter)"
    elif finish == "length":
        ended = "the reply was cut off at the token limit: answer shorter"
    else:
        ended = "" if text else "the reply was empty"
    return Reply(text, ended, tokens_in, tokens_out)


@lru_cache(maxsize=4)
def _sdk(key: str, base_url: str | None) -> Any:
    try:
        import openai
    except ImportError as error:
        raise UserError("openai is not installed: pip install openai (planner=openai)") from error
    return openai.OpenAI(api_key=key, base_url=base_url, max_retries=0)
