"""`data=celeba_tv2i`: the prompt list, the pairing,
and a small folder in CelebAMask-HQ's layout made by the renderer."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sow.config.compose import compose
from sow.data import SETTINGS, Data
from sow.data.celeba_tv2i import CelebaTV2I, cropped, entries, prompts, union
from sow.errors import UserError
from sow.people.drawing.render import render

FACE = ["skin", "nose", "l_eye"]
MANIFEST = "b0b5385841a37fc8"  # changes with any prompt, pairing or split: then numbers cannot be compared


@cache
def drawn(seed: int) -> tuple[Image.Image, np.ndarray]:
    """A face with room around it."""
    picture = render(3_470_000_000 + seed, 96, framing="closeup")
    image = Image.new("RGB", (160, 160), (90, 120, 150))
    image.paste(Image.fromarray(picture.image), (32, 32))
    return image, np.pad(picture.face_mask, 32)


def write(root: Path, number: int, seed: int) -> None:
    """One image and its masks as the data set has them:
    the image twice as large as its masks, three channels."""
    image, face = drawn(seed)
    (root / "CelebA-HQ-img").mkdir(parents=True, exist_ok=True)
    masks = root / "CelebAMask-HQ-mask-anno" / str(number // 2000)
    masks.mkdir(parents=True, exist_ok=True)
    image.resize((320, 320)).save(root / "CelebA-HQ-img" / f"{number}.jpg")
    left = face & (np.arange(160) < 80)
    for part, mask in (("skin", face & ~left), ("nose", left), ("hair", ~face)):
        rgb = np.repeat((mask * 255).astype(np.uint8)[..., None], 3, 2)
        Image.fromarray(rgb).save(masks / f"{number:05d}_{part}.png")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The validation faces: six renders, copied around."""
    root = tmp_path_factory.mktemp("celeba")
    for i, entry in enumerate(e for e in entries() if e.split == "validation"):
        write(root, entry.image, i % 6)
    return root


@pytest.fixture
def root(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOW_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(original, tmp_path / "CelebAMask-HQ"))


def data(root: Path, size: int = 64) -> CelebaTV2I:
    return CelebaTV2I(str(root), FACE, 0.125, size)


def test_a_hundred_prompts_a_setting_none_twice_and_none_too_long() -> None:
    everything = [p.strip(" .").casefold() for lines in prompts().values() for p in lines]
    assert [len(prompts()[s]) for s in SETTINGS] == [100, 100, 100]
    assert len(set(everything)) == 300
    assert max(len(p.split()) for p in everything) <= 25  # far from the tokenizer's 77
    assert all(
        ("person" in p) != ("kid" in p or "child" in p or "toddler" in p or "teenager" in p)
        for p in everything
    )


def test_the_prompts_are_diverse() -> None:
    """No two prompts share almost all their words."""
    for lines in prompts().values():
        bags = [frozenset(p.lower().strip(".").split()) for p in lines]
        for i, a in enumerate(bags):
            assert all(len(a & b) / len(a | b) < 0.72 for b in bags[:i]), lines[i]


def test_entries_are_the_benchmark_and_never_change() -> None:
    count = Counter((e.setting, e.split) for e in entries())
    assert count == {(s, split): n for s in SETTINGS for split, n in (("validation", 20), ("test", 180))}
    assert len({e.id for e in entries()}) == len({e.image for e in entries()}) == 600
    assert all(0 <= e.image < 30_000 for e in entries())
    for setting in SETTINGS:
        mine = [e for e in entries() if e.setting == setting]
        assert all(
            a.prompt == b.prompt and a.split == b.split for a, b in zip(mine[::2], mine[1::2], strict=True)
        )
    words = "\n".join(f"{e.id} {e.split} {e.image} {e.prompt}" for e in entries())
    assert hashlib.sha256(words.encode()).hexdigest()[:16] == MANIFEST


def test_groups_are_square_crops_of_the_face(root: Path) -> None:
    source = data(root)
    assert isinstance(source, Data)
    groups = source.groups("validation")
    assert len(groups) == 60 and [g.id for g in groups] == sorted(
        (g.id for g in groups), key=[e.id for e in entries()].index
    )
    places = {e.id: (i, e) for i, e in enumerate(entries())}
    for group in groups[::11]:
        number, entry = places[group.id]
        (condition,) = group.request.conditions
        assert (group.request.seed, group.request.prompt, group.request.task) == (
            number,
            entry.prompt,
            entry.setting,
        )
        assert condition.image.size == condition.mask.size == (64, 64)
        assert condition.truth["image"] == entry.image
        mask = np.asarray(condition.mask)
        assert set(np.unique(mask)) == {0, 255} and 0.25 < (mask > 0).mean() < 0.8
        rows, columns = np.nonzero(mask)  # an eighth of the longer side is free
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == pytest.approx(64 / 1.25, abs=3)


