"""Visual conditions V_0: rendered people of the embedded world, and photographs with their masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

from sow.errors import UserError
from sow.types import Box, VisualCondition

SAMPLE = "sample:"  # prefix that names a photograph shipped with matplotlib
_SEED_STRIDE = 7919  # apart enough that runs over neighbouring seeds share no second person


class Condition(Protocol):
    """Where visual conditions come from."""

    def load(self, seed: int) -> tuple[VisualCondition, ...]:
        """The visual conditions of the request with this seed; raises UserError for unusable input."""
        ...


@dataclass(frozen=True)
class Person:
    """Rendered faces of the embedded world, with their truth.

    `seed` None follows the request's seed; `identity` None is drawn from the seed; `attributes` are laid over the
    drawn ones; `count` people get one condition each; `size` is the side of a crop in pixels.
    """

    seed: int | None
    identity: int | None
    size: int
    count: int
    attributes: dict[str, str]
    box: Any

    def __post_init__(self) -> None:
        if self.size < 16:
            raise UserError(f"condition.size={self.size} px is too small for a face: use at least 16")
        if self.count < 1:
            raise UserError(f"condition.count={self.count}: need at least one person")
        _check_attributes(self.attributes)
        _boxes(self.box, self.count)

    def load(self, seed: int) -> tuple[VisualCondition, ...]:
        """One condition a person; `truth` holds attributes, identity and seed."""
        first = seed if self.seed is None else self.seed
        boxes = _boxes(self.box, self.count)
        return tuple(self._one(first + i * _SEED_STRIDE, boxes[i], i) for i in range(self.count))

    def _one(self, seed: int, box: Box | None, index: int) -> VisualCondition:
        from sow.people.render import render

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
        truth = {
            "attributes": {f.name: getattr(picture.attributes, f.name) for f in fields(picture.attributes)},
            "identity": picture.identity,
            "seed": seed,
        }
        return VisualCondition(
            image=Image.fromarray(picture.image),
            mask=Image.fromarray(picture.face_mask.astype(np.uint8) * 255),
            box=box,
            name=f"person {picture.identity}"
            if index == 0 or self.count == 1
            else f"person {picture.identity} #{index}",
            truth=truth,
        )


@dataclass(frozen=True)
class Photo:
    """Photographs from disk, one condition each.

    `image` is a path, `sample:grace_hopper.jpg` (a photograph that matplotlib ships) or a list of these. `mask` is a
    path of an image whose `keep` (white or black) pixels belong to the condition, `none` or `face` (an ellipse in
    MTCNN's box of the largest face), or a list with one entry an image. EXIF rotation is applied; gray, CMYK, palette,
    alpha and 16-bit images become 8-bit RGB. An alpha channel becomes the mask when mask=none; with another mask it is
    flattened on mid-gray. `crop`: `none`, `mask` (to a square around the mask) or `auto` (mask for mask=face only).
    """

    image: Any
    mask: Any
    keep: str
    crop: str
    box: Any

    def __post_init__(self) -> None:
        if self.keep not in ("white", "black"):
            raise UserError(f"condition.keep={self.keep} is not one of white, black")
        if self.crop not in ("auto", "none", "mask"):
            raise UserError(f"condition.crop={self.crop} is not one of auto, none, mask")
        images = _paths(self.image, "condition.image")
        _boxes(self.box, len(images))
        self._masks(len(images))

    def load(self, seed: int) -> tuple[VisualCondition, ...]:
        """The photographs as conditions; `seed` changes nothing. Raises UserError for a file that cannot be used."""
        images = _paths(self.image, "condition.image")
        boxes = _boxes(self.box, len(images))
        masks = self._masks(len(images))
        return tuple(self._one(i, m, b) for i, m, b in zip(images, masks, boxes, strict=True))

    def _masks(self, count: int) -> list[str]:
        masks = ["none"] if self.mask is None else _paths(self.mask, "condition.mask")
        if len(masks) == 1 and masks[0] in ("none", "face"):
            masks = masks * count
        if len(masks) != count:
            raise UserError(
                f"{len(masks)} masks for {count} images: give one mask an image, none or face (condition.mask)"
            )
        return masks

    def _one(self, path: str, mask_name: str, box: Box | None) -> VisualCondition:
        image, alpha = read_image(path)
        if mask_name == "none":
            mask = alpha
            if mask is not None and _brightest(mask) < 128:
                raise UserError(f"{path} is transparent everywhere: give an opaque image (condition.image)")
        else:
            image = (
                image
                if alpha is None
                else Image.composite(image, Image.new("RGB", image.size, (128,) * 3), alpha)
            )
            mask = (
                face_ellipse(image, path) if mask_name == "face" else self._mask_file(mask_name, image.size)
            )
        if mask is not None and (self.crop == "mask" or (self.crop == "auto" and mask_name == "face")):
            window = _square_around(mask)
            image, mask = image.crop(window), mask.crop(window)
        return VisualCondition(image=image, mask=mask, box=box, name=Path(path.removeprefix(SAMPLE)).stem)

    def _mask_file(self, path: str, size: tuple[int, int]) -> Image.Image:
        loaded, alpha = read_image(path, "condition.mask")
        gray = loaded.convert("L")
        if alpha is not None and gray.getextrema()[0] == gray.getextrema()[1]:
            gray = alpha  # a cut-out saved as a mask: its alpha is the drawing
        mask = ImageOps.invert(gray) if self.keep == "black" else gray
        if mask.size != size:
            raise UserError(
                f"mask {path} is {mask.size[0]} x {mask.size[1]} but its image is {size[0]} x {size[1]}: "
                "give a mask of the image's size (condition.mask)"
            )
        if _brightest(mask) < 128:
            other = "black" if self.keep == "white" else "white"
            raise UserError(
                f"mask {path} is empty: no {self.keep} pixels to keep; try condition.keep={other} (condition.mask)"
            )
        return mask


def read_image(path: str, key: str = "condition.image") -> tuple[Image.Image, Image.Image | None]:
    """An upright 8-bit RGB image and its alpha as "L" (None when it has none or is opaque).

    Raises UserError naming `key` for a missing or unreadable file.
    """
    file = _locate(path, key)
    try:
        with Image.open(file) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
    except FileNotFoundError as error:
        raise UserError(f"no file {path}: give an image that exists ({key})") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        deep = _read_deep(file)
        if deep is None:
            raise UserError(f"cannot read {path} as an image: {error} ({key})") from error
        image = deep
    return _to_rgb(image)


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


def _locate(path: str, key: str) -> Path:
    if not path.startswith(SAMPLE):
        file = Path(path).expanduser()
        if file.is_dir():
            raise UserError(f"{path} is a folder: give an image file ({key})")
        return file
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "sample_data"
    file = folder / path.removeprefix(SAMPLE)
    if not file.is_file():
        known = ", ".join(sorted(f.name for f in folder.glob("*.[jp][pn]g")))
        raise UserError(f"no sample photograph {path}: choose from {known} ({key})")
    return file


def _read_deep(file: Path) -> Image.Image | None:
    """Formats that Pillow has no mode for, such as 16-bit RGB TIFF; None when OpenCV cannot read them either."""
    import cv2

    try:
        pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if pixels is None:
        return None
    eight = _to_eight_bits(pixels)
    if eight.ndim == 2:
        return Image.fromarray(eight)
    return Image.fromarray(
        cv2.cvtColor(eight, cv2.COLOR_BGRA2RGBA if eight.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    )


def _to_eight_bits(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    values = np.nan_to_num(pixels.astype(np.float64))
    if np.issubdtype(pixels.dtype, np.floating):
        top = 1.0 if values.max(initial=0) <= 1.0 else 255.0 if values.max() <= 255 else 65535.0
    else:
        top = 255.0 if values.max(initial=0) <= 255 and pixels.dtype.itemsize > 2 else 65535.0
    return np.clip(np.round(values / top * 255), 0, 255).astype(np.uint8)


def _to_rgb(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_eight_bits(np.asarray(image)))
    if not image.has_transparency_data:
        return image.convert("RGB"), None
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    return rgba.convert("RGB"), None if alpha.getextrema()[0] == 255 else alpha


def _brightest(mask: Image.Image) -> int:
    return max(v for v, count in enumerate(mask.histogram()) if count)


def _square_around(mask: Image.Image) -> tuple[int, int, int, int]:
    """Crop window around the mask: a square where the image allows, an eighth of its side free on each side."""
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
    except (TypeError, ValueError, UserError) as error:
        raise UserError(
            f"need [x, y, width, height] or a list of these, got {value!r} (condition.box)"
        ) from error
    if len(boxes) != count:
        raise UserError(f"{len(boxes)} boxes for {count} conditions: give one each (condition.box)")
    return boxes


def _check_attributes(attributes: Mapping[str, str]) -> None:
    from sow.people.attributes import VOCABULARY

    for name, value in attributes.items():
        if name not in VOCABULARY:
            raise UserError(f"condition.attributes has no {name}: choose from {', '.join(VOCABULARY)}")
        if value not in VOCABULARY[name]:
            raise UserError(
                f"condition.attributes.{name}={value} is not one of {', '.join(VOCABULARY[name])}"
            )
