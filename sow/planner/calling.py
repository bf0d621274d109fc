"""Calls of a remote model: time-outs, retries with backoff, a budget of time,
a rate limit, and no key in any word."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel

from sow.errors import UserError
from sow.store.secrets import hide_variable, redact

_log = logging.getLogger(__name__)
RETRIED = (408, 429)  # and every 5xx


@dataclass(frozen=True)
class Reply:
    """What one call gave: the text, why it ended ("" for a normal end), and the tokens it cost."""

    text: str
    ended: str
    tokens_in: int
    tokens_out: int


class CallFailed(Exception):
    """A call without a reply.

    `retry` says whether the same call may succeed later, `after` how many seconds the server asks to wait.
    """

    def __init__(self, message: str, *, retry: bool, after: float | None = None) -> None:
        super().__init__(message)
        self.retry, self.after = retry, after


class Client(Protocol):
    """A model behind an SDK."""

    def ask(self, prompt: str, images: Sequence[bytes], answer: type[BaseModel], timeout: float) -> Reply:
        """One call with PNG images; raises CallFailed."""
        ...


@dataclass
class Caller:
    """Calls within one plan: they share its budget of seconds."""

    client: Client
    retries: int
    backoff: float
    max_backoff: float
    timeout: float
    budget: float
    turn: Callable[[], float]
    calls: int = 0

    def __post_init__(self) -> None:
        self.deadline = time.monotonic() + self.budget

    def ask(self, prompt: str, images: Sequence[bytes], answer: type[BaseModel]) -> Reply:
        """One reply, however many calls it takes; raises UserError when none is had."""
        problem = ""
        for attempt in range(self.retries + 1):
            self._sleep(self.turn(), problem)
            try:
                self.calls += 1
                return self.client.ask(prompt, images, answer, min(self.timeout, self._left(problem)))
            except CallFailed as error:
                problem = _line(str(error))
                if not error.retry:
                    raise UserError(f"the planner's model refused the request: {problem}") from None
                pause = min(self.max_backoff, self.backoff * 2**attempt)
                after = max(pause, error.after or 0.0)
            if attempt < self.retries:
                _log.warning("%s: trying again in %.1f s", problem, after)
                self._sleep(after, problem)
        raise UserError(
            f"the planner's model gave no answer in {self.retries + 1} calls: {problem} (planner.retries, or "
            "planner.on_error=fallback)"
        )

    def _left(self, problem: str) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise self._too_long(problem)
        return left

    def _sleep(self, seconds: float, problem: str) -> None:
        if seconds > self._left(problem):
            raise self._too_long(problem)
        if seconds > 0:
            time.sleep(seconds)

    def _too_long(self, problem: str) -> UserError:
        why = f": {problem}" if problem else ""
        return UserError(
            f"no plan within {self.budget:g} s after {self.calls} calls{why} (planner.budget, or "
            "planner.on_error=fallback)"
        )


def api_key(names: Sequence[str], needed: bool, option: str) -> str | None:
    """The first of these environment variables that is set; raises UserError when a needed one is not."""
    for name in names:
        hide_variable(name)
        if value := os.environ.get(name, "").strip():
            return value
    if needed:
        raise UserError(
            f"no API key: set {' or '.join(names)} in the environment (planner={option}), or choose "
            "planner=offline"
        )
    return None


def _line(text: str) -> str:
    """The text on one line of bearable length, without secrets."""
    text = " ".join(redact(text).split())
    return text if len(text) <= 300 else text[:297] + "..."


def retriable(status: int) -> bool:
    """Whether a call that ended with this HTTP status may succeed later."""
    return status in RETRIED or status >= 500


def retry_after(headers: object, body: str) -> float | None:
    """Seconds that the server asks to wait, from the Retry-After header or Google's RetryInfo."""
    value = headers.get("retry-after") if hasattr(headers, "get") else None
    try:
        if value is not None:
            return max(0.0, float(value))
    except ValueError:
        pass  # a date: our own backoff serves
    found = re.search(r"""retryDelay["']?\s*:\s*["']?([\d.]+)s""", body)
    return float(found.group(1)) if found else None
