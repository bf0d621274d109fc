"""Hydra's loader of configurations with this project's reading of words, and its refusal of what a file may
not run.

A part of Hydra that is not public (hydra-core 1.3, to which pyproject.toml holds it): a subclass is the one
place that every composition passes, of a run, of each job of a sweep in whatever process, and of `compose`.
"""

from __future__ import annotations

import os
import re
import traceback
import uuid
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import hydra
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sow.config.environment import know
from sow.config.explain import explain
from sow.config.places import CONF
from sow.config.trust import SWEEPERS, refuse_foreign, refuse_search_path
from sow.config.words import from_sweeper, read
from sow.errors import UserError
from sow.store.files import place_of
from sow.store.fingerprint import sha256
from sow.store.secrets import redact

OmegaConf.register_new_resolver("unique", lambda: uuid.uuid4().hex[:6], use_cache=True, replace=True)
# `${sized:16,128}`: 16, and 128 where the same group has `full: true`.
OmegaConf.register_new_resolver(
    "sized", lambda small, large, *, _parent_: large if _parent_.full else small, replace=True
)

# What Hydra raises for files that it cannot read or lay over each other: besides its own, of the parser of
# YAML, of a text that is not UTF-8, of a defaults list that is none or names itself, of a part that is null.
UNREADABLE = (
    HydraException,
    OmegaConfBaseException,
    YAMLError,
    OSError,
    ValueError,
    RecursionError,
    AttributeError,
)


HYDRA = Path(hydra.__file__).parent / "conf"
MOST_JOBS = 100_000  # of a sweep, whose words are all made before the first
EDGES = "[]{}'\" "  # of a value, no part of its folder's name


