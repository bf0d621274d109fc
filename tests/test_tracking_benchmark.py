"""The benchmark of tracking measures real jobs, reads them back, and says where an aim is missed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import tracking
from sow.runs.wandb_offline import runs_below


def test_jobs_are_timed_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["run.py"])
    found = tracking.overhead((*tracking.SMALL, "calibration.cycles=1"), 1, tmp_path)
    assert found["read_back"] == 1 and len(found["seconds_beyond"]) == 1
    assert found["median_seconds_beyond"] > 0 and found["median_seconds_of_generation_and_metrics"] > 0
    manifests = [json.loads(file.read_text()) for file in tmp_path.rglob("manifest.json")]
    assert {m["seed"] for m in manifests} == {0, 1}
    assert tracking.read_back(tmp_path, [1, 7], patience=0) == 1
    run = runs_below(tmp_path)[0]
    assert tracking.is_whole(run)
    numbers = tuple(row for row in run.history if "norm" not in row)
    for lacking in (
        {"exit_code": None},
        {"exit_code": 1},
        {"summary": {}},
        {"files": {}},
        {"history": numbers},
    ):
        assert not tracking.is_whole(replace(run, **lacking))  # type: ignore[arg-type]


def test_the_table_says_which_aims_are_missed() -> None:
    cost = {
        "jobs": 3,
        "read_back": 2,
        "seconds_beyond": [1.0, 1.6, 9.0],
        "median_seconds_of_generation_and_metrics": 2.0,
    }
    seconds = {"offline": [2.0, 4.0], "refuses": [2.0, 4.0], "hangs": [2.2, 4.4], "answers 500": [2.1, 4.2]}
    waits = {"seconds": seconds}
    said = {line.split("|")[1].strip(): line for line in tracking.table(cost, waits)[2:]}
    assert "1.60" in said["seconds per job beyond generation and metrics, of 3"]
    assert "missed" in said["seconds per job beyond generation and metrics, of 3"]
    assert "2 of 3" in said["runs read back whole"] and "missed" in said["runs read back whole"]
    assert "met" in said["a server that refuses over offline, round by round"]
    assert (
        "1.100" in said["a server that hangs over offline, round by round"]
        and "missed" in said["a server that hangs over offline, round by round"]
    )
    assert "met" in said["a server that answers 500 over offline, round by round"]
