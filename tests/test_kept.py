"""What earlier versions left can be read, shown, planned from and composed again (`tests/kept`)."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from experiments.benchmark.store import Store
from experiments.collect import tidy
from experiments.gallery.reading import read_pictures
from sow.config.compose import compose
from sow.config.schema import locate
from sow.planner.replay import Replay
from sow.report import writers
from sow.report.tables import from_folder
from sow.runs import reading, records
from sow.runs.earlier import MOVED, current, current_target
from sow.types import Canvas, Plan, Request, VisualCondition

KEPT = Path(__file__).with_name("kept")
RUN, TABLE, BATCHES = KEPT / "run", KEPT / "table", KEPT / ".batches"


def manifest(folder: Path) -> dict[str, Any]:
    return records.read_manifest(folder / records.MANIFEST)


def test_a_run_is_found_by_study_and_by_key() -> None:
    assert reading.complete("generate", KEPT) == [RUN] and reading.latest("benchmark", KEPT) == TABLE
    assert reading.complete("generate", KEPT, model="people") == []
    found = records.find(KEPT, manifest(RUN)["key"])
    assert found is not None and found.samefile(RUN)


def test_its_numbers_and_tables_are_read() -> None:
    trace = reading.table(RUN, "trace")
    assert {"phase", "cycle", "norm"} <= set(trace.columns) and len(trace) > 10
    assert set(trace["phase"]) >= {"cycle", "preserve"}
    assert reading.numbers(RUN, "metrics")["seed"] == 3
    assert list(reading.table(TABLE, "records")["row"]) == ["full", "full", "no_dam", "no_dam"]


REPLAYED = [RUN / "plan.json", RUN, KEPT]


@pytest.mark.parametrize("path", REPLAYED, ids=lambda p: p.name)
def test_its_plan_is_replayed(path: Path) -> None:
    stored = json.loads((RUN / "plan.json").read_text())
    request = Request((VisualCondition(Image.new("RGB", (256, 256))),), "a person", id="run")
    (plan,) = Replay(str(path)).plan([request], Canvas(64, 64, 8, 8, 32))
    assert plan.to_dict()["boxes"] == stored["boxes"] and plan.prompt == Plan.from_dict(stored).prompt


@pytest.mark.parametrize("folder", [RUN, TABLE], ids=lambda p: p.name)
def test_its_words_compose_to_what_it_was(folder: Path) -> None:
    """The same components by their names of now, and every value that both versions know."""
    then = manifest(folder)
    now = compose(then["overrides"])
    old = current(then["config"])
    for group, values in old.items():
        if not isinstance(values, Mapping) or "_target_" not in values:
            continue
        component = getattr(now, group)
        assert type(component) is locate(values["_target_"], group), group
        for field in dataclasses.fields(component):
            if field.name in values and field.name in now.resolved[group]:
                assert now.resolved[group][field.name] == values[field.name], f"{group}.{field.name}"
    assert {k: v for k, v in now.choices.items() if k in then["choices"]} == then["choices"]


def test_it_is_a_row_of_a_collection() -> None:
    rows = tidy(dict(records.manifests_below(KEPT)), KEPT)
    assert [(row["run"], row["study"], row["row"]) for row in rows] == [
        ("run", "generate", None),
        ("table", "benchmark", "full"),
        ("table", "benchmark", "no_dam"),
    ]
    assert {row["config.gate.tau"] for row in rows} == {0.3, manifest(TABLE)["config"]["gate"]["tau"]}
    assert all(0 <= row["metric.open_gates"] <= 1 for row in rows[1:2])


def test_the_gallery_shows_it() -> None:
    table = read_pictures(str(TABLE), "study.runs")
    assert [r.label for r in table.rows] == ["full", "without DAM"] and len(table.pictures) == 4
    assert table.rows[1].paper == {"open_gates": 0.5}
    alone = read_pictures(str(RUN), "study.runs")
    (group,) = alone.groups.values()
    condition = group.condition()  # drawn again by the component of now
    assert condition is not None and condition.size == (256, 256) and group.prompt == "a person in a forest"


def test_its_table_is_the_same_to_the_letter() -> None:
    assert writers.markdown(from_folder(TABLE)) == (TABLE / "table.md").read_text()


HARM: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda data: data,
    "a bit": lambda data: data[:50] + bytes([data[50] ^ 4]) + data[51:],
    "the end": lambda data: data[:-3],
    "all": lambda data: b"",
}


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("file", ["records.jsonl", "normal-000-1-0.png"])
def test_its_batches_are_read_and_checked(tmp_path: Path, harm: str, file: str) -> None:
    shutil.copytree(BATCHES, tmp_path / ".batches")
    (folder,) = (tmp_path / ".batches").glob("*/*")
    harmed = folder / file
    harmed.write_bytes(HARM[harm](harmed.read_bytes()))
    found = Store(tmp_path / ".batches").read(folder.name, ["normal-000-0-0", "normal-000-1-0"])
    assert (found is not None) == (harm == "nothing")
    if found is not None:
        assert [r["group"] for r in found] == ["normal-000-0", "normal-000-1"]
        assert Store(tmp_path / ".batches").seconds(folder.name)["images"] == 2


def test_a_plan_of_an_earlier_store_is_not_asked_again(tmp_path: Path) -> None:
    from sow.planner.store import PlanStore

    file = tmp_path / "ab" / "ab12.json"
    file.parent.mkdir()
    file.write_text(
        json.dumps({"stored": 1.5, "value": json.loads((RUN / "plan.json").read_text())}, indent=1)
    )
    found = PlanStore(tmp_path).get_or_ask("ab12", lambda: pytest.fail("asked"), refresh=False, wait=1)
    assert Plan.from_dict(found).boxes


EARLIER_TARGETS = """
experiments.benchmark.Benchmark experiments.gallery.Gallery experiments.judge_check.JudgeCheck
experiments.generate.Generate experiments.preference.Preference experiments.preference_tally.Tally
experiments.train_controlnet.TrainControlNet experiments.train_judge.TrainJudge
experiments.train_people.TrainPeople experiments.grid.Grid experiments.collect.Collect sow.conditions.Person
sow.conditions.Photo sow.cycle.Cycle sow.guidance.ClassifierFree sow.guidance.Regional sow.inversion.Inversion
sow.methods.SOW sow.preservation.Preservation sow.pretrained.Pretrained sow.seed_init.Background
sow.seed_init.PureNoise sow.tiny.Tiny sow.tracking.NoTracker sow.tracking.Wandb
sow.methods.baselines.BlendedLatent sow.methods.baselines.ControlNetCanny sow.methods.baselines.DenseDiffusion
sow.methods.baselines.DreamBooth sow.methods.baselines.IPAdapter sow.methods.baselines.Inpaint
sow.methods.baselines.LanPaint sow.methods.baselines.RePaint sow.methods.baselines.TextualInversion
sow.planner.offline.Offline sow.attention.gate.RegionGate sow.metrics.faces.Faces
""".split()


@pytest.mark.parametrize("target", EARLIER_TARGETS)
def test_every_earlier_component_has_a_name_now(target: str) -> None:
    assert locate(current_target(target), "manifest")


def test_the_table_of_names_has_no_row_that_is_not_used() -> None:
    used = {target.rpartition(".")[0] for target in EARLIER_TARGETS} | {"sow.sweeping"}
    assert set(MOVED) <= used


def test_nothing_kept_names_a_machine() -> None:
    for file in KEPT.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            assert not any(word in data for word in (b"/work", b"/root", b"/home", b"/tmp")), file
