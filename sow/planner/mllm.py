"""Plans by a multimodal language model (Sec. IV-A): asked once, stored, and made legal."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from sow.errors import UserError
from sow.planner.base import TokenLimit, legal_related, or_surround
from sow.planner.calling import Caller, Client
from sow.planner.conventions import habit
from sow.planner.offline import Offline
from sow.planner.stages import Conversation, prompt_files, prompt_texts, prompts_digest
from sow.planner.store import PlanStore
from sow.planner.tokens import vocabulary_file
from sow.store.file_hashes import file_sha256
from sow.store.fingerprint import fingerprint, sha256
from sow.store.secrets import redact
from sow.types import Bound, Box, Canvas, Plan, Request, component

_log = logging.getLogger(__name__)
_STORE_FORMAT = 3  # raise it when a stored plan is no longer what the code would make


def _is_url(text: str) -> bool:
    """Whether a client would find scheme, host and port in a server's address, and put its own path behind:
    after a ? or # it would be no path any more."""
    try:
        parts = urlsplit(text)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        return whole and not re.search(r"[?#\s]", text)
    except ValueError:
        return False


@component("planner")
class MLLM:
    """What every model-backed planner has.

    `model`, `base_url` (None: the provider's own); `prompt_version` names shipped prompts or a folder;
    `calls` three stages or one; `temperature` None leaves the model's default; `image_side` longest side of a
    sent picture in pixels; `max_tokens` limits c' in tokens of the model in the folder `tokenizer` (None:
    CLIP's); `asks` replies that a stage may waste; `retries`, `backoff` and `max_backoff` (seconds) for 408,
    429, 5xx and time-outs; `timeout` seconds a call; `budget` seconds a plan; `requests_per_minute` among all
    processes of the store, None for no limit; `store` the folder of plans; `refresh` asks again; `on_error`
    fail, or fallback to `fallback`; prices in USD a million tokens, None where unknown; `boxes_as` the order
    and scale in which the model writes boxes, None: as asked, or found out where only one fits.
    """

    model: str
    base_url: str | None
    prompt_version: str
    calls: Literal["three", "one"]
    temperature: float | None
    max_output_tokens: Annotated[int, Bound(ge=1)]
    image_side: Annotated[int, Bound(ge=32)]
    max_tokens: TokenLimit
    tokenizer: str | None
    asks: Annotated[int, Bound(ge=1)]
    retries: Annotated[int, Bound(ge=0)]
    backoff: Annotated[float, Bound(ge=0)]
    max_backoff: Annotated[float, Bound(ge=0)]
    timeout: Annotated[float, Bound(gt=0)]
    budget: Annotated[float, Bound(gt=0)]
    requests_per_minute: Annotated[float | None, Bound(gt=0)]
    store: Path
    refresh: bool
    on_error: Literal["fail", "fallback"]
    fallback: Offline
    price_in: Annotated[float | None, Bound(ge=0)]
    price_out: Annotated[float | None, Bound(ge=0)]
    boxes_as: (
        Literal[
            "xywh",
            "xyxy",
            "yxyx",
            "xywh of 1000",
            "xyxy of 1000",
            "yxyx of 1000",
            "xywh of 1",
            "xyxy of 1",
            "yxyx of 1",
            "cxcywh",
            "cxcywh of 1000",
            "cxcywh of 1",
            "xywh of 100",
            "xyxy of 100",
            "yxyx of 100",
            "cxcywh of 100",
        ]
        | None
    )

    provider: ClassVar[str] = ""
    # How patiently a server is asked; a plan that impatience made offline is asked for again anyway.
    PASSING: ClassVar[tuple[str, ...]] = (
        *("retries", "backoff", "max_backoff", "timeout", "budget", "requests_per_minute"),
        *("price_in", "price_out"),
    )

    def __post_init__(self) -> None:
        if not self.model:
            raise UserError("planner.model is empty: name the model to ask")
        prompt_texts(self.prompt_version)
        if self.base_url is not None and not _is_url(self.base_url):
            raise UserError(
                "planner.base_url is no http(s)://host[:port][/path] (not shown: it may hold a password): "
                "give the server's; a /, @, ? or # in a password is written %2F, %40, %3F or %23 "
                "(planner.base_url)"
            )

    def files(self) -> list[Path]:
        """The prompts, and the vocabulary that counts tokens."""
        return [*prompt_files(self.prompt_version), vocabulary_file(self.tokenizer)]

    def client(self) -> Client:
        """The SDK's client; raises UserError without a key or SDK."""
        raise NotImplementedError

    def plan(self, requests: Sequence[Request], canvas: Canvas) -> list[Plan]:
        """One plan a request, from the store where it is there."""
        return [self._one(request, canvas) for request in requests]

    def relate(self, request: Request, boxes: Sequence[Box], canvas: Canvas) -> tuple[Box, ...]:
        """Stage 3 alone, for these boxes; stored like a plan."""
        parts = {**self._parts(request, canvas), "boxes": [b.as_list() for b in boxes]}

        def ask() -> dict[str, Any]:
            talk = self._conversation(request, canvas)
            regions = talk.region(boxes, None)
            return redact({"related": [b.as_list() for b in regions], "details": self._details(talk)})

        try:
            found = self._stored(parts, ask)
        except UserError as error:
            if self.on_error == "fail":
                raise
            _log.warning("planning offline instead: %s", error)
            return self.fallback.relate(request, boxes, canvas)
        regions = [Box.of(b) for b in found["related"]]
        return or_surround(legal_related(regions, boxes, canvas), boxes, canvas)

    def _one(self, request: Request, canvas: Canvas) -> Plan:
        try:
            return Plan.from_dict(
                self._stored(self._parts(request, canvas), lambda: self._ask(request, canvas))
            )
        except UserError as error:
            if self.on_error == "fail":
                raise
            _log.warning("planning offline instead: %s", error)
            plan = self.fallback.plan([request], canvas)[0]
            details = {
                **plan.details,
                "fallback_from": self.provider,
                "model": self.model,
                "error": str(error),
            }
            return replace(plan, details=details)

    def _ask(self, request: Request, canvas: Canvas) -> dict[str, Any]:
        talk = self._conversation(request, canvas)
        if self.calls == "one":
            prompt, described, boxes, related = talk.single()
        else:
            prompt, described = talk.recognition()
            boxes, convention = talk.position()
            related = talk.region(boxes, convention)
        details = {"conditions": described, **self._details(talk)}
        return redact(Plan(boxes, related, prompt, self.provider, details).to_dict())

    def _conversation(self, request: Request, canvas: Canvas) -> Conversation:
        caller = Caller(
            self.client(),
            self.retries,
            self.backoff,
            self.max_backoff,
            self.timeout,
            self.budget,
            self._turn,
        )
        return Conversation(
            caller,
            request,
            canvas,
            self.prompt_version,
            self.image_side,
            self.asks,
            self.max_tokens,
            self.tokenizer,
            self.boxes_as,
            habit(self.model),
        )

    def _turn(self) -> float:
        if self.requests_per_minute is None:
            return 0.0
        return PlanStore(self.store).reserve(self.provider, 60 / self.requests_per_minute)

    def _details(self, talk: Conversation) -> dict[str, Any]:
        """Where a plan comes from: model, prompts, every stage's reply, seconds, tokens and cost."""
        tokens_in, tokens_out = (sum(r[n] for r in talk.records) for n in ("tokens_in", "tokens_out"))
        cost = None
        if self.price_in is not None and self.price_out is not None:
            cost = round((tokens_in * self.price_in + tokens_out * self.price_out) / 1e6, 6)
        return {
            "model": self.model,
            "prompt_version": self.prompt_version,
            "stages": talk.records,
            "requests": talk.caller.calls,
            "seconds": round(sum(r.get("seconds", 0.0) for r in talk.records), 3),
            "tokens_in": tokens_in,
            "tokens_out": tokens_out,
            "cost_usd": cost,
            "asked": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }

    def _stored(self, parts: dict[str, Any], ask: Any) -> dict[str, Any]:
        # A holder of the lock ends its call within the budget and one call's time-out.
        wait = self.budget + self.timeout + 30
        start = time.perf_counter()
        found = PlanStore(self.store).get_or_ask(fingerprint(parts), ask, refresh=self.refresh, wait=wait)
        _log.debug("plan after %.2f s", time.perf_counter() - start)
        return found

    def _own_vocabulary(self) -> dict[str, str]:
        """The hash of a vocabulary that is not CLIP's, which never changes."""
        file = vocabulary_file(self.tokenizer)
        return {} if file.suffix == ".gz" else {"vocabulary": file_sha256(file)}

    def _parts(self, request: Request, canvas: Canvas) -> dict[str, Any]:
        """Everything that decides a plan; neither the server's address nor the SDK does."""
        return {
            "format": _STORE_FORMAT,
            "provider": self.provider,
            "model": self.model,
            "prompts": prompts_digest(self.prompt_version),
            "calls": self.calls,
            "temperature": self.temperature,
            "image_side": self.image_side,
            "max_tokens": self.max_tokens,
            "tokenizer": self.tokenizer,
            **self._own_vocabulary(),
            "boxes_as": self.boxes_as,
            "prompt": request.prompt,
            "canvas": [
                canvas.width,
                canvas.height,
                canvas.factor,
                canvas.condition_min,
                canvas.condition_max,
            ],
            "conditions": [
                {
                    "image": _digest(c.image.convert("RGB")),
                    "mask": None if c.mask is None else _digest(c.mask.convert("L")),
                    "box": None if c.box is None else c.box.as_list(),
                }
                for c in request.conditions
            ],
        }


def _digest(image: Any) -> str:
    return sha256(f"{image.size}".encode() + image.tobytes())
