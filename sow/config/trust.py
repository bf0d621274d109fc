"""What a configuration may run: a file from someone else runs nothing but this project's components.

Everything that Hydra, its plugins and Python's logging would import or execute is compared with an exact list
before any of it is instantiated. What the command line itself says is the user's own where no list is
possible: commands of a launcher, variables of the environment, places of configuration files.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from sow.config.environment import unhidden
from sow.config.logs import LOG_FILE, check_log, check_value
from sow.config.places import CONF
from sow.errors import UserError
from sow.store.secrets import hide_variable

PLUGINS = "hydra_plugins.hydra_"
LAUNCHERS = (
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    f"{PLUGINS}joblib_launcher.joblib_launcher.JoblibLauncher",
    f"{PLUGINS}submitit_launcher.submitit_launcher.LocalLauncher",
    f"{PLUGINS}submitit_launcher.submitit_launcher.SlurmLauncher",
)
SWEEPERS = (
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    f"{PLUGINS}optuna_sweeper.optuna_sweeper.OptunaSweeper",
)
SAMPLERS = tuple(
    f"optuna.samplers.{name}Sampler" for name in ("Grid", "TPE", "Random", "CmaEs", "NSGAII", "MOTPE")
)
CALLBACKS = ("sow.config.sweeping.Trials", "sow.runs.folders.OwnFolders")
TARGETS = {
    "hydra.launcher._target_": LAUNCHERS,
    "hydra.sweeper._target_": SWEEPERS,
    "hydra.sweeper.sampler._target_": SAMPLERS,
}
WRITTEN_BY_HYDRA = (
    "hydra.overrides.",
    "hydra.job.override_dirname",
)  # the words, which `_check_words` compares
NAMES = ("hydra.job.name", "hydra.output_subdir")  # of files and folders within a job's own
FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
LONGEST_NAME = 150  # bytes of a file within a job's folder
RESOLVERS = (
    *("now", "unique", "sized", "hydra", "python_version"),
    *("oc.select", "oc.dict.keys", "oc.dict.values"),
)
LITERAL = (
    "hydra.job_logging.",
    "hydra.hydra_logging.",
    "hydra.callbacks.",
)  # no interpolation hides a value there
WHOLE = (
    "hydra",
    "hydra.job",
    "hydra.launcher",
    "hydra.sweeper",
    "hydra.sweeper.sampler",
    *(k[:-1] for k in LITERAL),
)
# Keys of Hydra's that run a command, import a name, or change what the process and its children run.
COMMANDS = (
    "hydra.launcher.setup",
    "hydra.launcher.python",
    "hydra.launcher.srun_args",
    "hydra.launcher.additional_parameters",
    "hydra.sweeper.custom_search_space",
    "hydra.job.env_copy",
    "hydra.job.env_set",
)


# Where a secret or a run goes, and which: a stranger's file decides neither. What conf/ itself says passes.
SENDING = ("planner.base_url", "planner.api_key_env", "tracker.entity")


@cache
def components(group: str = "*") -> frozenset[str]:
    """Every `_target_` that conf/ names, in the options of one group or of all."""
    files = (file for file in CONF.glob(f"{group}/*.yaml") if file.parent.name != "hydra")
    return frozenset(t for file in files for t in re.findall(r"_target_: *([\w.]+)", file.read_text()))


def refuse_foreign(config: DictConfig, words: Sequence[str], composed: Sequence[str]) -> None:
    """Raise UserError for the first thing in a composed configuration that is on no list; nothing is resolved
    or run.

    `words` are the user's own, of the command line; `composed` those that the configuration was made of.
    """
    _check_words(config, composed)
    for key, value in _walk(OmegaConf.to_container(config, resolve=False), ""):
        if key.startswith(WRITTEN_BY_HYDRA):
            continue
        name = key.rpartition(".")[2]
        text = isinstance(value, str) and value
        if name == "_target_":
            _check_target(key, value)
        if text and "${" in text:
            _check_resolvers(key, text, words)
            if key.startswith("hydra.sweeper.params.") and not any(text in word for word in words):
                raise UserError(  # Hydra resolves it twice, so that no escape keeps it from the environment
                    f"{key}={text!r} stands for another value: write the value itself ({key})"
                )
            if key in WHOLE or (key.startswith(LITERAL) and text != LOG_FILE):
                raise UserError(f"{key}={text!r} stands for another value: write the value itself ({key})")
        if key.startswith(LITERAL[:2]):
            check_value(key, name, value)
    for section in LITERAL[:2]:
        log: Any = OmegaConf.to_container(config.hydra[section[6:-1]])
        check_log(section[:-1], log)
    _check_names(config)
    _check_files(config)
    _check_commands(config, words)
    _check_sending(config, words)
    _check_batch_script(config)


def refuse_search_path(primary: Any, words: Sequence[str]) -> None:
    """Raise UserError for a primary configuration that names places of other
    configurations, which are imported."""
    found = OmegaConf.select(primary, "hydra.searchpath") if OmegaConf.is_dict(primary) else None
    if found and not _given("hydra.searchpath", words):
        raise UserError(
            f"hydra.searchpath={list(found)} in a file: give it on the command line, as "
            "hydra.searchpath=[...] or --config-dir DIR (hydra.searchpath)"
        )


def refuse_words(words: Sequence[str], own: Sequence[str]) -> None:
    """Raise UserError for words of a file (a study's rows) that only the user's own command line may hold:
    they read a file, or set what Hydra itself looks up, writes and runs."""
    for word in words:
        key, _, value = word.lstrip("+~").partition("=")
        if word not in own and (key.startswith("hydra") or value.lstrip(" '\"").startswith("@")):
            raise UserError(f"{word!r} in a file: give it on the command line ({key})")


def _walk(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Every key below `node` with its value; an element of a list is keyed by its place."""
    parts: Any = node.items() if isinstance(node, Mapping) else enumerate(node)
    for name, value in parts:
        inner = f"{key}.{name}" if key else str(name)
        yield inner, value
        if isinstance(value, (Mapping, list)):
            yield from _walk(value, inner)


def need_of_group(group: str, target: Any) -> None:
    """Raise UserError for a `_target_` that no option of the group has."""
    if target not in (own := components(group)):
        raise UserError(
            f"{target!r} is of another group: choose one of {', '.join(sorted(own))} ({group}._target_)"
        )


def _check_words(config: DictConfig, composed: Sequence[str]) -> None:
    """A file adds nothing to the words that Hydra keeps, which the jobs of a sweep are composed of."""
    kept: Any = OmegaConf.to_container(config.hydra.overrides, resolve=False)
    for part, words in kept.items():
        for word in words:
            if word not in composed:
                raise UserError(
                    f"hydra.overrides.{part} holds {word!r}, which is no word of the command line: remove it "
                    f"(hydra.overrides.{part})"
                )


def _check_target(key: str, target: Any) -> None:
    if not isinstance(target, str):
        raise UserError(f"{target!r} is no name of a component: choose an option of the group ({key})")
    allowed = TARGETS.get(key, CALLBACKS if key.startswith("hydra.callbacks.") else ())
    if key.startswith("hydra."):
        if target not in allowed:
            cure = f"choose one of {', '.join(allowed)}" if allowed else f"remove {key}"
            raise UserError(f"{target!r} is not what a configuration may run: {cure} ({key})")
    elif target not in components():
        raise UserError(
            f"{target!r} is not a component of this project: choose an option of the group ({key})"
        )
    elif key.count(".") == 1:
        need_of_group(key.partition(".")[0], target)


def _check_resolvers(key: str, text: str, words: Sequence[str]) -> None:
    """Interpolations of keys and of harmless resolvers pass;
    the environment is read for the command line alone."""
    own = any(text in word for word in words)
    for found in re.finditer(r"(\\*)\$\{\s*([^:{}$]*)(?=([:$]?))", text):
        if len(found[1]) % 2 or not found[3]:  # escaped, or the place of a key
            continue
        name = found[2].strip()
        if own:
            if name == "oc.env":
                hide_variable(re.split(r"[,}]", text[found.end() + 1 :], maxsplit=1)[0].strip(" '\""))
        elif found[3] == "$" or name not in RESOLVERS:
            what = "the environment" if name == "oc.env" else f"the resolver {name}" if name else "a resolver"
            raise UserError(
                f"{key}={text!r} reads {what} in a file: write the value, or give {key}=... on the command "
                f"line ({key})"
            )


def _check_names(config: DictConfig) -> None:
    """A folder's or file's name cannot be hidden; a file's is short enough for every system."""
    for key in (*FOLDERS, *NAMES):
        parent, _, last = key.rpartition(".")
        if not OmegaConf.is_dict(around := OmegaConf.select(config, parent)):
            raise UserError(f"{parent} is no section of settings: leave it as it is ({parent})")
        text = str(OmegaConf.to_container(around, resolve=False)[last])  # type: ignore[call-overload,index]
        if (name := unhidden(text)) is not None:
            raise UserError(
                f"{key}={text} reads the variable {name}, which the name of a folder or file cannot hide: "
                f"write the value, or name an existing folder in the variable ({key})"
            )
        if key in NAMES and len(text.encode()) > LONGEST_NAME:
            raise UserError(
                f"{key} has a name of {len(text.encode())} bytes: give at most {LONGEST_NAME} ({key})"
            )


def _check_files(config: DictConfig) -> None:
    """What Hydra writes for a job lies in the job's folder, of which no other job takes anything away."""
    for key in NAMES:
        name = str(OmegaConf.select(config, key))
        if name in ("", ".", "..") or re.search(r"[/\\]", name):
            raise UserError(f"{key}={name!r} is no name of a file: give one without a folder ({key})")
    if OmegaConf.select(config, "hydra.callbacks.folders._target_") != CALLBACKS[1]:
        raise UserError(
            f"hydra.callbacks.folders is not {CALLBACKS[1]}, which keeps runs apart: leave it as it is "
            "(hydra.callbacks.folders)"
        )
    for name, callback in config.hydra.callbacks.items():
        if "_target_" not in (callback or {}):
            raise UserError(f"hydra.callbacks.{name} has no _target_: remove it (hydra.callbacks.{name})")
    _check_verbose(config.hydra.verbose)
    for key in ("hydra.launcher", "hydra.sweeper"):
        if not OmegaConf.is_dict(found := OmegaConf.select(config, key)):
            value = "null" if found is None else found
            raise UserError(
                f"{key} is {value}: leave it out, or choose an option of {key.replace('.', '/')}=.. ({key})"
            )


def _check_verbose(verbose: Any) -> None:
    names = list(verbose) if isinstance(verbose, ListConfig) else [verbose]
    for name in [] if isinstance(verbose, bool) else names:
        first = name.partition(".")[0] if isinstance(name, str) else ""
        if not first.isidentifier() or (first != "root" and importlib.util.find_spec(first) is None):
            raise UserError(
                f"hydra.verbose={verbose} is neither true, false nor names of loggers like sow.planner "
                "(hydra.verbose)"
            )


def _check_commands(config: DictConfig, words: Sequence[str]) -> None:
    ours = {
        "hydra.launcher.additional_parameters": {"requeue": True}
    }  # conf/hydra/launcher/submitit_slurm.yaml
    for key in COMMANDS:
        found = OmegaConf.select(config, key)
        value = OmegaConf.to_container(found, resolve=False) if OmegaConf.is_config(found) else found
        if value and value != ours.get(key) and not _given(key, words):
            raise UserError(
                f"{key}={value!r} in a file would change what is run: give it on the command line ({key})"
            )
    storage = OmegaConf.select(config, "hydra.sweeper.storage")
    if isinstance(storage, str) and not storage.startswith("sqlite:///"):
        raise UserError(f"hydra.sweeper.storage={storage} is no sqlite:///FILE (hydra.sweeper.storage)")


def _check_sending(config: DictConfig, words: Sequence[str]) -> None:
    """The key of a planner and the runs of a tracker go where the command line says, or nowhere new."""
    for key in SENDING:
        group, name = key.split(".")
        value = OmegaConf.select(config, key)
        if value is not None and value not in _own_values(group, name) and not _given(key, words):
            raise UserError(
                f"{key} in a file would send what is yours where the file says: give {key}=... on the "
                f"command line ({key})"
            )


@cache
def _own_values(group: str, name: str) -> frozenset[Any]:
    """What conf/ gives a field of a group's options."""
    loaded = (OmegaConf.load(file) for file in CONF.glob(f"{group}/*.yaml"))
    return frozenset(config.get(name) for config in loaded if isinstance(config, DictConfig))


def _check_batch_script(config: DictConfig) -> None:
    """A launcher writes its values into the lines of a script."""
    for key, value in (
        ("hydra.job.name", OmegaConf.select(config, "hydra.job.name")),
        *((f"hydra.launcher.{name}", value) for name, value in config.hydra.launcher.items_ex(resolve=True)),
    ):
        if re.search(r"[\r\n\0]", str(value)):
            raise UserError(f"{key}={value!r} has more than one line, which a batch script would run ({key})")


def _given(key: str, words: Sequence[str]) -> bool:
    """Whether the command line itself sets `key` or a part of it."""
    names = (word.lstrip("+~").partition("=")[0] for word in words)
    return any(name == key or name.startswith(f"{key}.") for name in names)
