"""From a command line to a typed configuration; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sow.config.environment import know, without_environment
from sow.config.explain import explain
from sow.config.loader import application
from sow.config.places import CONF as CONF
from sow.config.schema import construct, instantiate
from sow.config.trust import need_of_group, refuse_words
from sow.config.words import PATHS
from sow.errors import MISSING, UserError, unknown
from sow.store.files import place_of
from sow.store.secrets import redact
from sow.types import Bound, SeedNumber, component

if TYPE_CHECKING:
    from sow.attention.decay import DecayInDistance, DecayInTime
    from sow.attention.gate import Gate
    from sow.attention.modulation import Modulation, NoModulation
    from sow.attention.strength import PMinus, PPlus
    from sow.method.cycle import Cycle
    from sow.method.guidance import ClassifierFree, Regional
    from sow.method.inversion import Inversion
    from sow.method.paste_back import PasteBack
    from sow.method.preservation import Preservation
    from sow.method.seed_init import SeedInit
    from sow.metrics import Metrics
    from sow.planner.base import Planner
    from sow.planner.intensify import Intensify
    from sow.planner.position import Position
else:  # running, a group holds whichever component its options name, which `sow.config.trust` has compared
    Metrics = Planner = Position = Intensify = SeedInit = Inversion = Cycle = Preservation = Any
    ClassifierFree = Regional = Modulation = NoModulation = PPlus = PMinus = DecayInTime = DecayInDistance = (
        Any
    )
    Gate = PasteBack = Any


@component("calibration")
class Calibration:
    """Numbers tuned for one model; the components read them by interpolation."""

    omega_plus: float
    omega_minus: float
    tau: float
    unit: str
    t1: float
    t2: float
    cycles: int
    guidance_scale: float
    inversion_guidance_scale: float
    latent_coverage: float | None
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
    """Where results that runs share are kept (`sow.pipeline.cached`): in memory, up to `memory_mb`, and in
    `folder`, up to `folder_mb` (MiB; 0 = no bound); no part of what a run is, because a result found is the
    result that was computed."""

    memory_mb: Annotated[int, Bound(ge=0)]
    folder: Path | None
    folder_mb: Annotated[int, Bound(ge=0)]


Side = Annotated[int | None, Bound(ge=1, le=1_000_000)]
Together = Annotated[int | None, Bound(ge=1, le=1024)]


@component("", eq=False)
class Config:
    """A validated configuration: what every key of it is, and where its values came from.

    A field below is a key: one more group is one more field here and one more line in conf/config.yaml.
    `resolved` is the plain container of every value; `choices` maps a group to its option; `overrides` are
    the words of the command line; both without secrets, for whoever prints or stores them, `values` and
    `words` as they were given, to know what a run is and to compose anew.
    """

    seed: SeedNumber
    prompt: str
    num_inference_steps: Annotated[int, Bound(ge=1, le=1000)]
    height: Side
    width: Side
    batch_size: Together
    force: bool
    calibration: Calibration
    task: Task
    paths: Paths
    cache: Caching
    study: Any
    condition: Any
    planner: Planner
    position: Position
    intensify: Intensify
    seed_init: SeedInit
    inversion: Inversion
    cycle: Cycle
    preservation: Preservation
    guidance: ClassifierFree | Regional
    modulation: Modulation | NoModulation
    p_plus: PPlus
    p_minus: PMinus
    decay_time: DecayInTime
    decay_distance: DecayInDistance
    gate: Gate
    paste_back: PasteBack
    data: Any
    metrics: Metrics
    tracker: Any
    method: Any
    model: Any
    resolved: Mapping[str, Any]
    choices: Mapping[str, str]
    overrides: tuple[str, ...]
    values: Mapping[str, Any] = field(repr=False)
    words: tuple[str, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise UserError("prompt is empty: give prompt=... (prompt)")
        if self.cycle.unit == "steps":  # other positions need the model's levels
            self.cycle.resolve(self.num_inference_steps)
            self.preservation.resolve(self.cycle, self.num_inference_steps)
        if hasattr(self.method, "check"):  # what the other groups must be for it
            self.method.check(self)

    @property
    def ablations(self) -> tuple[str, ...]:
        """Names of the ablations on the command line, in order."""
        words = (o.lstrip("+").partition("=") for o in self.words)
        return tuple(
            n.strip() for key, _, value in words if key == "ablation" for n in value.strip("[]").split(",")
        )


_MADE = ("resolved", "choices", "overrides", "values", "words")  # of a configuration, no keys of it
KEYS = tuple(f.name for f in fields(Config) if f.name not in _MADE)
GROUPS = tuple(name for name, hint in get_type_hints(Config).items() if hint is Any)


def compose(overrides: Sequence[str] = (), own: Sequence[str] | None = None) -> Config:
    """The configuration that `run.py` would run for these command-line words; raises UserError for a bad one.

    Inside a job the user's own folders of configurations are searched as well. `own` are the words that the
    user gave, where others come from a file: those may not read the environment.
    """
    words = [overrides] if isinstance(overrides, str) else list(overrides)
    if own is not None:
        refuse_words(words, own)
    hydra = application(_folders(), words if own is None else own)
    config = hydra.compose_config("config", words, RunMode.RUN, from_shell=False)
    return typed(config, config.hydra.runtime.choices, words)


def _folders() -> list[Path]:
    """Folders of configurations that the running job's command line named."""
    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    return [Path(s.path) for s in sources if "command-line" in s.provider and s.schema == "file"]


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
    hidden = without_environment(resolved, lambda: plain(config))  # before anything is said of a value
    given: dict[str, Any] = dict(resolved)
    for key in _missing(resolved):
        if not key.startswith("condition."):
            raise UserError(f"{key} has no value: give {key}=... ({key})")
        given["condition"] = Ungiven(key)
    for key in PATHS:
        _check_place(resolved, key)
    for name in GROUPS:
        if given[name] is resolved[name]:
            if isinstance(resolved[name], Mapping) and "_target_" in resolved[name]:
                need_of_group(name, resolved[name]["_target_"])
            given[name] = instantiate(resolved[name], name)
    know(resolved)
    given |= {
        "resolved": redact(hidden),
        "values": resolved,
        "choices": {
            str(k): str(v) for k, v in choices.items() if not str(k).startswith("hydra/") and v is not None
        },
        "overrides": tuple(redact(list(overrides))),
        "words": tuple(overrides),
    }
    return construct(Config, given, "")


def _check_place(values: Any, key: str) -> None:
    """Raise UserError for a path of the configuration that lies in the home folder of nobody."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    for path in values if isinstance(values, list) else [values]:
        if isinstance(path, str):
            place_of(path, key)


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as resolved plain containers, without Hydra's own;
    raises UserError where it cannot resolve."""
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
