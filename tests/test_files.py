"""Files and blocks of Markdown files that appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.core.study import _anywhere
from experiments.training.judge_check import CARD
from sow.errors import UserError
from sow.report import blocks
from sow.report.blocks import REPOSITORY, write_block
from sow.store.files import atomic_folder, atomic_write

STUDIES = [
    "diffusion_in_diffusion",
    "text_sensitivity",
    "semantic_formation",
    "seed_init",
    "cycle_progress",
    "information_flow",
    "gate_landscape",
]
MARKED = "head\n<!-- a:begin -->\nold\n<!-- a:end -->\nbetween <!-- b:begin --><!-- b:end -->\ntail\n"


def test_a_file_appears_at_the_end_of_the_block(tmp_path: Path) -> None:
    target = tmp_path / "made" / "for it" / "file"
    with atomic_write(target) as part:
        part.write_text("new")
        assert not target.exists() and part.parent == target.parent
    assert target.read_text() == "new" and list(target.parent.iterdir()) == [target]


def test_an_exception_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(target) as part:
        part.write_text("half")
        1 / 0  # noqa: B018
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_a_block_is_replaced_and_all_else_stays(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text(MARKED)
    write_block(file, "a", "\nnew\nlines\n\n")
    assert file.read_text() == MARKED.replace("old", "new\nlines")
    write_block(file, "a", "old")
    assert file.read_text() == MARKED
    write_block(file, "b", "more")
    assert file.read_text() == MARKED.replace("<!-- b:begin -->", "<!-- b:begin -->\nmore\n")


@pytest.mark.parametrize(
    "text", ["", "<!-- a:begin -->", "<!-- a:end -->\n<!-- a:begin -->", "<!-- a begin -->", None]
)
def test_missing_marks_are_named_and_nothing_is_written(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "README.md"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match="<!-- a:begin --> ... <!-- a:end -->.*study.publish"):
        write_block(file, "a", "new")
    assert [f.read_text() for f in tmp_path.iterdir()] == [text or ""] * (text is not None)


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "to" / "net"
    with atomic_folder(target) as part:
        (part / "a").write_text("old")
        assert not target.exists()
    with pytest.raises(ZeroDivisionError), atomic_folder(target) as part:
        (part / "a").write_text("half")
        raise ZeroDivisionError
    assert [(p.name, p.read_text()) for p in target.iterdir()] == [("a", "old")]
    with atomic_folder(target) as part:
        (part / "b").write_text("new")
    assert [(p.name, p.read_text()) for p in target.iterdir()] == [("b", "new")]
    assert [p.name for p in target.parent.iterdir()] == ["net"]


def test_a_folder_that_cannot_take_its_place_leaves_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "net"
    target.mkdir()
    rename = os.rename

    def failing(source: Path, to: Path) -> None:
        if str(source).endswith(".part"):
            raise OSError("no")
        rename(source, to)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="no"), atomic_folder(target) as part:
        (part / "a").write_text("new")
    assert list(tmp_path.iterdir()) == [target] and not list(target.iterdir())


def test_a_picture_is_published_with_its_words(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(MARKED)
    Image.new("RGB", (40, 30), "navy").save(tmp_path / "drawn.png")
    blocks.publish("a", "words", tmp_path / "drawn.png", tmp_path)
    assert page.read_text() == MARKED.replace("old", "![a](figures/a.png)\n\nwords")
    blocks.publish("a", "words ![seen](drawn.png)", tmp_path / "drawn.png", tmp_path)
    assert page.read_text() == MARKED.replace("old", "words ![seen](figures/a.png)")
    (tmp_path / "README.md").write_text(MARKED.replace("a:", "d:"))
    blocks.publish("d", "words", tmp_path / "drawn.png", tmp_path)
    assert "(docs/figures/d.png)" in (tmp_path / "README.md").read_text()
    with pytest.raises(UserError, match="c:begin"):
        blocks.publish("c", "words", tmp_path / "drawn.png", tmp_path)
    assert {p.name for p in (tmp_path / "docs" / "figures").iterdir()} == {"a.png", "d.png"}


def test_the_index_knows_how_each_was_made(tmp_path: Path) -> None:
    index, page = tmp_path / "docs" / "measured.md", tmp_path / "README.md"
    index.parent.mkdir()
    index.write_text("<!-- index:begin -->\nNothing yet.\n<!-- index:end -->\n")
    page.write_text(MARKED + MARKED.replace("a:", "d:"))
    for name, seconds in (("d", 1.0), ("a", None), ("d", 2.0)):
        made = blocks.Made("run.py a='b|c'", "2026-01-02", "0123456789", 3, seconds)
        blocks.publish(name, "words", root=tmp_path, made=made)
    lines = blocks.published("index", tmp_path).splitlines()[2:]
    start = "(../README.md) | `run.py a='b\\|c'` | 2026-01-02 | `0123456789` | 3 |"
    assert lines == [f"| [a]{start} - |", f"| [d]{start} 2 |"]
    blocks.publish("a", "other words", root=tmp_path)
    assert blocks.published("index", tmp_path).splitlines()[2:] == lines


def test_another_model_takes_no_place_of_the_documentations_own(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(MARKED)
    blocks.publish("a", "words", root=tmp_path)
    other = blocks.Made("run.py model=other", "2026-01-02", None, None, None, "other")
    with pytest.raises(UserError, match="<!-- a-other:begin -->"):
        blocks.publish("a", "its words", root=tmp_path, made=other)
    page.write_text(page.read_text() + MARKED.replace("a:", "a-other:"))
    blocks.publish("a", "its words", root=tmp_path, made=other)
    assert (blocks.published("a", tmp_path), blocks.published("a-other", tmp_path)) == ("words", "its words")


def test_published_pictures_are_small(tmp_path: Path) -> None:
    """Drawings stay PNG, photographs become JPEG; the file of the other kind goes."""
    figures = tmp_path / "docs" / "figures"
    pixels = np.random.default_rng(0).integers(0, 256, (230, 1840, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    Image.new("RGB", (3200, 100), "white").save(tmp_path / "flat.png")
    for source, kind, size in (("noise", "jpg", (1600, 200)), ("flat", "png", (1600, 50))):
        blocks.publish_picture("shown", tmp_path / f"{source}.png", tmp_path)
        (made,) = figures.iterdir()
        assert made.name == f"shown.{kind}" and made.stat().st_size <= 500_000
        assert Image.open(made).size == size


def test_the_pictures_of_the_documentation_are_small() -> None:
    sizes = {p.name: p.stat().st_size for p in (REPOSITORY / blocks.FIGURES).iterdir()}
    assert max(sizes.values()) <= 500_000 and sum(sizes.values()) <= 6_000_000, sizes


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("docs/seeds.md", ["showcase"]),
        ("docs/results.md", [*(f"table{n}" for n in range(1, 8)), "fig1", "fig7", "fig10"]),
        ("docs/studies.md", STUDIES),
        ("docs/speed.md", ["speed-cpu", "speed-cuda"]),
        (str(CARD.relative_to(REPOSITORY)), ["measured", "generated"]),
    ],
)
def test_what_commands_publish_has_its_marks(tmp_path: Path, page: str, names: list[str]) -> None:
    """And a block written again as it stands changes not a byte."""
    file = REPOSITORY / page
    copy = tmp_path / file.name
    copy.write_bytes(file.read_bytes())
    if page.startswith("docs/"):
        assert {blocks.page_of(name) for name in names} == {file}
    for name in names:
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        write_block(copy, name, copy.read_text().partition(begin)[2].partition(end)[0])
    assert copy.read_bytes() == file.read_bytes()


def test_neither_torch_nor_matplotlib_is_needed() -> None:
    found = "print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    code = f"import sys, sow.report.blocks, sow.store.files; {found}"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("study.runs=['/home/me/outputs/a','/home/me/b']", "study.runs=..."),
        ("model.path=/models/sd15", "model.path=..."),
        ("study.output=sow/people/weights", "study.output=sow/people/weights"),
        ("study.shard=0/8", "study.shard=0/8"),
    ],
)
def test_a_published_command_names_no_folder_of_the_machine(word: str, shown: str) -> None:
    assert _anywhere(word) == shown
