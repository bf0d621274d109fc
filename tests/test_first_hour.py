"""The recording of the first hour: what its commands and scripts do here, and what it writes."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sow.people
from sow.config.compose import compose
from tools.first_hour import FACE, FOLDER, SCRIPT, Place, Said, record

MARKS = "# Page\n\n<!-- {0}:begin -->\n<!-- {0}:end -->\n"


def test_what_it_types_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(FACE, {})
    assert Image.open("face.png").mode == "RGBA"
    (tmp_path / "model").symlink_to(Path(sow.people.__file__).parent / "weights")
    config = compose(shlex.split(FOLDER)[1:])
    assert config.model.path == "model" and len(config.condition.load(1)) == 1
    exec(SCRIPT, {})
    assert np.asarray(Image.open("diffusers.png")).shape == (128, 128, 3)


def test_a_command_runs_in_its_place_without_this_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    said = Place(tmp_path).run('echo "Resolved in $PWD/x"; echo "$PYTHONPATH"; echo "image: $PATH"')
    assert said.lines[0] == "Resolved in x" and len(said.lines) == 2
    assert said.lines[1].startswith("image: fresh/bin:") and said.seconds > 0
    with pytest.raises(RuntimeError, match="no such thing"):
        Place(tmp_path).run("echo no such thing >&2; exit 3")


def test_it_writes_the_pages_and_their_pictures(tmp_path: Path) -> None:
    root, folder = tmp_path / "root", tmp_path / "folder"
    for place in (root / "docs" / "figures", folder / "outputs" / "2026-01-01" / "a"):
        place.mkdir(parents=True)
    for name in ("first_hour", "demo", "index"):
        (root / "docs" / f"{name}.md").write_text(MARKS.format(name))
    (folder / "sow-1-py3-none-any.whl").touch()
    typed = []

    def run(command: str) -> Said:
        typed.append(command)
        if command.startswith("sow"):
            Image.new("RGB", (128, 128), "navy").save(folder / "outputs" / "2026-01-01" / "a" / "image.png")
        if command.startswith("python"):
            name = {"face.py": "face.png", "script.py": "diffusers.png"}[command.split()[1]]
            Image.new("RGBA", (64, 64), "red").save(folder / name)
        return Said(command, ("image: outputs/a/image.png",), 3.2)

    record(root, folder, run, lambda file: Image.new("RGB", (800, 900), "gray").save(file), "3.11")
    text = (root / "docs" / "first_hour.md").read_text()
    assert all(f"$ {command}\n" in text for command in typed) and "# 3 s" in text and SCRIPT in text
    assert "(figures/first_hour.png)" in text
    assert "(figures/demo.png)" in (root / "docs" / "demo.md").read_text()
    assert {p.name for p in (root / "docs" / "figures").iterdir()} == {"first_hour.png", "demo.png"}
    assert "[first_hour](first_hour.md)" in (root / "docs" / "index.md").read_text()
