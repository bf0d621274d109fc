"""Plans are asked for once: stored, replayed, and asked again if what they follow from has changed."""

from __future__ import annotations

import json
import multiprocessing
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_planner import CANVAS, ask
from stub_models import Act, Stub, sensible

from sow.errors import UserError
from sow.planner.mllm import MLLM
from sow.planner.replay import Replay
from sow.types import Box, Plan

pytest_plugins = ["small_planner"]  # fixtures
pytestmark = pytest.mark.usefixtures("keys")


def test_stored_plans_need_neither_server_nor_key(
    make: Callable[..., MLLM], stub: Stub, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(provider).plan([ask()], CANVAS)[0]
    for name in ("GEMINI_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name)
    again = make(provider, base_url=None).plan([ask(seed=5)], CANVAS)[0]
    assert again == first and len(stub.calls) == 3
    with pytest.raises(UserError, match="no API key: set .* in the environment"):
        make(provider, base_url=None).plan([ask(prompt="a cat")], CANVAS)


def test_refresh_asks_again(make: Callable[..., MLLM], stub: Stub) -> None:
    make().plan([ask()], CANVAS)
    stub.answer = lambda call: {**sensible(call), "boxes": [[8, 8, 200, 200]]}
    assert make(refresh=True).plan([ask()], CANVAS)[0].boxes == (Box(8, 8, 200, 200),)
    assert len(stub.calls) == 6
    assert make().plan([ask()], CANVAS)[0].boxes == (Box(8, 8, 200, 200),) and len(stub.calls) == 6


def test_an_edited_prompt_asks_again(make: Callable[..., MLLM], stub: Stub, tmp_path: Path) -> None:
    from sow.planner.stages import prompt_texts

    make().plan([ask()], CANVAS)
    for stage, text in prompt_texts("v1").items():
        (tmp_path / f"{stage}.txt").write_text(text + "\nBe bold.")
    make(prompt_version=str(tmp_path)).plan([ask()], CANVAS)
    assert len(stub.calls) == 6 and "Be bold." in stub.calls[-1].text


def _many(planner: MLLM, count: int, results: Any) -> None:
    """`count` threads of one process that want the same plan."""
    plans: list[Plan] = []
    threads = [
        threading.Thread(target=lambda: plans.extend(planner.plan([ask()], CANVAS))) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put([p.to_dict() for p in plans])


@pytest.mark.parametrize("calls", ["one", "three"])
def test_twenty_five_jobs_on_one_plan_ask_once(
    make: Callable[..., MLLM], stub: Stub, provider: str, calls: str
) -> None:
    stub.default = Act(hang=0.2)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    planner = make(provider, calls=calls)
    planner.client()  # the SDK is imported once, before the fork
    jobs = [context.Process(target=_many, args=(planner, 5, results)) for _ in range(5)]
    for job in jobs:
        job.start()
    plans = [plan for _ in jobs for plan in results.get(timeout=60)]
    for job in jobs:
        job.join(timeout=60)
    assert len(plans) == 25 and all(p == plans[0] for p in plans)
    assert len(stub.calls) == (1 if calls == "one" else 3)


def test_falling_back_is_recorded_and_not_stored(
    make: Callable[..., MLLM], stub: Stub, provider: str, tmp_path: Path
) -> None:
    stub.default = Act(status=503, message="overloaded")
    planner = make(provider, on_error="fallback", retries=0)
    plan = planner.plan([ask()], CANVAS)[0]
    assert plan.source == "offline" and plan.boxes[0].inside(512, 512)
    assert plan.details["fallback_from"] == planner.provider and "HTTP 503" in plan.details["error"]
    assert planner.relate(ask(), [Box(0, 0, 200, 200)], CANVAS)
    stub.default = Act()
    assert planner.plan([ask()], CANVAS)[0].source == planner.provider


def test_a_stored_plan_can_be_replayed(make: Callable[..., MLLM], tmp_path: Path) -> None:
    plan = make().plan([ask()], CANVAS)[0]
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_dict()))
    again = Replay(str(tmp_path / "plan.json")).plan([ask()], CANVAS)[0]
    assert (again.boxes, again.related, again.prompt) == (plan.boxes, plan.related, plan.prompt)
