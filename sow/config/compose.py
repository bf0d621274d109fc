"""From a command line to a typed configuration; nothing here imports torch."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sow.config.places import CONF
from sow.config.schema import MISSING, construct, instantiate, unknown
from sow.errors import UserError
from sow.types import Bound, component

OmegaConf.register_new_resolver("unique", lambda: uuid.uuid4().hex[:6], use_cache=True, replace=True)


@component("calibration")
class Calibration:
    """Numbers tuned for one model; the components read them by interpolation."""

    omega_plus: float
    omega_minus: float
    tau: float
    t1: float
    t2: float
    cycles: int
    guidance_scale: float
    preservation: Mapping[str, Any]
    condition_size: list[int]


@component("task")
class Task:
    """A setting of the benchmark (Sec. V): its name, and the prompt used when none is given."""

    name: str
    prompt: str


@component("paths")
class Paths:
    """Where runs are written; no part of what a run is."""

    outputs: Path


@component("cache")
class Caching:
    """Where results that runs share are kept (`sow.pipeline.cached`): in memory, up to `memory_mb`, and in `folder`, up to
    `folder_mb` (MiB; 0 = no bound); no part of what a run is, because a result found is the result that was computed."""

    memory_mb: Annotated[int, Bound(ge=0)]
    folder: Path | None
    folder_mb: Annotated[int, Bound(ge=0)]


Side = Annotated[int | None, Bound(ge=1)]


@component("", eq=False)
class Config:
    """A validated configuration: what every key of it is, and where its values came from.

    A field below is a key: one more group is one more field here and one more line in conf/config.yaml. `resolved` is
    the plain container of every value; `choices` maps a group to its option; `overrides` are the words of the command
    line.
    """

    seed: Annotated[int, Bound(ge=0, le=2**63 - 1)]
    prompt: str
    num_inference_steps: Annotated[int, Bound(ge=1, le=1000)]
    height: Side
    width: Side
    batch_size: Side
    force: bool
    calibration: Calibration
    task: Task
    paths: Paths
    cache: Caching
    study: Any
    condition: Any
    planner: Any
    position: Any
    intensify: Any
    seed_init: Any
    inversion: Any
    cycle: Any
    preservation: Any
    guidance: Any
    modulation: Any
    p_plus: Any
    p_minus: Any
    decay_time: Any
    decay_distance: Any
    gate: Any
    data: Any
    metrics: Any
    tracker: Any
    method: Any
    model: Any
    resolved: Mapping[str, Any]
    choices: Mapping[str, str]
    overrides: tuple[str, ...]

    def __post_init__(self) -> None:
        self.cycle.resolve(self.num_inference_steps)
        self.preservation.resolve(self.cycle, self.num_inference_steps)
        if hasattr(self.method, "check"):  # what the other groups must be for it
            self.method.check(self)

    @property
    def ablations(self) -> tuple[str, ...]:
        """Names of the ablations on the command line, in order."""
        words = (o.lstrip("+").partition("=") for o in self.overrides)
        return tuple(
            n.strip() for key, _, value in words if key == "ablation" for n in value.strip("[]").split(",")
        )


KEYS = tuple(f.name for f in fields(Config) if f.name not in ("resolved", "choices", "overrides"))
GROUPS = tuple(name for name, hint in get_type_hints(Config).items() if hint is Any)


def compose(overrides: Sequence[str] = ()) -> Config:
    """The configuration that `run.py` would run for these command-line words; raises UserError for a bad one."""
    overrides = [overrides] if isinstance(overrides, str) else list(overrides)
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            config = hydra_compose("config", overrides, return_hydra_config=True)
        choices = dict(config.hydra.runtime.choices)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, overrides)) from error
    return typed(config, choices, overrides)


@dataclass(frozen=True)
class Ungiven:
    """A visual condition whose `key` has no value: it can be composed, not loaded.

    Whoever brings conditions of their own, a caller or a study's data, needs none.
    """

    key: str

    def load(self, seed: int) -> Any:
        """Raises UserError."""
        raise UserError(f"{self.key} has no value: give {self.key}=... ({self.key})")


def typed(config: DictConfig, choices: Mapping[Any, Any], overrides: Sequence[str] = ()) -> Config:
    """Check a composed configuration against the components' types and instantiate them; raises UserError."""
    resolved = plain(config)
    for name in resolved:
        if name not in KEYS:
            raise unknown(str(name), KEYS)
    for name in KEYS:
        if name not in resolved:
            raise UserError(f"{name} is missing from the configuration: do not delete it ({name})")
    given: dict[str, Any] = dict(resolved)
    for key in _missing(resolved):
        if not key.startswith("condition."):
            raise UserError(f"{key} has no value: give {key}=... ({key})")
        given["condition"] = Ungiven(key)
    for name in GROUPS:
        if given[name] is resolved[name]:
            given[name] = instantiate(resolved[name], name)
    given |= {
        "resolved": resolved,
        "choices": {
            str(k): str(v) for k, v in choices.items() if not str(k).startswith("hydra/") and v is not None
        },
        "overrides": tuple(overrides),
    }
    return construct(Config, given, "")


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as resolved plain containers, without Hydra's own; raises UserError where it cannot resolve."""
    names = [name for name in config if name not in ("hydra", "experiment")]
    try:
        masked = OmegaConf.masked_copy(config, names)  # type: ignore[arg-type]
        values = OmegaConf.to_container(masked, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(explain(error, [])) from error
    assert isinstance(values, dict)
    return {str(k): v for k, v in values.items()}


def _missing(node: Any, key: str = "") -> Iterator[str]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _missing(value, f"{key}.{name}" if key else str(name))
    elif node == MISSING:
        yield key


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """One line for an error of Hydra or OmegaConf: the value, the key and the choices."""
    text = str(error)
    option = re.search(r"Could not find '(.+)/([^/']+)'", text)
    if option:
        group, value = option.groups()
        listed = text.partition("Available options")[2].partition("Config search path")[0].partition(":")[2]
        names = ", ".join(listed.split())
        return f"{group}={value} is no option: choose one of {names} ({group})"
    key = re.search(r"Could not (?:override|delete from config\.?) '([^']+)'", text)
    if key:
        name = key.group(1).partition("=")[0]
        return str(unknown(name, _siblings(name, overrides)))
    several = re.search(r"Ambiguous value for argument '(.+?)=(.*)'\n", text)
    if several:
        name, value = several.groups()
        return (
            f"{name}={value} has a comma: quote the value for the shell and for Hydra, \"{name}='...'\", give a list as "
            f"{name}=[...], or sweep with -m ({name})"
        )
    word = re.search(r"Error parsing override '([^']*)'\s*missing EQUAL", text)
    if word:
        return f"{word.group(1)} has no value: give {word.group(1)}=... ({word.group(1)})"
    return " ".join(re.sub(r"(See https|full_key:|object_type=).*", "", text).split())


def _siblings(name: str, overrides: Sequence[str]) -> list[str]:
    """Keys beside `name` in the configuration that the other overrides compose, [] where they compose none."""
    others = [o for o in overrides if o.lstrip("+~").partition("=")[0].partition("@")[0] != name]
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            node: Any = hydra_compose("config", others)
    except (HydraException, OmegaConfBaseException):
        return []
    parent = ""
    for part in name.split(".")[:-1]:
        if not OmegaConf.is_dict(node) or part not in node:
            break
        node, parent = node[part], f"{parent}{part}."
    names = list(node) if OmegaConf.is_dict(node) else []
    return [f"{parent}{n}" for n in names if n not in ("_target_", "hydra", "experiment")]
