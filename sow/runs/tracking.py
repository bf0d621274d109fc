"""Where a run is sent. The run folder is the truth; a tracker only sends what lies there."""

from __future__ import annotations

import contextlib
import logging
import netrc
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol
from urllib.parse import urlsplit

from sow.errors import UserError
from sow.runs.wandb_sync import Uploads
from sow.store.secrets import HIDDEN, redact
from sow.types import Bound, component

if TYPE_CHECKING:
    from PIL import Image

    from sow.config.compose import Config

log = logging.getLogger(__name__)
MODES = (
    "online",
    "offline",
    "disabled",
    "run",
    "dryrun",
)  # the last two are W&B's old words for the first two


@dataclass(frozen=True)
class Job:
    """What a tracker gets of a run: its folder, its configuration, and the sweep it belongs to.

    `repeats` is the folder of the complete run for which this one was skipped.
    """

    folder: Path
    config: Config
    group: str | None = None
    git: str | None = None
    repeats: Path | None = None


class Tracked(Protocol):
    """A run that is being tracked; none of this ever raises."""

    def history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows over the steps of the run, in order."""
        ...

    def images(self, images: Mapping[str, Image.Image | Path]) -> None:
        """Pictures by name: the drawn plan, the image after each cycle, a study's figures."""
        ...

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows to be sorted and filtered; a PIL image or the path of a picture becomes a picture."""
        ...

    def summary(self, values: Mapping[str, Any]) -> None:
        """The run's numbers."""
        ...

    def finish(self, exit_code: int) -> None:
        """Close the run; a code other than 0 marks it as failed."""
        ...


@component("tracker")
class NoTracker:
    """Sends nothing."""

    def check(self) -> None: ...

    def start(self, job: Job) -> Tracked:
        """A run that goes nowhere."""
        return Silent()


class Silent:
    """The null object of `Tracked`."""

    def history(self, rows: Sequence[Mapping[str, Any]]) -> None: ...

    def images(self, images: Mapping[str, Image.Image | Path]) -> None: ...

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None: ...

    def summary(self, values: Mapping[str, Any]) -> None: ...

    def finish(self, exit_code: int) -> None: ...


@component("tracker")
class Wandb:
    """Weights & Biases: one W&B run per job, inside the run folder.

    Every run is written offline, so that no server can stop or slow a job. `mode` auto is online if a login
    is found (WANDB_API_KEY or the netrc entry of the server) and offline else; WANDB_MODE in the environment
    wins. Online means that a detached process of `sow.runs.wandb_sync` uploads the finished run within
    `upload_seconds`; after a failure the next attempt is made by a job that ends `pause_seconds` or more
    later, or by `wandb sync`. A failure of W&B never stops a job: it becomes one warning.
    """

    project: str
    entity: str | None
    mode: Literal["auto", "online", "offline"]
    upload_seconds: Annotated[float, Bound(gt=0)]
    pause_seconds: Annotated[float, Bound(ge=0)]

    def check(self) -> None:
        """Raises UserError for a mode in the environment that W&B does not know."""
        mode = os.environ.get("WANDB_MODE")
        if mode and mode not in MODES:
            raise UserError(f"WANDB_MODE={mode} is not one of {', '.join(MODES)} (WANDB_MODE, tracker.mode)")

    def start(self, job: Job) -> Tracked:
        """Open the W&B run; if that fails, warn and send nothing."""
        mode = os.environ.get("WANDB_MODE") or self.mode
        if mode == "auto":
            mode = "online" if logged_in() else "offline"
        if mode == "disabled":
            return Silent()
        for name in ("project", "entity"):
            if HIDDEN in str(job.config.resolved["tracker"].get(name)):
                log.warning("W&B's own files and pages name what the environment gives (tracker.%s)", name)
        try:
            earlier = forget_unfinished(job.folder)
            uploads = None
            if mode not in ("offline", "dryrun"):
                place = job.config.paths.outputs / ".index" / "uploads"
                uploads = Uploads(place.resolve(), self.upload_seconds, self.pause_seconds)
            return WandbRun(job.folder, lambda: self._init(job, earlier), uploads)
        except Exception as error:
            log.warning("W&B did not start, this run is on disk only: %s", _line(error))
            return Silent()

    def _init(self, job: Job, run_id: str | None) -> Any:
        import wandb

        config = job.config
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_save_requirements=False,  # the manifest holds the versions
        )
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode="offline",
            id=os.environ.get("WANDB_RUN_ID") or run_id,
            dir=job.folder,
            group=job.group,
            job_type=config.choices["study"],
            name=name(job),
            tags=[*tags(config), *(["repeated"] if job.repeats else [])],
            notes=f"repeats {run_name(job.repeats)}" if job.repeats else None,
            config={
                **config.resolved,
                "choices": dict(config.choices),
                "overrides": list(config.overrides),
                "git": job.git,
                **({"repeats": run_name(job.repeats)} if job.repeats else {}),
            },
            reinit="create_new",
            settings=settings,
        )
        run.define_metric("*", step_metric="step")
        return run


