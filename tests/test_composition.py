"""A multirun composes each job once, and each runs with what it would have been composed to anew."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from sow.config import composition
from sow.config.compose import compose

WORDS = ["model=tiny", "metrics=none", "planner=fixed", "tracker=none", "study=plan"]


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often Hydra composed a configuration with each of the seeds."""
    counted: Counter[str] = Counter()
    load = ConfigLoaderImpl._load_configuration_impl

    def counting(self: ConfigLoaderImpl, config_name: str, overrides: list[str], **rest: object) -> object:
        counted.update(word for word in overrides if word.startswith("seed=") and "," not in word)
        return load(self, config_name, overrides, **rest)

    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", counting)
    return counted


def test_each_job_is_composed_once_and_runs_with_its_own_configuration(
    command_line: Callable[..., Result], outputs: Path, composed: Counter[str]
) -> None:
    assert command_line("-m", "seed=4,5,6", *WORDS).status == 0
    assert composed == {"seed=4": 1, "seed=5": 1, "seed=6": 1}
    manifests = sorted(outputs.rglob("manifest.json"))
    assert [json.loads(file.read_text())["seed"] for file in manifests] == [4, 5, 6]
    assert len({file.parent.parent for file in manifests}) == 1  # the time of the sweep, not of its jobs
    for file in manifests:
        manifest = json.loads(file.read_text())
        assert [file.parent.name, str(manifest["seed"])] in [["0", "4"], ["1", "5"], ["2", "6"]]
        anew = compose([*WORDS, f"seed={manifest['seed']}", f"paths.outputs={outputs}"])
        assert manifest["config"] == json.loads(json.dumps(anew.resolved, default=str))


def test_a_second_sweep_and_a_full_memory_compose_anew(
    command_line: Callable[..., Result], composed: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(composition, "REMEMBERED", 1)
    assert command_line("-m", "seed=4,5", *WORDS).status == 0
    assert composed == {"seed=4": 1, "seed=5": 2}
    assert command_line("-m", "seed=4,5", *WORDS).out.count("done before") == 2
    assert composed == {"seed=4": 2, "seed=5": 4}


def test_a_word_that_no_job_can_have_still_ends_the_sweep_before_its_first_job(
    command_line: Callable[..., Result], outputs: Path
) -> None:
    result = command_line("-m", "cycle=cyclic,nonsense", *WORDS)
    assert result.status == 1 and "cycle=nonsense is no option" in result.err
    assert not list(outputs.rglob("manifest.json"))
