"""What every planner shares: legal boxes, fixed and stored plans,
random and pinned positions, the drawn plan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sow.errors import UserError
from sow.planner import Planner, make_plans
from sow.planner.base import (
    fit_size,
    legal,
    legal_related,
    moved,
    relative,
    snap_limits,
    touches,
)
from sow.planner.drawing import draw_plan
from sow.planner.fixed import Fixed
from sow.planner.intensify import Off
from sow.planner.intensify import Planned as PlannedPrompt
from sow.planner.position import Pinned, Planned, Random
from sow.planner.replay import Replay
from sow.types import Box, Canvas, Plan, Request, VisualCondition

CANVAS = Canvas(512, 512, 8, 184, 256)
SMALL = Canvas(128, 128, 8, 48, 64)


def condition(width: int = 100, height: int = 100, box: Box | None = None) -> VisualCondition:
    return VisualCondition(Image.new("RGB", (width, height), (200, 30, 30)), box=box)


def request(*conditions: VisualCondition, prompt: str = "a person", seed: int = 0, id: str = "0") -> Request:
    return Request(conditions or (condition(),), prompt, seed=seed, id=id)


def fixed(**changes: Any) -> Fixed:
    values: dict[str, Any] = {"boxes": [[128, 0, 256, 256]], "related": None, "reference": 512}
    return Fixed(**{**values, "around": [-0.5, -0.25, 2.0, 2.25], **changes})


def assert_legal(boxes: tuple[Box, ...], conditions: tuple[VisualCondition, ...], canvas: Canvas) -> None:
    low, high = snap_limits(canvas)
    for i, (box, c) in enumerate(zip(boxes, conditions, strict=True)):
        assert box.inside(canvas.width, canvas.height)
        assert all(v % canvas.factor == 0 for v in box.as_list())
        aspect = c.image.width / c.image.height
        assert max(box.w, box.h) <= high
        assert min(box.w, box.h) >= low or max(box.w, box.h) == high
        # Rounding each side to the grid moves the aspect by at most half a cell a side.
        f = canvas.factor / 2
        assert (box.w - f) / (box.h + f) <= aspect <= (box.w + f) / max(1, box.h - f) or min(
            box.w, box.h
        ) == 2 * f
        assert not any(box.intersection(other) for other in boxes[:i])


proposals = st.tuples(
    st.integers(-700, 900), st.integers(-700, 900), st.integers(1, 1200), st.integers(1, 1200)
).map(lambda v: Box(*v))
sizes = st.tuples(st.integers(20, 400), st.integers(20, 400))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(proposals, sizes), min_size=1, max_size=3),
    st.sampled_from([CANVAS, SMALL, Canvas(768, 512, 8, 184, 256), Canvas(256, 384, 16, 96, 128)]),
)
def test_any_proposal_becomes_legal(items: list[tuple[Box, tuple[int, int]]], canvas: Canvas) -> None:
    conditions = tuple(condition(*size) for _, size in items)
    boxes = legal([box for box, _ in items], conditions, canvas)
    assert_legal(boxes, conditions, canvas)


def test_a_legal_box_stays_where_it_is() -> None:
    for box in (Box(128, 0, 256, 256), Box(320, 328, 184, 184), Box(0, 8, 200, 200)):
        assert legal([box], [condition()], CANVAS) == (box,)


def test_overlapping_boxes_move_apart_as_little_as_needed() -> None:
    boxes = legal([Box(96, 96, 200, 200), Box(200, 96, 200, 200)], [condition(), condition()], CANVAS)
    assert boxes[0] == Box(96, 96, 200, 200)
    assert not boxes[0].intersection(boxes[1]) and boxes[1].x == 296 and abs(boxes[1].y - 96) <= 8


def test_crowded_canvases() -> None:
    centre = Box(128, 128, 256, 256)
    four = tuple(condition() for _ in range(4))
    assert_legal(legal([centre] * 4, four, CANVAS), four, CANVAS)
    with pytest.raises(UserError, match="5 conditions .* do not fit"):
        legal([centre] * 5, [condition()] * 5, CANVAS)
    with pytest.raises(UserError, match="2 conditions"):
        legal([centre], [condition()] * 2, CANVAS)


def test_the_users_box_wins_in_every_planner(tmp_path: Path) -> None:
    mine = Box(40, 48, 96, 96)  # smaller than the limits: the user may
    asked = request(condition(box=mine), condition())
    assert legal([Box(0, 0, 200, 200), Box(60, 60, 200, 200)], asked.conditions, CANVAS)[0] == mine
    two = fixed(boxes=[[0, 0, 64, 64], [256, 256, 200, 200]])
    assert two.plan([asked], CANVAS)[0].boxes == (mine, Box(256, 256, 200, 200))
    plan = make_plans([asked], two, Random(50), PlannedPrompt(), CANVAS)[0]
    assert plan.boxes[0] == mine
    for box in (Box(500, 0, 100, 100), Box(-8, 0, 100, 100)):
        with pytest.raises(UserError, match="condition.box"):
            legal([box], [condition(box=box)], CANVAS)


@settings(max_examples=60, deadline=None)
@given(st.lists(proposals, min_size=1, max_size=3))
def test_related_regions_touch_a_condition_and_the_canvas(regions: list[Box]) -> None:
    boxes = (Box(128, 64, 200, 200),)
    for region in legal_related(regions, boxes, CANVAS):
        assert region.inside(512, 512) and touches(region, boxes[0])
        assert boxes[0].intersection(region) < region.area


def test_regions_stretch_towards_the_condition() -> None:
    box = Box(128, 64, 200, 200)
    assert legal_related([Box(160, 400, 80, 80)], (box,), CANVAS) == (Box(160, 264, 80, 216),)
    assert legal_related([Box(400, 100, 80, 80)], (box,), CANVAS) == (Box(328, 96, 152, 88),)
    assert legal_related([Box(140, 80, 20, 20), Box(600, 600, 10, 10)], (box,), CANVAS) == ()


def test_touching_needs_a_shared_edge() -> None:
    a = Box(0, 0, 8, 8)
    assert touches(a, Box(8, 0, 8, 8)) and touches(a, Box(4, 4, 8, 8))
    assert not touches(a, Box(8, 8, 8, 8)) and not touches(a, Box(9, 0, 8, 8))


def test_geometry_of_subjects() -> None:
    mask = Image.new("L", (100, 100), 0)
    mask.paste(255, (25, 50, 75, 100))
    masked = VisualCondition(Image.new("RGB", (100, 100)), mask)
    assert masked.subject_in(Box(100, 100, 200, 200)) == Box(150, 200, 100, 100)
    assert condition().subject_in(Box(8, 8, 64, 64)) == Box(8, 8, 64, 64)
    assert relative(Box(10, 20, 100, 50), [-0.5, 1.0, 2.0, 3.0]) == Box(-40, 70, 200, 150)
    assert moved(Box(20, 40, 10, 10), Box(10, 20, 20, 20), Box(100, 100, 40, 40)) == Box(120, 140, 20, 20)


def test_long_conditions_keep_their_aspect_at_the_upper_limit() -> None:
    assert fit_size(10, 10, 4.0, CANVAS) == (256, 64)
    assert fit_size(1000, 1000, 1.0, CANVAS) == (256, 256) and fit_size(1, 1, 1.0, CANVAS) == (184, 184)


def test_fixed_scales_from_its_reference_and_keeps_any_size() -> None:
    assert fixed().plan([request()], CANVAS)[0].boxes == (Box(128, 0, 256, 256),)
    plan = fixed().plan([request(condition(50, 200))], SMALL)[0]
    assert plan.boxes == (Box(32, 0, 64, 64),) and plan.prompt == "a person" and plan.source == "fixed"
    assert fixed(reference=None, boxes=[8, 16, 40, 40]).plan([request()], SMALL)[0].boxes == (
        Box(8, 16, 40, 40),
    )
    own = fixed(related=[[64, 256, 384, 256]])
    assert own.plan([request()], CANVAS)[0].related == (Box(64, 256, 384, 256),)
    assert own.relate(request(), [Box(0, 0, 256, 256)], CANVAS) == (
        Box(0, 256, 320, 256),
    )  # carried along, clipped


def test_fixed_rejects_what_does_not_fit() -> None:
    with pytest.raises(UserError, match="planner.boxes"):
        fixed(boxes=[[400, 0, 256, 256]]).plan([request()], CANVAS)
    with pytest.raises(UserError, match="1 boxes for 2"):
        fixed().plan([request(condition(), condition())], CANVAS)
    for bad in ("middle", [[1, 2, 3]], [[0, 0, -4, 4]], [["a", 0, 4, 4]], 7):
        with pytest.raises(UserError):
            fixed(boxes=bad)
    with pytest.raises(UserError, match="planner.around"):
        fixed(around=[0, 0, 0, 1])
    with pytest.raises(UserError, match="planner.reference"):
        fixed(reference=0)


def test_replay_reads_files_and_folders(tmp_path: Path) -> None:
    plan = fixed().plan([request()], CANVAS)[0]
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_dict()))
    for path in (tmp_path / "plan.json", tmp_path):
        again = Replay(str(path)).plan([request()], CANVAS)[0]
        assert (again.boxes, again.related, again.prompt) == (plan.boxes, plan.related, plan.prompt)
        assert again.source == "replay" and again.details["planned_by"] == "fixed"
    other = replace(plan, prompt="another")
    (tmp_path / "7.json").write_text(json.dumps(other.to_dict()))
    assert Replay(str(tmp_path)).plan([request(id="7")], CANVAS)[0].prompt == "another"
    listed = [{"id": "a", **plan.to_dict()}, {"id": "b", **other.to_dict()}]
    (tmp_path / "all.json").write_text(json.dumps(listed))
    assert Replay(str(tmp_path / "all.json")).plan([request(id="b")], CANVAS)[0].prompt == "another"
    moved_on = Replay(str(tmp_path / "plan.json")).relate(request(), [Box(0, 256, 256, 256)], CANVAS)
    assert all(r.inside(512, 512) and touches(r, Box(0, 256, 256, 256)) for r in moved_on)


def test_a_plan_of_another_canvas_or_prompt_is_not_replayed_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = make_plans([request()], fixed(), Planned(), PlannedPrompt(), CANVAS)[0]
    (tmp_path / "plan.json").write_text(json.dumps(made.to_dict()))
    assert Replay(str(tmp_path)).plan([request()], CANVAS)[0].boxes == made.boxes and not caplog.text
    assert Replay(str(tmp_path)).plan([request(prompt="a cat")], CANVAS)[0].boxes == made.boxes
    assert "was made for the prompt" in caplog.text
    with pytest.raises(UserError, match=r"plan.json was made for a canvas of \[512, 512\]"):
        Replay(str(tmp_path)).plan([request()], replace(CANVAS, width=1024, height=1024))


def test_replay_says_what_is_wrong(tmp_path: Path) -> None:
    plan = fixed().plan([request()], CANVAS)[0].to_dict()
    cases = {
        "cut.json": '{"boxes": [[0, 0',
        "list.json": "[1, 2]",
        "keys.json": json.dumps({"boxes": []}),
        "box.json": json.dumps({**plan, "boxes": [[0, 0, 9000, 64]]}),
        "two.json": json.dumps({**plan, "boxes": plan["boxes"] * 2}),
        "deep.json": "[" * 100_000,
        "twice.json": '{"boxes": [[0, 0, 64, 64]], ' + json.dumps(plan)[1:],
        "ids.json": json.dumps([{"id": "0", **plan}, {"id": "0", **plan, "prompt": "another"}]),
        "deep_details.json": json.dumps(plan)[:-1] + ', "more": ' + '{"a":' * 100_000,
    }
    for name, text in cases.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match="planner.path"):
            Replay(str(tmp_path / name)).plan([request()], CANVAS)
    with pytest.raises(UserError, match="no plan for request 0"):
        Replay(str(tmp_path / "nowhere")).plan([request()], CANVAS)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"boxes": [[0, 0, True, 64]]}, "boxes[0]"),
        ({"boxes": [[0, 0, "64", 64]]}, "boxes[0]"),
        ({"boxes": [[0, 0, 64]]}, "boxes[0]"),
        ({"boxes": ["1234"]}, "boxes[0]"),
        ({"boxes": [[0, 0, float("nan"), 64]]}, "boxes[0]"),
        ({"boxes": [[0, 0, -64, 64]]}, "boxes[0]"),
        ({"boxes": [[0, 0, 10**400, 64]]}, "boxes[0]"),
        ({"boxes": [[0, 0, 9000, 64]]}, "boxes[0]"),
        ({"boxes": "none"}, "boxes"),
        ({"boxes": None}, "boxes"),
        ({"related": [[0, 0, 64, 64], [0, 0, float("inf"), 64]]}, "related[1]"),
        ({"related": [[5000, 0, 64, 64]]}, "related[0]"),
        ({"related": {"0": [0, 0, 64, 64]}}, "related"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"source": ""}, "source"),
        ({"details": [1]}, "details"),
        ({"layout": []}, "layout"),
        ({"prompt": "a person \ud800"}, "prompt"),
        ({"details": {"a": json.loads("[" * 900 + "]" * 900)}}, "details"),
    ],
    ids=str,
)
def test_replay_names_the_file_and_the_field(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    plan = fixed().plan([request()], CANVAS)[0].to_dict()
    for stored in ({**plan, **changes}, [{"id": "0", **plan, **changes}]):
        (tmp_path / "plan.json").write_text(json.dumps(stored))
        with pytest.raises(UserError) as error:
            Replay(str(tmp_path)).plan([request()], CANVAS)
        text = str(error.value)
        assert text.startswith(str(tmp_path / "plan.json")) and text.endswith("(planner.path)")
        assert f" {field}" in text


def test_random_positions_follow_the_seed_alone() -> None:
    def draw(seed: int, id: str = "0") -> Plan:
        asked = request(condition(), prompt="a person on the left", seed=seed, id=id)
        return make_plans([asked], fixed(), Random(50), PlannedPrompt(), CANVAS)[0]

    assert draw(1).boxes == draw(1, id="9").boxes
    drawn = [draw(seed) for seed in range(40)]
    assert len({p.boxes for p in drawn}) > 35
    centers = np.array([p.boxes[0].center for p in drawn])
    assert (centers.min(0) < 160).all() and (centers.max(0) > 352).all()  # over the whole canvas
    assert {p.boxes[0].w for p in drawn} >= {184, 256}
    for plan in drawn:
        assert_legal(plan.boxes, (condition(),), CANVAS)
        assert plan.related and all(touches(r, plan.boxes[0]) for r in plan.related)
        assert plan.details["planned_boxes"] == [[128, 0, 256, 256]]


def test_random_positions_of_several_conditions_are_disjoint() -> None:
    for seed in range(10):
        asked = request(condition(), condition(60, 100), seed=seed)
        planner = fixed(boxes=[[0, 0, 64, 64], [256, 256, 64, 64]])
        plan = make_plans([asked], planner, Random(50), PlannedPrompt(), CANVAS)[0]
        assert_legal(plan.boxes, asked.conditions, CANVAS)


def test_pinned_boxes_override_planner_and_user() -> None:
    asked = request(condition(box=Box(0, 0, 64, 64)))
    plan = make_plans([asked], fixed(), Pinned([256, 256, 128, 128], 512), PlannedPrompt(), SMALL)[0]
    assert plan.boxes == (Box(64, 64, 32, 32),) and all(touches(r, plan.boxes[0]) for r in plan.related)
    with pytest.raises(UserError, match="position.boxes"):
        make_plans([asked], fixed(), Pinned([500, 0, 128, 128], 512), PlannedPrompt(), CANVAS)


def test_no_intensification_restores_the_users_prompt(tmp_path: Path) -> None:
    plan = replace(fixed().plan([request()], CANVAS)[0], prompt="an old person with red hair")
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_dict()))
    planner = Replay(str(tmp_path))
    assert make_plans([request()], planner, Planned(), PlannedPrompt(), CANVAS)[0].prompt.startswith("an old")
    off = make_plans([request()], planner, Planned(), Off(), CANVAS)[0]
    assert off.prompt == "a person" and off.boxes == plan.boxes


def test_plans_are_checked_whoever_made_them() -> None:
    class Wild:
        def __init__(self, plan: Plan) -> None:
            self.made = plan

        def plan(self, requests: Any, canvas: Canvas) -> list[Plan]:
            return [self.made]

        def relate(self, request: Request, boxes: Any, canvas: Canvas) -> tuple[Box, ...]:
            return ()

    for plan, word in (
        (Plan((Box(400, 0, 200, 200),), (), "c", "wild"), "leaves the 512 x 512 canvas"),
        (Plan((Box(0, 0, 200, 200),), (Box(0, 500, 64, 64),), "c", "wild"), "related region"),
        (Plan((), (), "c", "wild"), "0 boxes for 1"),
    ):
        assert isinstance(Wild(plan), Planner)
        with pytest.raises(UserError, match=word):
            make_plans([request()], Wild(plan), Planned(), PlannedPrompt(), CANVAS)
    with pytest.raises(UserError, match="no visual condition"):
        make_plans([Request((), "c")], fixed(), Planned(), PlannedPrompt(), CANVAS)


@pytest.mark.parametrize("canvas", [SMALL, CANVAS, Canvas(768, 512, 8, 184, 256), Canvas(64, 64, 8, 24, 32)])
def test_the_drawn_plan_is_large_enough_to_read(canvas: Canvas) -> None:
    asked = request(prompt="a person in a forest " * 12)
    plan = make_plans([asked], fixed(), Planned(), PlannedPrompt(), canvas)[0]
    page = draw_plan(asked, plan, canvas)
    scale = page.width // canvas.width
    assert page.width >= 512 and page.height > canvas.height * scale + 60
    box = plan.boxes[0]
    middle = (round(box.center[0] * scale), round(box.center[1] * scale))
    assert page.getpixel(middle) == (200, 30, 30)  # the condition itself
    assert page.getpixel((box.x * scale, (box.y + box.h // 2) * scale)) == (230, 60, 50)  # its outline
    colors = {c for _, c in page.crop((0, 0, page.width, canvas.height * scale)).getcolors(1 << 20) or []}
    assert (20, 150, 80) in colors and (128, 128, 128) in colors


def test_drawing_pastes_only_the_mask_and_survives_any_text() -> None:
    mask = Image.new("L", (100, 100), 0)
    mask.paste(255, (0, 0, 100, 50))
    half = VisualCondition(Image.new("RGB", (100, 100), (10, 20, 200)), mask)
    for prompt in ("", "x" * 400, "Überraschung 人 \n\t two lines", "a " * 300):
        asked = request(half, prompt=prompt)
        page = draw_plan(asked, Plan((Box(128, 128, 256, 256),), (), prompt, "fixed"), CANVAS)
    assert page.getpixel((256, 200)) == (10, 20, 200) and page.getpixel((256, 340)) == (128, 128, 128)
