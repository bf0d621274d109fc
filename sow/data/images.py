"""Image files as upright 8-bit sRGB, and as masks, whatever their format: EXIF rotation, colour profiles,
gray, CMYK, palettes, alpha, 16 bits a channel. What cannot be read whole is refused."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import stat
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from sow.errors import UserError
from sow.store.files import place_of

log = logging.getLogger(__name__)

SAMPLE = "sample:"  # prefix that names a photograph shipped with matplotlib
LARGEST = 2**27  # pixels of a file: a photograph of 134 megapixels; beyond it a small file fills the memory
SHOWN = 6  # values of a mask in an error
SRGB_GAMMA, SRGB_PRIMARIES = 1 / 2.2, (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # of PNG's chunks
INTEROPERABILITY = 0xA005  # of EXIF, where cameras name Adobe RGB
# How files begin that OpenCV is asked to read where Pillow cannot: TIFF, Radiance, portable float maps.
DEEP = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"#?RADIANCE", b"#?RGBE", b"PF", b"Pf")


def read_image(
    path: str | Image.Image, key: str = "condition.image"
) -> tuple[Image.Image, Image.Image | None]:
    """An upright 8-bit sRGB image and its alpha as "L" (None when it has none or is opaque), of a file or of
    an image in memory.

    Raises UserError naming `key` for a missing, damaged, too large or unreadable file.
    """
    image, path = _opened(path, key)
    profile = image.info.get("icc_profile")
    alpha = None
    if _is_deep(image):
        pixels = np.asarray(image)
        visible = _opaque(image, pixels)
        alpha = None if visible is None else Image.fromarray(visible.astype(np.uint8) * 255)
        image = Image.fromarray(_to_eight_bits(pixels, path, key))
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
    if not visible.any():
        raise UserError(f"mask {path} is transparent everywhere: give one with pixels to keep ({key})")
    found = np.unique(values[visible])
    if len(found) == 1 and not visible.all():
        return Image.fromarray(visible.astype(np.uint8) * 255)  # the outline of a cut-out is the drawing
    if len(found) == 2:
        mask = np.where(values == found[1], 255, 0).astype(np.uint8)
    else:
        if len(found) > 2 and not _is_deep(image) and _coloured(image):
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
    try:
        return ImageOps.exif_transpose(source), "the image"
    except Exception as error:  # it may be read from its file only now
        raise UserError(f"the image is damaged or cut short: {_said(error)} ({key})") from error


def _open(path: str, key: str) -> Image.Image:
    """The first frame of an image file, decoded and upright."""
    file = locate(path, key)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # _check_size has its own bound
            with Image.open(file) as opened:
                _check_size(opened.size, path, key)
                _say_frames(opened, path, key)
                layout = opened.tile[0][3] if opened.tile else None
                opened.load()
                _say_colours(opened, path, key)
                _mend_transparency(opened, layout, file, path, key)
                return ImageOps.exif_transpose(opened)
    except FileNotFoundError as error:
        raise UserError(f"no file {path}: give an image that exists ({key})") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is too large: {error} ({key})") from error
    except UnidentifiedImageError as error:
        with open(file, "rb") as opened:
            begins = opened.read(10)
        deep = _read_deep(file, path, key) if begins.startswith(DEEP) else None
        if deep is None:
            raise UserError(f"cannot read {path} as an image: {error} ({key})") from error
        return deep
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes of its decoder
        if isinstance(error, OSError) and error.strerror:  # of the system, not of the file's format
            raise UserError(f"cannot read {path}: {error.strerror} ({key})") from error
        raise UserError(f"{path} is damaged or cut short: {_said(error)} ({key})") from error


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def locate(path: str, key: str = "condition.image") -> Path:
    """The file that a path or the name of a sample photograph stands for; raises UserError for a folder, for
    a pipe, socket or device, and for an empty file."""
    if not path.startswith(SAMPLE):
        file = place_of(path, key)
        try:
            state = os.stat(file)
        except (FileNotFoundError, NotADirectoryError):
            return file
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path}: {getattr(error, 'strerror', error)} ({key})") from error
        if stat.S_ISDIR(state.st_mode):
            raise UserError(f"{path} is a folder: give an image file ({key})")
        if not stat.S_ISREG(state.st_mode):
            raise UserError(f"{path} is a pipe, socket or device: give an image file ({key})")
        if not state.st_size:
            raise UserError(f"{path} is empty: give an image file ({key})")
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


def _say_colours(opened: Image.Image, path: str, key: str) -> None:
    """Warn of colours that are meant to be shown as others than sRGB, where no profile says how."""
    info = opened.info
    if info.get("icc_profile") or "srgb" in info:
        return
    told = []
    if abs(info.get("gamma", SRGB_GAMMA) - SRGB_GAMMA) > 0.01:
        told.append(f"a gamma of {info['gamma']:g}")
    if any(abs(a - b) > 0.01 for a, b in zip(info.get("chromaticity", ()), SRGB_PRIMARIES, strict=False)):
        told.append("other primaries")
    with contextlib.suppress(Exception):  # of a damaged EXIF, which decides nothing else
        if opened.getexif().get_ifd(INTEROPERABILITY).get(1) == "R03":
            told.append("Adobe RGB")
    if told:
        log.warning(
            "%s asks for %s, without a colour profile: its colours are taken for sRGB; save it with a "
            "profile or as sRGB (%s)",
            path,
            " and ".join(told),
            key,
        )


def _mend_transparency(opened: Image.Image, layout: object, file: Path, path: str, key: str) -> None:
    """The transparent colour of a PNG of 2, 4 or 16 bits, which Pillow compares with pixels of 8 bits."""
    colour = opened.info.get("transparency")
    if isinstance(colour, int) and layout in ("L;2", "L;4"):
        opened.info["transparency"] = colour * (85 if layout == "L;2" else 17)
    elif isinstance(colour, tuple) and str(layout).startswith("RGB;16"):
        del opened.info["transparency"]
        deep = _read_deep(file, path, key)
        if deep is None or deep.mode != "RGBA":
            raise UserError(f"{path} has a transparent colour that cannot be read: save it anew ({key})")
        opened.putalpha(deep.getchannel("A"))


def _is_deep(image: Image.Image) -> bool:
    """Whether a gray image has more than 8 bits a pixel."""
    return image.mode.startswith("I") or image.mode == "F"


def _opaque(image: Image.Image, pixels: NDArray) -> NDArray[np.bool_] | None:
    """Which pixels of a deep gray image are not of its transparent colour; None where it has none."""
    colour = image.info.get("transparency")
    return pixels != colour if isinstance(colour, int) else None


def _read_deep(file: Path, path: str, key: str) -> Image.Image | None:
    """Formats that Pillow has no mode for, such as 16-bit RGB TIFF; None when OpenCV cannot read them
    either."""
    # Read when it is imported; what it cannot read is said by us, on one line.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(LARGEST))
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
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
    low, high = values.min(initial=0), values.max(initial=0)
    if low < 0 or 0 < high <= top / 4:
        log.warning(
            "%s has values from %g to %g, read as black at 0 and white at %g: save it as 8 bits if that is "
            "not meant (%s)",
            *(path, low, high, top, key),
        )
    return np.clip(np.round(values / top * 255), 0, 255).astype(np.uint8)


def _to_srgb(image: Image.Image, profile: bytes | None, path: str, key: str) -> Image.Image:
    """The image in sRGB, from the colours that its profile means."""
    try:
        if image.mode == "LAB":
            own = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        else:
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        if profile and _is_srgb(profile):
            return image
        wanted = {"GRAY": "L", "RGB": "RGB"}.get(own.profile.xcolor_space.strip())
        if wanted and image.mode not in (wanted, "CMYK", "LAB"):
            image = image.convert(wanted)
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


@lru_cache(maxsize=16)
def _is_srgb(profile: bytes) -> bool:
    """Whether a profile leaves colours as they are, to one of 255 levels: its name says nothing."""
    own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if own.profile.xcolor_space.strip() != "RGB":
        return False
    levels = np.arange(0, 256, 15)
    cube = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 3)
    ramps = np.arange(256)[:, None] * np.array([[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]])[:, None]
    colours = np.concatenate([cube, ramps.reshape(-1, 3)]).astype(np.uint8)[None]
    shown = ImageCms.profileToProfile(
        Image.fromarray(colours), own, ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    return bool(np.abs(np.asarray(shown, int) - colours).max() <= 1)


def _mask_values(image: Image.Image, path: str, key: str) -> tuple[NDArray, NDArray[np.bool_]]:
    """What a mask file says at each pixel (H, W), in its own units, and where it is opaque."""
    visible = np.ones((image.height, image.width), bool)
    if _is_deep(image):
        values = np.asarray(image).astype(np.float64)
        if not np.isfinite(values).all():
            raise UserError(f"mask {path} has pixels that are not finite ({key})")
        keyed = _opaque(image, values)
        return values, visible if keyed is None else keyed
    if image.has_transparency_data:
        image = image.convert("RGBA")
        visible = np.asarray(image.getchannel("A")) >= 128
    pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    colours = np.unique(pixels, axis=0) if image.mode in ("P", "RGB", "RGBA") else pixels[:0]
    gray = np.asarray(image.convert("RGB").convert("L"))
    if len(colours) == 2 and len(np.unique(gray)) == 1:
        gray = (pixels == colours[1]).all(1).reshape(gray.shape).astype(np.uint8)
        log.warning(
            "the two colours of mask %s are as bright as each other: %s is read as white, %s as black (%s)",
            *(path, *(tuple(int(v) for v in c) for c in (colours[1], colours[0])), key),
        )
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
