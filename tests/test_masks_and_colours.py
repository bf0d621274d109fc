"""Masks, alpha and colour mean what people mean; a new instance is one more row."""

from __future__ import annotations

import io
import logging
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw

from sow.data.conditions import Photo
from sow.data.images import read_image, read_mask
from sow.errors import UserError
from sow.method.seed_init import pixel_mask
from sow.types import Box

SIDE = 128
SKIN = (230, 200, 170)
SQUARE = np.zeros((SIDE, SIDE), bool)
SQUARE[25:100, 25:100] = True
SHARE = SQUARE.mean()


def load(image: Path, mask: object = "none", keep: str = "white"):
    return Photo(str(image), str(mask), keep, "none", None).load(0)[0]


def gray(low: int, high: int, dtype: type = np.uint8) -> Image.Image:
    return Image.fromarray(np.where(SQUARE, high, low).astype(dtype))


def indexed(*colours: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(SQUARE.astype(np.uint8), "P")
    image.putpalette([v for c in colours for v in c] + [0] * (768 - 3 * len(colours)))
    return image


def cut_out(
    hidden: tuple[int, int, int], shown: tuple[int, int, int] = SKIN, mode: str = "RGBA"
) -> Image.Image:
    image = Image.new("RGBA", (SIDE, SIDE), (*hidden, 0))
    ImageDraw.Draw(image).ellipse((25, 25, 100, 100), fill=(*shown, 255))
    return image.convert(mode)


def palette_cut_out(hidden: tuple[int, int, int]) -> Image.Image:
    """The same with a palette, whose first colour is transparent."""
    disc = Image.new("P", (SIDE, SIDE), 0)
    disc.putpalette([*hidden, *SKIN, *[0] * 762])
    ImageDraw.Draw(disc).ellipse((25, 25, 100, 100), fill=1)
    disc.info["transparency"] = 0
    return disc


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


MASKS: list[tuple[str, Callable[[], Image.Image]]] = [
    ("white.png", lambda: gray(0, 255)),
    ("ones.png", lambda: gray(0, 1)),
    ("palette.png", lambda: indexed((0, 0, 0), (128, 0, 0))),
    ("sixteen.png", lambda: gray(0, 255, np.uint16)),
    ("sixteen_ones.png", lambda: gray(0, 1, np.uint16)),
    ("sixteen_full.png", lambda: gray(0, 65535, np.uint16)),
    ("two_bright.png", lambda: gray(200, 255)),
    ("two_dark.png", lambda: gray(3, 7)),
    ("bits.png", lambda: gray(0, 255).convert("1")),
    ("palette_gray.gif", lambda: gray(0, 255).convert("P")),
    ("palette_as_bright.png", lambda: indexed((200, 0, 0), (60, 60, 60))),
    ("float.tiff", lambda: gray(0, 1, np.float32)),
    ("integers.tiff", lambda: gray(0, 1, np.int32)),
    ("rgb.png", lambda: gray(0, 255).convert("RGB")),
    ("outline.png", lambda: Image.merge("LA", [gray(9, 9), gray(0, 255)])),
    ("cut_out.png", lambda: Image.merge("RGBA", [gray(90, 255)] * 3 + [gray(0, 255)])),
    ("half_hidden.png", lambda: Image.merge("LA", [gray(255, 255), gray(0, 255)])),
]


@pytest.mark.parametrize("name, draw", MASKS, ids=[m[0] for m in MASKS])
def test_a_file_of_two_values_is_a_mask_whatever_they_are(tmp_path, photo, name, draw):
    draw().save(tmp_path / name)
    mask = np.asarray(load(photo, tmp_path / name).mask)
    wanted = (
        SQUARE if name != "palette_as_bright.png" else mask >= 128
    )  # which of two as bright is kept is a convention
    assert np.array_equal(mask >= 128, wanted) and set(np.unique(mask)) == {0, 255}
    assert 0.3 < (mask >= 128).mean() < 0.7


@pytest.mark.parametrize("name, draw", MASKS[:13], ids=[m[0] for m in MASKS[:13]])
def test_keep_black_keeps_the_smaller_value(tmp_path, photo, name, draw):
    draw().save(tmp_path / name)
    both = [np.asarray(load(photo, tmp_path / name, keep=keep).mask) >= 128 for keep in ("white", "black")]
    assert np.array_equal(both[0], ~both[1])


@pytest.mark.parametrize(
    "draw, words",
    [
        (
            lambda: Image.fromarray((SQUARE + np.eye(SIDE, dtype=bool)).astype(np.uint8) + SQUARE),
            "the values 0, 1, 2",
        ),
        (
            lambda: Image.fromarray(np.arange(SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint8) // 4),
            "all dark",
        ),
        (
            lambda: Image.fromarray((np.eye(SIDE) * 100 + SQUARE * 1000).astype(np.uint16)),
            "the values 0, 100, 1000",
        ),
        (
            lambda: Image.fromarray(128 + np.arange(SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint8) // 4),
            "all bright",
        ),
    ],
)
@pytest.mark.parametrize("keep", ["white", "black"])
def test_a_mask_that_is_neither_is_refused(tmp_path, photo, draw, words, keep):
    draw().save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=f"{words}.*condition.mask"):
        load(photo, tmp_path / "mask.png", keep)


def test_a_mask_of_many_colours_is_refused(tmp_path, photo):
    image = Image.fromarray((np.indices((SIDE, SIDE)).sum(0) // 100).astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, *[0] * 759])
    image.save(tmp_path / "classes.png")
    with pytest.raises(UserError, match="3 colours.*condition.mask"):
        load(photo, tmp_path / "classes.png")


@pytest.mark.parametrize(
    "image_size, mask_size, fits",
    [
        ((256, 256), (128, 128), True),
        ((128, 128), (256, 256), True),
        ((255, 191), (128, 96), True),
        ((1008, 756), (128, 96), True),
        ((250, 166), (125, 83), True),
        ((128, 128), (128, 120), False),
        ((256, 192), (192, 256), False),
        ((160, 120), (128, 128), False),
    ],
)
def test_a_mask_of_another_size_needs_the_same_aspect(tmp_path, image_size, mask_size, fits):
    Image.new("RGB", image_size, SKIN).save(tmp_path / "photo.png")
    mask = Image.new("L", mask_size, 0)
    ImageDraw.Draw(mask).rectangle((0, 0, mask_size[0] // 2 - 1, mask_size[1] - 1), fill=255)
    mask.save(tmp_path / "mask.png")
    if not fits:
        with pytest.raises(UserError, match=f"{mask_size[0]} x {mask_size[1]}.*aspect.*condition.mask"):
            load(tmp_path / "photo.png", tmp_path / "mask.png")
        return
    found = load(tmp_path / "photo.png", tmp_path / "mask.png").mask
    assert found.size == image_size and set(np.unique(found)) == {0, 255}
    assert abs((np.asarray(found) >= 128).mean() - 0.5) < 0.01


@pytest.mark.parametrize("side", [16, 48, 64, 120, 200])
@pytest.mark.parametrize(
    "draw",
    [
        lambda: cut_out((0, 0, 0)),
        lambda: cut_out((255, 255, 255)),
        lambda: cut_out((0, 255, 0)),
        lambda: palette_cut_out((255, 0, 255)),
        lambda: cut_out((0, 0, 0), (250, 250, 250), "LA"),
        lambda: cut_out((10, 20, 255), (20, 10, 0)),
    ],
)
def test_hidden_colours_never_reach_kept_pixels(tmp_path, draw, side):
    image = draw()
    image.save(tmp_path / "cut.png")
    found = load(tmp_path / "cut.png")
    colour = np.asarray(image.convert("RGBA").getpixel((62, 62))[:3], int)
    kept = np.asarray(pixel_mask(found, Box(0, 0, side, side), "threshold")) >= 128
    crop = np.asarray(found.image.resize((side, side)), int)
    assert kept.mean() > 0.2 and np.abs(crop[kept] - colour).max() <= 8


def test_the_colours_that_are_seen_stay(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 255, (SIDE, SIDE, 4), dtype=np.uint8)
    pixels[..., 3] = np.where(SQUARE, 255, 0)
    Image.fromarray(pixels).save(tmp_path / "cut.png")
    assert np.array_equal(np.asarray(load(tmp_path / "cut.png").image)[SQUARE], pixels[SQUARE][:, :3])


def swapped_profile() -> bytes:
    """A profile that calls red what is green, and the reverse."""
    own = ImageCms.createProfile("sRGB")
    data = bytearray(ImageCms.ImageCmsProfile(own).tobytes())
    # The table of tags says where each lies: those of red and green change places.
    count = struct.unpack(">I", data[128:132])[0]
    tags = {data[132 + 12 * i : 136 + 12 * i].decode(): 132 + 12 * i for i in range(count)}
    r, g = tags["rXYZ"], tags["gXYZ"]
    data[r + 4 : r + 12], data[g + 4 : g + 12] = data[g + 4 : g + 12], data[r + 4 : r + 12]
    description = data.find("sRGB".encode("utf-16-be"))
    data[description : description + 8] = "wide".encode("utf-16-be")
    return bytes(data)


def profile(name: str | None = None, *, swap: bool = False, curve: bytes | None = None) -> bytes:
    """sRGB's profile under `name`, with red and green swapped, or with another curve."""
    data = bytearray(
        swapped_profile() if swap else ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    )
    if swap:  # its own name again
        at = data.find("wide".encode("utf-16-be"))
        data[at : at + 8] = "sRGB".encode("utf-16-be")
    if name is not None:
        at = data.find("sRGB".encode("utf-16-be"))
        data[at : at + 8] = name.encode("utf-16-be")
    if curve is not None:
        for i in range(struct.unpack(">I", data[128:132])[0]):
            kind, at, _ = struct.unpack(">4sII", data[132 + 12 * i : 144 + 12 * i])
            if kind.endswith(b"TRC"):
                data[at : at + len(curve)] = curve
    return bytes(data)


LINEAR = b"curv" + bytes(8)
GAMMA_18 = b"curv" + bytes(4) + struct.pack(">IH", 1, round(1.8 * 256))

# A profile, the colour in the file, and the one that it means.
PROFILES: dict[str, tuple[bytes, tuple[int, int, int], tuple[int, int, int]]] = {
    "sRGB": (profile(), (55, 120, 200), (55, 120, 200)),
    "sRGB of another name": (profile("wide"), (55, 120, 200), (55, 120, 200)),
    "linear, called sRGB": (profile(curve=LINEAR), (55, 55, 55), (128, 128, 128)),
    "linear, called otherwise": (profile("line", curve=LINEAR), (55, 55, 55), (128, 128, 128)),
    "a gamma of 1.8, called sRGB": (profile(curve=GAMMA_18), (128, 128, 128), (146, 146, 146)),
    "other primaries, called sRGB": (profile(swap=True), (255, 0, 0), (0, 255, 0)),
    "other primaries": (profile("wide", swap=True), (255, 0, 0), (0, 255, 0)),
}


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
@pytest.mark.parametrize("what", PROFILES)
def test_a_profile_means_what_it_holds_not_what_it_is_called(tmp_path, what, mode):
    data, drawn, meant = PROFILES[what]
    if mode == "L" and len(set(drawn)) > 1:
        drawn = meant = (100, 100, 100)
    image = Image.new("RGB", (64, 64), drawn)
    image = image.quantize() if mode == "P" else image.convert(mode)
    image.save(tmp_path / "shown.png", icc_profile=data)
    assert np.abs(np.asarray(load(tmp_path / "shown.png").image, int)[9, 9] - meant).max() <= 2


# A PNG with a transparent colour. A row: bits, kind (0 gray, 2 RGB), the transparent sample and another.
KEYED: list[tuple[int, int, int, int]] = [
    (1, 0, 0, 1),
    (2, 0, 3, 1),
    (2, 0, 1, 2),
    (4, 0, 5, 6),
    (8, 0, 0, 200),
    (16, 0, 0, 40000),
    (16, 0, 0x1234, 0x12FF),
    (16, 0, 65535, 65534),
    (8, 2, 7, 8),
    (16, 2, 0x1234, 0x12FF),
    (16, 2, 0x0100, 0x01FF),
]


def keyed_png(bits: int, kind: int, transparent: int, other: int) -> bytes:
    """A square of SIDE whose pixels outside SQUARE have the transparent colour."""
    samples = np.where(SQUARE, other, transparent)
    rows = []
    for row in samples:
        values = np.repeat(row, 3) if kind == 2 else row
        text = "".join(f"{int(v):0{bits}b}" for v in values)
        rows.append(b"\0" + int(text, 2).to_bytes(len(text) // 8, "big"))

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    colour = struct.pack(">H", transparent) * (3 if kind == 2 else 1)
    header = struct.pack(">IIBBBBB", SIDE, SIDE, bits, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"tRNS", colour), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks)


@pytest.mark.parametrize("row", KEYED, ids=str)
def test_a_transparent_colour_of_any_depth_is_transparent(tmp_path, photo, row):
    (tmp_path / "keyed.png").write_bytes(keyed_png(*row))
    found = load(tmp_path / "keyed.png").mask
    assert found is not None and np.array_equal(np.asarray(found) >= 128, SQUARE)
    assert np.array_equal(np.asarray(load(photo, tmp_path / "keyed.png").mask) >= 128, SQUARE)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "webp"])
def test_a_profile_is_followed_to_srgb(tmp_path, suffix):
    file = tmp_path / f"wide.{suffix}"
    options = (
        {"lossless": True}
        if suffix == "webp"
        else {"quality": 100, "subsampling": 0}
        if suffix == "jpg"
        else {}
    )
    Image.new("RGB", (64, 64), (250, 10, 10)).save(file, icc_profile=swapped_profile(), **options)
    r, g, _ = load(file).image.getpixel((20, 20))
    assert g > 200 and r < 60  # that profile calls red what is green


def test_a_profile_with_alpha_keeps_the_outline(tmp_path):
    image = cut_out((0, 0, 0), (250, 10, 10))
    image.save(tmp_path / "cut.png", icc_profile=swapped_profile())
    found = load(tmp_path / "cut.png")
    r, g, _ = found.image.getpixel((62, 62))
    assert g > 200 and r < 60 and found.mask is not None


def test_srgb_is_left_to_the_bit_and_a_broken_profile_is_said(tmp_path, photo, caplog):
    pixels = Image.open(photo)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels.save(tmp_path / "tagged.png", icc_profile=profile)
    assert load(tmp_path / "tagged.png").image.tobytes() == pixels.convert("RGB").tobytes()
    pixels.save(tmp_path / "broken.png", icc_profile=b"no profile" * 20)
    with caplog.at_level(logging.WARNING):
        assert load(tmp_path / "broken.png").image.tobytes() == pixels.convert("RGB").tobytes()
    assert "colour profile" in caplog.text and "broken.png" in caplog.text


def test_a_profile_changes_no_mask(tmp_path, photo):
    gray(0, 255).convert("RGB").save(tmp_path / "mask.png", icc_profile=swapped_profile())
    assert np.array_equal(np.asarray(load(photo, tmp_path / "mask.png").mask) >= 128, SQUARE)


@pytest.mark.parametrize("share", [0.1, 0.33, 0.9, 0.999])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif", "tiff"])
def test_a_file_that_is_cut_short_is_refused(tmp_path, photo, suffix, share):
    whole = io.BytesIO()
    Image.open(photo).save(whole, {"jpg": "JPEG"}.get(suffix, suffix.upper()))
    data = whole.getvalue()
    file = tmp_path / f"short.{suffix}"
    file.write_bytes(data[: int(len(data) * share)])
    if suffix in ("png", "gif", "tiff") and share > 0.99:
        return  # only what follows the pixels is missing there, for some writers
    for key, words in (("condition.image", (file,)), ("condition.mask", (photo, file))):
        with pytest.raises(UserError, match=f"short.{suffix}.*{key}") as caught:
            load(*words)
        assert "\n" not in str(caught.value)


# Damage to the bytes of a picture. A row: a format that Pillow writes here.
Image.init()
CODECS = "PNG JPEG TIFF WEBP GIF BMP PPM TGA ICO QOI AVIF JPEG2000 MPO PCX SGI DDS".split()


@pytest.mark.parametrize("codec", [c for c in CODECS if c in Image.SAVE])
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path, codec):
    image = Image.fromarray((np.indices((40, 56)).sum(0) * 2).astype(np.uint8)).convert("RGB")
    told, whole = image.getexif(), io.BytesIO()
    told[274], told[271] = 6, "maker"
    image.save(whole, codec, **({"exif": told} if codec in ("PNG", "JPEG", "TIFF", "WEBP", "AVIF") else {}))
    rng, refused = np.random.default_rng(5), 0
    for turn in range(15):
        data = np.frombuffer(whole.getvalue(), np.uint8).copy()
        places = rng.integers(0, min(len(data), (64, 400, len(data))[turn % 3]), rng.choice([1, 5, 20]))
        data[places] = rng.integers(0, 256, len(places))
        file = tmp_path / "damaged"
        file.write_bytes(data.tobytes())
        for read in (read_image, lambda p: read_mask(p, "white")):
            try:
                read(str(file))
            except UserError as error:
                refused += 1
                assert "\n" not in str(error) and str(file) in str(error)
    assert refused


# A decoder's own kinds of errors, which no list of ours can know.
FAILING = (RuntimeError("frame 0"), IndexError("out of range"), struct.error("short"), KeyError("tag"),
             TypeError("none"), OverflowError("long"), ZeroDivisionError("by zero"), MemoryError(),
             AssertionError(), EOFError("end"), AttributeError("x"), RecursionError("deep"))  # fmt: skip


@pytest.mark.parametrize("error", FAILING, ids=lambda e: type(e).__name__)
def test_whatever_a_decoder_raises_is_one_line(tmp_path, photo, monkeypatch, error):
    def fails(*_: object, **__: object) -> None:
        raise error

    opened = Image.open(photo)
    monkeypatch.setattr(type(opened), "load", fails)
    for source, name in ((photo, "photo.png"), (opened, "the image")):
        with pytest.raises(UserError, match=f"{name} is damaged.*condition.image"):
            read_image(source if name == "the image" else str(source))


# What is no file of a picture. A row makes it.


def a_socket(place: Path) -> None:
    import socket

    here = os.getcwd()
    os.chdir(place.parent)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(place.name)
    os.chdir(here)


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pipe": (os.mkfifo, "pipe, socket or device"),
    "a socket": (a_socket, "pipe, socket or device"),
    "a link to a device": (lambda place: place.symlink_to("/dev/zero"), "pipe, socket or device"),
    "a link to the terminal": (lambda place: place.symlink_to("/dev/tty"), "device|cannot read"),
    "a log of the kernel": (lambda place: place.symlink_to("/proc/kmsg"), "empty|cannot read"),
    "an empty file": (lambda place: place.touch(), "is empty"),
    "a folder": (lambda place: place.mkdir(), "is a folder"),
    "a link to itself": (lambda place: place.symlink_to(place.name), "symbolic links"),
    "a link to nothing": (lambda place: place.symlink_to("gone"), "no file"),
}


@pytest.mark.parametrize("what", NO_FILES)
def test_what_is_no_file_of_a_picture_is_refused_and_not_waited_for(tmp_path, photo, what):
    make, words = NO_FILES[what]
    make(tmp_path / "picture.png")
    for key, given in (
        ("condition.image", (tmp_path / "picture.png",)),
        ("condition.mask", (photo, tmp_path / "picture.png")),
    ):
        with pytest.raises(
            UserError, match=f"(?s)picture.png.*({words}).*{key}|({words}).*picture.png.*{key}"
        ):
            load(*given)


@pytest.mark.parametrize(
    "path",
    ["x" * 300 + ".png", "a/" * 3000 + "x.png", "~nobody-of-that-name/x.png", "a\0b.png", "photo.png/x.png"],
)
def test_a_path_that_can_be_none_is_one_line(path):
    with pytest.raises(UserError, match="condition.image") as caught:
        Photo(path, "none", "white", "none", None).load(0)
    assert "\n" not in str(caught.value)


def with_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    """A small PNG with further chunks."""
    plain = io.BytesIO()
    Image.new("RGB", (8, 8), (55, 55, 55)).save(plain, "PNG")
    data = plain.getvalue()
    more = b"".join(
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks
    )
    return data[:33] + more + data[33:]


WIDE = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
ASKED: dict[str, tuple[tuple[tuple[bytes, bytes], ...], str | None]] = {
    "nothing": ((), None),
    "linear light": (((b"gAMA", struct.pack(">I", 100000)),), "a gamma of 1"),
    "the usual gamma": (((b"gAMA", struct.pack(">I", 45455)),), None),
    "primaries of a wide screen": (((b"cHRM", WIDE),), "other primaries"),
    "sRGB, which rules": (((b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100000))), None),
}


@pytest.mark.parametrize("what", ASKED)
def test_colours_that_are_not_followed_are_said(tmp_path, caplog, what):
    chunks, words = ASKED[what]
    (tmp_path / "asked.png").write_bytes(with_chunks(*chunks))
    with caplog.at_level(logging.WARNING):
        load(tmp_path / "asked.png")
    assert (words in caplog.text and "asked.png" in caplog.text) if words else not caplog.records


@pytest.mark.parametrize("top, dtype, said", [
    (254, np.uint16, True), (40000, np.uint16, False), (4095, np.uint16, True),
    (16383, np.uint16, True), (17000, np.uint16, False), (280, np.float32, True),
    (1, np.float32, False), (200, np.float32, False),
])  # fmt: skip
def test_a_deep_picture_that_is_almost_black_is_said(tmp_path, caplog, top, dtype, said):
    Image.fromarray(np.linspace(0, top, 64 * 64).reshape(64, 64).astype(dtype)).save(tmp_path / "deep.tiff")
    with caplog.at_level(logging.WARNING):
        load(tmp_path / "deep.tiff")
    assert ("8 bits" in caplog.text) == said


def test_a_deep_tiff_that_is_cut_short_is_refused(tmp_path):
    import cv2

    ramp = np.linspace(0, 65535, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint16)
    assert cv2.imwrite(str(tmp_path / "deep.tiff"), ramp)
    data = (tmp_path / "deep.tiff").read_bytes()
    (tmp_path / "deep.tiff").write_bytes(data[: len(data) // 3])
    with pytest.raises(UserError, match="deep.tiff.*condition.image"):
        load(tmp_path / "deep.tiff")


def bomb(width: int, height: int) -> bytes:
    """A small PNG file that says it is large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "size", [(12000, 12000), (20000, 20000), (60000, 60000), (200_000_000, 1), (3, 90_000_000)]
)
def test_a_decompression_bomb_is_refused_by_name(tmp_path, photo, size):
    file = tmp_path / "bomb.png"
    file.write_bytes(bomb(*size))
    for key, words in (("condition.image", (file,)), ("condition.mask", (photo, file))):
        with pytest.raises(UserError, match=f"bomb.png is too large.*{key}"):
            load(*words)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_of_several_frames_the_first_is_used_and_said(tmp_path, caplog, suffix):
    frames = [Image.new("RGB", (64, 64), c) for c in ((200, 30, 30), (30, 200, 30), (30, 30, 200))]
    file = tmp_path / f"moving.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(file, save_all=True, append_images=frames[1:], **options)
    with caplog.at_level(logging.WARNING):
        image = load(file).image
    assert np.abs(np.asarray(image, int) - (200, 30, 30)).max() <= 8
    assert f"{file} has 3 frames: the first one is used (condition.image)" in caplog.text


@pytest.mark.parametrize("number", [13, 5, 40])
def test_what_the_system_refuses_is_one_line(tmp_path, photo, monkeypatch, number):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(UserError, match=f"cannot read .*photo.png: {os.strerror(number)}.*condition.image"):
        load(photo)


def test_lab_is_read_as_its_colours(tmp_path):
    lab = ImageCms.profileToProfile(
        Image.new("RGB", (32, 32), (200, 60, 40)),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    lab.save(tmp_path / "lab.tiff")
    assert np.abs(np.asarray(load(tmp_path / "lab.tiff").image, int) - (200, 60, 40)).max() <= 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_not_finite_are_refused(tmp_path, photo, value):
    pixels = np.where(SQUARE, 1, 0).astype(np.float32)
    pixels[5, 5] = value
    Image.fromarray(pixels).save(tmp_path / "float.tiff")
    with pytest.raises(UserError, match="not finite.*condition.image"):
        load(tmp_path / "float.tiff")
    with pytest.raises(UserError, match="not finite.*condition.mask"):
        load(photo, tmp_path / "float.tiff")
