"""Sweeps: launchers' presets, an Optuna study that goes on, W&B's agent,
and processes that share their records."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Result
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from sow.config.compose import CONF, compose
from sow.config.sweeping import numbers, objective, overrides, terms
from sow.errors import UserError

Call = Callable[..., Result]
Folders = Callable[[], list[Path]]
DEBUG = "experiment=debug"
SWEEPS = sorted((CONF / "sweep").glob("*.yaml"))
TUNE = (
    DEBUG,
    "hydra/sweeper=calibration",
    "hydra.callbacks.trials.objective=[loss]",
    "hydra.sweeper.n_trials=4",
)


def hydra_config(*words: str) -> Any:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return hydra_compose("config", ["model=tiny", *words], return_hydra_config=True).hydra


# Presets.


@pytest.mark.parametrize("name", ["joblib", "submitit_local", "submitit_slurm"])
@pytest.mark.filterwarnings("ignore:.*is validated against ConfigStore schema")
def test_a_launcher_preset_fits_its_launcher(name: str) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    preset = yaml.safe_load((CONF / "hydra" / "launcher" / f"{name}.yaml").read_text())
    composed = OmegaConf.to_container(hydra_config(f"hydra/launcher={name}").launcher, resolve=False)
    assert preset.items() <= composed.items()
    assert name.split("_")[0] in composed["_target_"]


@pytest.mark.filterwarnings("ignore:.*is validated against ConfigStore schema")
def test_a_slurm_task_has_a_gpu_and_is_queued_again() -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    launcher = hydra_config("hydra/launcher=submitit_slurm").launcher
    assert launcher.gpus_per_node == launcher.tasks_per_node == 1
    assert launcher.additional_parameters.requeue and launcher.max_num_timeout > 0


def test_a_launchers_process_says_nothing_of_our_presets() -> None:
    """What a launcher sends to its processes brings the filter of Hydra's warning, before they compose."""
    cloudpickle = pytest.importorskip("cloudpickle")
    from sow.config.command_line import job

    code = "import pickle, sys, warnings; pickle.load(sys.stdin.buffer); print(warnings.filters)"
    sent = cloudpickle.dumps(job)
    done = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, cwd=ROOT)
    assert done.returncode == 0 and b"is validated against" in done.stdout, done.stderr


# Optuna.


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for generating: the loss is a bowl over tau, t1 and t3; `stop` interrupts that job."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    from experiments.generate import Generate

    state: dict[str, Any] = {"jobs": 0, "stop": None, "lost": 1.0, "seen": []}

    def run(self: Generate, context: Any) -> None:
        state["jobs"] += 1
        if state["jobs"] == state["stop"]:
            raise KeyboardInterrupt
        config = context.config
        state["seen"].append(config.gate.tau)
        loss = (config.gate.tau - 0.3) ** 2 + abs(config.cycle.t1 - 6) + len(config.preservation.t3)
        context.folder.save_json("metrics.json", {"loss": loss if config.gate.tau <= state["lost"] else None})

    monkeypatch.setattr(Generate, "run", run)
    return state


def test_an_interrupted_study_goes_on_and_leaves_its_best_trial(
    study: dict[str, Any], command_line: Call, outputs: Path
) -> None:
    study["stop"] = 2
    stopped = command_line("-m", *TUNE)
    assert stopped.status == 130, stopped.err
    trials = load(outputs).trials
    interrupted = trials[1].params
    assert [t.state.name for t in trials] == ["COMPLETE", "RUNNING"]

    study["stop"] = None
    continued = command_line("-m", *TUNE)
    assert continued.status == 0, continued.err
    assert "1 of 4 trials are done" in continued.out
    tuned = load(outputs)
    assert [t.state.name for t in tuned.trials] == ["COMPLETE", "FAIL"] + ["COMPLETE"] * 3
    assert tuned.trials[2].params == interrupted
    assert len(set(study["seen"])) == 4  # a sampler that starts anew does not repeat itself

    written = yaml.safe_load((outputs / "tuned" / "calibration.yaml").read_text())
    assert written["gate"]["tau"] == tuned.best_trial.params["gate.tau"]
    assert f"--config-dir {outputs} +tuned=calibration" in continued.out
    used = command_line("--config-dir", str(outputs), DEBUG, "+tuned=calibration")
    assert used.status == 0, used.err
    assert "done before" in used.out  # to the letter the best trial's own run
    study["seen"].clear()
    assert command_line("-m", *TUNE).status == 0 and study["seen"] == []  # nothing is left to do


