"""A calibration chooses the better value, keeps the paper's in doubt, and looks at validation groups alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from experiments.benchmark import store as benchmark_store
from experiments.benchmark import work as benchmark_work
from experiments.calibrate import choose, suggestion
from experiments.core.study import StudyContext
from sow.config.compose import CONF, compose
from sow.data import Group
from sow.data.people import PeopleBenchmark
from sow.errors import UserError
from sow.runs.records import RunFolder
from sow.types import Request, VisualCondition

WORDS = ["experiment=debug", "study=calibrate", "cycle.cycles=1", "study.limit=4", "study.resamples=100"]
STEPS = "study.steps=[{key:omega_plus,values:[0.1,0.2,0.3],setting:null},{key:tau,values:[0.3,0.2],setting:style}]"


def test_it_takes_the_better_value_and_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are made up: omega_plus 0.2 is best, tau makes no difference."""
    seen: list[str] = []
    composed: list[tuple[float, float, str]] = []

    def groups(self: Any, split: str) -> list[Group]:
        seen.append(split)
        out = []
        for i, setting in enumerate(["normal", "normal", "style", "style"]):
            condition = VisualCondition(Image.new("RGB", (64, 64), (50 * i, 90, 90)))
            out.append(
                Group(str(i), setting, split, Request((condition,), "a person", setting, seed=i, id=str(i)))
            )
        return out

    def one(self: Any, batch: Any) -> None:
        config = batch.config
        composed.append((config.p_plus.omega, config.gate.tau, config.task.name))
        distance = {0.1: 0.9, 0.2: 0.5, 0.3: 0.8}[config.p_plus.omega]
        rows = [
            {
                "name": name,
                "group": g.id,
                "setting": g.setting,
                "id_distance": None if g.id == "0" and config.p_plus.omega == 0.3 else distance,
                "failure": False,
                "head_is_condition": True,
                "text_agreement": 0.5,
            }
            for name, g in zip(batch.names, batch.groups, strict=True)
        ]
        images = {name: Image.new("RGB", (8, 8)) for name in batch.names}
        self.store.write(batch.key, rows, images, {})

    monkeypatch.setattr(PeopleBenchmark, "groups", groups)
    monkeypatch.setattr(benchmark_work.Work, "_one", one)
    monkeypatch.setattr(benchmark_store, "code_digests", lambda *roots: {})
    config = compose([*WORDS, STEPS, f"paths.outputs={tmp_path}"])
    config.study.run(StudyContext(config, RunFolder(tmp_path / "run")))
    values = yaml.safe_load((tmp_path / "run/calibrated.yaml").read_text())
    assert values == {"defaults": ["paper"], "omega_plus": 0.2}
    assert set(seen) == {"validation"}
    assert {(w, t) for w, t, task in composed if t != 0.273} == {(0.2, 0.3), (0.2, 0.2)}
    assert {task for _, t, task in composed if t != 0.273} == {"style"}
    text = (tmp_path / "run/calibration.md").read_text()
    assert "**omega_plus = 0.2**" in text and "**tau = 0.3**" in text
    # One group of four without a face counts as 1.4142.
    assert f"id_distance {(3 * 0.8 + 1.4142) / 4:.3f}" in text


def test_a_gain_within_the_margin_keeps_the_papers_value() -> None:
    from experiments.calibrate import Candidate
    from sow.report.statistics import Estimate

    tried = [Candidate(v, Estimate(s, 0, 0, 1, 1), None, {}) for v, s in ((1, 0.5), (2, 0.51), (3, 0.4))]
    assert choose(tried, 0.02).value == 1
    assert choose(tried, 0.0).value == 2
    assert choose([tried[0], tried[0]], 0.0) is tried[0]


def test_a_suggestion_composes_over_the_papers_numbers() -> None:
    told = [
        {"key": "guidance_scale", "values": [7.5, 4.0], "chosen": 4.0},
        {"key": "preservation.style.t3", "values": [[4], [4, 3]], "chosen": [4, 3]},
        {"key": "preservation.style.eta", "values": [1.0, 0.5], "chosen": 0.5},
        {"key": "tau", "values": [0.273, 0.1], "chosen": 0.273},
    ]
    values = yaml.safe_load(suggestion(told, "python run.py study=calibrate", 12))
    assert values.pop("defaults") == ["paper"]
    assert values == {"guidance_scale": 4.0, "preservation": {"style": {"t3": [4, 3], "eta": 0.5}}}


def test_every_step_names_a_number_of_the_calibration() -> None:
    paper = yaml.safe_load((CONF / "calibration/paper.yaml").read_text())
    for step in compose(["model=tiny", "study=calibrate"]).study.steps:
        node = paper
        for part in step["key"].split("."):
            node = node[part]
        assert step["values"][0] == node, step["key"]
        assert step["setting"] is None or step["setting"] in step["key"]
    words = ["model=tiny", "calibration.preservation.normal.t3=[4, 3, 2]", "calibration.guidance_scale=4.0"]
    config = compose(words)
    assert config.preservation.resolve(config.cycle, 10) == (4, 3, 2)
    assert config.guidance.scale == 4.0


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("study.steps=[{key:tau,values:[1],setting:null}]", "at least two values"),
        ("study.steps=[{key:tau,values:[1,2],setting:sad}]", "setting=sad"),
        ("study.steps=[{key:tau}]", "key, values and setting"),
        ("study.margin=-1", "study.margin"),
    ],
)
def test_a_bad_word_is_named(words: str, part: str) -> None:
    with pytest.raises(UserError, match=part):
        compose([*WORDS, words])


def test_a_score_needs_its_metrics() -> None:
    study = compose(WORDS).study
    with pytest.raises(UserError, match=r"do not measure id_distance.*study\.score"):
        study._score({"group": "0"})
