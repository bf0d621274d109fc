"""`sow --help`: what it names exists, each option has its line, and it is there before torch."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result

from sow.config.compose import compose
from sow.config.help import EXAMPLES, help_text
from sow.config.places import CONF

Call = Callable[..., Result]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.parametrize(
    "words", [w for w in EXAMPLES if not w.startswith(("-", "doctor", "demo", "pipeline"))]
)
def test_the_examples_compose(words: str) -> None:
    compose(shlex.split(words))


def test_every_option_has_one_line_and_the_defaults_are_marked(command_line: Call) -> None:
    shown = command_line("--help")
    assert shown.status == 0 and shown.err == ""
    lines = shown.out.splitlines()
    options = [line[4:].split()[0] for line in lines if line.startswith(("    ", "   *"))]
    assert sorted(options) == sorted(f.stem for f in CONF.glob("*/*.yaml") if f.parent.name != "sweep")
    config = compose()
    marked = [line[4:].split()[0] for line in lines if line.startswith("   *")]
    assert sorted(marked) == sorted(o for g, o in config.choices.items() if g != "experiment")
    assert max(map(len, lines[lines.index("Keys:") :])) <= 100


def test_a_group_shows_its_fields_with_their_comments_in_full(command_line: Call) -> None:
    shown = command_line("--help", "gate", "condition=person").out
    said = " ".join(shown.split())
    assert "gate=always" in said and "gate=region" in said and "condition=person" in said
    assert "alternative gate.score=softmax" in said and "null = the request's seed" in said
    assert "planner=" not in said


@pytest.mark.parametrize(
    ("content", "words", "part"),
    [(b"a: 1", ["gote"], "did you mean gate?"), (b"a: [", [], "mine.yaml"), (b"\xff", [], "mine.yaml")],
    ids=["no group", "no YAML", "no text"],
)
def test_what_cannot_be_shown_is_one_line(
    content: bytes, words: list[str], part: str, command_line: Call, tmp_path: Path
) -> None:
    (tmp_path / "own" / "gate").mkdir(parents=True)
    (tmp_path / "own" / "gate" / "mine.yaml").write_bytes(content)
    shown = command_line("--help", "--config-dir", str(tmp_path / "own"), *words)
    assert shown.status == 1 and shown.out == ""
    assert shown.err.startswith("error: ") and part in shown.err and shown.err.count("\n") == 1


def test_options_of_ones_own_are_shown(tmp_path: Path) -> None:
    (tmp_path / "gate").mkdir()
    (tmp_path / "gate" / "mine.yaml").write_text("# A gate of my own.\na: 1\n")
    assert "A gate of my own." in help_text((), [tmp_path])
