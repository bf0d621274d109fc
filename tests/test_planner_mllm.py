"""The language-model planners through their real SDKs, against a server that speaks the real wire formats."""

from __future__ import annotations

import io
import json
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from stub_models import Act, Call, Stub, sensible, serve

from sow.config.compose import compose
from sow.config.schema import instantiate
from sow.errors import UserError
from sow.planner import make_plans
from sow.planner.base import touches
from sow.planner.intensify import Off
from sow.planner.intensify import Planned as PlannedPrompt
from sow.planner.mllm import MLLM
from sow.planner.position import Planned, Random
from sow.planner.replay import Replay
from sow.types import Box, Canvas, Plan, Request, VisualCondition

CANVAS = Canvas(512, 512, 8, 184, 256)
KEY = "AIzaSyPlanted-0123456789-abcdefghij"
WORDS = {
    "genai": ["planner=gemini"],
    "generativeai": ["planner=gemini", "planner.sdk=google-generativeai"],
    "openai": ["planner=openai", "planner.model=some-vision-model"],
}
THREE = ["recognition", "position", "region"]


@pytest.fixture(scope="module")
def configured() -> dict[str, MLLM]:
    return {name: compose([*words, "tracker=none"]).planner for name, words in WORDS.items()}


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serve() as running:
        yield running


@pytest.fixture(params=list(WORDS))
def provider(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)


@pytest.fixture
def make(stub: Stub, configured: dict[str, MLLM], tmp_path: Path) -> Callable[..., MLLM]:
    """The planner of a provider, pointed at the stub, impatient, with a store of its own."""

    def build(provider: str = "openai", **changes: Any) -> MLLM:
        url = stub.url + ("/v1" if provider == "openai" else "")
        quick = {"base_url": url, "store": tmp_path / "plans", "backoff": 0.01, "retries": 3, "budget": 60.0}
        return replace(configured[provider], **{**quick, **changes})

    return build


def ask(*conditions: VisualCondition, prompt: str = "a person in a forest.", seed: int = 0) -> Request:
    return Request(conditions or (face(),), prompt, seed=seed)


def face(color: str = "red", size: tuple[int, int] = (100, 100), **more: Any) -> VisualCondition:
    return VisualCondition(Image.new("RGB", size, color), **more)


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


@pytest.mark.parametrize(
    ("convention", "settled"),
    [("yxyx of 1000", True), ("xywh of 1000", False), ("xyxy", True), ("xyxy of 1", True)],
)
def test_other_box_conventions_give_the_same_plan(
    make: Callable[..., MLLM], stub: Stub, provider: str, convention: str, settled: bool
) -> None:
    from test_planner_replies import written

    def answer(call: Call) -> dict[str, Any]:
        known = sensible(call)
        for name in ("boxes", "regions"):
            known[name] = [written(Box.of(b), convention, CANVAS) for b in known[name]]
        return known

    stub.answer = answer
    plan = make(provider, boxes_as=convention if settled else None).plan([ask()], CANVAS)[0]
    assert (
        plan.boxes[0].iou(Box(144, 48, 216, 216)) > 0.9 and plan.related[0].iou(Box(88, 256, 336, 256)) > 0.9
    )
    assert plan.details["stages"][1]["convention"] == convention and len(stub.calls) == 3


def test_the_habit_of_a_family_settles_its_boxes(make: Callable[..., MLLM], stub: Stub) -> None:
    from test_planner_replies import written

    stub.answer = lambda call: {
        **sensible(call),
        "boxes": [written(Box(144, 48, 216, 216), "yxyx of 1000", CANVAS)],
        "regions": [written(Box(88, 256, 336, 256), "yxyx of 1000", CANVAS)],
    }
    plan = make("genai").plan([ask()], CANVAS)[0]
    assert plan.boxes[0].iou(Box(144, 48, 216, 216)) > 0.9 and len(stub.calls) == 3


def test_boxes_that_can_be_read_in_two_ways_are_asked_again_by_name(
    make: Callable[..., MLLM], stub: Stub
) -> None:
    from test_planner_replies import written

    def answer(call: Call) -> dict[str, Any]:
        known = sensible(call)
        if call.stage == "position" and not isinstance(known["boxes"][0], dict):
            known["boxes"] = [written(Box.of(known["boxes"][0]), "xyxy of 1000", CANVAS)]
        return known

    stub.answer = answer
    plan = make("openai").plan([ask()], CANVAS)[0]
    assert stub.stages() == ["recognition", "position", "position", "region"]
    assert plan.boxes == (Box(144, 48, 216, 216),)
    schema = stub.calls[2].body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["boxes"]["items"]["required"] == ["x", "y", "width", "height"]
    (problem,) = plan.details["stages"][1]["problems"]
    assert "can be read as" in problem and problem in stub.calls[2].text


