"""Boxes of a language model in any convention, size or place become the plan's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_planner import CANVAS, ask, face
from stub_models import Act, Call, Stub, sensible

from sow.errors import UserError
from sow.planner.base import touches
from sow.planner.mllm import MLLM
from sow.types import Box

pytest_plugins = ["small_planner"]  # fixtures
pytestmark = pytest.mark.usefixtures("keys")


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
    assert stub.stages() == ["recognition", "position", "position", "region", "region"]
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
