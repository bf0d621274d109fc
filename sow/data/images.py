"""Image files as upright 8-bit sRGB, and as masks, whatever their format: EXIF rotation, colour profiles,
gray, CMYK, palettes, alpha, 16 bits a channel. What cannot be read whole is refused."""

from __future__ import annotations

import io
import logging
import os
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from sow.errors import UserError

log = logging.getLogger(__name__)

SAMPLE = "sample:"  # prefix that names a photograph shipped with matplotlib
LARGEST = 2**27  # pixels of a file: a photograph of 134 megapixels; beyond it a small file fills the memory
SHOWN = 6  # values of a mask in an error


def read_image(
    path: str | Image.Image, key: str = "condition.image"
) -> tuple[Image.Image, Image.Image | None]:
    """An upright 8-bit sRGB image and its alpha as "L" (None when it has none or is opaque), of a file or of
    an image in memory.

    Raises UserError naming `key` for a missing, damaged, too large or unreadable file.
    """
    image, path = _opened(path, key)
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_eight_bits(np.asarray(image), path, key))
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    if profile or image.mode == "LAB":
        image = _to_srgb(image, profile, path, key)
    return image.convert("RGB"), None if alpha is None or alpha.getextrema()[0] == 255 else alpha


def read_mask(path: str | Image.Image, keep: str, key: str = "condition.mask") -> Image.Image:
    """The mask in an image file, or in an image in memory, as "L", upright: 255 for pixels that belong to the
    condition.

    `keep` white or black: which pixels those are. A file of two values is a mask whatever they are, the
    larger one white; other files are read as drawn in black and white. Transparent pixels never belong.
    Raises UserError for a file that cannot be read, that keeps nothing, or whose values are neither.
    """
    image, path = _opened(path, key)
    values, visible = _mask_values(image, path, key)
    found = np.unique(values[visible] if visible.any() else values)
    if len(found) == 1 and not visible.all():
        return Image.fromarray(visible.astype(np.uint8) * 255)  # the outline of a cut-out is the drawing
    if len(found) == 2:
        mask = np.where(values == found[1], 255, 0).astype(np.uint8)
    else:
        if image.mode == "P" and len(found) > 2 and _coloured(image):
            raise UserError(
                f"mask {path} has {len(found)} colours: which of them are kept? give a mask in black and "
                f"white ({key})"
            )
        mask = _drawn(values)
        if len(found) > 2 and (mask[visible].max() < 128) | (mask[visible].min() >= 128):
            shown = ", ".join(f"{v:g}" for v in found[:SHOWN]) + (", .." if len(found) > SHOWN else "")
            raise UserError(
                f"mask {path} has the values {shown}, all dark or all bright: a mask has two values, or "
                "is drawn in black "
                f"and white ({key})"
            )
    if keep == "black":
        mask = 255 - mask
    mask = np.where(visible, mask, 0).astype(np.uint8)
    if mask.max() < 128:
        other = "black" if keep == "white" else "white"
        raise UserError(f"mask {path} is empty: no {keep} pixels to keep; try condition.keep={other} ({key})")
    return Image.fromarray(mask)


def fit_mask(mask: Image.Image, size: tuple[int, int], path: str, key: str = "condition.mask") -> Image.Image:
    """The mask at the size of its image, by the nearest pixel; raises UserError where it has another
    aspect."""
    if mask.size == size:
        return mask
    (w, h), (width, height) = mask.size, size
    # The same aspect, but for sides rounded to whole pixels in the smaller of the two.
    if min(abs(w - h * width / height), abs(h - w * height / width)) > 1 and (
        min(abs(width - height * w / h), abs(height - width * h / w)) > 1
    ):
        raise UserError(
            f"mask {path} is {w} x {h} but its image is {width} x {height}: give a mask of the image's "
            f"aspect ({key})"
        )
    return mask.resize(size, Image.Resampling.NEAREST)


def without_hidden_colours(image: Image.Image, alpha: Image.Image) -> Image.Image:
    """The image with the colour of the nearest kept pixel (alpha >= 128) wherever alpha is less.

    What an editor left under transparent pixels is nothing that anyone saw; a resize would mix it into the
    kept ones.
    """
    from scipy.ndimage import distance_transform_edt

    hidden = np.asarray(alpha) < 128
    if not hidden.any() or hidden.all():
        return image
    rows, columns = distance_transform_edt(hidden, return_distances=False, return_indices=True)
    return Image.fromarray(np.asarray(image)[rows, columns])


def _opened(source: str | Image.Image, key: str) -> tuple[Image.Image, str]:
    """The picture, upright, and what it is called in errors."""
    if isinstance(source, str):
        return _open(source, key), source
    _check_size(source.size, "the image", key)
    return ImageOps.exif_transpose(source), "the image"


