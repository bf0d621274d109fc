"""`data=folder`: anybody's images, masks and prompts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sow.config.compose import compose
from sow.data import Data
from sow.data.folder import ImageFolder
from sow.errors import UserError
from sow.store.inputs import files_read


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three images: one with a mask in masks/, one with a mask beside it, one with an alpha channel."""
    monkeypatch.setenv("SOW_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "images"
    (folder / "masks").mkdir(parents=True)
    mask = Image.new("L", (40, 40), 0)
    mask.paste(255, (10, 10, 30, 30))
    for i, name in enumerate(("cat.jpg", "car.png")):
        Image.new("RGB", (40, 40), (60 * i, 90, 30)).save(folder / name)
    mask.save(folder / "masks" / "cat.png")
    mask.save(folder / "car_mask.png")
    Image.merge("RGBA", [*Image.new("RGB", (40, 40), (1, 2, 3)).split(), mask]).save(folder / "tree.png")
    return folder


def data(root: Path, **changes: object) -> ImageFolder:
    values: dict = {
        "root": str(root),
        "prompts": None,
        "prompt": "a thing on a roof",
        "setting": "normal",
        "images_per_prompt": None,
        "mask": "none",
        "keep": "white",
        "crop": "auto",
        "validation": 0.5,
    }
    return ImageFolder(**(values | changes))


def test_every_image_with_the_one_prompt(root: Path) -> None:
    source = data(root)
    assert isinstance(source, Data)
    groups = source.groups("all")
    assert [g.id for g in groups] == ["normal-000-car", "normal-000-cat", "normal-000-tree"]
    assert [g.request.seed for g in groups] == [0, 1, 2]
    for group in groups:
        (condition,) = group.request.conditions
        assert np.asarray(condition.mask).mean() == pytest.approx(255 / 4)
        assert group.request.prompt == "a thing on a roof" and group.request.task == group.setting == "normal"


def test_black_pixels_of_masks_can_be_kept(root: Path) -> None:
    cat = data(root, keep="black").groups("all")[1]
    assert np.asarray(cat.request.conditions[0].mask).mean() == pytest.approx(255 * 3 / 4)


def test_prompts_from_text_and_by_setting(root: Path, tmp_path: Path) -> None:
    text = tmp_path / "prompts.txt"
    text.write_text("# mine\na cat on a roof\n\na car in the snow\n")
    groups = data(root, prompts=str(text), setting="style").groups("all")
    assert len(groups) == 6 and {g.setting for g in groups} == {"style"}
    assert [g.request.prompt for g in groups[::3]] == ["a cat on a roof", "a car in the snow"]
    lists = tmp_path / "prompts.yaml"
    lists.write_text("normal: [a, b]\nattribute: [c]\n")
    two = data(root, prompts=str(lists), images_per_prompt=2).groups("all")
    assert [g.id for g in two] == [
        "normal-000-car",
        "normal-000-cat",
        "normal-001-tree",
        "normal-001-car",
        "attribute-000-cat",
        "attribute-000-tree",
    ]


def test_splits_are_disjoint_complete_and_stable_when_images_are_added(root: Path) -> None:
    def split(name: str) -> set[str]:
        try:
            return {g.id for g in data(root).groups(name)}  # type: ignore[arg-type]
        except UserError:
            return set()

    before = {name: split(name) for name in ("validation", "test")}
    assert before["validation"] | before["test"] == split("all") and not before["validation"] & before["test"]
    for i in range(8):
        Image.new("RGB", (40, 40), (i, i, 0)).save(root / f"new{i}.png")
    after = {name: split(name) for name in ("validation", "test")}
    assert all(before[name] <= after[name] and after[name] for name in before)


def test_a_prompt_keeps_its_images_in_one_split(root: Path, tmp_path: Path) -> None:
    text = tmp_path / "prompts.txt"
    text.write_text("\n".join(f"a thing number {i}" for i in range(40)))
    groups = data(root, prompts=str(text), validation=0.3).groups("all")
    splits = {
        p: {g.split for g in groups if g.request.prompt == p} for p in {g.request.prompt for g in groups}
    }
    assert all(len(s) == 1 for s in splits.values())
    share = sum(s == {"validation"} for s in splits.values()) / 40
    assert 0.1 < share < 0.55


def test_bad_folders_masks_and_prompts_are_one_line(root: Path, tmp_path: Path) -> None:
    def words(match: str, split: str = "all", folder: Path = root, **changes: object) -> None:
        with pytest.raises(UserError, match=match) as error:
            data(folder, **changes).groups(split)  # type: ignore[arg-type]
        assert "\n" not in str(error.value) and "condition." not in str(error.value)

    words("no folder", folder=tmp_path / "none")
    (tmp_path / "bare").mkdir()
    words("holds no image", folder=tmp_path / "bare")
    words("validation, test or all", "train")
    words("no group of .* is for validation", "validation", validation=0.0)
    words("has no mask: put it at .*tree.png", mask="require")
    words("no face found .*data.mask", mask="face")
    (tmp_path / "twice.txt").write_text("a\na\n")
    words("'a' twice", prompts=str(tmp_path / "twice.txt"))
    (tmp_path / "no.txt").write_text("# nothing\n")
    words("holds no prompt", prompts=str(tmp_path / "no.txt"))
    words("cannot read the prompts", prompts=str(tmp_path / "missing.txt"))
    (tmp_path / "odd.yaml").write_text("night: [a]\n")
    words("choose from normal, attribute, style", prompts=str(tmp_path / "odd.yaml"))
    (tmp_path / "text.yaml").write_text("normal: one\n")
    words("needs a list of prompts", prompts=str(tmp_path / "text.yaml"))
    Image.new("L", (8, 4), 255).save(root / "masks" / "cat.png")
    words("8 x 4 but its image is 40 x 40.*data.mask")
    Image.new("RGB", (40, 40)).save(root / "cat.png")
    words("two images named cat")
    with pytest.raises(UserError, match="data.validation"):
        data(root, validation=2.0)
    with pytest.raises(UserError, match="data.images_per_prompt"):
        data(root, images_per_prompt=0)


def test_a_changed_image_is_noticed_and_the_manifest_lists_all(root: Path, tmp_path: Path) -> None:
    data(root).groups("all")
    (file,) = (tmp_path / "cache" / "data").glob("folder-*.json")
    assert set(json.loads(file.read_text())["files"]) == {"car.png", "cat.jpg", "tree.png"}
    Image.new("RGB", (40, 40), (255, 0, 0)).save(root / "car.png")
    with pytest.raises(UserError, match="first is car.png"):
        data(root).groups("all")


def test_the_option_takes_the_runs_prompt_and_setting(root: Path) -> None:
    config = compose(
        ["model=tiny", "task=style", "data=folder", f"data.root={root}", "data.mask=none", "prompt=x"]
    )
    assert (config.data.prompt, config.data.setting) == ("x", "style")
    assert {p.name for p in files_read(config.data)} >= {"cat.jpg", "cat.png", "car_mask.png"}


# What lies in people's folders. A row: what makes it, and what is said, or None where it decides nothing.


def write(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda place: (place / name).write_bytes(data)


ODD: dict[str, tuple[Callable[[Path], object], str | None]] = {
    "a pipe": (lambda place: os.mkfifo(place / "b.png"), "regular file.*data.root"),
    "an empty picture": (write("b.png", b""), "b.png is empty.*data.root"),
    "a folder of a picture's name": (lambda place: (place / "b.png").mkdir(), "regular file.*data.root"),
    "a link to nothing": (lambda place: (place / "b.png").symlink_to("gone"), "No such file.*data.root"),
    "a hidden file of another system": (write("._a.png", b"Mac OS X"), None),
    "a hidden picture that is half": (write(".a.png.part.png", b"\x89PNG"), None),
    "a name in no UTF-8": (write(os.fsdecode(b"\xff.png"), b"x"), "rename it.*data.root"),
    "a text": (write("notes.txt", b"notes"), None),
}


@pytest.mark.parametrize("what", ODD)
def test_what_lies_in_a_folder_is_read_or_named(tmp_path: Path, what: str) -> None:
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    make, words = ODD[what]
    make(tmp_path)
    data = ImageFolder(str(tmp_path), None, "a cat", "normal", None, "none", "white", "none", 0.0)
    if words is None:
        assert [g.id for g in data.groups("all")] == ["normal-000-a"]
        return
    with pytest.raises(UserError, match=words):
        data.groups("all")


PROMPTS: dict[str, tuple[str, bytes, list[str] | str]] = {
    "a mark at the start": ("p.txt", b"\xef\xbb\xbfa cat\r\na dog\r\n", ["a cat", "a dog"]),
    "a mark before YAML": ("p.yaml", b"\xef\xbb\xbf- a cat\n", ["a cat"]),
    "another encoding": ("p.txt", "a cat".encode("utf-16"), "cannot read the prompts"),
    "nothing but comments": ("p.txt", b"\n \n# a cat\n", "holds no prompt"),
    "numbers and truth": ("p.yaml", b"- 1e3\n- yes\n- 2024-01-01\n", "needs a list of prompts"),
    "deep": ("p.json", b"[" * 100_000, "is no YAML"),
    "half a letter": ("p.yaml", b'- "a \\ud800 cat"', r"no text in UTF-8, 'a \\ud800 cat'"),
    "a date that is none": ("p.yaml", b"- 2024-13-45\n", "is no YAML"),
}


@pytest.mark.parametrize("what", PROMPTS)
def test_a_file_of_prompts_is_read_or_named(tmp_path: Path, what: str) -> None:
    name, data, wanted = PROMPTS[what]
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (32, 32), "red").save(folder / "a.png")
    (tmp_path / name).write_bytes(data)
    file = str(tmp_path / name)
    made = ImageFolder(str(folder), file, "x", "normal", None, "none", "white", "none", 0.0)
    if isinstance(wanted, list):
        assert sorted({g.request.prompt for g in made.groups("all")}) == wanted
        return
    with pytest.raises(UserError, match=f"{wanted}.*data.prompts") as caught:
        made.groups("all")
    assert "\n" not in str(caught.value)
