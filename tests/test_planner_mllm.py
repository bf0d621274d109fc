"""The language-model planners through their real SDKs, against a server that speaks the real wire formats."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from small_planner import CANVAS, KEY, THREE, ask, face
from stub_models import Act, Stub, sensible

from sow.config.compose import compose
from sow.config.schema import instantiate
from sow.errors import UserError
from sow.planner import make_plans
from sow.planner.base import touches
from sow.planner.intensify import Off
from sow.planner.intensify import Planned as PlannedPrompt
from sow.planner.mllm import MLLM
from sow.planner.position import Planned, Random
from sow.types import Box, VisualCondition

pytest_plugins = ["small_planner"]  # fixtures
pytestmark = pytest.mark.usefixtures("keys")


def test_three_stages_make_a_plan(make: Callable[..., MLLM], stub: Stub, provider: str) -> None:
    plan = make(provider).plan([ask()], CANVAS)[0]
    assert stub.stages() == THREE
    assert plan.prompt == "a person in a forest, with red hair and glasses"
    assert plan.boxes == (Box(144, 48, 216, 216),) and plan.related == (Box(88, 256, 336, 256),)
    assert plan.source == ("openai" if provider == "openai" else "gemini")
    details = plan.details
    assert [s["stage"] for s in details["stages"]] == THREE and all(
        json.loads(s["reply"]) for s in details["stages"]
    )
    assert (details["requests"], details["tokens_in"], details["tokens_out"]) == (3, 3000, 150)
    assert details["model"] == make(provider).model and details["seconds"] > 0 and details["cost_usd"] is None
    assert json.loads(json.dumps(plan.to_dict())) == plan.to_dict()


def test_the_wire_carries_pictures_prompt_schema_and_key(
    make: Callable[..., MLLM], stub: Stub, provider: str
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    picture = VisualCondition(Image.fromarray(noise))
    make(provider, temperature=0.25, max_output_tokens=1234).plan([ask(picture, face("blue"))], CANVAS)
    for call in stub.calls:
        assert len(call.images) == 2 and "a person in a forest." in call.text
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(call.images[0]))), noise)
        if provider == "openai":
            assert call.path == "/v1/chat/completions" and call.headers["authorization"] == f"Bearer {KEY}"
            schema = call.body["response_format"]["json_schema"]["schema"]
            assert call.body["response_format"]["json_schema"]["strict"] is True
            assert (call.body["temperature"], call.body["max_completion_tokens"]) == (0.25, 1234)
        else:
            assert call.path.partition("?")[0].endswith("/models/gemini-3.8-flash:generateContent")
            assert call.headers["x-goog-api-key"] == KEY
            config = call.body["generationConfig"]
            schema = config["responseSchema"]
            assert config["responseMimeType"] == "application/json"
            assert (config["temperature"], config["maxOutputTokens"]) == (0.25, 1234)
        assert (
            set(schema["properties"])
            == {
                "recognition": {"conditions", "intensified_prompt"},
                "position": {"boxes", "reason"},
                "region": {"regions", "reason"},
            }[call.stage]
        )


def test_both_sdks_send_the_same_words_and_make_the_same_plan(
    make: Callable[..., MLLM], stub: Stub, tmp_path: Path
) -> None:
    first = make("genai").plan([ask()], CANVAS)[0]
    second = make("generativeai", store=tmp_path / "other").plan([ask()], CANVAS)[0]
    assert [c.text for c in stub.calls[:3]] == [c.text for c in stub.calls[3:]]
    assert [c.images for c in stub.calls[:3]] == [c.images for c in stub.calls[3:]]
    assert (first.boxes, first.related, first.prompt) == (second.boxes, second.related, second.prompt)
    assert (
        make("generativeai").plan([ask()], CANVAS)[0] == first and len(stub.calls) == 6
    )  # one store for both


def test_one_call_mode(make: Callable[..., MLLM], stub: Stub, provider: str) -> None:
    plan = make(provider, calls="one").plan([ask()], CANVAS)[0]
    assert stub.stages() == ["single"] and plan.details["requests"] == 1
    assert plan.boxes == (Box(144, 48, 216, 216),) and plan.related == (Box(88, 256, 336, 256),)


@pytest.mark.parametrize(
    ("act", "word"),
    [
        (Act(text='{"conditions": [{"subj'), "no valid JSON"),
        (Act(text="I see a person."), "no valid JSON"),
        (Act(block=True), "blocked|refused"),
        (Act(truncated=True), "cut off"),
        (Act(text=""), "empty"),
        (Act(fields={"intensified_prompt": None}), "lacks intensified_prompt"),
        (Act(fields={"conditions": []}), "0 conditions described"),
    ],
)
def test_a_useless_reply_is_asked_again_with_its_fault(
    make: Callable[..., MLLM], stub: Stub, provider: str, act: Act, word: str
) -> None:
    import re

    stub.next(act)
    plan = make(provider).plan([ask()], CANVAS)[0]
    assert stub.stages() == ["recognition", *THREE] and plan.boxes == (Box(144, 48, 216, 216),)
    (problem,) = plan.details["stages"][0]["problems"]
    assert re.search(word, problem) and problem in stub.calls[1].text and problem not in stub.calls[0].text


@pytest.mark.parametrize("act", [Act(text="no"), Act(block=True), Act(truncated=True)])
def test_useless_replies_for_ever_are_one_clear_line(
    make: Callable[..., MLLM], stub: Stub, provider: str, act: Act, tmp_path: Path
) -> None:
    stub.default = act
    with pytest.raises(UserError, match=r"no valid recognition in 3 replies.*planner\.asks") as error:
        make(provider).plan([ask()], CANVAS)
    assert len(stub.calls) == 3 and "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.json"))  # nothing is stored as a plan


def test_the_users_words_win(make: Callable[..., MLLM], stub: Stub) -> None:
    stub.next(Act(fields={"intensified_prompt": "a happy child by a river"}))
    stub.answer = lambda call: {
        **sensible(call),
        "intensified_prompt": "an old person with red hair by a river",
    }
    plan = make().plan([ask(prompt="an old person by a river")], CANVAS)[0]
    assert plan.prompt == "an old person with red hair by a river"
    assert "the user's words win" in plan.details["stages"][0]["problems"][0]


def test_a_prompt_that_stays_too_long_or_wrong_is_mended(make: Callable[..., MLLM], stub: Stub) -> None:
    from sow.planner.tokens import token_count

    stub.answer = lambda call: {
        **sensible(call),
        "intensified_prompt": "a child " * 60,
        "conditions": [{"subject": "child", "features": ["a young child", "red hair", "blue eyes"]}],
    }
    plan = make().plan([ask(prompt="an old person by a river.")], CANVAS)[0]
    assert (
        plan.prompt == "an old person by a river, red hair, blue eyes"
        and token_count(plan.prompt, None) <= 77
    )
    assert len(plan.details["stages"][0]["problems"]) == 3 and len(stub.calls) == 5


def test_the_ablations_of_table_two_run(make: Callable[..., MLLM], stub: Stub, provider: str) -> None:
    planner, asked = make(provider), ask(seed=3)
    full = make_plans([asked], planner, Planned(), PlannedPrompt(), CANVAS)[0]
    assert stub.stages() == THREE
    moved = make_plans([asked], planner, Random(50), PlannedPrompt(), CANVAS)[0]
    # Without boxes of its own before, a model of no known family is asked again for a region as an object.
    regions = ["region"] * (2 if provider == "openai" else 1)
    assert stub.stages() == [*THREE, *regions] and str(moved.boxes[0].as_list()) in stub.calls[-1].text
    assert moved.boxes != full.boxes and moved.prompt == full.prompt
    assert moved.related and all(touches(r, moved.boxes[0]) for r in moved.related)
    again = make_plans([asked], planner, Random(50), PlannedPrompt(), CANVAS)[0]
    assert again.related == moved.related and len(stub.calls) == 3 + len(regions)
    plain = make_plans([asked], planner, Planned(), Off(), CANVAS)[0]
    assert plain.prompt == asked.prompt and plain.boxes == full.boxes and len(stub.calls) == 3 + len(regions)


def test_costs_are_summed(make: Callable[..., MLLM]) -> None:
    plan = make(price_in=2.0, price_out=10.0).plan([ask()], CANVAS)[0]
    assert plan.details["cost_usd"] == pytest.approx((3000 * 2 + 150 * 10) / 1e6)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("asks", 0),
        ("retries", -1),
        ("timeout", 0),
        ("backoff", -1.0),
        ("calls", "two"),
        ("on_error", "ignore"),
        ("sdk", "vertex"),
        ("prompt_version", "v9"),
        ("model", ""),
        ("requests_per_minute", -1),
        ("fallback", None),
        ("tempo", 3),
    ],
)
def test_bad_settings_fail_before_anything_is_asked(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"planner.{key}"):
        instantiate({**gemini_settings(), key: value}, "planner")


@cache
def gemini_settings() -> dict[str, Any]:
    return dict(compose(["planner=gemini", "tracker=none"]).resolved["planner"])


def test_every_planner_is_a_planner(configured: dict[str, MLLM]) -> None:
    from sow.planner import Planner

    assert all(isinstance(p, Planner) for p in configured.values())
