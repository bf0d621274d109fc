"""Files and blocks of Markdown files that appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.training.judge_check import CARD
from sow.errors import UserError
from sow.report import figures
from sow.report.blocks import README, REPOSITORY, write_block
from sow.store.files import atomic_folder, atomic_write

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


def test_a_figure_is_published_with_its_words(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(MARKED)
    (tmp_path / "drawn.png").write_bytes(b"picture")
    figures.publish("a", "words", tmp_path / "drawn.png", tmp_path)
    assert (tmp_path / "README.md").read_text() == MARKED.replace("old", "![a](docs/a.png)\n\nwords")
    assert (tmp_path / "docs" / "a.png").read_bytes() == b"picture"
    with pytest.raises(UserError, match="c:begin"):
        figures.publish("c", "words", tmp_path / "drawn.png", tmp_path)
    assert not (tmp_path / "docs" / "c.png").exists()


@pytest.mark.parametrize(
    ("file", "names"), [(README, ["showcase", "table1", "fig1", "find_phases"]), (CARD, ["measured"])]
)
def test_what_studies_publish_has_its_marks(tmp_path: Path, file: Path, names: list[str]) -> None:
    """And a block written again as it stands changes not a byte."""
    copy = tmp_path / file.name
    copy.write_bytes(file.read_bytes())
    for name in names:
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        write_block(copy, name, copy.read_text().partition(begin)[2].partition(end)[0])
    assert copy.read_bytes() == file.read_bytes()


def test_neither_torch_nor_matplotlib_is_needed() -> None:
    code = "import sys, sow.report.blocks, sow.store.files; print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    assert out.stdout.strip() == "[]"