def _open(path: str, key: str) -> Image.Image:
    """The first frame of an image file, decoded and upright."""
    file = locate(path, key)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # _check_size has its own bound
            with Image.open(file) as opened:
                _check_size(opened.size, path, key)
                _say_frames(opened, path, key)
                opened.load()
                return ImageOps.exif_transpose(opened)
    except FileNotFoundError as error:
        raise UserError(f"no file {path}: give an image that exists ({key})") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is too large: {error} ({key})") from error
    except UnidentifiedImageError as error:
        deep = _read_deep(file, path, key)
        if deep is None:
            raise UserError(f"cannot read {path} as an image: {error} ({key})") from error
        return deep
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, OSError) and error.strerror:  # of the system, not of the file's format
            raise UserError(f"cannot read {path}: {error.strerror} ({key})") from error
        raise UserError(f"{path} is damaged or cut short: {error} ({key})") from error


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


def _check_size(size: tuple[int, int], path: str, key: str) -> None:
    if size[0] * size[1] > LARGEST:
        raise UserError(
            f"{path} is too large: {size[0]} x {size[1]} pixels, and {LARGEST / 1e6:.0f} million are the "
            "most; make it "
            f"smaller ({key})"
        )


def _say_frames(opened: Image.Image, path: str, key: str) -> None:
    frames = getattr(opened, "n_frames", 1)
    if frames > 1:
        log.warning("%s has %d frames: the first one is used (%s)", path, frames, key)
        opened.seek(0)


def _read_deep(file: Path, path: str, key: str) -> Image.Image | None:
    """Formats that Pillow has no mode for, such as 16-bit RGB TIFF; None when OpenCV cannot read them
    either."""
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(LARGEST))  # read when it is imported
    import cv2

    try:
        pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if pixels is None:
        return None
    _check_size((pixels.shape[1], pixels.shape[0]), path, key)
    eight = _to_eight_bits(pixels, path, key)
    if eight.ndim == 2:
        return Image.fromarray(eight)
    return Image.fromarray(
        cv2.cvtColor(eight, cv2.COLOR_BGRA2RGBA if eight.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    )


def _to_eight_bits(pixels: NDArray, path: str, key: str) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return pixels
    values = pixels.astype(np.float64)
    if not np.isfinite(values).all():
        raise UserError(f"{path} has pixels that are not finite: give an image without nan ({key})")
    if np.issubdtype(pixels.dtype, np.floating):
        top = 1.0 if values.max(initial=0) <= 1.0 else 255.0 if values.max() <= 255 else 65535.0
    else:
        top = 255.0 if values.max(initial=0) <= 255 and pixels.dtype.itemsize > 2 else 65535.0
    return np.clip(np.round(values / top * 255), 0, 255).astype(np.uint8)


def _to_srgb(image: Image.Image, profile: bytes | None, path: str, key: str) -> Image.Image:
    """The image in sRGB, from the colours that its profile means."""
    try:
        if image.mode == "LAB":
            own = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        else:
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        if ImageCms.getProfileDescription(own).startswith("sRGB"):
            return image
        if image.mode in ("RGBA", "P", "PA", "LA", "1"):
            image = image.convert("L" if own.profile.xcolor_space.strip() == "GRAY" else "RGB")
        made = ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        log.warning(
            "the colour profile of %s is not understood, its colours are taken for sRGB: %s (%s)",
            path,
            error,
            key,
        )
        return image
    assert made is not None  # None for work in place alone
    return made


def _mask_values(image: Image.Image, path: str, key: str) -> tuple[NDArray, NDArray[np.bool_]]:
    """What a mask file says at each pixel (H, W), in its own units, and where it is opaque."""
    visible = np.ones((image.height, image.width), bool)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        visible = np.asarray(image.getchannel("A")) >= 128
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        if not np.isfinite(values).all():
            raise UserError(f"mask {path} has pixels that are not finite ({key})")
        return values, visible
    # Two colours stay two values however they are weighed, unless they are as bright.
    pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    colours = np.unique(pixels, axis=0) if image.mode in ("P", "RGB", "RGBA") else pixels[:0]
    gray = np.asarray(image.convert("RGB").convert("L"))
    if len(colours) == 2 and len(np.unique(gray)) == 1:
        gray = (pixels == colours[1]).all(1).reshape(gray.shape).astype(np.uint8)
    return gray, visible


def _drawn(values: NDArray) -> NDArray[np.uint8]:
    """Values of a drawing in black and white as 0 .. 255: of 8 bits, of 8 bits kept in more, of 16 bits, or
    of 0 .. 1."""
    top = float(values.max(initial=0))
    fraction = top <= 1 and np.issubdtype(values.dtype, np.floating)
    white = 1.0 if fraction else 255.0 if top <= 255 else 65535.0
    return np.clip(np.round(values / white * 255), 0, 255).astype(np.uint8)


def _coloured(image: Image.Image) -> bool:
    pixels = np.asarray(image.convert("RGB")).astype(int)
    return bool((pixels.max(-1) - pixels.min(-1)).max() > 16)
