"""A configuration file from someone else runs nothing:
each is refused by name before any of it is instantiated."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Result
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from sow.config.compose import compose
from sow.config.loader import application
from sow.errors import UserError

Call = Callable[..., Result]
MARK = "ran"  # what would appear in the folder if anything ran
WORDS = ("model=tiny", "study=plan", "planner=fixed", "tracker=none", "metrics=none")

# name: text of a file of the group `evil`, laid over everything; what the error names
FILES = {
    "callback": ("hydra: {callbacks: {a: {_target_: os.mkdir, path: ran}}}", "os.mkdir"),
    "callback of this project": (
        "hydra: {callbacks: {a: {_target_: sow.runs.records._git, folder: .}}}",
        "hydra.callbacks.a._target_",
    ),
    "callback that unpickles": (
        "hydra: {callbacks: {a: {_target_: pandas.read_pickle, filepath_or_buffer: x}}}",
        "pandas.read_pickle",
    ),
    "callback inside a callback": (
        "hydra: {callbacks: {trials: {_target_: sow.config.sweeping.Trials, objective: {_target_: os.mkdir, "
        "path: ran}}}}",
        "hydra.callbacks.trials.objective._target_",
    ),
    "component as a callback": (
        "hydra: {callbacks: {a: {_target_: sow.metrics.none.NoMetrics}}}",
        "sow.metrics.none.NoMetrics",
    ),
    "callback by interpolation": (
        "spare: {_target_: sow.metrics.none.NoMetrics}\nhydra: {callbacks: {a: '${spare}'}}",
        "hydra.callbacks.a",
    ),
    "launcher": ("hydra: {launcher: {_target_: os.mkdir}}", "hydra.launcher._target_"),
    "sweeper": ("hydra: {sweeper: {_target_: os.mkdir}}", "hydra.sweeper._target_"),
    "component of another package": ("gate: {_target_: os.mkdir, path: ran}", "gate._target_"),
    "function of this project": (
        "gate: {_target_: sow.store.secrets.redact_file, file: x}",
        "gate._target_",
    ),
    "component of another group": (
        "gate: {_target_: sow.attention.decay.NoTimeDecay}",
        "choose one of sow.attention.gate.AlwaysOpen",
    ),
    "another component's part": (
        "study: {_target_: experiments.plan.MakePlans, spare: {_target_: builtins.exec}}",
        "study.spare._target_",
    ),
    "target by interpolation": ("gate: {_target_: '${prompt}'}\nprompt: os.mkdir", "gate._target_"),
    "log handler by factory": (
        "hydra: {job_logging: {handlers: {console: {(): os.mkdir, path: ran}}}}",
        "hydra.job_logging.handlers.console.()",
    ),
    "log handler by class": (
        "hydra: {job_logging: {handlers: {console: {class: logging.handlers.SocketHandler}}}}",
        "hydra.job_logging.handlers.console.class",
    ),
    "log formatter by class": (
        "hydra: {hydra_logging: {formatters: {simple: {class: os.mkdir}}}}",
        "hydra.hydra_logging.formatters.simple.class",
    ),
    "log filter by factory": (
        "hydra: {hydra_logging: {filters: {a: {(): os.mkdir}}}}",
        "hydra.hydra_logging.filters.a.()",
    ),
    "external object of a log": (
        "hydra: {job_logging: {handlers: {console: {stream: 'ext://os.environ'}}}}",
        "ext://os.environ",
    ),
    "log file elsewhere": (
        "hydra: {job_logging: {handlers: {file: {filename: ran}}}}",
        "hydra.job_logging.handlers.file.filename",
    ),
    "log by interpolation": (
        "spare: {version: 1}\nhydra: {job_logging: '${spare}'}",
        "hydra.job_logging",
    ),
    "variables of the environment": (
        "hydra: {job: {env_set: {PYTHONSTARTUP: x}}}",
        "hydra.job.env_set",
    ),
    "copied variables": ("hydra: {job: {env_copy: [HOME]}}", "hydra.job.env_copy"),
    "environment in a value": (
        "tracker: {_target_: sow.runs.tracking.Wandb, project: '${oc.env:HOME}'}",
        "oc.env",
    ),
    "a place that runs are sent to": ("tracker: {entity: someone}", "tracker.entity"),
    "environment inside another resolver": ("prompt: '${oc.select:a,${oc.env:HOME}}'", "oc.env"),
    "resolver by interpolation": ("prompt: '${${task.name}:HOME}'", "resolver"),
    "decoding resolver": ("prompt: '${oc.decode:x}'", "oc.decode"),
    "environment behind an escaped brace": ("prompt: '\\${${oc.env:HOME}}'", "the environment"),
    "environment among the choices": ("hydra: {runtime: {choices: {a: '${oc.env:HOME}'}}}", "oc.env"),
    "words of the command line": ("hydra: {overrides: {task: ['seed=7']}}", "hydra.overrides.task"),
    "words for a sweep": (
        "hydra: {overrides: {hydra: ['hydra.job.env_set={A: b}']}}",
        "hydra.overrides.hydra",
    ),
    "log named by a path": ("hydra: {job: {name: ../../ran}}", "hydra.job.name"),
    "records elsewhere": ("hydra: {output_subdir: /tmp/ran}", "hydra.output_subdir"),
    "folders that nobody keeps apart": ("hydra: {callbacks: {folders: null}}", "hydra.callbacks.folders"),
    "callback that is none": ("hydra: {callbacks: {a: null}}", "hydra.callbacks.a has no _target_"),
    "target that is a list": ("gate: {_target_: [os.mkdir]}", "gate._target_"),
    "component of another group by interpolation": ("study: ${model}", "study._target_"),
    "tag of Python's": ("gate: !!python/object/apply:os.mkdir [ran]", "mine.yaml"),
    "launcher of nothing": ("hydra: {launcher: null}", "hydra.launcher is null"),
    "level of a log": ("hydra: {job_logging: {root: {level: LOUD}}}", "hydra.job_logging.root.level"),
    "handler of a log": ("hydra: {job_logging: {root: {handlers: [a]}}}", "hydra.job_logging.root.handlers"),
    "version of a log": ("hydra: {job_logging: {version: 3}}", "hydra.job_logging.version"),
    "verbosity": ("hydra: {verbose: 3.5}", "hydra.verbose"),
    "where a key goes": (
        "defaults: [{override /planner: openai}]\nplanner: {base_url: 'http://a.example/v1'}",
        "planner.base_url in a file",
    ),
    "where Google's key goes": (
        "defaults: [{override /planner: gemini}]\nplanner: {base_url: 'http://a.example'}",
        "planner.base_url in a file",
    ),
    "which key goes": (
        "defaults: [{override /planner: openai}]\nplanner: {api_key_env: AWS_SECRET_ACCESS_KEY}",
        "planner.api_key_env in a file",
    ),
    "style of a formatter": (
        "hydra: {job_logging: {formatters: {simple: {style: '$', format: 'x %s'}}}}",
        "hydra.job_logging.formatters.simple",
    ),
    "field that no line has": (
        "hydra: {job_logging: {formatters: {simple: {format: '%(nope)s'}}}}",
        "hydra.job_logging.formatters.simple",
    ),
    "encoding of a log": (
        "hydra: {job_logging: {handlers: {file: {encoding: nope}}}}",
        "hydra.job_logging.handlers.file",
    ),
    "errors of a log": (
        "hydra: {job_logging: {handlers: {file: {errors: nope}}}}",
        "hydra.job_logging.handlers.file",
    ),
    "mode of a log": (
        "hydra: {job_logging: {handlers: {file: {mode: x}}}}",
        "hydra.job_logging.handlers.file",
    ),
    "argument of a handler": (
        "hydra: {hydra_logging: {handlers: {console: {foo: 3}}}}",
        "hydra.hydra_logging.handlers.console",
    ),
    "handler that is a number": (
        "hydra: {job_logging: {handlers: {console: 3}}}",
        "hydra.job_logging.handlers.console=3",
    ),
    "formatters that are a number": (
        "hydra: {job_logging: {formatters: 3}}",
        "hydra.job_logging.formatters=3",
    ),
    "root that is a number": ("hydra: {job_logging: {root: 3}}", "hydra.job_logging.root=3"),
    "logger that is a number": ("hydra: {job_logging: {loggers: {a: 3}}}", "hydra.job_logging.loggers.a=3"),
    "level that is a mapping": (
        "hydra: {job_logging: {root: {level: {a: 3}}}}",
        "hydra.job_logging.root.level",
    ),
    "handlers that are a word": (
        "hydra: {job_logging: {root: {handlers: file}}}",
        "hydra.job_logging.root.handlers='file'",
    ),
    "part of a log that is none": ("hydra: {job_logging: {nope: 3}}", "hydra.job_logging.nope is unknown"),
    "switch of a log": (
        "hydra: {job_logging: {disable_existing_loggers: maybe}}",
        "hydra.job_logging.disable_existing_loggers",
    ),
    "logger that is none": ("hydra: {verbose: nope}", "hydra.verbose=nope"),
    "loggers that are none": ("hydra: {verbose: [sow, nope]}", "hydra.verbose="),
    "sweep that is not one": ("hydra: {mode: MULTIRUN}", "add -m (hydra.mode)"),
    "long name of a log": (f"hydra: {{job: {{name: {'a' * 300}}}}}", "300 bytes"),
    "name of several lines": ('hydra: {job: {name: "a\\nrm x"}}', "more than one line"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of configurations beside which nothing may appear."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "files" / "evil").mkdir(parents=True)
    return tmp_path / "files"


def refused(result: Result, part: str) -> None:
    lines = [line for line in result.err.splitlines() if line.strip()]
    assert result.status == 1, result
    assert len(lines) == 1 and lines[0].startswith("error: ") and part in lines[0], result.err
    assert not Path(MARK).exists()


@pytest.mark.parametrize("name", FILES)
def test_a_file_runs_nothing(name: str, folder: Path, command_line: Call, outputs: Path) -> None:
    text, part = FILES[name]
    (folder / "evil" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    refused(command_line("--config-dir", str(folder), "+evil=mine", *WORDS), part)
    assert not list(outputs.rglob("*.log"))


UNREADABLE = {
    "key twice": (b"prompt: a\nprompt: b", "found duplicate key prompt"),
    "tab": (b"prompt:\n\tx: 1", "mine.yaml"),
    "open bracket": (b"prompt: [a", "mine.yaml"),
    "no UTF-8": (b"prompt: caf\xe9", "mine.yaml is no text in UTF-8"),
    "defaults of nothing": (b"defaults: 3", "defaults must be a list"),
    "itself": (b"defaults: [mine]", "a file includes itself"),
    "null": (b"hydra: null", "makes a part null"),
    "circle": (b"prompt: ${a}\na: ${prompt}", "(prompt)"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_cannot_be_read_is_one_line(name: str, folder: Path, command_line: Call) -> None:
    data, part = UNREADABLE[name]
    (folder / "evil" / "mine.yaml").write_bytes(b"# @package _global_\n" + data + b"\n")
    refused(command_line("--config-dir", str(folder), "+evil=mine", *WORDS), part)


SWEPT = {
    "setup": ("submitit_slurm", "hydra: {launcher: {setup: [mkdir ran]}}", "hydra.launcher.setup"),
    "parameters of sbatch": (
        "submitit_slurm",
        "hydra: {launcher: {additional_parameters: {wrap: mkdir ran}}}",
        "hydra.launcher.additional_parameters",
    ),
    "two lines": (
        "submitit_slurm",
        'hydra: {launcher: {partition: "a\\nmkdir ran"}}',
        "more than one line",
    ),
    "search space": (
        "calibration",
        "hydra: {sweeper: {custom_search_space: os.mkdir}}",
        "hydra.sweeper.custom_search_space",
    ),
    "sampler": (
        "calibration",
        "hydra: {sweeper: {sampler: {_target_: os.mkdir}}}",
        "hydra.sweeper.sampler._target_",
    ),
    "environment behind an escape": (
        "basic",
        "hydra: {sweeper: {params: {task.name: 'x,\\${oc.env:HOME}'}}}",
        "hydra.sweeper.params.task.name",
    ),
    "environment behind two": (
        "basic",
        "hydra: {sweeper: {params: {prompt: 'choice(\"\\\\\\${oc.env:HOME}\",b)'}}}",
        "hydra.sweeper.params.prompt",
    ),
    "environment by another key": (
        "basic",
        "spare: '\\${oc.env:HOME}'\nhydra: {sweeper: {params: {task.name: '${spare}'}}}",
        "hydra.sweeper.params.task.name",
    ),
    "storage": ("calibration", "hydra: {sweeper: {storage: 'evil://x'}}", "hydra.sweeper.storage"),
}


@pytest.mark.parametrize("name", SWEPT)
def test_a_file_gives_a_sweep_nothing_to_run(name: str, folder: Path, command_line: Call) -> None:
    preset, text, part = SWEPT[name]
    group = "hydra/sweeper" if preset in ("calibration", "basic") else "hydra/launcher"
    (folder / "evil" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    words = ("-m", "--config-dir", str(folder), f"{group}={preset}", "+evil=mine", *WORDS, "seed=1,2")
    refused(command_line(*words), part)


@pytest.mark.parametrize(
    "name",
    [
        "gate/region.yaml",
        "experiment/debug.yaml",
        "ablation/no_dam.yaml",
        "config.yaml",
        "hydra/job_logging/default.yaml",
        "hydra/sweeper/calibration.yaml",
    ],
)
def test_a_file_that_is_never_read_is_refused(name: str, folder: Path, command_line: Call) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("prompt: mine\n")
    refused(command_line("--config-dir", str(folder), *WORDS), f"{name} has the name")


def test_a_job_of_a_sweep_is_checked_before_its_log_is_opened(folder: Path, command_line: Call) -> None:
    (folder / "evil" / "good.yaml").write_text("# @package _global_\nseed: 3\n")
    (folder / "evil" / "bad.yaml").write_text(f"# @package _global_\n{FILES['log handler by factory'][0]}\n")
    refused(command_line("-m", "--config-dir", str(folder), "+evil=good,bad", *WORDS), "job_logging")


def test_a_primary_file_names_no_other_places(folder: Path, command_line: Call) -> None:
    (folder / "mine.yaml").write_text("defaults: [config]\nhydra: {searchpath: ['pkg://antigravity']}\n")
    refused(command_line("--config-dir", str(folder), "--config-name", "mine", *WORDS), "hydra.searchpath")


def test_the_command_line_reads_the_environment_and_hides_what_it_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_PROJECT", "a-name-of-mine")
    config = compose(["model=tiny", "tracker.project=${oc.env:MY_PROJECT}"])
    assert config.tracker.project == "a-name-of-mine"
    assert config.resolved["tracker"]["project"] == "***"
    with pytest.raises(UserError, match="reads the environment"):
        compose(["model=tiny", "tracker.project=${oc.env:MY_PROJECT}"], own=["model=tiny"])


def test_a_harmless_file_of_the_users_own_works_in_a_job_and_in_what_its_study_composes(folder: Path) -> None:
    (folder / "tuned").mkdir()
    (folder / "tuned" / "best.yaml").write_text("# @package _global_\ngate: {tau: 0.31}\n")
    words = ["model=tiny", "+tuned=best"]
    config = application([folder], words).compose_config("config", words, RunMode.RUN)
    assert config.gate.tau == 0.31
    state = HydraConfig.instance()
    before, state.cfg = state.cfg, None
    try:
        state.set_config(config)
        assert compose(words).gate.tau == 0.31
    finally:
        state.cfg = before
    assert os.listdir(folder.parent) == ["files"]


@pytest.mark.parametrize(
    "word",
    [
        "hydra.searchpath=[pkg://evil]",
        "+hydra.searchpath=[file:///tmp]",
        "hydra/launcher=joblib",
        "hydra.run.dir=/tmp/x",
        "prompt=@/etc/hostname",
        "prompt='@/etc/hostname'",
        "inversion.negative_prompt=@secret.txt",
    ],
)
def test_the_words_of_a_studys_rows_look_up_and_read_nothing(word: str) -> None:
    from experiments.core.recompose import with_words

    config = compose(["model=tiny"])
    with pytest.raises(UserError, match="in a file: give it on the command line"):
        with_words(config, [word])
    assert with_words(config, ["prompt=a person", "gate.tau=0.3"]).gate.tau == 0.3


def test_a_variable_to_be_copied_that_is_not_set_is_named() -> None:
    with pytest.raises(UserError, match=r"'NOT_THERE_AT_ALL' is not set \(hydra.job.env_copy\)"):
        compose(["model=tiny", "hydra.job.env_copy=[NOT_THERE_AT_ALL]"])


def test_another_missing_key_is_not_taken_for_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("inner")

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", broken)
    with pytest.raises(KeyError, match="inner"):
        compose(["model=tiny"])
