"""The table that a sweep ends with: every complete job once, in order, with the numbers that differ first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result

from sow.runs.console import WIDE, printer
from sow.runs.records import RunFolder, link_earlier
from sow.runs.sweep_table import NUMBERS, complete_jobs, show, table

Call = Callable[..., Result]


def job(folder: Path, **numbers: object) -> None:
    folder.mkdir(parents=True)
    RunFolder(folder).save_json("metrics.json", numbers)
    RunFolder(folder).save_json("manifest.json", {})


def test_complete_jobs_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job(tmp_path / "before", distance=0.25, seed=1)
    sweep = tmp_path / "sweep"
    job(sweep / "10_seed-2", distance=0.5, whole=True, each=[1, 2], seed=2)
    job(sweep / "2_seed-0", distance=None, whole=False)
    (sweep / "3_seed-1").mkdir()
    link_earlier(sweep / "3_seed-1", tmp_path / "before")
    (sweep / "4_failed" / ".hydra").mkdir(parents=True)
    job(sweep / "5_study-plan")
    (sweep / "5_study-plan" / "metrics.json").write_text("{")
    found = complete_jobs(sweep)
    assert list(found) == ["2_seed-0", "3_seed-1", "5_study-plan", "10_seed-2"]
    assert found["10_seed-2"] == {"distance": 0.5, "whole": True}
    assert found["3_seed-1"] == {"": "repeated", "distance": 0.25} and found["5_study-plan"] == {}
    show(sweep)
    said = capsys.readouterr().out
    lines = [line.split() for line in said.splitlines()]
    assert ["3_seed-1", "-", "0.25", "repeated"] in lines and ["10_seed-2", "yes", "0.5"] in lines
    assert f"4 complete jobs: {sweep}" in said


def test_numbers_that_differ_come_first() -> None:
    same = {f"same_{i}": 1.0 for i in range(NUMBERS)}
    columns = table({"0": {**same, "gates": 0.1}, "1": {**same, "gates": 0.2}}).columns
    assert [str(c.header) for c in columns[:2]] == ["job", "gates"] and len(columns) == NUMBERS + 2


@pytest.mark.parametrize(("width", "shown"), [("240", 8), ("60", 3)])
def test_columns_that_do_not_fit_are_left_out_rather_than_cut(
    width: str,
    shown: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    for i in range(2):
        job(tmp_path / f"{i}_seed-{i}", **{f"a long name {k}": i + k / 8 for k in range(NUMBERS + 2)})
    show(tmp_path)
    head, first, *_ = capsys.readouterr().out.splitlines()
    assert head.count("a long name") == shown
    assert len(first.split()) == 1 + shown and "…" not in head + first


def test_a_table_in_a_pipe_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert printer().width == WIDE
    monkeypatch.setenv("COLUMNS", "70")
    assert printer().width == 70


def test_a_sweep_ends_with_its_table(command_line: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.generate import Generate

    def measured(self: Generate, context: object) -> None:
        context.folder.save_json("metrics.json", {"open_gates": context.config.seed / 4})  # type: ignore[attr-defined]

    monkeypatch.setattr(Generate, "run", measured)
    swept = command_line("-m", "experiment=debug", "seed=1,2,-1")
    lines = [line.split() for line in swept.out.splitlines()]
    assert swept.status == 1 and swept.err.count("error: ") == 1
    assert ["0_seed-1", "0.25"] in lines and ["1_seed-2", "0.5"] in lines and "2 complete jobs" in swept.out
    assert "complete jobs" not in command_line("experiment=debug", "seed=3").out
