"""Where a run is told to others. The run folder is the truth; a tracker only sends what lies there."""

from __future__ import annotations

import contextlib
import logging
import netrc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from PIL import Image

    from sow.config import Config

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What a tracker is told about a run: its folder, its configuration, and the multirun it belongs to."""

    folder: Path
    config: Config
    group: str | None = None
    git: str | None = None


class Tracked(Protocol):
    """A run that is being told; none of this ever raises."""

    def history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows over the steps of the run, in order."""
        ...

    def images(self, images: Mapping[str, Image.Image | Path]) -> None:
        """Pictures by name."""
        ...

    def summary(self, values: Mapping[str, Any]) -> None:
        """The run's numbers."""
        ...

    def finish(self, exit_code: int) -> None:
        """Close the run; a code other than 0 marks it as failed."""
        ...


@dataclass(frozen=True)
class NoTracker:
    """Tells nobody."""

    def start(self, job: Job) -> Tracked:
        """A run that goes nowhere."""
        return Silent()


class Silent:
    """The null object of `Tracked`."""

    def history(self, rows: Sequence[Mapping[str, Any]]) -> None: ...

    def images(self, images: Mapping[str, Image.Image | Path]) -> None: ...

    def summary(self, values: Mapping[str, Any]) -> None: ...

    def finish(self, exit_code: int) -> None: ...


@dataclass(frozen=True)
class Wandb:
    """Weights & Biases: one W&B run a job, inside the run folder.

    `mode` auto is online where a login is found (WANDB_API_KEY or the netrc entry of the server) and offline elsewhere;
    WANDB_MODE in the environment wins. A failure of W&B never stops a job: it becomes one warning.
    """

    project: str
    entity: str | None
    mode: Literal["auto", "online", "offline"]

    def start(self, job: Job) -> Tracked:
        """Open the W&B run; when that fails, warn and tell nobody."""
        mode = os.environ.get("WANDB_MODE") or (
            ("online" if logged_in() else "offline") if self.mode == "auto" else self.mode
        )
        try:
            return WandbRun(job.folder, lambda: self._init(job, mode))
        except Exception as error:
            log.warning("W&B did not start, this run is on disk only: %s", _line(error))
            return Silent()

    def _init(self, job: Job, mode: str) -> Any:
        import wandb

        config = job.config
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_save_requirements=False,  # the manifest holds the versions
            init_timeout=30,
        )
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=mode,  # type: ignore[arg-type]
            dir=job.folder,
            group=job.group,
            job_type=config.choices["study"],
            name=name(job),
            tags=tags(config),
            config={
                **config.resolved,
                "choices": dict(config.choices),
                "overrides": list(config.overrides),
                "git": job.git,
            },
            reinit="create_new",
            settings=settings,
        )
        run.define_metric("*", step_metric="step")
        return run


@dataclass
class WandbRun:
    """An open W&B run whose files all lie below `folder`."""

    folder: Path
    init: Callable[[], Any]
    run: Any = field(init=False)

    def __post_init__(self) -> None:
        with _inside(self.folder):
            self.run = self.init()

    def history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """One history row a step; text columns are left to trace.parquet."""
        with self._guard("history"):
            for step, row in enumerate(rows):
                self.run.log({"step": step, **{k: v for k, v in row.items() if isinstance(v, (int, float))}})

    def images(self, images: Mapping[str, Image.Image | Path]) -> None:
        """Pictures of the run."""
        with self._guard("images"):
            import wandb

            media = {n: wandb.Image(str(i) if isinstance(i, Path) else i) for n, i in images.items()}
            self.run.log(media)

    def summary(self, values: Mapping[str, Any]) -> None:
        """The summary: the numbers of the table."""
        with self._guard("summary"):
            self.run.summary.update({k: v for k, v in values.items() if v is not None})

    def finish(self, exit_code: int) -> None:
        """Finish the W&B run as done (0) or failed."""
        with self._guard("finish"):
            self.run.finish(exit_code=exit_code)

    @contextlib.contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        try:
            with _inside(self.folder):
                yield
        except Exception as error:
            log.warning("W&B lost the %s of this run, which is on disk: %s", what, _line(error))


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """W&B's folders below the run folder: pictures staged elsewhere would miss a later `wandb sync`."""
    places = {
        "WANDB_DIR": folder,
        "WANDB_DATA_DIR": folder / "wandb" / "data",
        "WANDB_CACHE_DIR": folder / "wandb" / "cache",
    }
    before = {name: os.environ.get(name) for name in places}
    os.environ.update({name: str(place) for name, place in places.items()})
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def logged_in() -> bool:
    """Whether a key for the W&B server is at hand; the key itself is not kept."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def tags(config: Config) -> list[str]:
    """Options of the groups that people filter by, and the ablations; W&B takes 64 letters a tag."""
    chosen = [
        f"{group}:{config.choices[group]}"
        for group in ("method", "model", "task", "planner")
        if group in config.choices
    ]
    return [
        tag[:64] for tag in (*chosen, *config.ablations, *filter(None, [config.choices.get("experiment")]))
    ]


def name(job: Job) -> str:
    """What distinguishes the run for a reader: its overrides, else the method."""
    words = [
        o.lstrip("+")
        for o in job.config.overrides
        if not o.startswith(("tracker", "paths", "force", "hydra"))
    ]
    return " ".join(words)[:120] or str(job.config.choices["method"])


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
