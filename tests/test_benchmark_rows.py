"""Rows, groups and seeds of a table are those that its words name, and the paper's tables compose."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
from small_benchmark import (
    WORDS,
    composed,
    context_of,
    made_groups,
    run,
)

from experiments.benchmark import table as benchmark_table
from experiments.benchmark import work as benchmark_work
from experiments.benchmark.benchmark import Benchmark
from experiments.benchmark.rows import compose_row, parse_rows
from experiments.benchmark.work import Work
from experiments.core.groups import first_of_each
from sow.config.compose import CONF, Config, compose
from sow.config.words import read
from sow.errors import UserError
from sow.report.tables import from_folder

pytest_plugins = ["small_benchmark"]  # fixtures

TABLES = sorted(p.stem for p in (CONF / "experiment").glob("table*.yaml"))


def test_each_setting_has_its_own_task(undisturbed: Path, quick: None) -> None:
    batches = Work(composed(*WORDS).study, context_of(undisturbed)).batches
    assert {(g.setting, b.config.task.name) for b in batches for g in b.groups} == {
        ("normal", "normal"),
        ("style", "style"),
    }
    assert [len(b.groups) for b in batches] == [2, 2, 1, 1, 2, 2]
    assert [b.row.name for b in batches] == ["full", "no_dam"] * 3


def test_limits_take_the_settings_in_turn() -> None:
    groups = made_groups()
    assert [g.id for g in first_of_each(groups, 3)] == ["normal-0", "normal-1", "style-3"]
    assert first_of_each(groups, None) == groups
    assert len(first_of_each(groups, 99)) == 5


LIMITED = ("study.limit=4", "+study.rows.few={overrides:['gate.tau=0.5'],limit:2}", "study.only=[full,few]")


def test_a_row_may_have_the_first_groups_of_each_setting(
    undisturbed: Path, tmp_path: Path, quick: None
) -> None:
    """n stands in the table, and differences are of the groups that both rows have."""
    folder = run(tmp_path, *LIMITED)
    records = pandas.read_parquet(folder / "records.parquet")
    groups = {row: part["group"].tolist() for row, part in records.groupby("row")}
    assert groups == {
        "full": ["normal-0", "normal-1", "style-3", "style-4"],
        "few": ["normal-0", "style-3"],
    }
    rows = {r["name"]: r for r in json.loads((folder / "rows.json").read_text())}
    assert (rows["full"]["limit"], rows["few"]["limit"]) == (None, 2)
    heads, *lines = [
        [c.strip() for c in line.strip("|").split("|")]
        for line in (folder / "table.md").read_text().splitlines()
        if line.startswith("|")
    ]
    counted = heads.index("n")
    assert {line[0]: line[counted] for line in lines[1:]} == {"full": "4", "few": "2"}
    line = from_folder(folder).lines[1]
    assert line.cells[0].against is not None and line.cells[0].against.groups == 2


def test_a_limited_row_has_whole_settings_and_shards(tmp_path: Path, quick: None) -> None:
    def made(*words: str) -> list[tuple[str, list[str], int]]:
        context = context_of(tmp_path, *words)
        return [(b.row.name, b.names, b.number) for b in Work(context.config.study, context).batches]

    batches = made(*LIMITED)
    assert batches == [
        ("full", ["normal-0-0", "normal-1-0"], 0),
        ("few", ["normal-0-0"], 0),
        ("full", ["style-3-0", "style-4-0"], 1),
        ("few", ["style-3-0"], 1),
    ]
    # From a limit that is no limit on, the row has what the others have.
    plain = made(*(w.replace("limit:2", "limit:99") for w in LIMITED))
    assert [b[1] for b in plain if b[0] == "few"] == [b[1] for b in plain if b[0] == "full"]
    with pytest.raises(UserError, match=r"study.rows.few.limit=3 .*2 settings.*multiple of 2"):
        made(*(w.replace("limit:2", "limit:3") for w in LIMITED))


def test_training_is_timed_apart() -> None:
    """What a training took when it was done, and the generation without it,
    whether it was done now or earlier."""
    samples = [SimpleNamespace(seconds={"train": 30.0, "plan": 0.5, "sample": 2.0, "decode": 1.0})] * 2
    found = benchmark_work.training_apart(samples)  # type: ignore[arg-type]
    assert found == {"train": 60.0, "without_training": 6.0}
    assert benchmark_work.training_apart([SimpleNamespace(seconds={"sample": 2.0})]) == {}  # type: ignore[list-item]
    times = {"images": 2, "generate": 67.0, "phases": {"sample": 2.0}, **found}
    row = benchmark_table._seconds("a", ["x-0", "y-0"], times)
    assert (row["seconds"], row["train_seconds"]) == (3.0, 30.0)
    plain = benchmark_table._seconds("a", ["x-0", "y-0"], {"images": 2, "generate": 5.0})
    assert (plain["seconds"], plain["train_seconds"]) == (2.5, None)
    lost = benchmark_table._seconds("a", ["x-0"], {})
    assert (lost["seconds"], lost["train_seconds"]) == (None, None)


def test_several_images_a_group_have_several_seeds(tmp_path: Path, quick: None) -> None:
    words = ("study.seeds=2", "study.limit=1", "study.only=[full]")
    records = pandas.read_parquet(run(tmp_path, *words) / "records.parquet")
    assert records["seed"].tolist() == [0, 1]
    assert records["sha256"].nunique() == 2


@pytest.mark.parametrize("table", TABLES)
def test_a_table_changes_the_study_alone(table: str) -> None:
    config, plain = composed("model=tiny", f"experiment={table}"), composed("model=tiny")
    assert {k for k, v in config.resolved.items() if v != plain.resolved[k]} - {"cache"} == {"study"}
    study = config.study
    assert isinstance(study, Benchmark) and study.name == table and study.reference in study.rows
    for row in study.parsed:
        assert len(row.marks) == len(study.marks)
        paper = row.to_dict()["paper"]
        assert all(0 <= paper[m] <= 1 for m in ("truncated", "face_detected") if m in paper)
    parent = {"table5": 2, "table6": 2, "table7": 2}.get(table, 1 if table.startswith("table1_") else None)
    if parent is not None:
        other = composed("model=tiny", f"experiment=table{parent}").study.parsed
        assert [r.overrides for r in study.parsed] == [r.overrides for r in other]
        assert [r.paper for r in study.parsed] != [r.paper for r in other]


@pytest.mark.parametrize("table", [t for t in TABLES if t in ("table1", "table2", "table3", "table4")])
def test_every_row_of_a_table_composes_and_differs(table: str) -> None:
    def kept(config: Config) -> dict[str, Any]:
        return {k: v for k, v in config.resolved.items() if k not in ("study", "paths", "cache")}

    config = composed("model=tiny", f"experiment={table}")
    rows = [r for r in config.study.parsed if r.overrides is not None]
    seen = {r.name: kept(compose_row(config, r, "normal")) for r in rows}
    assert len(seen) >= 4
    assert all(a is b or a != b for a in seen.values() for b in seen.values())
    assert seen[config.study.reference] == kept(composed("model=tiny"))


def test_the_papers_extremes_stand_in_the_tables() -> None:
    """Read off the paper's sentences about its tables, not off the files."""
    two, three, four = (
        {r.name: r.paper for r in composed("model=tiny", f"experiment=table{k}").study.parsed}
        for k in (2, 3, 4)
    )
    assert two["full"] == three["full"] == {"id_distance": 0.8068, "truncated": 0.05, "face_detected": 1.0}
    assert max(three, key=lambda n: three[n]["id_distance"]) == "no_p_plus"
    assert min(four, key=lambda n: four[n]["id_distance"]) == "c10_500_300"
    assert max(four, key=lambda n: four[n]["seconds"]) == "c20_700_500"
    six = {r.name: r for r in composed("model=tiny", "experiment=table6").study.parsed}
    assert "misprint" in str(six["none"].note) and "face_detected" not in six["none"].to_dict()["paper"]