def test_boxes_that_stay_ambiguous_name_the_option(make: Callable[..., MLLM], stub: Stub) -> None:
    stub.answer = lambda call: {**sensible(call), "boxes": [[94, 281, 516, 703]]}
    with pytest.raises(UserError, match=r"no valid position in 3 replies.*planner\.boxes_as"):
        make("openai").plan([ask()], CANVAS)


def test_boxes_outside_or_of_a_wrong_size_are_mended(
    make: Callable[..., MLLM], stub: Stub, provider: str
) -> None:
    stub.answer = lambda call: {
        **sensible(call),
        "boxes": [[380, -30, 230, 230]],
        "regions": [[380, 480, 400, 200]],
    }
    plan = make(provider).plan([ask()], CANVAS)[0]
    (box,) = plan.boxes
    assert box == Box(280, 0, 232, 232)
    assert all(r.inside(512, 512) and touches(r, box) for r in plan.related)
    assert plan.details["stages"][1]["proposed"] == [[380, -30, 230, 230]]


def test_hopeless_boxes_are_asked_again(make: Callable[..., MLLM], stub: Stub) -> None:
    good = Act()
    stub.next(
        good,
        Act(fields={"boxes": [[1, 1, 2, 2]]}),
        Act(fields={"boxes": []}),
        Act(),
        Act(fields={"regions": []}),
    )
    plan = make().plan([ask()], CANVAS)[0]
    assert stub.stages() == ["recognition", "position", "position", "position", "region", "region"]
    assert [len(s["problems"]) for s in plan.details["stages"]] == [0, 2, 1]


def test_a_wrong_size_is_mended(make: Callable[..., MLLM], stub: Stub) -> None:
    for values, side in (([100, 40, 320, 320], 256), ([200, 60, 100, 100], 184)):
        named = dict(zip(("x", "y", "width", "height"), values, strict=True))

        def answer(call: Call, values: Any = values, named: Any = named) -> dict[str, Any]:
            asked_again = "write each box as an object" in call.text
            return {**sensible(call), "boxes": [named if asked_again else values]}

        stub.answer = answer
        (box,) = make(refresh=True).plan([ask()], CANVAS)[0].boxes
        center = (values[0] + values[2] / 2, values[1] + values[3] / 2)
        assert (box.w, box.h) == (side, side)
        assert max(abs(a - b) for a, b in zip(box.center, center, strict=True)) <= 8


def test_several_conditions_are_planned_together(
    make: Callable[..., MLLM], stub: Stub, provider: str
) -> None:
    overlapping = {"boxes": [[100, 40, 200, 200], [160, 40, 200, 200], [90, 60, 100, 400]]}
    stub.answer = lambda call: {**sensible(call), **overlapping}
    conditions = (face("red"), face("blue"), face("green", (50, 100)))
    plan = make(provider).plan([ask(*conditions)], CANVAS)[0]
    assert len(stub.calls) == 3 and all(len(c.images) == 3 for c in stub.calls) and len(plan.boxes) == 3
    for i, a in enumerate(plan.boxes):
        assert a.inside(512, 512) and not any(a.intersection(b) for b in plan.boxes[:i])


def test_the_users_box_is_told_and_kept(make: Callable[..., MLLM], stub: Stub) -> None:
    mine = Box(8, 8, 200, 200)
    plan = make().plan([ask(face(box=mine))], CANVAS)[0]
    assert (
        plan.boxes == (mine,)
        and "[8, 8, 200, 200]" in stub.calls[1].text
        and "[8, 8, 200, 200]" in stub.calls[2].text
    )


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


def test_a_stored_plan_can_be_replayed(make: Callable[..., MLLM], tmp_path: Path) -> None:
    plan = make().plan([ask()], CANVAS)[0]
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_dict()))
    again = Replay(str(tmp_path / "plan.json")).plan([ask()], CANVAS)[0]
    assert (again.boxes, again.related, again.prompt) == (plan.boxes, plan.related, plan.prompt)


def test_the_rate_limit_slows_a_sweep(make: Callable[..., MLLM], stub: Stub) -> None:
    start = time.perf_counter()
    make(requests_per_minute=240).plan([ask()], CANVAS)
    assert time.perf_counter() - start >= 0.5 and len(stub.calls) == 3


def test_costs_are_summed(make: Callable[..., MLLM]) -> None:
    plan = make(price_in=2.0, price_out=10.0).plan([ask()], CANVAS)[0]
    assert plan.details["cost_usd"] == pytest.approx((3000 * 2 + 150 * 10) / 1e6)


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