def test_a_trial_without_its_number_counts_as_failed(
    study: dict[str, Any], command_line: Call, outputs: Path
) -> None:
    study["lost"] = 0.4  # tau above this has no loss
    result = command_line("-m", *TUNE[:-1], "hydra.sweeper.n_trials=3")
    assert result.status == 1 and "the run has no number loss" in result.err
    tuned = load(outputs)
    assert [t.state.name == "FAIL" for t in tuned.trials] == [
        t.params["gate.tau"] > 0.4 for t in tuned.trials
    ]
    assert {t.state.name for t in tuned.trials} == {"COMPLETE", "FAIL"}


def load(outputs: Path) -> Any:
    import optuna

    return optuna.load_study(study_name="calibration", storage=f"sqlite:///{outputs}/tuned/calibration.db")


def test_the_search_space_is_possible() -> None:
    """Every value of every choice composes with the others' extremes."""
    space = OmegaConf.to_container(hydra_config("hydra/sweeper=calibration").sweeper.params)
    assert isinstance(space, dict)
    ends: dict[str, list[str]] = {}
    for name, value in space.items():
        inside = value.partition("(")[2].rstrip(")")
        ends[name] = json.loads(f"[{inside}]")
    config = compose(["model=tiny"])
    for t1, t2, t3 in itertools.product(*(ends[k] for k in ("cycle.t1", "cycle.t2", "preservation.t3"))):
        cycle = dataclasses.replace(config.cycle, t1=t1, t2=t2)
        dataclasses.replace(config.preservation, t3=t3).resolve(cycle, config.num_inference_steps)
    for end in (0, 1):
        compose(["model=tiny", *(f"{n}={v[end]}" for n, v in ends.items() if n != "preservation.t3")])


@pytest.mark.parametrize("name", ["textual_inversion", "dreambooth"])
def test_a_training_preset_sweeps_what_its_method_has(name: str) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    composed = hydra_config(f"hydra/sweeper={name}", f"method={name}")
    assert composed.sweeper.study_name == name and composed.callbacks.trials.objective
    space = OmegaConf.to_container(composed.sweeper.params)
    assert set(space) == {"method.learning_rate", "method.steps"}
    for value in ("0.003", "60"):
        key = "method.steps" if value == "60" else "method.learning_rate"
        made = compose(["model=people", f"method={name}", f"{key}={value}"]).method
        assert str(getattr(made, key.partition(".")[2])) == value


def test_a_calibration_is_where_other_options_take_their_numbers() -> None:
    words = ["calibration.preservation.normal.t3=[4, 3, 2]", "calibration.guidance_scale=4.0"]
    config = compose(["model=tiny", *words])
    assert config.preservation.resolve(config.cycle, 10) == (4, 3, 2)
    assert config.guidance.scale == 4.0


def test_best_values_become_a_config() -> None:
    best = overrides({"gate.tau": 0.25, "cycle.t1": 5, "preservation.t3": "[3, 2]", "seed_init": "noise"})
    assert OmegaConf.to_container(best) == {
        "defaults": [{"override /seed_init": "noise"}],
        "gate": {"tau": 0.25},
        "cycle": {"t1": 5},
        "preservation": {"t3": [3, 2]},
    }


def test_objective_is_a_sum_of_a_runs_numbers(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"id_distance": 0.8, "failure": true, "whole": null}')
    hydra = OmegaConf.create({"callbacks": {"trials": {"objective": ["0.5*id_distance", "failure"]}}})
    assert objective(tmp_path, hydra) == pytest.approx(1.4)
    assert objective(tmp_path, OmegaConf.create({"callbacks": {}})) is None
    hydra.callbacks.trials.objective = ["whole"]
    with pytest.raises(UserError, match="no number whole: choose among failure, id_distance"):
        objective(tmp_path, hydra)
    assert terms(["-a", "2*b", "-0.5*c"]) == [(-1, "a"), (2, "b"), (-0.5, "c")]
    with pytest.raises(UserError, match="is no term"):
        terms(["a + b"])


def test_numbers_of_a_benchmark_and_of_a_skipped_run(tmp_path: Path) -> None:
    from sow.runs.records import RunFolder, link_earlier

    rows = [
        {"row": "run", "group": "a", "failure": True, "id": 0.5},
        {"row": "run", "group": "b", "failure": False, "id": None},
    ]
    RunFolder(tmp_path / "done").save_table("records.parquet", rows)
    assert numbers(tmp_path / "done") == {"failure": 0.5, "id": 0.5}
    (tmp_path / "again").mkdir()
    link_earlier(tmp_path / "again", tmp_path / "done")
    assert numbers(tmp_path / "again")["id"] == 0.5
    RunFolder(tmp_path / "two").save_table("records.parquet", [*rows, {**rows[0], "row": "other"}])
    with pytest.raises(UserError, match="several rows"):
        numbers(tmp_path / "two")
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="neither metrics.json"):
        numbers(tmp_path / "none")


