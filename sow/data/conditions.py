"""Visual conditions V_0: rendered people of the embedded world, and photographs with their masks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sow.data.images import SAMPLE, fit_mask, locate, read_image, read_mask, without_hidden_colours
from sow.errors import UserError
from sow.types import Bound, Box, SeedNumber, VisualCondition, component

log = logging.getLogger(__name__)

_SEED_STRIDE = 7919  # apart enough that runs over neighbouring seeds share no second person or picture


class Condition(Protocol):
    """Where visual conditions come from."""

    def load(self, seed: int) -> tuple[VisualCondition, ...]:
        """The visual conditions of the request with this seed; raises UserError for unusable input."""
        ...


@component("condition")
class Person:
    """Rendered faces of the embedded world, with their truth.

    `seed` None follows the request's seed; `identity` None is drawn from the seed; `attributes` are laid
    over the drawn ones; `count` people get one condition each; `size` is the side of a crop in pixels.
    """

    seed: SeedNumber | None
    identity: SeedNumber | None
    size: Annotated[int, Bound(ge=16, le=4096)]  # a face needs that many pixels
    count: Annotated[int, Bound(ge=1, le=64)]
    attributes: dict[str, str]
    box: Any

    def __post_init__(self) -> None:
        _check_attributes(self.attributes)
        _ = self.boxes  # checked here, read later

    @property
    def boxes(self) -> list[Box | None]:
        """The user's box of each condition."""
        return _boxes(self.box, self.count)

    def load(self, seed: int) -> tuple[VisualCondition, ...]:
        """One condition a person; `truth` holds attributes, identity and seed."""
        first = seed if self.seed is None else self.seed
        return tuple(self._one(first + i * _SEED_STRIDE, box, i) for i, box in enumerate(self.boxes))

    def _one(self, seed: int, box: Box | None, index: int) -> VisualCondition:
        from sow.people.drawing.render import render

        drawn = render(seed, 32, framing="closeup")
        free = not {"skin", "eyes"} & self.attributes.keys()
        identity = self.identity if self.identity is not None else drawn.identity if free else None
        picture = render(
            seed,
            self.size,
            attributes=replace(drawn.attributes, **self.attributes),
            identity=identity,
            framing="closeup",
        )
        shown = {f.name: getattr(picture.attributes, f.name) for f in fields(picture.attributes)}
        truth = {
            "attributes": shown,
            "identity": picture.identity,
            "seed": seed,
            "another": partial(another_face, seed, picture.identity, shown, self.size),
        }
        return rendered(
            picture.image,
            picture.face_mask,
            box=box,
            name=f"person {picture.identity}"
            if index == 0 or self.count == 1
            else f"person {picture.identity} #{index}",
            truth=truth,
        )


@component("condition")
class Photo:
    """Photographs from disk, one condition each.

    `image` is a path, `sample:grace_hopper.jpg` (a photograph that matplotlib ships) or a list of these.
    `mask` is a path of an image of the same aspect whose `keep` (white or black) pixels belong to the
    condition, `none` or `face` (an ellipse in MTCNN's box of the largest face), or a list with one entry
    per image. EXIF rotation and colour profiles are applied; gray, CMYK, palette, alpha and 16-bit images
    become 8-bit sRGB. An alpha channel becomes the mask when mask=none; with another mask it is flattened
    on mid-gray. `crop`: `none`, `mask` (to a square around the mask) or `auto` (mask for mask=face only).
    """

    image: Any
    mask: Any
    keep: Literal["white", "black"]
    crop: Literal["auto", "none", "mask"]
    box: Any

    def __post_init__(self) -> None:
        self._masks(len(self.boxes))

    @property
    def boxes(self) -> list[Box | None]:
        """The user's box of each condition."""
        return _boxes(self.box, len(_paths(self.image, "condition.image")))

    def load(self, seed: int) -> tuple[VisualCondition, ...]:
        """The photographs as conditions; `seed` changes nothing. Raises UserError for a file that cannot be
        used."""
        images = _paths(self.image, "condition.image")
        masks = self._masks(len(images))
        return tuple(self._one(i, m, b) for i, m, b in zip(images, masks, self.boxes, strict=True))

    def files(self) -> list[Path]:
        """The photographs and their masks."""
        from sow.metrics.faces import mtcnn_files

        masks = [] if self.mask is None else _paths(self.mask, "condition.mask")
        named = [*_paths(self.image, "condition.image"), *(m for m in masks if m not in ("none", "face"))]
        return [*(locate(name) for name in named), *(mtcnn_files() if "face" in masks else [])]

    def _masks(self, count: int) -> list[str]:
        masks = ["none"] if self.mask is None else _paths(self.mask, "condition.mask")
        if len(masks) == 1 and masks[0] in ("none", "face"):
            masks = masks * count
        if len(masks) != count:
            raise UserError(
                f"{len(masks)} masks for {count} images: give one mask an image, none or face "
                "(condition.mask)"
            )
        return masks

    def _one(self, path: str, mask: str, box: Box | None) -> VisualCondition:
        name = Path(path.removeprefix(SAMPLE)).stem
        return photograph(path, mask, self.keep, self.crop, box, name)


