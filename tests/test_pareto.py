"""Quality at equal compute: the front, and the table's figure."""

from __future__ import annotations

import dataclasses

import pytest
from test_report import ROWS, SPEC, records

from experiments.benchmark.pareto import Point, draw, front, points_of
from sow import compose
from sow.errors import UserError
from sow.report import tables

POINTS = [
    Point(1, "a", 10, 0.5, 0.48, 0.52, 60),
    Point(2, "b", 20, 0.4, 0.38, 0.42, 60),
    Point(3, "c", 20, 0.6, 0.58, 0.62, 60),
    Point(4, "d", 30, 0.41, 0.39, 0.43, 60),
    Point(5, "e", 40, 0.1, 0.08, 0.12, 60),
    Point(6, "f", 5, 0.05, 0.04, 0.06, 20),
]


def test_the_front_is_what_nobody_beats_beyond_the_intervals() -> None:
    assert [p.label for p in front(POINTS, lower=True)] == ["a", "b", "d", "e"]
    assert [p.label for p in front(POINTS, lower=False)] == ["a", "c"]
    assert not front([], lower=True)


def test_a_table_is_drawn_against_its_compute() -> None:
    column = {"metric": "unet_evaluations", "label": "UNet evaluations", "better": "lower", "format": "count"}
    spec = {**SPEC, "columns": [*SPEC["columns"], column]}  # type: ignore[misc]
    made = [{**r, "unet_evaluations": 114 if r["row"] == "full" else 50} for r in records()]
    table = tables.make(spec, ROWS, made)
    points = points_of(table, "failure")
    assert sorted((p.compute, round(p.value, 2)) for p in points) == [(50, 0.5), (114, 0.1)]
    *axes, names = draw(table, ["id_distance", "failure"]).axes
    assert [t.get_text().count("\n") for t in names.texts] == [len(points) - 1]
    assert [a.get_ylabel() for a in axes] == ["ID-Distance ↓", "Failure Rate ↓"]
    assert all(a.get_xscale() == "log" for a in axes)
    assert dataclasses.replace(table.columns[2]).text(113.6) == "114"


def test_compute_must_be_a_column() -> None:
    with pytest.raises(UserError, match=r"unet_evaluations as columns.*study\.pareto"):
        compose(["study=benchmark", "study.pareto=[id_distance]"])


def test_the_experiment_composes_with_every_rival() -> None:
    study = compose(["experiment=table_today"]).study
    rivals = {"masactrl", "mca_ctrl", "sdedit", "lanpaint", "sow", "sow_800_400"}
    flows = {"flowedit", "rf_inversion", "kv_edit", "personalize_anything", "sow_flow"}
    assert rivals | flows <= {r.name for r in study.parsed}
    assert {"seam", "color_gap", "faces", "id_distance_other"} <= {c["metric"] for c in study.columns}


@pytest.mark.parametrize("name", ["table1", "table_today"])
def test_rows_with_fewer_groups_have_as_many_of_each_setting(name: str) -> None:
    config = compose([f"experiment={name}"])
    settings = {g.setting for g in config.data.groups(config.study.split)}
    limits = [r.limit for r in config.study.parsed if r.limit is not None]
    assert limits and not any(limit % len(settings) for limit in limits)
