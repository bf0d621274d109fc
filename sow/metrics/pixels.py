"""Numbers about pixels alone: fidelity to the condition inside its mask,
and seams along the condition's border."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from sow.metrics import Value, mean
from sow.metrics.harmony import AGREEMENT, canvas_mask, color_and_light, mask_in
from sow.types import Box, Sample, VisualCondition, component

if TYPE_CHECKING:
    from PIL import Image

BAND = 4  # pixels on each side of a box's border that its jump is compared with
FLAT = 0.5  # gray levels between neighbouring pixels below which surroundings count as flat


@component("metrics")
class Pixels:
    """`condition_psnr`, `boundary_jump` and `color_and_light` of a sample, averaged over its conditions."""

    COLUMNS: ClassVar[dict[str, str]] = {
        "psnr_condition": "peak signal-to-noise ratio to the condition inside its mask, dB, at most 100",
        "boundary": "jump of luminance across the condition's box over that beside it; 1 = no seam",
        "boundary_mask": "the same along the outline of its mask, where a face has edges of its own",
        **AGREEMENT,
    }

    def check(self) -> None:
        """Needs nothing."""

    def measure(self, samples: Sequence[Sample]) -> list[dict[str, Value]]:
        """One row a sample; None where there is nothing to compare."""
        return [pixel_row(sample) for sample in samples]


def pixel_row(sample: Sample) -> dict[str, Value]:
    """The columns of `Pixels` for one sample."""
    pairs = list(zip(sample.request.conditions, sample.plan.boxes, strict=True))
    gaps = [color_and_light(sample.image, c, box) for c, box in pairs]
    return {
        "psnr_condition": mean(
            [condition_psnr(sample.image, c, box, pairs[i:]) for i, (c, box) in enumerate(pairs, 1)]
        ),
        "boundary": mean([boundary_jump(sample.image, box) for _, box in pairs]),
        "boundary_mask": mean([outline_jump(sample.image, c, box) for c, box in pairs]),
        "color_gap": mean([color for color, _ in gaps]),
        "light_gap": mean([light for _, light in gaps]),
    }


def condition_psnr(
    image: Image.Image,
    condition: VisualCondition,
    box: Box,
    above: Sequence[tuple[VisualCondition, Box]] = (),
) -> float:
    """Peak signal-to-noise ratio, 10 log10(255^2 / MSE) in dB, of the image against the condition inside its
    mask, without what conditions `above` it hide.

    The condition is resized to its box as the canvas was made; identical pixels give 100 dB, no pixel left
    gives nan.
    """
    wanted = np.asarray(condition.image.convert("RGB").resize((box.w, box.h)), np.float64)
    inside = mask_in(condition, box)
    for other, place in above:
        hidden = canvas_mask(image, other, place)[box.y : box.bottom, box.x : box.right]
        inside[: hidden.shape[0], : hidden.shape[1]] &= ~hidden
    got = np.asarray(image.convert("RGB").crop((box.x, box.y, box.right, box.bottom)), np.float64)
    if not inside.any():
        return math.nan
    error = float(((got - wanted)[inside] ** 2).mean())
    return min(100.0, 10 * math.log10(255**2 / error)) if error > 0 else 100.0


def boundary_jump(image: Image.Image, box: Box) -> float | None:
    """Seam across the border of `box`: mean |difference| of the luminance of pixels on either side of the
    border, over that of neighbouring pixels, in the same direction, within 4 px of it.

    1 means no seam, above 1 a visible one; the denominator is at least half a gray level, so a flat image
    gives 0. Borders on the edge of the image do not count; None where all are.
    """
    gray = np.asarray(image.convert("L"), np.float64)
    across: list[NDArray[np.float64]] = []
    around: list[NDArray[np.float64]] = []
    columns = slice(max(0, box.x), box.right), gray
    rows = slice(max(0, box.y), box.bottom), gray.T
    for (span, values), edges in ((columns, (box.y, box.bottom)), (rows, (box.x, box.right))):
        steps = np.abs(np.diff(values[:, span], axis=0))  # steps[i] lies between lines i and i + 1
        for edge in edges:
            if 0 < edge < values.shape[0]:
                across.append(steps[edge - 1])
                around.extend(
                    (steps[max(0, edge - 1 - BAND) : edge - 1].ravel(), steps[edge : edge + BAND].ravel())
                )
    if not across:
        return None
    return float(np.concatenate(across).mean()) / max(float(np.concatenate(around).mean()), FLAT)


def outline_jump(image: Image.Image, condition: VisualCondition, box: Box) -> float | None:
    """`boundary_jump` along the outline of the condition's mask in its box instead of the box's border.

    A seam that the sampler leaves lies here: latents are replaced inside the mask. A face has edges of its
    own along its outline, so compare images of the same group, not with 1. None where the mask has no outline
    on the image.
    """
    gray = np.asarray(image.convert("L"), np.float64)
    mask = canvas_mask(image, condition, box)
    across: list[NDArray[np.float64]] = []
    around: list[NDArray[np.float64]] = []
    for values, inside in ((gray, mask), (gray.T, mask.T)):
        steps, edge = np.abs(np.diff(values, axis=0)), np.diff(inside, axis=0)
        near = np.zeros_like(edge)
        for k in range(1, BAND + 1):
            near[k:] |= edge[:-k]
            near[:-k] |= edge[k:]
        across.append(steps[edge])
        around.append(steps[near & ~edge])
    if not sum(map(len, across)):
        return None
    return float(np.concatenate(across).mean()) / max(float(np.concatenate(around).mean()), FLAT)
