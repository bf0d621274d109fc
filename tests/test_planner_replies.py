"""Reading what language models write: JSON in any wrapping, boxes in any convention, plans stored once."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sow.errors import UserError
from sow.planner.calling import api_key, retriable, retry_after
from sow.planner.conventions import (
    CONVENTIONS,
    Ambiguous,
    condition_cost,
    habit,
    numbers,
    recognise,
    region_cost,
)
from sow.planner.replies import BadReply, Position, Recognition, Region, Single, parse, strict_schema
from sow.planner.stages import prompt_texts, prompts_digest
from sow.planner.store import PlanStore
from sow.store.fingerprint import fingerprint
from sow.types import Box, Canvas, Request, VisualCondition

CANVAS = Canvas(512, 512, 8, 184, 256)
WIDE = Canvas(768, 512, 8, 184, 256)
SMALL = Canvas(128, 128, 8, 48, 64)


def written(box: Box, convention: str, canvas: Canvas) -> list[float]:
    """A box as a model with this habit writes it."""
    order, _, scale = convention.partition(" of ")
    x, y, right, bottom = box.x, box.y, box.right, box.bottom
    if scale:
        x, right = x * float(scale) / canvas.width, right * float(scale) / canvas.width
        y, bottom = y * float(scale) / canvas.height, bottom * float(scale) / canvas.height
    values = {
        "xywh": [x, y, right - x, bottom - y],
        "xyxy": [x, y, right, bottom],
        "yxyx": [y, x, bottom, right],
        "cxcywh": [(x + right) / 2, (y + bottom) / 2, right - x, bottom - y],
    }[order]
    return [round(v) if scale != "1" else v for v in values]


@pytest.mark.parametrize("canvas", [CANVAS, WIDE, SMALL])
@pytest.mark.parametrize(
    ("convention", "settled"),
    [
        ("xywh", {"family": "xyxy of 1000"}),
        ("xywh of 1000", {"boxes_as": "xywh of 1000"}),
        ("xywh of 100", {"boxes_as": "xywh of 100"}),
        ("xywh of 1", {"boxes_as": "xywh of 1"}),
        ("cxcywh", {"boxes_as": "cxcywh"}),
        ("cxcywh of 100", {"before": "cxcywh of 100"}),
        ("yxyx of 1000", {"family": "yxyx of 1000"}),
        ("xyxy", {"family": "xyxy"}),
        ("xyxy of 1000", {"before": "xyxy of 1000"}),
        ("yxyx of 1", {"boxes_as": "yxyx of 1"}),
    ],
)
def test_conventions_are_recognised(convention: str, settled: dict[str, str], canvas: Canvas) -> None:
    """Right for typical boxes: upper half, left of the middle, a size between the limits."""
    side = round(0.42 * canvas.height)
    for x, y in ((0.3, 0.1), (0.2, 0.06), (0.45, 0.2)):
        box = Box(round(x * canvas.width), round(y * canvas.height), side, side)
        cost = condition_cost([1.0], canvas)
        found, boxes = recognise([written(box, convention, canvas)], canvas, cost, **settled)
        assert max(abs(a - b) for a, b in zip(boxes[0].as_list(), box.as_list(), strict=True)) <= 2, (
            found,
            box,
        )


@settings(max_examples=400, deadline=None)
@given(
    st.integers(0, 41),
    st.integers(0, 41),
    st.integers(23, 32),
    st.sampled_from(sorted(CONVENTIONS)),
    st.sampled_from([CANVAS, WIDE, SMALL]),
)
def test_no_box_is_misread(x: int, y: int, side: int, convention: str, canvas: Canvas) -> None:
    """Whatever a model writes, a sensible box is read as it is meant, or asked for again."""
    unit = canvas.condition_min // 23
    size = unit * side
    box = Box(min(unit * x, canvas.width - size), min(unit * y, canvas.height - size), size, size)
    try:
        _, boxes = recognise([written(box, convention, canvas)], canvas, condition_cost([1.0], canvas))
    except Ambiguous:
        return
    assert boxes[0].iou(box) > 0.68


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gemini-3.8-flash", "yxyx of 1000"),
        ("models/gemini-2.5-pro", "yxyx of 1000"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "xyxy"),
        ("qwen3-vl:8b", "xyxy of 1000"),
        ("OpenGVLab/InternVL3-8B", "xyxy of 1000"),
        ("qwen2.5vl:7b", "xyxy"),
        ("qwen3.5-vl", "xyxy of 1000"),
        ("Qwen2_5-VL-7B", "xyxy"),
        ("hf.co/unsloth/Qwen2.5-VL-7B-Instruct-GGUF:Q4_K_M", "xyxy"),
        ("qwen3vl:235b-cloud", "xyxy of 1000"),
        ("Qwen2-VL-7B-Instruct-AWQ", "xyxy of 1000"),
        ("internvl3_5", "xyxy of 1000"),
        ("qwen-vl-max", None),
        ("gpt-5", None),
        ("llava", None),
    ],
)
def test_families_have_habits(model: str, expected: str | None) -> None:
    assert habit(model) == expected


def test_all_boxes_of_a_reply_share_a_convention() -> None:
    pair = [Box(40, 60, 200, 200), Box(270, 60, 200, 200)]
    items = [written(b, "yxyx of 1000", CANVAS) for b in pair]
    cost = condition_cost([1.0, 1.0], CANVAS)
    found, boxes = recognise(items, CANVAS, cost, family="yxyx of 1000")
    assert found == "yxyx of 1000" and all(b.iou(p) > 0.95 for b, p in zip(boxes, pair, strict=True))
    with pytest.raises(Ambiguous, match='object {"x"'):
        recognise(items, CANVAS, cost)


def test_boxes_off_the_canvas_stay_in_the_asked_convention() -> None:
    for values in ([360, 80, 200, 200], [-60, 20, 200, 200], [60, 380, 200, 200]):
        found, boxes = recognise([values], CANVAS, condition_cost([1.0], CANVAS))
        assert found == "xywh" and boxes == [Box.of(values)]


HABITS = "xyxy of 1000"  # as Qwen3-VL's
CORNERS = {"x1": 150, "y1": 50, "x2": 450, "y2": 350}
CENTRED = {"center_x": 0.5, "center_y": 0.4, "width": 0.4, "height": 0.4}
ROOMY = Canvas(512, 512, 8, 128, 256)
LARGE = [150, 50, 450, 350]  # in pixels, or in thousandths 154 x 154


@pytest.mark.parametrize(
    ("item", "settled", "expected"),
    [
        ({"bbox_2d": LARGE}, {"family": HABITS}, (HABITS, Box(77, 26, 154, 154))),
        ({"bbox_2d": LARGE}, {"family": "xyxy"}, ("xyxy", Box(150, 50, 300, 300))),
        ({"bbox_2d": LARGE}, {"boxes_as": "xyxy"}, ("xyxy", Box(150, 50, 300, 300))),
        ({"box_2d": LARGE}, {"family": "yxyx of 1000"}, ("yxyx of 1000", Box(26, 77, 154, 154))),
        (CORNERS, {"before": "xywh of 1000"}, (HABITS, Box(77, 26, 154, 154))),
        (CORNERS, {"boxes_as": "yxyx"}, ("xyxy", Box(150, 50, 300, 300))),
        ({"x1": 420, "y1": 150, "x2": 720, "y2": 450}, {}, (HABITS, Box(215, 77, 154, 154))),
        ([28, 9, 42, 42], {}, ("xywh of 100", Box(143, 46, 215, 215))),
        ({"x": 28, "y": 9, "width": 42, "height": 42}, {}, ("xywh of 100", Box(143, 46, 215, 215))),
        ({"cx": 250, "cy": 250, "w": 130, "h": 130}, {}, ("cxcywh", Box(185, 185, 130, 130))),
        (CENTRED, {}, ("cxcywh of 1", Box(154, 102, 205, 205))),
    ],
)  # fmt: skip
def test_names_of_a_box_settle_its_order_and_one_reading_its_scale(
    item: Any, settled: dict[str, str], expected: tuple[str, Box]
) -> None:
    found, (box,) = recognise([item], ROOMY, condition_cost([1.0], ROOMY), **settled)
    assert found == expected[0] and box.iou(expected[1]) > 0.95


@pytest.mark.parametrize(
    ("item", "settled"),
    [
        ({"bbox_2d": LARGE}, {}),
        ({"bbox_2d": LARGE}, {"family": "yxyx of 1000"}),
        ({"box_2d": LARGE}, {}),
        ({"box_2d": LARGE}, {"family": HABITS}),
        (CORNERS, {}),
        (CORNERS, {"family": HABITS}),
        ({"left": 150, "top": 50, "right": 450, "bottom": 350}, {}),
        ({"x": 150, "y": 50, "width": 300, "height": 300}, {}),
        ({"cx": 250, "cy": 250, "w": 300, "h": 300}, {}),
        ([252, 156, 216, 216], {}),  # a corner or a centre
        ([30, 20, 70, 60], {}),  # per cent, in two orders
        ([0.5, 0.4, 0.4, 0.4], {}),
        ({"x": 28, "y": 9, "width": 42, "height": 42, "unit": "%"}, {}),
        ({"bbox": [28, 9, 42, 42], "format": "cxcywh"}, {}),
        ({"box": [100, 50, 200, 200], "normalized": True}, {"boxes_as": "xywh"}),
    ],
)
def test_boxes_of_two_readings_are_asked_again(item: Any, settled: dict[str, str]) -> None:
    with pytest.raises(Ambiguous):
        recognise([item], ROOMY, condition_cost([1.0], ROOMY), **settled)


def test_regions_follow_the_boxes_convention() -> None:
    boxes = [Box(144, 48, 216, 216)]
    for convention in ("xywh", "yxyx of 1000", "xywh of 1000", "xyxy"):
        region = Box(80, 240, 340, 272)
        item = written(region, convention, CANVAS)
        found, regions = recognise([item], CANVAS, region_cost(boxes, CANVAS), convention)
        assert found == convention and regions[0].iou(region) > 0.97


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"x": 10, "y": 20, "width": 200, "height": 200}, Box(10, 20, 200, 200)),
        ({"x1": 10, "y1": 20, "x2": 210, "y2": 220}, Box(10, 20, 200, 200)),
        ({"box_2d": [100, 550, 500, 950], "label": "face"}, Box(282, 51, 205, 205)),
        ({"box": [10, 20, 200, 200]}, Box(10, 20, 200, 200)),
        ({"box": {"xmin": 10, "ymin": 20, "xmax": 210, "ymax": 220}}, Box(10, 20, 200, 200)),
        (["10", "20", "200", "200"], Box(10, 20, 200, 200)),
    ],
)
def test_boxes_in_other_clothes(item: Any, expected: Box) -> None:
    _, boxes = recognise([item], CANVAS, condition_cost([1.0], CANVAS), family="yxyx of 1000")
    assert boxes == [expected]


@pytest.mark.parametrize(
    "item", [[1, 2, 3], "left", {"where": "left"}, [1, 2, "x", 4], [0, 0, float("nan"), 9], None]
)
def test_what_is_no_box_is_said(item: Any) -> None:
    with pytest.raises(ValueError, match="no box"):
        numbers(item)


def test_nonsense_is_no_box_in_any_convention() -> None:
    for values in ([500, 500, 1, 1], [0, 0, 0, 0], [300, 300, -20, -20]):
        with pytest.raises(ValueError, match="no sense"):
            recognise([values], CANVAS, condition_cost([1.0], CANVAS))


def test_json_in_any_wrapping() -> None:
    answer = {"boxes": [[1, 2, 3, 4]], "reason": "room"}
    text = json.dumps(answer)
    for wrapped in (
        text,
        f"```json\n{text}\n```",
        f"Sure! Here it is:\n{text}\nGood luck.",
        f"```\n{text}```",
    ):
        assert parse(wrapped, Position) == answer
    draft = '{"boxes": [[9, 9, 9, 9]], "reason": "draft"}'
    for several in (
        f"<think>Maybe {draft}</think>{text}",
        f"so {draft} it is.\n</think>\n{text}",
        f"```json\n{draft}\n```\nNo, better:\n```json\n{text}\n```",
        f"{draft} and then {text} (see [1], {{sic}})",
        f"{text}\nI chose this since {{x}} is free. [2]",
        f'Schema: {{"type": "object"}}. {text}',
        f'{text} {{"note": "an object, but no answer"}}',
        f"{{boxes}}: {text}",
    ):
        assert parse(several, Position) == answer, several
    assert parse('{"bounding_boxes": [1, 2, 3, 4]}', Position) == {"boxes": [[1, 2, 3, 4]], "reason": ""}
    listed = parse('[{"box_2d": [1, 2, 3, 4]}]', Region)
    assert listed["regions"] == [{"box_2d": [1, 2, 3, 4]}]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no valid JSON"),
        ("I cannot see a picture.", "no valid JSON"),
        ('{"conditions": [], "intensi', "no valid JSON"),
        ("[1, 2]", "no JSON object"),
        ('<think>is it {"conditions": []}?', "ends in its thoughts"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ("{}", "lacks conditions, intensified_prompt"),
        ('{"conditions": [], "intensified_prompt": null}', "lacks intensified_prompt"),
        ('{"conditions": [{"subject": "man"}], "intensified_prompt": "a"}', "conditions.0.features"),
        ('{"conditions": "man", "intensified_prompt": "a"}', "conditions"),
        ('{"conditions": [], "intensified_prompt": "a \\ud800 man"}', "no text in UTF-8"),
    ],
)
def test_bad_replies_say_what_is_wrong(text: str, word: str) -> None:
    with pytest.raises(BadReply, match=word):
        parse(text, Recognition)


def test_schemas_are_flat_and_strict() -> None:
    for answer in (Recognition, Position, Region, Single):
        schema = strict_schema(answer)
        text = json.dumps(schema)
        assert "$ref" not in text and "$defs" not in text
        assert schema["additionalProperties"] is False and set(schema["required"]) == set(
            schema["properties"]
        )


def test_prompts_are_versioned_and_replaceable(tmp_path: Path) -> None:
    texts = prompt_texts("v1")
    assert all("$prompt" in t and "JSON" in t for t in texts.values())
    for stage, text in texts.items():
        (tmp_path / f"{stage}.txt").write_text(text + ("Be brief." if stage == "region" else ""))
    assert prompts_digest(str(tmp_path)) != prompts_digest("v1")
    with pytest.raises(UserError, match="v1"):
        prompt_texts("v99")


def test_keys_come_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FIRST_KEY", raising=False)
    monkeypatch.setenv("SECOND_KEY", " abc ")
    assert api_key(["FIRST_KEY", "SECOND_KEY"], True, "gemini") == "abc"
    monkeypatch.setenv("SECOND_KEY", "")
    assert api_key(["FIRST_KEY", "SECOND_KEY"], False, "openai") is None
    with pytest.raises(UserError, match="set FIRST_KEY or SECOND_KEY in the environment"):
        api_key(["FIRST_KEY", "SECOND_KEY"], True, "gemini")


def test_which_answers_are_worth_another_call() -> None:
    assert [s for s in (400, 401, 403, 404, 408, 429, 500, 502, 503, 504) if retriable(s)] == [
        408,
        429,
        500,
        502,
        503,
        504,
    ]
    assert retry_after({"retry-after": "7"}, "") == 7
    assert retry_after({}, "{'@type': 'RetryInfo', 'retryDelay': '13s'}") == 13
    assert (
        retry_after({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, "") is None
        and retry_after(None, "") is None
    )


def test_the_store_asks_once_among_threads(tmp_path: Path) -> None:
    asked: list[int] = []

    def ask() -> dict[str, Any]:
        asked.append(1)
        time.sleep(0.2)
        return {"n": len(asked)}

    found: list[dict[str, Any]] = []

    def job() -> None:
        found.append(PlanStore(tmp_path).get_or_ask("abcd", ask, refresh=False, wait=10))

    threads = [threading.Thread(target=job) for _ in range(25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == 1 and found == [{"n": 1}] * 25
    assert not list(tmp_path.rglob("*.part"))


def test_refreshing_together_asks_once_and_alone_asks_again(tmp_path: Path) -> None:
    asked: list[int] = []

    def ask() -> dict[str, Any]:
        asked.append(1)
        time.sleep(0.3)
        return {"n": len(asked)}

    store = PlanStore(tmp_path)
    assert store.get_or_ask("ab", ask, refresh=False, wait=10) == {"n": 1}
    threads = [
        threading.Thread(target=lambda: store.get_or_ask("ab", ask, refresh=True, wait=10)) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == 2
    assert store.get_or_ask("ab", ask, refresh=True, wait=10) == {"n": 3}
    assert store.get_or_ask("ab", ask, refresh=False, wait=10) == {"n": 3}


def test_those_who_waited_share_the_failure_and_the_next_asks_again(tmp_path: Path) -> None:
    asked: list[int] = []

    def fail() -> dict[str, Any]:
        asked.append(1)
        time.sleep(0.3)
        raise UserError("the model is down")

    errors: list[str] = []

    def job() -> None:
        try:
            PlanStore(tmp_path).get_or_ask("ab", fail, refresh=False, wait=10)
        except UserError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=job) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == ["the model is down"] * 8 and len(asked) == 1
    job()
    assert len(asked) == 2
    assert PlanStore(tmp_path).get_or_ask("ab", lambda: {"ok": 1}, refresh=False, wait=1) == {"ok": 1}


def test_a_damaged_file_is_asked_for_again_and_a_held_lock_times_out(tmp_path: Path) -> None:
    from filelock import FileLock

    store = PlanStore(tmp_path)
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "ab.json").write_text('{"stored": 1, "val')
    assert store.get_or_ask("ab", lambda: {"n": 1}, refresh=False, wait=1) == {"n": 1}
    with FileLock(str(tmp_path / "ab" / "abc.lock")), pytest.raises(UserError, match="another process"):
        store.get_or_ask("abc", lambda: {"n": 1}, refresh=False, wait=0.2)


def test_the_rate_limit_spaces_all_calls(tmp_path: Path) -> None:
    waits = [PlanStore(tmp_path).reserve("gemini", 2.0) for _ in range(4)]
    assert all(abs(w - 2.0 * i) < 0.5 for i, w in enumerate(waits))
    assert PlanStore(tmp_path).reserve("openai", 2.0) == 0


def test_keys_follow_what_decides_a_plan(tmp_path: Path) -> None:
    from dataclasses import replace

    from sow.config.compose import compose

    planner = compose(["planner=gemini", "tracker=none"]).planner

    def key(planner: Any, request: Request, canvas: Canvas = CANVAS) -> str:
        return fingerprint(planner._parts(request, canvas))

    red, blue = (VisualCondition(Image.new("RGB", (64, 64), c)) for c in ("red", "blue"))
    base = key(planner, Request((red,), "a person"))
    assert base == key(
        replace(planner, sdk="google-generativeai", base_url="http://x", refresh=True),
        Request((red,), "a person", seed=9),
    )
    others = [
        key(planner, Request((blue,), "a person")),
        key(planner, Request((red,), "a cat")),
        key(planner, Request((red, blue), "a person")),
        key(planner, Request((replace(red, box=Box(0, 0, 200, 200)),), "a person")),
        key(planner, Request((replace(red, mask=Image.new("L", (64, 64), 255)),), "a person")),
        key(replace(planner, model="other"), Request((red,), "a person")),
        key(replace(planner, calls="one"), Request((red,), "a person")),
        key(planner, Request((red,), "a person"), SMALL),
    ]
    assert len({base, *others}) == len(others) + 1


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ('{"boxes": [[144, 48, 216, 216]], "reason": "face"} inside the canvas [0, 0, 512, 512].', Position,
            {"boxes": [[144, 48, 216, 216]], "reason": "face"}),
        ('{"regions": [[88, 256, 336, 256]], "reason": "body"}\nIt touches [144, 48, 216, 216].', Region,
            {"regions": [[88, 256, 336, 256]], "reason": "body"}),
        ("[[1, 2, 30, 40]]", Position, {"boxes": [[1, 2, 30, 40]], "reason": ""}),
    ],
)  # fmt: skip
def test_a_list_in_the_words_around_an_object_is_no_answer(
    text: str, answer: Any, expected: dict[str, Any]
) -> None:
    assert parse(text, answer) == expected


LAST = '{"boxes": [[1, 2, 3, 4]], "reason": "last"}'
DRAFT = '{"boxes": [[9, 9, 9, 9]], "reason": "draft"}'


@pytest.mark.parametrize(
    "text",
    [
        f"{LAST}\nThe box corners are [[9, 9, 9, 9]].",
        f"{LAST}\nIts right and bottom: [5, 5, 10, 10]",
        f'{DRAFT} {{"answer": {LAST}}}',
        f'{DRAFT} {{"answer": {{"position": {LAST}}}}}',
        DRAFT + json.dumps({"answer": LAST}),
        f"{DRAFT} [{LAST}]",
        f"{DRAFT}\n```json\n[[1, 2, 3, 4]]\n```",
        f"<THINK>{DRAFT}</THINK>{LAST}",
        f"{LAST} <Think>maybe {DRAFT}</Think>",
        f"{LAST} <thinking>maybe {DRAFT}</thinking>",
        f'<think time="3">{DRAFT}</think >{LAST}',
        f'{LAST} <think time="3">{DRAFT}</think>',
        f"[THINK]{DRAFT}[/THINK]{LAST}",
        f"◁think▷{DRAFT}◁/think▷{LAST}",
        f"<seed:think>{DRAFT}</seed:think>{LAST}",
        f"{DRAFT}</Thinking>{LAST}",
        f'Schema: {{"boxes": [[x, y, w, h]], "reason": ".."}}. {LAST}',
        f"In [0, 512) x [0, 512): {LAST} as [x, y, width, height] [see 3].",
        f'{LAST} {{"confidence": 0.9}}',
    ],
)
def test_the_last_answer_counts(text: str) -> None:
    assert parse(text, Position)["boxes"] == [[1, 2, 3, 4]]


SINGLE = LAST.replace('"', "'")


@pytest.mark.parametrize("before", ["", DRAFT])
@pytest.mark.parametrize(
    "text",
    [
        SINGLE,
        LAST.replace("}", ",}"),
        LAST.replace("]]", "],]"),
        LAST[:30],
        LAST[:14],
        LAST[:20],
        LAST[:-1],
        "{boxes: [[1, 2, 3, 4]]}",
        LAST.replace('"last"', "None"),
        LAST.replace(",", " // here\n,", 1),
        LAST.replace('"last"', '"the "last" one"'),
        LAST.replace('"boxes"', "\u201cboxes\u201d"),
        f"[{SINGLE}]",
        '{"boxes": null}',
        '{"boxes": "left"}',
        '{"answer": [[1, 2, 3, 4]]}',
        '{"x": 1, "y": 2, "width": 3, "height": 4}',
        f'{{"draft": {DRAFT}, "final": {LAST}}}',
        f"[{DRAFT}, {LAST}]",
        LAST.replace("}", f', "better": {DRAFT}}}'),
        '{"boxes": [[9, 9, 9, 9]], "boxes": [[1, 2, 3, 4]]}',
        '{"box": [9, 9, 9, 9], "bbox": [1, 2, 3, 4]}',
        '{"boxes": [[28, 9, 42, 42]], "unit": "percent"}',
        f'<think time="3">{LAST}',
    ],
)
def test_a_last_answer_that_is_no_json_is_asked_again(before: str, text: str) -> None:
    with pytest.raises(BadReply):
        parse(f"{before} {text}", Position)


@pytest.mark.parametrize(
    "text",
    [
        "[[9, 9, 9, 9]] inside the canvas [0, 0, 512, 512]",
        "[[1, 2, 3, 4], [5, 6, 7, 8],]",
        "[[9, 9, 9, 9]], no: [1, 2, 3, 4,]",
        "[[1, 2, 3, 4], [5, 6",
        "[9, 9, 9, 9] or [1, 2, 3, 4]",
    ],
)
def test_lists_that_are_no_one_answer_are_asked_again(text: str) -> None:
    with pytest.raises(BadReply):
        parse(text, Region)
