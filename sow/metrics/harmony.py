"""Whether a condition and what is around it are of one picture: colour, light, and seams that a classifier
sees.

Colour and light are compared with what lies below the condition: a face's skin goes on in its neck, so that
the nearest colours there are its own. Units are those of CIE L*a*b* (D65), where about 2 can just be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sow.types import Box, Sample, VisualCondition

if TYPE_CHECKING:
    from PIL import Image

AGREEMENT = {
    "color_gap": "distance in a*b* of the condition's median colour from the nearest tenth of the colours "
    "below it; 0 = the same colour goes on",
    "light_gap": "distance in L* of the same two",
}
SEAM = {
    "seam": "probability that the condition was set into the image, by a classifier of composites against "
    "whole renders of the embedded world",
}
BELOW = 1 / 3  # height of what counts as below the mask, in the mask's own
MIDDLE = 1 / 2  # share of the mask's width that is looked below
NEAREST = 0.1
FEWEST = 20  # pixels below the mask that can be judged


def canvas_mask(image: Image.Image, condition: VisualCondition, box: Box) -> NDArray[np.bool_]:
    """Where the condition's mask lies on the image, (H, W), cut at its edges; its box without a mask."""
    mask = np.zeros((image.height, image.width), bool)
    here = mask[box.y : box.bottom, box.x : box.right]
    here[:] = mask_in(condition, box)[: here.shape[0], : here.shape[1]]
    return mask


def mask_in(condition: VisualCondition, box: Box) -> NDArray[np.bool_]:
    """The condition's mask (h, w) in its box, resized as the canvas was made; all of it without a mask."""
    if condition.mask is None:
        return np.ones((box.h, box.w), bool)
    return np.asarray(condition.mask.convert("L").resize((box.w, box.h))) >= 128


def color_and_light(
    image: Image.Image, condition: VisualCondition, box: Box
) -> tuple[float | None, float | None]:
    """(`color_gap`, `light_gap`) of one condition.

    m is the median of L*a*b* in the mask; below it, under the middle half of its columns down to a third of
    its height, the tenth of the pixels nearest to m has the median n. The gaps are |m_ab - n_ab| and
    |m_L - n_L|; None where the image ends there.
    """
    mask = canvas_mask(image, condition, box)
    below = _below(mask)
    if below.sum() < FEWEST or not mask.any():
        return None, None
    lab = to_lab(np.asarray(image.convert("RGB")))
    here = np.median(lab[mask], 0)
    around = lab[below]
    far = np.linalg.norm(around - here, axis=1)
    nearest = around[far <= np.quantile(far, NEAREST)]
    gap = np.abs(np.median(nearest, 0) - here)
    return float(np.hypot(gap[1], gap[2])), float(gap[0])


def _below(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels below the middle of a mask."""
    out = np.zeros_like(mask)
    columns = np.flatnonzero(mask.any(0))
    if not len(columns):
        return out
    rows = np.flatnonzero(mask.any(1))
    wide = columns[-1] + 1 - columns[0]
    left = columns[0] + round(wide * (1 - MIDDLE) / 2)
    tall = round(BELOW * (rows[-1] + 1 - rows[0]))
    for column in range(left, left + round(wide * MIDDLE)):
        own = np.flatnonzero(mask[:, column])
        if len(own):
            out[own[-1] + 1 : own[-1] + 1 + tall, column] = True
    return out & ~mask


def to_lab(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """CIE L*a*b* under D65 of sRGB (H, W, 3) uint8."""
    rgb = image.astype(np.float64) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _XYZ.T / _WHITE
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = _XYZ.sum(1)


def seams(samples: Sequence[Sample]) -> list[list[float | None]]:
    """`seam` of each condition of each sample; raises UserError without the classifier's weights."""
    from sow.people.seam import load_seam

    places = [
        (np.asarray(s.image.convert("RGB")), canvas_mask(s.image, condition, box))
        for s in samples
        for condition, box in zip(s.request.conditions, s.plan.boxes, strict=True)
    ]
    found = iter(load_seam().read([image for image, _ in places], [mask for _, mask in places]))
    return [[next(found) for _ in s.request.conditions] for s in samples]