def test_ablations_of_the_command_line_and_the_row_combine() -> None:
    words = read(["+ablation=no_pi", "seed=1", "+ablation=[no_dam,no_pi]"], [CONF])
    assert words == ["seed=1", "+ablation=[no_pi,no_dam]"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["study.split=train"], ["study.split='train'", "validation, test, all"]),
        (["study.seeds=0"], ["1 <= seeds", "study.seeds"]),
        (["study.shard=8/8"], ["0 <= k < n", "8/8"]),
        (["study.only=[nobody]"], ["nobody is an unknown row", "full"]),
        (["+study.rows={x y:{}}"], ["study.rows", "x y"]),
        (["+study.rows.z={label:Z,override:[]}"], ["study.rows.z.override", "overrides"]),
        (["+study.rows.z={paper:{failure:low}}"], ["study.rows.z.paper", "low"]),
        (["+study.rows.z={limit:0}"], ["need 1 <= limit <= 1000000, got 0", "study.rows.z.limit"]),
        (["+study.rows.z={limit:few}"], ["study.rows.z.limit", "few"]),
        (["study.level=2"], ["study.level", "2"]),
    ],
    ids=lambda v: " ".join(v),
)
def test_a_bad_word_is_named(words: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as failure:
        compose([*WORDS, *words])
    assert "\n" not in str(failure.value)
    for part in parts:
        assert part in str(failure.value)


def test_a_bad_row_fails_before_anything_is_made(tmp_path: Path, quick: None) -> None:
    words = ["+study.rows.bad={overrides:['cycle.t1=9']}"]
    with pytest.raises(UserError, match=r"row bad: .*t1=9"):
        run(tmp_path, *words)
    with pytest.raises(UserError, match=r"no setting sad.*normal, style"):
        run(tmp_path, "study.settings=[sad]")
    assert not (tmp_path / ".batches").exists()


def test_without_rows_the_configuration_is_the_row() -> None:
    assert [r.overrides for r in parse_rows({})] == [()]


def test_evaluations_are_those_of_the_batch_however_it_was_divided() -> None:
    shared, alone = {"16x16": 200, "8x8": 28}, {"16x16": 100}
    samples = [SimpleNamespace(counts=c) for c in (shared, shared, alone, dict(alone))]
    assert benchmark_work.evaluations(samples) == 228 + 100 + 100  # type: ignore[arg-type]
