"""Where Hydra writes: each run and each sweep has a folder of its own,
and no job removes what it did not write."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sow.errors import Refusal, UserError
from sow.runs.records import MANIFEST, REPOSITORY
from sow.store.files import place_of
from sow.store.secrets import redact

SWEEP = ".sweep.json"  # the words of the sweep that a folder belongs to
CALLBACK = "sow.runs.folders.OwnFolders"  # in Hydra's files, which tells them from another program's
KEY = ".key"  # of the run that a folder belongs to, from its start on
_fresh: set[Path] = set()  # folders that were not there when this process's runs and sweeps began


class OwnFolders(Callback):
    """Hydra's callback that refuses a folder before anything is written to it: one that holds anything but an
    earlier attempt at the same run or sweep."""

    def on_run_start(self, config: DictConfig, **rest: Any) -> None:
        """Check and make the folder of one run."""
        with _refusing("hydra.run.dir"):
            place = _place(config, "run")
            _need_unused(place, _words(config))
            _make(place, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **rest: Any) -> None:
        """Check, make and claim the folder of a sweep."""
        with _refusing("hydra.sweep.dir"):
            place = _place(config, "sweep")
            _need_subfolders(config)
            goes_on = str(config.hydra.sweeper._target_).endswith(".BasicSweeper")
            _need_no_other_sweep(place, _words(config), goes_on)
            _make(place, "hydra.sweep.dir")
            _claim(place, _words(config))

    def on_multirun_end(self, config: DictConfig, **rest: Any) -> None:
        """Show what the sweep's jobs came to."""
        from sow.runs.sweep_table import show

        show(_place(config, "sweep"))


def take(folder: Path, key: str) -> None:
    """Make `folder` that of the run with this key, if it is not another's already; raises UserError then."""
    from sow.runs.records import RunFolder

    marked = _read(folder / KEY)
    if (folder / MANIFEST).is_file():
        marked = str(RunFolder(folder).manifest().get("key"))
    if marked not in (None, key) and _holds_more(folder):
        raise UserError(
            f"{folder} holds another run, of other code, inputs or configuration: name a new folder "
            "(hydra.run.dir, hydra.sweep.dir, hydra.sweep.subdir)"
        )
    RunFolder(folder).save_bytes(KEY, key.encode())


def discard_untouched(folder: Path) -> None:
    """Remove the folder of a job that failed before it wrote anything, if this process's job has made it."""
    if _fresh.isdisjoint((folder, *folder.parents)):
        return
    if not _holds_more(folder):
        shutil.rmtree(folder, ignore_errors=True)


def discard_unstarted() -> None:
    """Remove the folders that this process has made and in which no job has begun."""
    for place in _fresh:
        for folder in (*place.glob("*/"), place):
            if folder.is_dir() and (folder / ".hydra").exists():
                discard_untouched(folder)
        with contextlib.suppress(OSError):
            place.rmdir()  # if nothing lies in it


@contextlib.contextmanager
def _refusing(key: str) -> Iterator[None]:
    """Faults of the user's, and of the system's with a folder, on their way through Hydra."""
    try:
        yield
    except UserError as error:
        raise Refusal(error) from error
    except MemoryError as error:
        raise Refusal(UserError(f"there is not enough memory to make the run's folder ({key})")) from error
    except (OSError, ValueError) as error:  # too long, a zero byte
        reason = getattr(error, "strerror", None) or error
        raise Refusal(UserError(f"the folder cannot be used: {reason} ({key}, paths.outputs)")) from error


def _holds_more(folder: Path) -> bool:
    """Whether anything lies in a folder that a job has not written before it began."""
    return any(p.name not in (".hydra", KEY) and p.suffix != ".log" for p in folder.iterdir())


def _place(config: DictConfig, kind: str) -> Path:
    """The folder of a run or sweep; raises UserError where it is none that a run may have for itself."""
    for key, value in (
        ("paths.outputs", config.paths.outputs),
        (f"hydra.{kind}.dir", config.hydra[kind].dir),
    ):
        if value is None or not str(value).strip():
            raise UserError(f"{key} is empty: name a folder, or leave the key out ({key})")
    try:
        place = Path(os.path.abspath(place_of(str(config.hydra[kind].dir), f"hydra.{kind}.dir")))
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(f"hydra.{kind}.dir: {' '.join(str(error).split())} (hydra.{kind}.dir)") from error
    here = Path.cwd()
    if place in (here, *here.parents, REPOSITORY, *REPOSITORY.parents):
        raise UserError(
            f"hydra.{kind}.dir={config.hydra[kind].dir} is a folder that others use: name one for the "
            f"{kind} alone (hydra.{kind}.dir)"
        )
    return place