def photograph(
    source: str | Image.Image,
    mask: str | Image.Image,
    keep: str,
    crop: str,
    box: Box | None = None,
    name: str = "condition",
) -> VisualCondition:
    """A condition of a photograph and a mask, each a path or an image in memory, the mask also `none` or
    `face` (see `Photo`). Raises UserError for what cannot be used."""
    image, alpha = read_image(source)
    path = source if isinstance(source, str) else "the image"
    found: Image.Image | None
    if isinstance(mask, str) and mask == "none":
        found = alpha
        if alpha is not None:
            if not any(alpha.histogram()[128:]):
                raise UserError(f"{path} is transparent everywhere: give an opaque image (condition.image)")
            image = without_hidden_colours(image, alpha)
    else:
        if alpha is not None:
            image = Image.composite(image, Image.new("RGB", image.size, (128,) * 3), alpha)
        if isinstance(mask, str) and mask == "face":
            if alpha is not None:
                log.warning(
                    "%s has transparency, of which condition.mask=face takes no notice: condition.mask=none "
                    "keeps what is opaque (condition.mask)",
                    path,
                )
            found = face_ellipse(image, path)
        else:
            where = mask if isinstance(mask, str) else "in memory"
            found = fit_mask(read_mask(mask, keep), image.size, where)
    if found is not None and (crop == "mask" or (crop == "auto" and mask == "face")):
        window = _square_around(found)
        image, found = image.crop(window), found.crop(window)
    return VisualCondition(image=image, mask=found, box=box, name=name)


def face_ellipse(image: Image.Image, name: str = "the image") -> Image.Image:
    """A mask "L" of the image's size: the ellipse inscribed in MTCNN's box of the largest face.

    Raises UserError when no face is found.
    """
    from sow.metrics.faces import detect_faces

    box = detect_faces([image])[0]
    if box is None:
        raise UserError(f"no face found in {name}: give a mask image or mask=none (condition.mask)")
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).ellipse((box.x, box.y, box.right - 1, box.bottom - 1), fill=255)
    return mask


def _square_around(mask: Image.Image) -> tuple[int, int, int, int]:
    """Crop window around the mask: a square where the image allows, an eighth of its side free on each
    side."""
    found = mask.point([0] * 128 + [255] * 128).getbbox()
    if found is None:
        raise UserError("the mask is empty: mark the pixels to keep (condition.mask)")
    left, top, right, bottom = found
    side = round(1.25 * max(right - left, bottom - top))
    width, height = min(side, mask.width), min(side, mask.height)
    x = min(max((left + right - width) // 2, 0), mask.width - width)
    y = min(max((top + bottom - height) // 2, 0), mask.height - height)
    return x, y, x + width, y + height


def _paths(value: Any, key: str) -> list[str]:
    items = [value] if isinstance(value, str | Path) else list(value) if isinstance(value, Sequence) else []
    if not items or not all(isinstance(v, str | Path) and str(v) for v in items):
        raise UserError(f"need a path or a list of paths, got {value!r} ({key})")
    return [str(v) for v in items]


def _boxes(value: Any, count: int) -> list[Box | None]:
    if value is None:
        return [None] * count
    try:
        items = list(value)
        if items and all(isinstance(v, int | float) for v in items):
            items = [items]
        boxes = [None if item is None else Box.of(item) for item in items]
    except (TypeError, ValueError, OverflowError, UserError) as error:
        raise UserError(
            f"need [x, y, width, height] or a list of these, got {value!r} (condition.box)"
        ) from error
    if len(boxes) != count:
        raise UserError(f"{len(boxes)} boxes for {count} conditions: give one each (condition.box)")
    return boxes


def rendered(picture: NDArray[np.uint8], mask: NDArray[np.bool_], **known: Any) -> VisualCondition:
    """A rendered face (h, w, 3) and its mask (h, w) as a visual condition."""
    return VisualCondition(Image.fromarray(picture), Image.fromarray(mask.astype(np.uint8) * 255), **known)


def another_face(seed: int, identity: int, attributes: Mapping[str, str], size: int) -> VisualCondition:
    """The same drawn person again, in another pose and expression; hair, glasses and age are the same."""
    from sow.people.captions.attributes import VOCABULARY, Attributes
    from sow.people.drawing.render import face_condition

    known = Attributes(**attributes)
    expressions = list(VOCABULARY["expression"])
    other = expressions[(expressions.index(known.expression) + 1) % len(expressions)]
    image, mask = face_condition(seed + _SEED_STRIDE, identity, replace(known, expression=other), size)
    return rendered(image, mask, name=f"person {identity}, again")


def another_photo(path: str) -> VisualCondition:
    """A photograph as it is, for its face."""
    return VisualCondition(read_image(path, "data.root")[0], name=path)


def _check_attributes(attributes: Mapping[str, str]) -> None:
    from sow.people.captions.attributes import VOCABULARY

    for name, value in attributes.items():
        if name not in VOCABULARY:
            raise UserError(f"condition.attributes has no {name}: choose from {', '.join(VOCABULARY)}")
        if value not in VOCABULARY[name]:
            raise UserError(
                f"condition.attributes.{name}={value} is not one of {', '.join(VOCABULARY[name])}"
            )
