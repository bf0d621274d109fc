"""What a sweeper needs from a run and from the run before it: an objective, a study that goes on,
the best trial as a file."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict, read_write

from sow.config.places import CONF
from sow.errors import UserError
from sow.store.files import atomic_write

log = logging.getLogger(__name__)


class Trials(Callback):
    """Hydra's Optuna sweeper with a study in a file made to go on: `n_trials` counts the study's, not a
    command's.

    `objective` lists terms of what is minimised; see `objective`.
    """

    def __init__(self, objective: Sequence[str]) -> None:
        self.terms = terms(objective)
        self.lock: Any = None

    def on_multirun_start(self, config: DictConfig, **rest: Any) -> None:
        """Count what is done, queue what was interrupted again, and lower `n_trials` to what is left."""
        sweeper = config.hydra.sweeper
        study, file = self._study(sweeper)
        if not self._alone(file):
            log.warning("another process works on the study %s: its trials are left to it", file)
        else:
            requeue_interrupted(study)
        done = finished(study)
        with read_write(config), open_dict(config):
            total = sweeper.n_trials
            sweeper.n_trials = max(0, total - done)
            if sweeper.sampler.get("seed") is not None:
                sweeper.sampler.seed += len(
                    study.trials
                )  # a sampler that starts anew draws what it drew before
        if study.trials:
            print(f"study {sweeper.study_name}: {done} of {total} trials are done ({file})", flush=True)

    def on_multirun_end(self, config: DictConfig, **rest: Any) -> None:
        """Write the best trial's overrides beside the study."""
        study, file = self._study(config.hydra.sweeper)
        best = write_best(study, file)
        if best is not None:
            print(
                f"best trial: {best} (python run.py --config-dir {file.parent.parent} "
                f"+{file.parent.name}={best.stem})"
            )
        if self.lock is not None:
            self.lock.release()

    def _study(self, sweeper: DictConfig) -> tuple[Any, Path]:
        logging.getLogger("alembic").setLevel(logging.WARNING)  # before its import, which is already wordy
        import optuna

        prefix, _, file = str(sweeper.storage).partition("sqlite:///")
        if prefix or not file:
            raise UserError(
                f"hydra.sweeper.storage={sweeper.storage} is no sqlite:///FILE (hydra.sweeper.storage)"
            )
        prepare(Path(file))
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        direction = getattr(sweeper.direction, "name", sweeper.direction)
        study = optuna.create_study(
            study_name=sweeper.study_name, storage=sweeper.storage, direction=direction, load_if_exists=True
        )
        return study, Path(file)

    def _alone(self, file: Path) -> bool:
        from filelock import FileLock, Timeout

        self.lock = FileLock(f"{file}.lock", is_singleton=True)  # its own process may come again
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            self.lock = None
            return False
        return True


def prepare(file: Path) -> None:
    """Make the file of a study: Optuna 2 marks its schema's version in a transaction that
    SQLAlchemy 2 never commits."""
    import sqlite3

    import optuna.storages._rdb as storage
    from alembic.script import ScriptDirectory

    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists():
        return
    head = ScriptDirectory(str(Path(str(storage.__file__)).parent / "alembic")).get_current_head()
    database = sqlite3.connect(file)
    with database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
        database.execute("INSERT INTO alembic_version VALUES (?)", (head,))
    database.close()


