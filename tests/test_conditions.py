"""Visual conditions from files of every kind, from photographs and from the renderer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from sow.data.conditions import Person, Photo
from sow.errors import UserError
from sow.types import Box, VisualCondition

SIZE = (40, 30)


def photo(image: Any, mask: Any = "none", keep: str = "white", crop: str = "auto", box: Any = None) -> Photo:
    return Photo(image if isinstance(image, list) else str(image), mask, keep, crop, box)


def person(**changes: Any) -> Person:
    values: dict[str, Any] = {
        "seed": None, "identity": None, "size": 64, "count": 1, "attributes": {"style": "photo"}, "box": None,
    }  # fmt: skip
    return Person(**{**values, **changes})


@pytest.fixture
def picture() -> Image.Image:
    """Left half red, right half blue."""
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    pixels[:, : SIZE[0] // 2, 0], pixels[:, SIZE[0] // 2 :, 2] = 200, 200
    return Image.fromarray(pixels)


def mask_file(folder: Path, size: tuple[int, int] = SIZE, name: str = "mask.png") -> Path:
    pixels = np.zeros(size[::-1], np.uint8)
    pixels[:, : size[0] // 4] = 255
    Image.fromarray(pixels).save(folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("RGB", "png"),
        ("L", "png"),
        ("CMYK", "jpg"),
        ("P", "png"),
        ("1", "png"),
        ("RGB", "webp"),
        ("LA", "png"),
        ("YCbCr", "jpg"),
    ],
)
def test_every_mode_becomes_rgb(tmp_path: Path, picture: Image.Image, mode: str, suffix: str) -> None:
    picture.convert(mode).save(tmp_path / f"image.{suffix}")
    condition = photo(tmp_path / f"image.{suffix}").load(0)[0]
    assert condition.image.mode == "RGB" and condition.image.size == SIZE and condition.mask is None
    expected = np.asarray(picture.convert(mode).convert("RGB"), float)
    assert np.abs(np.asarray(condition.image, float) - expected).mean() < 6


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_keep_their_brightness(tmp_path: Path, channels: int, suffix: str) -> None:
    ramp = np.linspace(0, 65535, SIZE[0]).astype(np.uint16)[None].repeat(SIZE[1], 0)
    pixels = ramp if channels == 1 else np.stack([ramp, ramp // 2, ramp // 4], -1)
    assert cv2.imwrite(str(tmp_path / f"deep.{suffix}"), pixels if channels == 1 else pixels[..., ::-1])
    loaded = np.asarray(photo(tmp_path / f"deep.{suffix}").load(0)[0].image)
    expected = (pixels / 257).round() if channels == 3 else np.stack([pixels / 257] * 3, -1).round()
    assert np.abs(loaded.astype(int) - expected).max() <= 1


def test_exif_rotation_is_applied(tmp_path: Path, picture: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    picture.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    image = photo(tmp_path / "turned.jpg").load(0)[0].image
    assert image.size == SIZE[::-1]
    assert image.getpixel((15, 5))[0] > 150 and image.getpixel((15, 35))[2] > 150  # type: ignore[index]


def test_alpha_is_the_mask_only_without_another(tmp_path: Path, picture: Image.Image) -> None:
    alpha = Image.new("L", SIZE, 0)
    alpha.paste(255, (0, 0, 20, 30))
    picture.putalpha(alpha)
    picture.save(tmp_path / "cut.png")
    alone = photo(tmp_path / "cut.png").load(0)[0]
    assert alone.mask is not None and np.array_equal(np.asarray(alone.mask), np.asarray(alpha))
    masked = photo(tmp_path / "cut.png", str(mask_file(tmp_path))).load(0)[0]
    assert masked.mask is not None and np.asarray(masked.mask).astype(bool).mean() == 0.25
    assert masked.image.getpixel((30, 10)) == (128, 128, 128)  # flattened where it was transparent
    Image.new("RGBA", SIZE, (9, 9, 9, 255)).save(tmp_path / "opaque.png")
    assert photo(tmp_path / "opaque.png").load(0)[0].mask is None


def test_keep_black_is_the_inverse_of_keep_white(tmp_path: Path, picture: Image.Image) -> None:
    picture.save(tmp_path / "image.png")
    mask = str(mask_file(tmp_path))
    white = photo(tmp_path / "image.png", mask).load(0)[0].mask
    black = photo(tmp_path / "image.png", mask, keep="black").load(0)[0].mask
    assert np.array_equal(np.asarray(white), 255 - np.asarray(black))


def test_several_conditions_with_their_own_masks_and_boxes(tmp_path: Path, picture: Image.Image) -> None:
    for name in ("a.png", "b.png"):
        picture.save(tmp_path / name)
    images = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    first, second = photo(
        images, ["none", str(mask_file(tmp_path))], box=[[0, 0, 8, 8], [8, 8, 16, 16]]
    ).load(0)
    assert (first.name, second.name) == ("a", "b")
    assert first.mask is None and second.mask is not None and second.box == Box(8, 8, 16, 16)
    assert all(c.mask is None for c in photo(images, "none").load(0))


def test_crop_to_mask_keeps_every_masked_pixel(tmp_path: Path, picture: Image.Image) -> None:
    picture.save(tmp_path / "image.png")
    mask = str(mask_file(tmp_path))
    whole = photo(tmp_path / "image.png", mask).load(0)[0]
    cropped = photo(tmp_path / "image.png", mask, crop="mask").load(0)[0]
    assert whole.image.size == SIZE and cropped.image.width < SIZE[0]
    assert np.count_nonzero(np.asarray(cropped.mask)) == np.count_nonzero(np.asarray(whole.mask))


def test_the_sample_photograph_and_its_face() -> None:
    condition = photo("sample:grace_hopper.jpg", "face").load(0)[0]
    mask = np.asarray(condition.mask)
    assert condition.image.width == condition.image.height and set(np.unique(mask)) == {0, 255}
    inside = mask.astype(bool)
    assert 0.3 < inside.mean() < 0.7 and inside[mask.shape[0] // 2, mask.shape[1] // 2] and not inside[0, 0]
    assert photo("sample:grace_hopper.jpg").load(0)[0].mask is None


def test_bad_files_are_one_clear_line(tmp_path: Path, picture: Image.Image) -> None:
    picture.save(tmp_path / "image.png")
    good = tmp_path / "image.png"
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:60])
    Image.new("L", SIZE, 0).save(tmp_path / "black.png")
    Image.new("RGBA", SIZE, (0, 0, 0, 0)).save(tmp_path / "clear.png")
    cases: list[tuple[Photo, str, str]] = [
        (photo(tmp_path / "missing.png"), "condition.image", "missing.png"),
        (photo(tmp_path / "text.png"), "condition.image", "text.png"),
        (photo(tmp_path / "cut.png"), "condition.image", "cut.png"),
        (photo(tmp_path), "condition.image", "folder"),
        (photo(tmp_path / "clear.png"), "condition.image", "transparent"),
        (photo("sample:nobody.jpg"), "condition.image", "grace_hopper.jpg"),
        (photo(good, str(tmp_path / "missing.png")), "condition.mask", "missing.png"),
        (photo(good, str(tmp_path / "text.png")), "condition.mask", "text.png"),
        (photo(good, str(tmp_path / "black.png")), "condition.mask", "condition.keep=black"),
        (photo(good, str(mask_file(tmp_path, (30, 30)))), "condition.mask", "30 x 30"),
        (photo(good, "face"), "condition.mask", "no face"),
    ]
    for case, key, word in cases:
        with pytest.raises(UserError) as error:
            case.load(0)
        text = str(error.value)
        assert key in text and word in text and "\n" not in text


def test_bad_values_fail_before_anything_is_read() -> None:
    bad: list[tuple[Any, str]] = [
        (lambda: photo([]), "condition.image"),
        (lambda: photo(["a.png", "b.png"], ["none"] * 3), "condition.mask"),
        (lambda: photo(["a.png", "b.png"], "m.png"), "condition.mask"),
        (lambda: photo("a.png", keep="gray"), "condition.keep"),
        (lambda: photo("a.png", crop="face"), "condition.crop"),
        (lambda: photo("a.png", box=[1, 2, 3]), "box"),
        (lambda: photo("a.png", box=[[1, 2, 3, 4], [1, 2, 3, 4]]), "condition.box"),
        (lambda: photo("a.png", box="left"), "condition.box"),
        (lambda: person(size=4), "condition.size"),
        (lambda: person(count=0), "condition.count"),
        (lambda: person(attributes={"age": "ancient"}), "child, adult, old"),
        (lambda: person(attributes={"agee": "old"}), "condition.attributes"),
    ]
    for make, key in bad:
        with pytest.raises(UserError, match=key):
            make()


def test_a_person_follows_the_seed_and_says_what_it_is() -> None:
    first, again, other = (person().load(s)[0] for s in (3, 3, 4))
    assert np.array_equal(np.asarray(first.image), np.asarray(again.image))
    assert not np.array_equal(np.asarray(first.image), np.asarray(other.image))
    pinned = person(seed=3).load(99)[0]
    assert np.array_equal(np.asarray(first.image), np.asarray(pinned.image))
    assert first.image.size == (64, 64) and first.mask is not None and first.mask.size == (64, 64)
    assert first.truth["attributes"]["style"] == "photo" and isinstance(first.truth["identity"], int)


def test_attributes_change_what_they_name_and_keep_the_identity() -> None:
    plain = person().load(5)[0].truth
    aged = person(attributes={"style": "photo", "age": "old", "expression": "angry"}).load(5)[0].truth
    assert aged["identity"] == plain["identity"]
    assert (aged["attributes"]["age"], aged["attributes"]["expression"]) == ("old", "angry")
    same = [k for k in plain["attributes"] if k not in ("age", "expression")]
    assert all(plain["attributes"][k] == aged["attributes"][k] for k in same)
    skin = person(attributes={"skin": "dark", "eyes": "green"}).load(5)[0].truth["attributes"]
    assert (skin["skin"], skin["eyes"]) == ("dark", "green")


def test_several_people_are_different_and_identity_can_be_shared() -> None:
    a, b = person(count=2).load(0)
    assert a.truth["identity"] != b.truth["identity"] and a.name != b.name
    a, b = person(count=2, identity=7).load(0)
    assert a.truth["identity"] == b.truth["identity"] == 7
    assert not np.array_equal(np.asarray(a.image), np.asarray(b.image))


def test_a_condition_is_shown_on_gray() -> None:
    image = Image.new("RGB", (4, 2), (200, 10, 30))
    mask = Image.new("L", (4, 2), 0)
    mask.paste(255, (0, 0, 2, 2))
    shown = np.asarray(VisualCondition(image, mask).on_gray())
    assert (shown[:, :2] == (200, 10, 30)).all() and (shown[:, 2:] == 128).all()
    assert (np.asarray(VisualCondition(image).on_gray()) == np.asarray(image)).all()


def test_a_cut_out_whose_transparency_is_not_used_is_said(caplog, monkeypatch) -> None:
    from sow.data import conditions

    picture = Image.new("RGBA", (64, 64), (200, 150, 120, 255))
    picture.putpixel((0, 0), (0, 0, 0, 0))
    monkeypatch.setattr(conditions, "face_ellipse", lambda image, name: Image.new("L", image.size, 255))
    conditions.photograph(picture, "face", "white", "none", None, "cut")
    assert "condition.mask=none keeps what is opaque" in caplog.text
    caplog.clear()
    conditions.photograph(picture, "none", "white", "none", None, "cut")
    assert not caplog.text
