"""Servers that are busy, down, silent or talkative end in a plan or in one clear line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_planner import CANVAS, KEY, ask
from stub_models import Act, Stub, sensible

from sow.errors import UserError
from sow.planner.mllm import MLLM

pytest_plugins = ["small_planner"]  # fixtures
pytestmark = pytest.mark.usefixtures("keys")


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_busy_server_is_tried_again(
    make: Callable[..., MLLM], stub: Stub, provider: str, status: int
) -> None:
    stub.next(Act(status=status, message="later"), Act(status=status, message="later"))
    plan = make(provider).plan([ask()], CANVAS)[0]
    assert (
        len(stub.calls) == 5 and plan.details["requests"] == 5 and plan.details["stages"][0]["problems"] == []
    )


def test_the_servers_own_pause_is_kept(make: Callable[..., MLLM], stub: Stub, provider: str) -> None:
    stub.next(Act(status=429, message="slow down", headers={"retry-after": "0.7"}))
    start = time.perf_counter()
    make(provider).plan([ask()], CANVAS)
    assert time.perf_counter() - start >= 0.7 and len(stub.calls) == 4


def test_a_server_that_stays_down(make: Callable[..., MLLM], stub: Stub, provider: str) -> None:
    stub.default = Act(status=503, message="the model is overloaded")
    with pytest.raises(
        UserError, match=r"no answer in 4 calls: HTTP 503 the model is overloaded.*planner\.retries"
    ):
        make(provider).plan([ask()], CANVAS)
    assert len(stub.calls) == 4


def test_a_silent_server_is_given_up_and_tried_again(
    make: Callable[..., MLLM], stub: Stub, provider: str
) -> None:
    stub.next(Act(hang=1.5))
    plan = make(provider, timeout=0.6).plan([ask()], CANVAS)[0]
    assert len(stub.calls) == 4 and plan.prompt.endswith("glasses")
    stub.default = Act(hang=1.2)
    with pytest.raises(UserError, match="time-out"):
        make(provider, timeout=0.3, retries=1, refresh=True).plan([ask()], CANVAS)


def test_no_server_at_all(make: Callable[..., MLLM], provider: str) -> None:
    with pytest.raises(UserError, match="connection failed"):
        make(provider, base_url="http://127.0.0.1:9", retries=1).plan([ask()], CANVAS)


def test_the_budget_ends_the_waiting(make: Callable[..., MLLM], stub: Stub, provider: str) -> None:
    stub.default = Act(status=503, message="overloaded")
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"no plan within 1 s .*planner\.budget"):
        make(provider, retries=50, backoff=0.3, budget=1.0).plan([ask()], CANVAS)
    assert time.perf_counter() - start < 8 and len(stub.calls) < 8


@pytest.mark.parametrize(
    ("status", "message", "cure"),
    [
        (400, "Unable to process input image", "condition.image"),
        (403, "permission denied", "in the environment"),
        (404, "model not found", "planner.model"),
    ],
)
def test_what_no_retry_can_cure_is_said_at_once(
    make: Callable[..., MLLM], stub: Stub, provider: str, status: int, message: str, cure: str
) -> None:
    stub.default = Act(status=status, message=message)
    with pytest.raises(UserError, match=f"HTTP {status} .*{message}.*{cure}"):
        make(provider).plan([ask()], CANVAS)
    assert len(stub.calls) == 1


def test_the_rate_limit_slows_a_sweep(make: Callable[..., MLLM], stub: Stub) -> None:
    start = time.perf_counter()
    make(requests_per_minute=240).plan([ask()], CANVAS)
    assert time.perf_counter() - start >= 0.5 and len(stub.calls) == 3


def test_keys_echoed_by_a_server_are_hidden(
    make: Callable[..., MLLM], stub: Stub, provider: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stub.answer = lambda call: {**sensible(call), "reason": f"your key is {KEY}"}
    stub.next(Act(status=503, message=f"key {KEY} is busy"))
    make(provider).plan([ask()], CANVAS)
    stub.default = Act(status=403, message=f"key {KEY} is wrong, {KEY[:20]}...")
    with pytest.raises(UserError) as error:
        make(provider, refresh=True).plan([ask()], CANVAS)
    stored = "".join(p.read_text() for p in tmp_path.rglob("*") if p.is_file())
    for text in (stored, str(error.value), caplog.text):
        assert text and not any(KEY[i : i + 12] in text for i in range(len(KEY) - 11))
