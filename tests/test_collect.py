"""One tidy table of all runs, and importances that find what matters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from conftest import Result
from PIL import Image

from experiments.collect import Collect, epsilon_squared, importances, tidy
from sow.errors import UserError
from sow.runs.records import RunFolder, manifests_below

COLLECT = ("study=collect", "model=tiny", "metrics=none", "tracker=none")


def made(root: Path, number: int, tau: float, modulation: str, score: float | None, **more: Any) -> None:
    """A run folder as a sweep leaves it."""
    folder = RunFolder(root / "2026-01-01" / "sweep" / str(number))
    config = {
        "seed": number % 5,
        "gate": {"_target_": "x", "tau": tau},
        "paths": {"outputs": str(number)},
        "prompt": "a",
    }
    folder.save_json("metrics.json", {"id_distance": score, "seed": number, "words": "no number", **more})
    choices = {"study": "generate", "modulation": modulation, "model": "tiny"}
    folder.save_json(
        "manifest.json",
        {
            "config": config,
            "choices": choices,
            "finished": "2026",
            "total_seconds": 1.5,
            "git": None,
            "key": str(number),
        },
    )


@pytest.fixture
def runs(outputs: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(24):
        tau = [0.2, 0.3, 0.4][i % 3]
        made(outputs, i, tau, "dynamic" if i % 2 else "none", tau + 0.01 * float(rng.normal()))
    (outputs / "2026-01-01" / "sweep" / "unfinished").mkdir()
    return outputs


@pytest.mark.parametrize(
    ("key", "values", "shown"),
    [
        ("prompt", ["a", 2024], ["a", "2024"]),
        ("seed", [3, 2**63 + 5], ["3", str(2**63 + 5)]),
        ("t3", [[4, 3], 4], ["[4, 3]", "4"]),
        ("tau", [None, True], [None, True]),
    ],
)
def test_one_odd_run_does_not_spoil_the_table(
    key: str, values: list[Any], shown: list[Any], outputs: Path, command_line: Callable[..., Result]
) -> None:
    for i, value in enumerate(values):
        made(outputs, i, 0.2, "none", 0.5 + i)
        file = outputs / "2026-01-01" / "sweep" / str(i) / "manifest.json"
        manifest = json.loads(file.read_text())
        manifest["config"][key] = value
        file.write_text(json.dumps(manifest))
    result = command_line(*COLLECT, f"study.folder={outputs}")
    assert result.status == 0, result.err
    (table,) = outputs.rglob("runs.parquet")
    assert pandas.read_parquet(table)[f"config.{key}"].tolist() == shown


def test_the_table_is_tidy(runs: Path) -> None:
    made(runs, 99, 0.5, "none", None, failure=True)
    rows = tidy(dict(sorted(manifests_below(runs), key=lambda run: int(run[0].name))), runs)
    assert len(rows) == 25 and len({tuple(row) for row in rows}) == 1  # every row has every column
    assert {name for name in rows[0] if name.startswith("config.")} == {"config.seed", "config.gate.tau"}
    assert {name for name in rows[0] if name.startswith("choice.")} == {"choice.modulation"}
    assert rows[-1]["metric.id_distance"] is None and rows[-1]["metric.failure"] == 1.0
    assert rows[0]["run"] == "2026-01-01/sweep/0" and rows[0]["study"] == "generate"
    assert "metric.words" not in rows[0] and "metric.seed" not in rows[0]


def test_a_benchmark_gives_a_row_a_row(outputs: Path) -> None:
    made(outputs, 0, 0.3, "dynamic", 0.5)
    records = [
        {"row": name, "group": group, "seed": 0, "failure": failed, "id_distance": distance}
        for name, group, failed, distance in (
            ("full", "a", False, 0.5),
            ("full", "b", True, None),
            ("no_pi", "a", True, 1.0),
        )
    ]
    RunFolder(outputs / "2026-01-01/sweep/0").save_table("records.parquet", records)
    rows = tidy(dict(manifests_below(outputs)), outputs)
    assert [(r["row"], r["metric.failure"], r["metric.id_distance"]) for r in rows] == [
        ("full", 0.5, 0.5),
        ("no_pi", 1.0, 1.0),
    ]


def test_collect_writes_table_and_figure(
    runs: Path, command_line: Callable[..., Result], outputs: Path
) -> None:
    result = command_line(*COLLECT)
    assert result.status == 0, result.err
    (folder,) = {p.parent for p in outputs.rglob("runs.csv")}
    table = pandas.read_parquet(folder / "runs.parquet")
    assert len(table) == 24 and len(pandas.read_csv(folder / "runs.csv")) == 24
    numbers = json.loads((folder / "metrics.json").read_text())
    assert numbers["importance/config.gate.tau"] > 0.95 and numbers["importance/choice.modulation"] < 0.2
    assert Image.open(folder / "collect.png").size[0] > 500 and (folder / "collect.pdf").is_file()
    again = command_line(*COLLECT)
    assert "done before" in again.out  # no run came since
    made(outputs, 30, 0.2, "none", 0.2)
    assert "done before" not in command_line(*COLLECT).out


ODD: dict[str, dict[str, Any]] = {
    "a prompt that is a number": {"prompt": 1000.0},
    "a prompt that is a whole number": {"prompt": 7},
    "a seed over 2^63": {"seed": 2**70},
    "a seed that is a text": {"seed": "three"},
    "a truth": {"prompt": True},
    "a list": {"prompt": ["a", 1]},
    "nothing": {"prompt": None},
    "a group that is a number": {"gate": 0.3},
    "a key of its own": {"other": {"deep": {"er": [1, {"a": None}]}}},
    "infinity": {"seed": float("inf")},
}


@pytest.mark.parametrize("what", ODD)
def test_one_odd_run_is_a_row_like_the_others(
    runs: Path, command_line: Callable[..., Result], outputs: Path, what: str
) -> None:
    made(outputs, 50, 0.3, "dynamic", 0.5)
    file = outputs / "2026-01-01/sweep/50/manifest.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps({**manifest, "config": {**manifest["config"], **ODD[what]}}))
    result = command_line(*COLLECT)
    assert result.status == 0, result.err
    (folder,) = {p.parent for p in outputs.rglob("runs.csv")}
    assert len(pandas.read_parquet(folder / "runs.parquet")) == 25


def test_collect_says_what_it_lacks(command_line: Callable[..., Result], outputs: Path) -> None:
    empty = command_line(*COLLECT)
    assert empty.status == 1 and "no complete run below" in empty.err
    made(outputs, 0, 0.3, "dynamic", 0.5)
    lost = command_line(*COLLECT, "study.metric=beauty")
    assert lost.status == 1 and "choose among id_distance (study.metric)" in lost.err
    alone = command_line(*COLLECT)
    assert alone.status == 0 and "no figure" in alone.out
    with pytest.raises(UserError, match="study.bins"):
        Collect(folder=".", metric=None, preferred=[], axes=3, bins=1)


def test_a_key_without_influence_has_no_importance_on_average() -> None:
    rng = np.random.default_rng(1)
    level = np.repeat(np.arange(8), 3)
    found = [epsilon_squared(rng.normal(size=24), level) for _ in range(300)]
    plain = 7 / 23  # what the uncorrected share of variance would be on average
    assert np.mean(found) < 0.4 * plain
    assert epsilon_squared(level + 0.0, level) == pytest.approx(1.0)
    assert epsilon_squared(rng.normal(size=24), np.arange(24)) == 0.0


def test_keys_that_say_the_same_count_once() -> None:
    rows = [
        {"choice.g": "on" if i % 2 else "off", "config.g.x": i % 2, "config.s": i, "m": float(i % 2)}
        for i in range(12)
    ]
    found = importances(rows, ["choice.g", "config.g.x", "config.s"], "m", bins=4)
    assert (
        list(found)[0] == "choice.g" and "config.g.x" not in found and found["choice.g"] == pytest.approx(1.0)
    )
    assert found["config.s"] < 0.2