def _words(config: DictConfig) -> list[str]:
    """The words of the command line that choose what is run, without secrets, as they are kept."""
    words: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    return redact([str(word) for word in words])


def _need_subfolders(config: DictConfig) -> None:
    """Raise UserError where jobs of a sweep could share a folder, or have theirs outside the sweep's."""
    raw: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
    subfolder = str(raw["subdir"])
    if "${hydra.job.num}" not in subfolder and "${hydra.job.id}" not in subfolder:
        raise UserError(
            f"hydra.sweep.subdir={subfolder} may give several jobs of a sweep one folder: let it hold "
            "${hydra.job.num} (hydra.sweep.subdir)"
        )
    if ".." in Path(subfolder).parts or Path(subfolder).is_absolute() or subfolder.startswith("~"):
        raise UserError(
            f"hydra.sweep.subdir={subfolder} leads out of the sweep's folder: name one below hydra.sweep.dir "
            "(hydra.sweep.subdir)"
        )


def _need_unused(place: Path, words: Sequence[str]) -> None:
    if not place.is_dir() or not any(place.iterdir()):
        return
    if (place / SWEEP).exists() or _hydra_words(place / "multirun.yaml") is not None:
        raise UserError(f"{place} holds a sweep: name another folder (hydra.run.dir)")
    told = _told(place)
    if told is None:
        raise UserError(f"{place} holds files that are no run's: name a new folder (hydra.run.dir)")
    if told != list(words):
        raise UserError(f"{place} holds a run of other words: name another folder (hydra.run.dir)")


def _told(place: Path) -> Any:
    """The words of the run that a folder belongs to, as its own files say; None where they say nothing."""
    told = _hydra_words(place / ".hydra" / "hydra.yaml")
    if told is None and _json(place / MANIFEST, "key"):
        return _json(place / MANIFEST, "overrides")
    return told


def _need_no_other_sweep(place: Path, words: Sequence[str], goes_on: bool) -> None:
    if not place.is_dir() or not any(place.iterdir()):
        return
    told = (
        _json(place / SWEEP, "words") if (place / SWEEP).exists() else _hydra_words(place / "multirun.yaml")
    )
    if told is None and not any(map(_told, (place, *place.glob("*/")))):
        raise UserError(
            f"{place} holds files that are no sweep's: name a new folder, or leave the key out "
            "(hydra.sweep.dir)"
        )
    if not (goes_on and told == list(words)):
        raise UserError(
            f"{place} holds another run or sweep: name another folder, or leave the key out (hydra.sweep.dir)"
        )


def _claim(place: Path, words: Sequence[str]) -> None:
    """Write whose folder this is; of two sweeps that start at once the second finds the first's words."""
    text = json.dumps({"words": list(words)})
    part = place / f"{SWEEP}.{os.getpid()}"
    try:
        part.write_text(text)
        os.link(part, place / SWEEP)  # appears whole, and only if there is none
    except FileExistsError:
        if _json(place / SWEEP, "words") != list(words):
            raise UserError(
                f"{place} holds another sweep: name another folder, or leave the key out (hydra.sweep.dir)"
            ) from None
    except OSError as error:
        raise UserError(f"cannot write to {place}: {error.strerror or error} (hydra.sweep.dir)") from error
    finally:
        part.unlink(missing_ok=True)


def _make(place: Path, key: str) -> None:
    there = place.exists()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder {place}: {error.strerror or error} ({key}, paths.outputs)"
        ) from error
    if not os.access(place, os.W_OK):
        raise UserError(f"cannot write to {place} ({key}, paths.outputs)")
    if not there:
        _fresh.add(place)


def _hydra_words(file: Path) -> Any:
    """The job's words in a file of Hydra's that a run or sweep of this program wrote; None otherwise."""
    found = _yaml(file)
    try:
        if found["hydra"]["callbacks"]["folders"]["_target_"] == CALLBACK:
            return list(found["hydra"]["overrides"]["task"])
    except (KeyError, TypeError):
        pass
    return None


def _yaml(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _json(file: Path, key: str) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
