"""The embedded world's metrics against rendered ground truth and hand-made pictures."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from sow.metrics import Metrics
from sow.metrics.people import PeopleMetrics, boundary_jump, condition_psnr, distance, text_agreement
from sow.people.captions.attributes import Attributes, with_identity
from sow.people.captions.captions import caption
from sow.people.drawing.render import Render, render
from sow.people.judge import Reading
from sow.types import Box, Canvas, Plan, Request, Sample, VisualCondition

CANVAS = Canvas(128, 128, 4, 45, 64)
WHO, OTHER = 40_000_123, 40_000_120  # of other skin
LOOK = with_identity(
    Attributes(scene="beach", clothing="suit", clothing_color="red", expression="happy", hair_color="black"),
    WHO,
)
PROMPT = caption(
    LOOK, np.random.default_rng(0), keep={"presence", "scene", "clothing", "clothing_color", "expression"}
)


@cache
def scene(identity: int = WHO, presence: str = "person") -> Render:
    values = {**LOOK.__dict__, "presence": presence}
    attributes = Attributes(**values)
    if presence == "person":
        attributes = with_identity(attributes, identity)
    return render(SEED, 128, attributes=attributes, identity=identity, placement=(0.5, 0.36, 0.42))


SEED = 3_460_000_000


def sample(image: np.ndarray, prompt: str = PROMPT) -> Sample:
    """A sample whose condition is the face of the whole figure, where that figure has it."""
    truth = scene()
    x, y, w, h = truth.face_box
    box = Box(x - 2, y - 2, w + 4, h + 4)
    crop = (slice(box.y, box.bottom), slice(box.x, box.right))
    condition = VisualCondition(
        Image.fromarray(truth.image[crop]), Image.fromarray(truth.face_mask[crop].astype(np.uint8) * 255)
    )
    plan = Plan((box,), (Box(20, 60, 80, 60),), prompt, "test")
    return Sample(
        Request((condition,), prompt), plan, Image.fromarray(image), torch.zeros(1, 4, 32, 32), CANVAS
    )


def beheaded() -> np.ndarray:
    """The head alone, on its scene."""
    figure, empty = scene(), scene(presence="nobody")
    _, y, _, h = figure.face_box
    keep = figure.figure_mask & (np.arange(128) < y + h)[:, None]
    return np.where(keep[..., None], figure.image, empty.image)


def patched() -> np.ndarray:
    """The whole figure with everything in the condition's box darker: a seam."""
    x, y, w, h = scene().face_box
    image = scene().image.copy()
    image[y - 2 : y + h + 2, x - 2 : x + w + 2] //= 2
    return image


@cache
def rows() -> list[dict]:
    pictures = [scene().image, beheaded(), scene(OTHER).image, scene(presence="nobody").image, patched()]
    return PeopleMetrics().measure([sample(p) for p in pictures])


def test_the_metrics_fulfil_the_protocol() -> None:
    metrics = PeopleMetrics()
    metrics.check()
    assert isinstance(metrics, Metrics)
    assert metrics.measure([]) == []


def test_a_whole_figure_with_its_own_face_scores_best() -> None:
    row = rows()[0]
    assert row["face_detected"] and row["face_judged"] and row["head_is_condition"]
    assert row["same_person"] and row["id_distance"] < 0.5
    assert row["failure"] is False and row["truncated"] is False and row["whole"] > 0.5 and row["faces"] == 1
    assert row["psnr_condition"] == 100 and row["boundary"] < rows()[4]["boundary"]
    assert row["text_agreement"] >= 0.75 and row["expression_follows"] is True
    assert row["copy_paste"] is None  # nobody knows who that is


def test_a_head_without_a_body_is_a_failure() -> None:
    whole, broken = rows()[0], rows()[1]
    assert broken["failure"] is True and broken["truncated"] is True and broken["whole"] < whole["whole"]
    assert broken["psnr_condition"] > 30 and broken["text_agreement"] < 1


def test_another_person_is_another_person() -> None:
    same, other = rows()[0], rows()[2]
    assert other["id_distance"] > same["id_distance"] + 0.3 and not other["same_person"]
    assert other["psnr_condition"] < 30 and other["failure"] is False


def test_an_empty_scene_has_no_face_and_no_distance() -> None:
    row = rows()[3]
    assert not row["face_detected"] and not row["face_judged"] and not row["head_is_condition"]
    assert row["id_distance"] is None and row["same_person"] is None
    assert row["failure"] is True


def test_psnr_follows_its_formula_and_sees_only_the_mask() -> None:
    image = np.full((32, 32, 3), 100, np.uint8)
    mask = np.zeros((16, 16), np.uint8)
    mask[4:12, 4:12] = 255
    condition = VisualCondition(Image.fromarray(image[:16, :16]), Image.fromarray(mask))
    box = Box(8, 8, 16, 16)
    image[12:20, 12:20] += 10
    value = condition_psnr(Image.fromarray(image), condition, box)
    assert value == pytest.approx(10 * np.log10(255**2 / 100))
    outside = image.copy()
    outside[:12] = 0
    assert condition_psnr(Image.fromarray(outside), condition, box) == pytest.approx(value)
    outside[12:20, 12:16] = 255  # hidden by a later condition
    above = VisualCondition(Image.new("RGB", (16, 20))), Box(0, 8, 16, 20)
    hit = Image.fromarray(outside)
    assert condition_psnr(hit, condition, box) < value - 5
    assert condition_psnr(hit, condition, box, [above]) == pytest.approx(value)


def test_boundary_jump_is_one_on_a_ramp_and_grows_with_the_seam() -> None:
    ramp = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    box = Box(16, 16, 32, 32)

    def jump(picture: np.ndarray, box: Box = box) -> float | None:
        return boundary_jump(Image.fromarray(np.repeat(picture[..., None], 3, 2)), box)

    assert jump(ramp) == pytest.approx(1.0)
    seam = ramp.copy()
    seam[16:48, 16:48] += 20
    assert jump(seam) == pytest.approx(20.0, rel=0.1)  # half the borders jump by 21, half by 19
    assert jump(np.full((64, 64), 7, np.uint8)) == 0
    assert jump(ramp, Box(0, 0, 64, 64)) is None


def reading(**attributes: str) -> Reading:
    unit = np.eye(1, 64, dtype=np.float32)[0]
    return Reading(1.0, Box(0, 0, 9, 9), attributes, dict.fromkeys(attributes, 1.0), unit, 1.0, 0.0, 1)


def test_text_agreement_counts_what_the_prompt_names() -> None:
    prompt = "An angry person in a red suit on a beach."
    share, missed = text_agreement(
        prompt, reading(expression="angry", clothing="suit", clothing_color="blue", scene="beach")
    )
    assert share == 0.75 and missed == ["clothing_color"]
    assert text_agreement("a person", reading()) == (None, [])
    sketch = "a pencil sketch of a person in a red suit"
    assert text_agreement(
        sketch, reading(style="pencil sketch", clothing="suit", clothing_color="black")
    ) == (1.0, [])


def test_distance_is_euclidean_between_unit_vectors() -> None:
    a, b = reading(), reading()
    assert distance(a, b) == 0
    b.embedding[:2] = (0, 1)
    assert distance(a, b) == pytest.approx(np.sqrt(2))
