"""Conditions in their boxes: one order for pixels, latents and attention,
and no picture stretched in silence."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from sow.errors import UserError
from sow.method import noise
from sow.method.regions import regions_of
from sow.method.seed_init import Background, latent_mask, paste_latents, place
from sow.types import Box, Canvas, Plan, Request, VisualCondition

CANVAS = Canvas(128, 128, 8, 48, 64)
GRAY = Background([128, 128, 128], "invert", "threshold", True, None)


def condition(value: int, mask: bool = False, size: tuple[int, int] = (64, 64)) -> VisualCondition:
    """A picture of one gray, all of it or a disc."""
    disc = Image.new("L", size, 0)
    ImageDraw.Draw(disc).ellipse((2, 2, size[0] - 3, size[1] - 3), fill=255)
    return VisualCondition(
        Image.new("RGB", size, (value,) * 3), disc if mask else None, None, f"gray {value}"
    )


def placed(conditions: list[VisualCondition], boxes: list[Box]):
    plan = Plan(tuple(boxes), (Box(0, 64, 128, 64),), "a person", "test")
    request = Request(tuple(conditions), "a person")
    return plan, *place(GRAY, request, plan, CANVAS, 0, noise.generator(0))


@pytest.mark.parametrize("masks", [(False, False), (True, True), (False, True), (True, False)])
@pytest.mark.parametrize(
    "boxes",
    [
        [Box(16, 16, 64, 64), Box(48, 16, 64, 64)],
        [Box(48, 16, 64, 64), Box(16, 16, 64, 64)],
        [Box(16, 16, 64, 64), Box(32, 32, 32, 32)],
        [Box(0, 0, 64, 64), Box(24, 24, 64, 64), Box(48, 48, 64, 64)],
        [Box(0, 0, 128, 128), Box(64, 64, 64, 64), Box(0, 0, 64, 64)],
    ],
)
def test_later_conditions_lie_on_top_in_pixels_latents_and_attention(boxes, masks):
    values = [20, 230, 90][: len(boxes)]
    pictures = [condition(v, masks[i % 2]) for i, v in enumerate(values)]
    plan, canvas, own = placed(pictures, boxes)
    seen = canvas[0, ::8, ::8]  # the pixel that each latent's mask reads
    latents = [torch.full((1, *p.latent_mask.shape), float(v)) for p, v in zip(own, values, strict=True)]
    pasted = paste_latents(own, latents, torch.zeros(1, 1, 16, 16))[0, 0]
    (regions,) = regions_of([plan], own, CANVAS, "mask")
    assert not (regions.conditions.sum(0) > 1).any()
    for i, value in enumerate(values):
        here = pasted == value
        assert here.any() and torch.equal(here, regions.conditions[i])
        assert ((seen[here] + 1) * 127.5 - value).abs().max() < 3


def test_boxes_as_regions_have_the_same_order():
    boxes = [Box(16, 16, 64, 64), Box(48, 16, 64, 64)]
    plan, _, own = placed([condition(20), condition(230)], boxes)
    (regions,) = regions_of([plan], own, CANVAS, "box")
    assert regions.conditions[1].sum() == 64 and regions.conditions[0].sum() == 32


@pytest.mark.parametrize(
    "boxes",
    [
        [Box(16, 16, 64, 64), Box(16, 16, 64, 64)],
        [Box(24, 24, 48, 48), Box(16, 16, 64, 64)],
        [Box(0, 0, 64, 64), Box(0, 0, 64, 32), Box(0, 32, 64, 32)],
    ],
)
def test_a_condition_that_others_hide_is_refused_by_name(boxes):
    with pytest.raises(UserError, match="gray 20 in box .* is hidden.*condition.box"):
        placed([condition(v) for v in (20, 230, 90)[: len(boxes)]], boxes)


@pytest.mark.parametrize(
    "size, box, stretched",
    [
        ((64, 64), Box(0, 0, 64, 64), False),
        ((64, 64), Box(0, 0, 64, 56), False),  # the grid of the autoencoder
        ((64, 48), Box(0, 0, 64, 48), False),
        ((100, 75), Box(0, 0, 64, 48), False),
        ((64, 64), Box(0, 0, 96, 48), True),
        ((64, 48), Box(0, 0, 48, 64), True),
        ((40, 80), Box(0, 0, 64, 64), True),
    ],
)
def test_a_picture_that_is_stretched_is_said(caplog, size, box, stretched):
    with caplog.at_level(logging.WARNING):
        _, _, own = placed([condition(20, size=size)], [box])
    words = f"gray 20 is stretched: its picture is {size[0]} x {size[1]}, "
    words += f"its box {box.w} x {box.h} (condition.box)"
    assert (words in caplog.text) == stretched
    assert np.asarray(own[0].latent_mask).all()


@pytest.mark.parametrize("coverage", [None, 0.25, 0.5, 0.75, 1.0])
def test_a_latent_is_a_conditions_by_its_first_pixel_or_by_its_share_of_them(coverage):
    mask = np.zeros((64, 64), dtype=bool)
    mask[4:41, 12:54] = True
    found = latent_mask(mask, 8, coverage)
    for i in range(8):
        for j in range(8):
            block = mask[8 * i : 8 * i + 8, 8 * j : 8 * j + 8]
            assert found[i, j] == (block[0, 0] if coverage is None else block.mean() >= coverage)
    if coverage is None:  # what lies at the left and upper edge is lost, what lies at the others is overrun
        assert np.argwhere(found).min(0).tolist() == [1, 2] and np.argwhere(found).max(0).tolist() == [5, 6]


def test_a_coverage_that_leaves_no_latent_is_refused():
    thin = Image.new("L", (64, 64), 0)
    ImageDraw.Draw(thin).rectangle((6, 0, 9, 63), fill=255)
    picture = VisualCondition(Image.new("RGB", (64, 64), (9, 9, 9)), thin, None, "thin")
    plan = Plan((Box(16, 16, 64, 64),), (Box(0, 64, 128, 64),), "a person", "test")
    whole = Background([128, 128, 128], "invert", "threshold", True, 1.0)
    with pytest.raises(UserError, match="keeps no latent"):
        place(whole, Request((picture,), "a person"), plan, CANVAS, 0, noise.generator(0))


def test_a_box_that_is_moved_to_the_latents_grid_is_said(caplog) -> None:
    from sow import build, compose
    from sow.types import Box, Request, VisualCondition

    sampler = build(compose(["model=tiny", "metrics=none", "condition=person"]))
    picture = Image.new("RGB", (64, 64), (200, 150, 120))
    for box, said in (([72, 67, 50, 53], True), ([72, 64, 48, 56], False)):
        caplog.clear()
        request = Request((VisualCondition(picture, box=Box(*box)),), "a person", seed=0, id="0")
        (plan,) = sampler.plan([request])
        assert (f"the box {box} is taken as {plan.boxes[0].as_list()}" in caplog.text) == said
