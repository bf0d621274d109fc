"""Image files as upright 8-bit RGB, whatever their format: EXIF rotation, gray, CMYK, palettes, alpha, 16 bits a channel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sow.errors import UserError

SAMPLE = "sample:"  # prefix that names a photograph shipped with matplotlib


def read_image(path: str, key: str = "condition.image") -> tuple[Image.Image, Image.Image | None]:
    """An upright 8-bit RGB image and its alpha as "L" (None when it has none or is opaque).

    Raises UserError naming `key` for a missing or unreadable file.
    """
    file = locate(path, key)
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


def locate(path: str, key: str = "condition.image") -> Path:
    """The file that a path or the name of a sample photograph stands for; raises UserError for a folder."""
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
