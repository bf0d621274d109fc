"""Harmony of a condition and its surroundings: colour, light, and the seam classifier."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from sow.errors import UserError
from sow.metrics.harmony import canvas_mask, color_and_light, seams, to_lab
from sow.metrics.pixels import Pixels
from sow.people.judge.composites import Figure, blend, feather
from sow.people.seam import load_seam
from sow.people.seam.network import SeamNetwork
from sow.people.seam.reader import WEIGHTS, SeamReader, save_seam
from sow.people.seam.samples import KINDS, composite, pairs, people, softened
from sow.people.seam.training import Recipe, auc, markdown, measure, train
from sow.types import Box, Canvas, Plan, Request, Sample, VisualCondition

CANVAS = Canvas(128, 128, 4, 45, 64)


@cache
def figures() -> list[Figure]:
    return people(24, 2, held_out=True)


def sample(figure: Figure, image: np.ndarray) -> Sample:
    """The figure's face as the condition of an image."""
    x, y, w, h = (int(v) for v in figure.face_shown)
    box, crop = Box(x, y, w, h), (slice(y, y + h), slice(x, x + w))
    condition = VisualCondition(
        Image.fromarray(figure.image[crop]), Image.fromarray(figure.face_mask[crop].astype(np.uint8) * 255)
    )
    plan = Plan((box,), (Box(20, 60, 80, 60),), "", "test")
    return Sample(Request((condition,), ""), plan, Image.fromarray(image), torch.zeros(1, 4, 32, 32), CANVAS)


def redder(figure: Figure) -> np.ndarray:
    """The figure whose face alone has another light."""
    image = np.clip(figure.image * np.array([1.25, 0.9, 0.75]), 0, 255).astype(np.uint8)
    return blend(figure.image, image, feather(figure.face_mask, 0.0))


def test_lab_is_the_standards() -> None:
    colors = np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0], [119, 119, 119]]], np.uint8)
    wanted = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [50.03, 0, 0]]
    np.testing.assert_allclose(to_lab(colors)[0], wanted, atol=0.02)


def test_a_face_of_other_colours_scores_worse_than_its_render() -> None:
    gaps = []
    for figure in figures():
        for image in (figure.image, redder(figure)):
            (row,) = Pixels().measure([sample(figure, image)])
            gaps.append((row["color_gap"], row["light_gap"]))
    whole, shifted = gaps[::2], gaps[1::2]
    known = [i for i, (color, _) in enumerate(whole) if color is not None]
    assert len(known) > 20
    assert np.median([whole[i][0] for i in known]) < 4 < np.median([shifted[i][0] for i in known])
    assert np.mean([shifted[i][0] > whole[i][0] for i in known]) > 0.85


def test_the_gaps_are_what_they_say() -> None:
    image = np.full((60, 60, 3), 30, np.uint8)
    image[10:40, 20:40] = (200, 150, 120)
    image[40:48, 28:32] = (180, 140, 115)  # a neck, more than a tenth of what is looked at
    condition, box = VisualCondition(Image.fromarray(image[10:40, 20:40])), Box(20, 10, 20, 30)
    color, light = color_and_light(Image.fromarray(image), condition, box)
    face, neck = to_lab(np.array([[(200, 150, 120), (180, 140, 115)]], np.uint8))[0]
    assert color == pytest.approx(np.hypot(*(face - neck)[1:])) and light == pytest.approx(face[0] - neck[0])
    image[40:50] = (200, 150, 120)
    assert color_and_light(Image.fromarray(image), condition, box) == (0, 0)
    assert color_and_light(Image.fromarray(image[:41]), condition, box) == (None, None)
    assert canvas_mask(Image.fromarray(image[:30]), condition, box).sum() == 20 * 20


def test_the_shipped_classifier_tells_composites_from_renders() -> None:
    rng = np.random.default_rng(0)
    examples = list(pairs(rng, figures(), 40))
    read = load_seam().read([e.image for e in examples], [e.mask for e in examples])
    whole = [p for p, e in zip(read, examples, strict=True) if not e.kind]
    made = [p for p, e in zip(read, examples, strict=True) if e.kind]
    assert np.mean(whole) < 0.35 and np.mean(made) > 0.65 and auc(whole, made) > 0.85
    (plain,), (red,) = seams([sample(figures()[0], f) for f in (figures()[0].image, redder(figures()[0]))])
    assert plain is not None and red is not None and plain < red


def test_the_card_says_what_was_measured() -> None:
    card, file = WEIGHTS.with_name("README.md"), WEIGHTS.with_name("report.json")
    report = {k: v for k, v in json.loads(file.read_text()).items() if k != "training"}
    assert markdown(report) in card.read_text() and WEIGHTS.stat().st_size < 100_000
    assert report["as made"]["auc"] > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_a_composite_differs_at_the_condition_alone(kind: str) -> None:
    figure, rng = figures()[1], np.random.default_rng(1)
    image = composite(rng, figure, figures(), figure.face_mask, kind)
    changed = np.abs(image.astype(int) - figure.image).max(-1) > 6
    x, y, w, h = figure.face_shown
    near = np.zeros_like(figure.face_mask)
    near[max(0, int(y) - 8) : int(y + h) + 8, max(0, int(x) - 8) : int(x + w) + 8] = True
    assert changed.any()
    if kind != "sharpness":  # which may blur what lies outside
        assert not (changed & ~near).any()


def test_mirrors_move_the_mask_too() -> None:
    example = next(pairs(np.random.default_rng(0), figures()[:1], 1))
    for seed in range(6):
        made = softened(np.random.default_rng(seed), example)
        assert any(np.array_equal(made.mask, m) for m in (example.mask, example.mask[:, ::-1]))


def test_training_measures_writes_and_reads_again(tmp_path) -> None:
    recipe = Recipe(figures=4, redrawn=0, steps=3, pairs=4, learning_rate=0.01, weight_decay=0.0, seed=0)
    *_, (step, loss, network) = train(recipe)
    assert step == 3 and np.isfinite(loss)
    save_seam(tmp_path / "weights.safetensors", network, {"steps": 3})
    report = measure(load_seam(tmp_path / "weights.safetensors"), 5)
    assert 0 <= report["as made"]["accuracy"] <= 1 and "ROC-AUC" in markdown(report)
    (tmp_path / "weights.safetensors").write_bytes(b"damaged")
    load_seam.cache_clear()
    with pytest.raises(UserError, match="damaged"):
        load_seam(tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="train_seam"):
        load_seam(tmp_path / "nothing" / "weights.safetensors")


def test_an_empty_mask_has_no_number() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    read = SeamReader(SeamNetwork()).read([image, image], [np.zeros((20, 20), bool), image[..., 0] == 0])
    assert read[0] is None and 0 <= read[1] <= 1
