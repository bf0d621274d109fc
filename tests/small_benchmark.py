"""A benchmark of small coloured squares on the tiny model, for tests of the benchmark's harness."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from experiments.benchmark import store as benchmark_store
from experiments.benchmark import work as benchmark_work
from experiments.benchmark.rows import compose_row
from experiments.core.study import StudyContext
from sow.config.compose import Config, Paths, compose
from sow.data import Group
from sow.data.people import PeopleBenchmark
from sow.runs.records import RunFolder
from sow.types import Request, VisualCondition

WORDS = (
    "experiment=debug",
    "study=benchmark",
    "cycle.cycles=2",
    "batch_size=2",
    "+study.rows.full={overrides:[]}",
    "+study.rows.no_dam={overrides:['+ablation=no_dam'],paper:{open_gates:0.5}}",
    "+study.rows.told={overrides:null,paper:{open_gates:0.25}}",
    "study.reference=full",
    "study.columns=[{metric:open_gates,label:Gates,better:none,format:number}]",
)


NOT_COMPARED = {"seconds.parquet", "manifest.json"}


def made_groups() -> list[Group]:
    """Three normal groups and two style groups of small coloured squares."""
    out = []
    for i, setting in enumerate(["normal", "normal", "normal", "style", "style"]):
        condition = VisualCondition(
            Image.new("RGB", (64, 64), (40 * i, 200 - 30 * i, 90)), name=f"square {i}"
        )
        request = Request((condition,), f"a person number {i}", setting, seed=i, id=f"{setting}-{i}")
        out.append(Group(request.id, setting, "validation", request))
    return out


def prepare(patch: pytest.MonkeyPatch) -> None:
    """Small data; a row composed once, for this process and every forked one; code that is read quickly."""
    patch.setattr(PeopleBenchmark, "groups", lambda self, split: made_groups())
    patch.setattr(benchmark_work, "compose_row", composed_row)
    patch.setattr(benchmark_store, "code_digests", lambda *roots: {})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)


@cache
def composed(*words: str) -> Config:
    return compose(list(words))


rows_composed: dict[tuple[Any, ...], Config] = {}


def composed_row(config: Config, row: Any, task: str) -> Config:
    key = (config.overrides, row.name, task)
    if key not in rows_composed:
        rows_composed[key] = compose_row(config, row, task)
    return rows_composed[key]


def config_of(outputs: Path, *words: str) -> Config:
    return replace(composed(*WORDS, *words), paths=Paths(outputs))


def context_of(outputs: Path, *words: str, name: str = "run") -> StudyContext:
    return StudyContext(config_of(outputs, *words), RunFolder(outputs / name))


def run(outputs: Path, *words: str, name: str = "run") -> Path:
    """Run the benchmark to its end; its run folder."""
    context = context_of(outputs, *words, name=name)
    context.config.study.run(context)
    return context.folder.path


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of every file that two runs must share."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in NOT_COMPARED
    }


def store_contents(outputs: Path) -> dict[str, bytes]:
    found = contents(outputs / ".batches")
    return {name: data for name, data in found.items() if not name.endswith("seconds.json")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The outputs of a run that nothing disturbed."""
    outputs = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch)
        run(outputs)
    yield outputs
