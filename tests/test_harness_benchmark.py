"""The benchmark of the harness goes through the study itself, and says how costs grow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import harness


def test_every_group_is_made_found_and_collated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = harness.main(["--groups", "24", "--steps", "1", "--json", str(tmp_path / "h.json")])
    assert [row["images"] for row in rows] == [24, 48]
    assert all(row["collate_ms"] > 0 and row["store_kb"] > 1 for row in rows)
    assert json.loads((tmp_path / "h.json").read_text()) == rows
    assert "collate met" in (out := capsys.readouterr().out) or "collate missed" in out


def test_growth_is_the_exponent_of_the_total() -> None:
    rows = [{"images": n, "a": 3.0, "b": 0.5 * n} for n in (100.0, 200.0, 400.0)]
    assert harness.growth(rows, "a") == pytest.approx(1) and harness.growth(rows, "b") == pytest.approx(2)