def forget_unfinished(folder: Path) -> str | None:
    """Remove what a killed attempt at this run left of W&B's files; the id of its W&B run,
    which is to be the same."""
    runs = sorted((folder / "wandb").glob("offline-run-*"))
    if not runs:
        return None
    shutil.rmtree(folder / "wandb", ignore_errors=True)
    return runs[-1].name.rpartition("-")[2]


@dataclass
class WandbRun:
    """An open W&B run whose files all lie below `folder`; with `uploads` it is handed over at its end."""

    folder: Path
    init: Callable[[], Any]
    uploads: Uploads | None = None
    run: Any = field(init=False)

    def __post_init__(self) -> None:
        with _inside(self.folder):
            self.run = self.init()

    def history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """One history row per step; text columns are left to trace.parquet."""
        with self._guard("history"):
            numbers = [{k: v for k, v in row.items() if isinstance(v, (int, float))} for row in rows]
            for name in dict.fromkeys(key for row in numbers for key in ("step", *row)):
                # Its last value is no result: the summary is `summary`'s.
                self.run.define_metric(name, step_metric=None if name == "step" else "step", summary="none")
            for step, row in enumerate(numbers):
                self.run.log({"step": step, **row})

    def images(self, images: Mapping[str, Image.Image | Path]) -> None:
        """Pictures of the run."""
        with self._guard("images"):
            import wandb

            _make_scratch()
            media = {n: wandb.Image(str(i) if isinstance(i, Path) else i) for n, i in images.items()}
            self.run.log(media)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """A W&B table; its columns are the union of the rows' keys, in order of appearance."""
        with self._guard(f"table {name}"):
            import wandb

            _make_scratch()
            columns = list(dict.fromkeys(key for row in rows for key in row))
            cells = [[_cell(row.get(column)) for column in columns] for row in redact(list(rows))]
            self.run.log({name: wandb.Table(columns=columns, data=cells, allow_mixed_types=True)})

    def summary(self, values: Mapping[str, Any]) -> None:
        """The summary: the numbers of the table."""
        with self._guard("summary"):
            self.run.summary.update(redact({k: v for k, v in values.items() if v is not None}))

    def finish(self, exit_code: int) -> None:
        """Finish the W&B run as done (0) or failed, and hand it over to be uploaded."""
        with self._guard("finish"):
            written = Path(self.run.settings.sync_dir)
            self.run.finish(exit_code=exit_code)
            if self.uploads is not None:
                self.uploads.add(written)
                if os.environ.get("WANDB_SWEEP_ID"):  # a sweep's server chooses the next run by this one
                    self.uploads.wait(written)

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
    """Options of the groups that people filter by, and the ablations; W&B takes 64 letters per tag."""
    groups = ("method", "model", "task", "planner")
    chosen = [f"{group}:{config.choices[group]}" for group in groups if group in config.choices]
    experiment = config.choices.get("experiment")
    return [tag[:64] for tag in (*chosen, *config.ablations, *([experiment] if experiment else []))]


def name(job: Job) -> str:
    """What distinguishes the run for a reader: its overrides, else the method."""
    words = [
        o.lstrip("+")
        for o in job.config.overrides
        if not o.startswith(("tracker", "paths", "force", "hydra"))
    ]
    return " ".join(words)[:120] or str(job.config.choices["method"])


def run_name(folder: Path) -> str:
    """A run by its W&B id if it has one, and its folder."""
    runs = sorted((folder / "wandb").glob("offline-run-*"))
    return f"{runs[-1].name.rpartition('-')[2]} in {folder}" if runs else str(folder)


def _cell(value: Any) -> Any:
    """What a W&B table can hold: pictures, numbers, text."""
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    import wandb

    if isinstance(value, Path):
        return wandb.Image(str(value))
    return wandb.Image(value) if hasattr(value, "getbands") else str(value)


def _make_scratch() -> None:
    """W&B builds pictures and tables in a folder that it makes at import;
    a forked process removes it at its end."""
    from wandb.sdk.data_types import _private

    Path(_private.MEDIA_TMP.name).mkdir(parents=True, exist_ok=True)


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
