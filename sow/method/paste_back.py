"""The condition's own pixels laid over the finished picture, which inpainting users ask for and the paper
does not do.

Pixels that are kept exactly make ID-Distance a copy: tables refuse to mix rows with and without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Protocol

import numpy as np

from sow.types import Bound, component

if TYPE_CHECKING:
    from PIL import Image

    from sow.types import Plan, Request


class PasteBack(Protocol):
    """What becomes of a decoded picture; `mask` is seed initialisation's rule for a mask's pixels."""

    def over(self, image: Image.Image, request: Request, plan: Plan, mask: str) -> Image.Image:
        """The picture with the conditions of `request` in the boxes of `plan`; `image` itself is not
        changed."""
        ...


@component("paste_back")
class NoPasteBack:
    """Nothing is laid over the picture."""

    def over(self, image: Image.Image, request: Request, plan: Plan, mask: str) -> Image.Image:
        return image


@component("paste_back")
class Hard:
    """Every pixel inside the mask is the condition's."""

    def over(self, image: Image.Image, request: Request, plan: Plan, mask: str) -> Image.Image:
        return _laid(image, request, plan, mask, lambda inside, box: inside)


@component("paste_back")
class Feathered:
    """The condition's pixels fade towards the border of the mask over `width`, a share of the box's shorter
    side: nothing outside the mask changes, and what lies deeper than that is exact."""

    width: Annotated[float, Bound(gt=0, le=0.5)]

    def over(self, image: Image.Image, request: Request, plan: Plan, mask: str) -> Image.Image:
        def faded(inside: Any, box: Any) -> Any:
            from scipy.ndimage import distance_transform_edt

            # A border of zeros: the box's own edge is a border of the mask as well.
            depth = distance_transform_edt(np.pad(inside > 0, 1))[1:-1, 1:-1]
            return np.clip(depth / (self.width * min(box.w, box.h)), 0, 1)

        return _laid(image, request, plan, mask, faded)


def _laid(image: Image.Image, request: Request, plan: Plan, mask: str, weigh: Any) -> Image.Image:
    """The conditions over the picture, later ones on top, each with the weight in [0, 1] that `weigh` makes
    of its mask (h, w) in {0, 1} and its box."""
    from PIL import Image

    from sow.method.seed_init import pixel_mask, pixels_in

    canvas = np.asarray(image.convert("RGB"), np.float64).copy()
    for condition, box in zip(request.conditions, plan.boxes, strict=True):
        inside = np.asarray(pixel_mask(condition, box, mask), np.float64) / 255
        own = np.asarray(pixels_in(condition, box), np.float64)
        weight = weigh(inside, box)[..., None]
        here = canvas[box.y : box.y + box.h, box.x : box.x + box.w]
        here += weight * (own - here)
    return Image.fromarray(canvas.round().astype(np.uint8))