# W&B sweeps.


def agent_line(sweep: dict[str, Any], monkeypatch: pytest.MonkeyPatch, folder: Path, last: bool) -> list[str]:
    """The command line that `wandb agent` runs for the first or last values of a sweep,
    by the agent's own code."""
    from wandb import wandb_agent

    def draw(spec: dict[str, Any]) -> Any:
        values = spec.get("values") or [
            spec.get("value", spec.get("min")),
            spec.get("value", spec.get("max")),
        ]
        return values[-1 if last else 0]

    lines: list[list[str]] = []
    monkeypatch.setattr(
        wandb_agent, "AgentProcess", lambda command, **rest: lines.append(command) or SimpleProcess()
    )
    monkeypatch.setenv("WANDB_DIR", str(folder))
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "")  # put back afterwards
    agent = wandb_agent.Agent.__new__(wandb_agent.Agent)
    agent._in_jupyter, agent._function, agent._forward_signals, agent._run_processes = False, None, False, {}
    agent._sweep_command = list(sweep["command"])
    args = {name: {"value": draw(spec)} for name, spec in sweep["parameters"].items()}
    agent._command_run({"run_id": "abc", "program": sweep["program"], "args": args})
    return lines[0]


class SimpleProcess:
    last_sigterm_time = None


@pytest.mark.parametrize("file", SWEEPS, ids=lambda f: f.stem)
def test_a_wandb_sweep_is_a_command_line(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sweep = yaml.safe_load(file.read_text())
    assert sweep["method"] in ("grid", "random", "bayes") and sweep["metric"]["goal"] in (
        "minimize",
        "maximize",
    )
    for last in (False, True):
        env, interpreter, program, *words = agent_line(sweep, monkeypatch, tmp_path, last)
        assert (env, interpreter, program) == ("/usr/bin/env", "python", "run.py")
        config = compose(["model=tiny", *words])
        assert set(sweep["parameters"]) <= {word.partition("=")[0] for word in config.overrides}


def test_the_agents_command_line_runs(
    command_line: Call, run_folders: Folders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sweep = yaml.safe_load((CONF / "sweep" / "gate.yaml").read_text())
    _, _, program, *words = agent_line(sweep, monkeypatch, tmp_path, last=True)
    monkeypatch.delenv("WANDB_RUN_ID")
    monkeypatch.delenv("WANDB_SWEEP_PARAM_PATH")
    assert (ROOT / program).is_file()
    result = command_line(*words, DEBUG, "cycle.cycles=1")
    assert result.status == 0, result.err
    manifest = json.loads((run_folders()[0] / "manifest.json").read_text())
    assert manifest["config"]["gate"]["tau"] == 0.35 and manifest["seed"] == 7


# Several processes.

SHARE = """
import json, sys, types
from pathlib import Path
sys.path.insert(0, {root!r})
from sow.runs import records
from sow.store.file_hashes import file_sha256
outputs, me = Path(sys.argv[1]), sys.argv[2]
large = outputs / "weights.bin"
for i in range(40):
    for key in ("shared%d" % i, me + "%d" % i):
        folder = records.RunFolder(outputs / "runs" / me / key)
        folder.save_json("metrics.json", {{"key": key}})
        records.complete(folder, outputs, key, {{}})
        assert records.find(outputs, key) is not None
    print(file_sha256(large))
"""


def test_processes_share_records_without_corrupting_them(outputs: Path) -> None:
    from sow.runs import records
    from sow.store.file_hashes import LARGE

    outputs.mkdir()
    (outputs / "weights.bin").write_bytes(b"x" * (LARGE + 1))
    script = SHARE.format(root=str(ROOT))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(outputs), name], stdout=subprocess.PIPE, text=True
        )
        for name in "abc"
    ]
    printed = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len({line for text in printed for line in text.split()}) == 1
    for i in range(40):
        for key in (f"shared{i}", *(f"{name}{i}" for name in "abc")):
            folder = records.find(outputs, key)
            assert folder is not None and json.loads((folder / "metrics.json").read_text())["key"] == key
    assert not list(outputs.rglob("*.part"))