def requeue_interrupted(study: Any) -> None:
    """Trials that were running when their sweep ended: closed,
    and their values queued for the next trials."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study._storage.set_trial_user_attr(trial._trial_id, "interrupted", True)
        study.tell(trial.number, state=TrialState.FAIL)
        if trial.params:
            study.enqueue_trial(trial.params)


def finished(study: Any) -> int:
    """Trials with a value, and those that failed by themselves."""
    return sum(
        t.state.is_finished() and "interrupted" not in t.user_attrs for t in study.get_trials(deepcopy=False)
    )


def write_best(study: Any, file: Path) -> Path | None:
    """The best trial so far as `NAME.yaml` beside `file`,
    a config that `+FOLDER=NAME` lays over any other; None without one."""
    from optuna.trial import TrialState

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not done:
        return None
    best = study.best_trial
    text = (
        "# @package _global_\n"
        f"# Trial {best.number} of the study {study.study_name}: objective {best.value:.6g}, the best of "
        f"{len(done)} with a value.\n{OmegaConf.to_yaml(overrides(best.params))}"
    )
    target = file.with_name(f"{study.study_name}.yaml")
    with atomic_write(target) as part:
        part.write_text(text, encoding="utf-8")
    return target


def overrides(params: Mapping[str, Any]) -> DictConfig:
    """A trial's values as a config: dotted keys nested,
    options of groups as overrides in its defaults list."""
    chosen = {k: v for k, v in params.items() if "." not in k and (CONF / k).is_dir()}
    words = [f"{k}={v}" for k, v in params.items() if k not in chosen]
    values: DictConfig | ListConfig = OmegaConf.from_dotlist(words)
    if chosen:
        values = OmegaConf.merge({"defaults": [{f"override /{k}": v} for k, v in chosen.items()]}, values)
    assert isinstance(values, DictConfig)
    return values


def numbers(folder: Path) -> dict[str, float]:
    """The numbers of a complete run: of metrics.json, or the means over the records of a benchmark with one
    row.

    A run that was skipped answers with the run it names. Raises UserError for a folder without numbers.
    """
    folder = earlier(folder)
    if (folder / "metrics.json").is_file():
        values = json.loads((folder / "metrics.json").read_text())
        return {k: float(v) for k, v in values.items() if isinstance(v, (int, float))}
    if (folder / "records.parquet").is_file():
        import pandas

        records = pandas.read_parquet(folder / "records.parquet")
        if records["row"].nunique() > 1:
            raise UserError(f"{folder} has several rows: a sweep needs one (study.only)")
        means = records.drop(columns="row").select_dtypes(["number", "bool"]).astype(float).mean()
        return {str(k): float(v) for k, v in means.items() if v == v}
    raise UserError(
        f"{folder} has neither metrics.json nor records.parquet: choose a study that measures (study)"
    )


def earlier(folder: Path) -> Path:
    """The folder itself, or the complete one that its run was skipped for."""
    if (folder / "earlier").exists():
        return (folder / "earlier").resolve()
    if (folder / "earlier.txt").is_file():
        return (folder / (folder / "earlier.txt").read_text().strip()).resolve()
    return folder


def terms(words: Sequence[str]) -> list[tuple[float, str]]:
    """(weight, name) of terms like `failure`, `-face_detected` and `0.5*id_distance`;
    raises UserError for another."""
    out = []
    for word in words:
        found = re.fullmatch(r"(-?)(?:(\d+\.?\d*)\*)?(\w+)", str(word))
        if not found:
            raise UserError(
                f"{word!r} is no term like failure, -whole or 0.5*id_distance "
                "(hydra.callbacks.trials.objective)"
            )
        out.append((float(found[2] or 1) * (-1 if found[1] else 1), found[3]))
    return out


def objective(folder: Path, hydra: DictConfig) -> float | None:
    """What a sweeper is told of a run: the sum of the terms of `hydra.callbacks.trials.objective`; None where
    none asks.

    Raises UserError when a number does not exist, so that the trial counts as failed.
    """
    words = OmegaConf.select(hydra, "callbacks.trials.objective")
    if words is None:
        return None
    found = numbers(folder)
    for _, name in (wanted := terms(words)):
        if name not in found:
            raise UserError(
                f"the run has no number {name}: choose among {', '.join(sorted(found))} "
                "(hydra.callbacks.trials.objective)"
            )
    return sum(weight * found[name] for weight, name in wanted)
