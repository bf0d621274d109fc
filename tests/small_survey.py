"""A survey of three methods on four groups, for tests of the human study."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from browsing import benchmark

from experiments.core.study import StudyContext
from sow.config.compose import compose
from sow.runs.records import RunFolder

METHODS = ("sow", "cow", "dreambooth")


GROUPS = {f"g{i}": f"prompt {i}" for i in range(4)}


WORDS = ["model=tiny", "tracker=none", "metrics=none"]


ROWS = [{"name": n, "label": n.upper(), "paper": {}, "overrides": []} for n in METHODS]


def records() -> list[dict[str, Any]]:
    out = []
    for i, group in enumerate(GROUPS):
        for j, row in enumerate(METHODS):
            setting = "normal" if i < 2 else "style"
            values = {"id_distance": 0.25 + j / 4, "face_detected": j != 2 or i > 0}
            out.append({"row": row, "group": group, "setting": setting, "seed": 0, **values})
    return out


def make(folder: Path, *words: str) -> Path:
    """Run a study into `folder` as run.py does, without its bookkeeping."""
    folder.mkdir(parents=True, exist_ok=True)
    config = compose([*WORDS, *words])
    config.study.run(StudyContext(config, RunFolder(folder)))
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return benchmark(tmp_path_factory.mktemp("table") / "run", records(), ROWS, GROUPS)


@pytest.fixture(scope="module")
def survey(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ["study=preference", f"study.runs={table}", "study.raters=3", "study.votes=2"]
    return make(tmp_path_factory.mktemp("survey"), *words)


def page_data(survey: Path) -> dict[str, Any]:
    return json.loads(
        (survey / "survey" / "data.js").read_text().removeprefix("window.DATA = ").rstrip(";\n")
    )


def answer(key: dict[str, Any], rater: str, row: str | None, limit: int | None = None) -> dict[str, Any]:
    """What a person sends who always takes `row`, or always the first image."""
    out = []
    for number, (criterion, item, order) in enumerate(key["assignments"][rater][:limit]):
        images = key["items"][item]["images"]
        choice = next(b for b in order if row is None or images[b] == row)
        name = key["criteria"][criterion]["name"]
        out.append({"number": number, "criterion": name, "item": item, "choice": choice})
    return {"survey": key["survey"], "rater": int(rater), "answers": out}