class Loader(ConfigLoaderImpl):
    """Composes from conf/ and `folders`, the user's own;
    `own` are the words of the command line, which are trusted."""

    def __init__(self, folders: Sequence[Path], own: Sequence[str], conf: str = str(CONF)) -> None:
        version.setbase("1.3")
        search_path = create_config_search_path(conf)
        for folder in folders:
            if not folder.is_dir():
                raise UserError(f"{folder} is no folder of configurations (--config-dir)")
            search_path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
        super().__init__(search_path)
        for folder in folders:
            refuse_shadowed(folder, Path(conf))
        self.folders, self.own = [CONF, *folders], list(own)

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """A composed configuration that runs nothing but components;
        raises UserError for one that cannot be had."""
        words = read(overrides, self.folders)
        try:
            if config_name is not None and (primary := self.repository.load_config(config_name)) is not None:
                refuse_search_path(primary.config, self.own)
            config = super().load_configuration(
                config_name, words, run_mode, from_shell, validate_sweep_overrides
            )
            mode = config.hydra.mode
        except UserError:
            raise
        except KeyError as error:
            if isinstance(error, OmegaConfBaseException):
                raise UserError(explain(error, words, self._beside)) from error
            frame = list(traceback.walk_tb(error.__traceback__))[-1][0]
            # A variable of env_copy is all that Hydra looks up in os.environ.
            if frame.f_code is not type(os.environ).__getitem__.__code__:
                raise
            raise UserError(f"the variable {error} is not set (hydra.job.env_copy)") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{self._not_text()} is no text in UTF-8 (--config-dir)") from error
        except UNREADABLE as error:
            raise UserError(explain(error, words, self._beside)) from error
        know(OmegaConf.to_container(config, resolve=False))
        refuse_foreign(config, self.own, words)
        refuse_several(config)
        self._check_mappings(config, words)
        _at_home(config)
        if run_mode == RunMode.RUN and mode == RunMode.MULTIRUN and "hydra.mode=MULTIRUN" not in words:
            raise UserError("hydra.mode=MULTIRUN in a file does not start a sweep: add -m (hydra.mode)")
        if run_mode == RunMode.MULTIRUN:
            self._check_sweeps(words)
            _check_objective(config)
        return config

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The configuration of a job of a sweep."""
        escaped = master_config.hydra.sweeper._target_ == SWEEPERS[0]
        words = [from_sweeper(word, escaped) for word in sweep_overrides]
        config = super().load_sweep_config(master_config, words)
        parser = OverridesParser.create(config_loader=self)
        given = parser.parse_overrides(list(master_config.hydra.overrides.task))
        fixed = {o.get_key_element() for o in given if not o.is_sweep_override()}
        varied = [word for word in words if word.partition("=")[0] not in fixed]
        with flag_override(config, ["struct", "readonly"], False):
            config.hydra.job.override_dirname = folder_name(varied or words)
        return config

    def _check_sweeps(self, words: Sequence[str]) -> None:
        """A sweep over nothing would run nothing, and say that all is well; one over too much would fill the
        memory with words before its first job."""
        jobs = 1
        for override in OverridesParser.create(config_loader=self).parse_overrides(list(words)):
            if not override.is_discrete_sweep():
                continue
            key = override.get_key_element()
            count = sum(1 for _ in islice(override.sweep_string_iterator(), MOST_JOBS + 1))
            if count == 0:
                raise UserError(f"{override.input_line} holds no value: name those to sweep over ({key})")
            jobs *= count
            if jobs > MOST_JOBS:
                raise UserError(
                    f"{override.input_line} makes a sweep of more than {MOST_JOBS:,} jobs: name fewer values "
                    f"({key})"
                )

    def _check_mappings(self, config: DictConfig, words: Sequence[str]) -> None:
        """Raise UserError for an empty mapping, which Hydra lays over what is there without a trace."""
        for override in OverridesParser.create(config_loader=self).parse_overrides(list(words)):
            for key in _empty_mappings(override.key_or_group, override.value()):
                if OmegaConf.is_dict(found := OmegaConf.select(config, key)) and len(found):
                    raise UserError(
                        f"{override.input_line} changes nothing, as a mapping is laid over what is there: "
                        f"take parts away with ~{key}.{next(iter(found))} ({key})"
                    )

    def _not_text(self) -> str:
        """The first configuration file that is no UTF-8."""
        for folder in self.folders:
            for file in sorted(folder.rglob("*.yaml")):
                try:
                    file.read_text(encoding="utf-8")
                except UnicodeDecodeError:
                    return str(file)
                except OSError:
                    continue
        return "a file of configurations"

    def _beside(self, words: Sequence[str]) -> DictConfig | None:
        """What the words compose to, to name the keys there are; None where they compose nothing."""
        try:
            return super().load_configuration("config", list(words), RunMode.RUN)
        except UNREADABLE:
            return None


def refuse_several(config: DictConfig) -> None:
    """Raise UserError for a group of which a file names a list of options: they would be merged."""
    for group in config.keys() - config.hydra.runtime.choices.keys():
        options = sorted(file.stem for file in (CONF / str(group)).glob("*.yaml"))
        if options:
            raise UserError(
                f"{group} is given a list of options in a file, and takes one: choose one of "
                f"{', '.join(options)} ({group})"
            )


def _empty_mappings(key: str, value: Any) -> Iterator[str]:
    """The keys below `key` at which a value holds a mapping without parts."""
    if isinstance(value, Mapping):
        if not value:
            yield key
        for name, part in value.items():
            yield from _empty_mappings(f"{key}.{name}", part)


def _at_home(config: DictConfig) -> None:
    """Folders below "~", which Hydra would make under that name, are written out; raises UserError for the
    home of nobody and for a configuration that names no folder at all."""
    for key in ("paths.outputs", "hydra.run.dir", "hydra.sweep.dir"):
        parent, _, last = key.rpartition(".")
        section = OmegaConf.select(config, parent)
        values: Any = OmegaConf.to_container(section, resolve=False) if OmegaConf.is_dict(section) else {}
        if values.get(last) is None:
            raise UserError(f"{key} has no value: give {key}=FOLDER, or leave {parent} as it is ({key})")
        if str(values[last]).startswith("~"):
            with flag_override(config, ["struct", "readonly"], False):
                section[last] = str(place_of(str(values[last]), key))


def refuse_shadowed(folder: Path, conf: Path) -> None:
    """Raise UserError for a file of the user's that is never read, because one of its name comes first."""
    for first in (conf, HYDRA):
        for file in first.rglob("*.yaml"):
            name = file.relative_to(first)
            if (folder / name).exists() and not (folder / name).samefile(file):
                raise UserError(
                    f"{folder / name} has the name of a configuration of {first.parent.name}'s own, which is "
                    "read in its place: rename it (--config-dir)"
                )


def folder_name(words: Sequence[str]) -> str:
    """What a job of a sweep is called on the disk: its own words, without secrets, in letters that every
    system and Hydra's grammar take; 90 at most, longer ones end in a part of their hash. Not unique: the
    job's number is."""
    pairs = [word.lstrip("+~").partition("=")[::2] for word in redact(words)]
    told = "_".join(f"{key}-{value.strip(EDGES)}" for key, value in pairs) or "default"
    name = re.sub(r"[^\w.-]+", "-", told, flags=re.ASCII)
    return name if len(name) <= 90 else f"{name[:81]}-{sha256(told)[:8]}"


def application(folders: Sequence[Path] = (), own: Sequence[str] = (), conf: str = str(CONF)) -> Hydra:
    """Hydra's own application around our loader, which composes, and runs jobs in folders of their own."""
    return Hydra(task_name="run", config_loader=Loader(folders, own, conf))


def _check_objective(config: DictConfig) -> None:
    """An Optuna sweep without an objective would run every trial and end in a traceback."""
    if config.hydra.sweeper._target_ not in SWEEPERS[1:]:
        return
    objective: Any = OmegaConf.select(config, "hydra.callbacks.trials.objective")
    if not objective:
        raise UserError(
            "hydra/sweeper=optuna has nothing to minimise: take hydra/sweeper=calibration, or give "
            "'+hydra.callbacks.trials={_target_: sow.config.sweeping.Trials, objective: [failure]}' "
            "(hydra.callbacks.trials.objective)"
        )