def test_the_mask_is_the_union_of_the_parts_asked_for(root: Path) -> None:
    entry = next(e for e in entries() if e.split == "validation")
    folder = root / "CelebAMask-HQ-mask-anno" / str(entry.image // 2000)
    parts = [folder / f"{entry.image:05d}_{p}.png" for p in ("skin", "nose")]
    assert np.array_equal(np.asarray(union(parts)) > 0, drawn(0)[1])
    assert not np.array_equal(np.asarray(union(parts[:1])), np.asarray(union(parts)))


def test_a_crop_stays_on_the_image_and_is_never_enlarged() -> None:
    image = Image.new("RGB", (100, 80), (9, 9, 9))
    mask = Image.new("L", (50, 40), 0)
    mask.paste(255, (0, 0, 10, 40))
    picture, cut = cropped(image, mask, 0.5, 256)
    assert picture.size == cut.size == (80, 80)
    assert np.asarray(cut)[:, :20].min() == 255 and np.asarray(cut)[:, 20:].max() == 0


def test_two_builds_are_equal_and_the_manifest_is_kept(root: Path, tmp_path: Path) -> None:
    first, second = data(root).groups("validation"), data(root).groups("validation")
    for a, b in zip(first, second, strict=True):
        one, two = a.request.conditions[0], b.request.conditions[0]
        assert one.image.tobytes() == two.image.tobytes() and one.mask.tobytes() == two.mask.tobytes()
    (file,) = (tmp_path / "cache" / "data").glob("*.json")
    manifest = json.loads(file.read_text())
    assert len(manifest["entries"]) == 600 and len(manifest["files"]) == 60
    assert manifest["sha256"] == data(root).manifest()["sha256"] != data(root, 32).manifest()["sha256"]
    hashes = next(iter(manifest["files"].values()))
    assert len(hashes) == 3 and all(len(h) == 64 for h in hashes)


def test_a_changed_file_is_noticed(root: Path) -> None:
    data(root).groups("validation")
    number = next(e.image for e in entries() if e.split == "validation")
    write(root, number, 5)
    with pytest.raises(UserError, match=f"changed since .* first is {number}"):
        data(root).groups("validation")


def test_missing_and_incomplete_folders_are_one_line(root: Path, tmp_path: Path) -> None:
    def words(source: CelebaTV2I, split: str = "validation") -> str:
        with pytest.raises(UserError) as error:
            source.groups(split)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "data.root" in words(data(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    assert "has no folder CelebA-HQ-img" in words(data(tmp_path / "empty"))
    assert "lacks 1080 of the 1080" in words(data(root), "test")
    first = next(e.image for e in entries() if e.split == "validation")
    masks = root / "CelebAMask-HQ-mask-anno" / str(first // 2000)
    for part in ("skin", "nose"):
        (masks / f"{first:05d}_{part}.png").unlink()
    assert (
        "lacks 1 of the 120 files that these groups need, the first is "
        f"CelebAMask-HQ-mask-anno/{first // 2000}/" in (words(data(root)))
    )
    (masks / f"{first:05d}_skin.png").write_bytes(b"no image")
    assert "cannot read" in words(data(root))
    Image.new("L", (160, 160)).save(masks / f"{first:05d}_skin.png")
    assert "empty" in words(data(root))
    with pytest.raises(UserError, match="validation, test or all"):
        data(root).groups("train")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="data.parts"):
        CelebaTV2I(str(root), ["face"], 0.1, 64)
    with pytest.raises(UserError, match="data.size"):
        CelebaTV2I(str(root), FACE, 0.1, 4)


def test_the_option_composes_and_says_which_files_it_reads(root: Path) -> None:
    config = compose(["model=tiny", "data=celeba_tv2i", f"data.root={root}"])
    files = config.data.files()
    assert len(files) == 60 * 3 and all(p.is_file() for p in files)
    assert all("hair" not in p.name for p in files)
    with pytest.raises(UserError, match="data.root has no value"):
        compose(["model=tiny", "data=celeba_tv2i"])
