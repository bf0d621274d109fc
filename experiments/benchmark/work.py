"""The batches of a benchmark: which there are, which are missing, and the making of them."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sow import report
from sow.errors import UserError

from ..core.groups import first_of_each
from .rows import Row, compose_row
from .store import Store, batch_key, image_name, method_key

if TYPE_CHECKING:
    from sow.config.compose import Config
    from sow.data import Group
    from sow.types import Plan, Request, Sample

    from ..core.study import StudyContext
    from .settings import Settings

log = logging.getLogger(__name__)
HOPELESS = 3  # groups that fail before any image is made: then the rest is not tried
SEED_STRIDE = 1_000_000  # between the seeds of one group's images; the groups' own lie below it


@dataclass(frozen=True, eq=False)
class Batch:
    """Groups whose images of one seed share their UNet calls, under one row."""

    row: Row
    config: Config
    groups: tuple[Group, ...]
    requests: tuple[Request, ...]
    seed: int
    number: int
    method: str

    @cached_property
    def key(self) -> str:
        """Where it is kept: its method and its requests."""
        return batch_key(self.method, self.requests)

    @property
    def alone(self) -> list[Batch]:
        """Its groups, each a batch of one."""
        pairs = zip(self.groups, self.requests, strict=True)
        return [replace(self, groups=(group,), requests=(request,)) for group, request in pairs]

    @property
    def names(self) -> list[str]:
        """Names of its images."""
        return [image_name(g, self.seed) for g in self.groups]


class Work:
    """The batches of a benchmark in the order in which they are made, and the making of them."""

    def __init__(self, study: Settings, context: StudyContext) -> None:
        self.study, self.context = study, context
        self.store = Store(context.config.paths.outputs / ".batches")
        self.plans: dict[str, list[Plan]] = {}
        self.failures: list[dict[str, Any]] = []  # groups without an image, and why
        self.made = 0

    @cached_property
    def groups(self) -> list[Group]:
        """The groups of the table, settings after one another, by id."""
        study = self.study
        groups = self.context.config.data.groups(study.split)
        if study.settings is not None:
            known = {g.setting for g in groups}
            if unknown := set(study.settings) - known:
                raise UserError(
                    f"the data has no setting {sorted(unknown)[0]}: choose among {', '.join(sorted(known))} "
                    "(study.settings)"
                )
            groups = [g for g in groups if g.setting in study.settings]
        if not groups:
            raise UserError(f"the data has no groups in {study.split} (data, study.split)")
        return first_of_each(groups, study.limit)

    def need_alike(self) -> None:
        """Raise UserError for rows of which only some lay the condition's own pixels over the picture."""
        found = {b.config.choices["paste_back"]: b.row.name for b in self.batches}
        if len(found) > 1:
            told = ", ".join(f"{row} has {option}" for option, row in sorted(found.items()))
            raise UserError(
                f"{told}: pixels laid over the picture make ID-Distance a copy, so rows with and without do "
                "not compare; give all rows one option, or two tables (study.rows, paste_back)"
            )

    def groups_of(self, row: Row) -> list[Group]:
        """The groups of a row: the table's, or the first of each setting up to the row's own limit.

        Raises UserError where that limit would leave the settings unbalanced.
        """
        if row.limit is None or row.limit >= len(self.groups):
            return self.groups
        count = len({g.setting for g in self.groups})
        if row.limit % count:
            key = f"study.rows.{row.name}.limit"
            raise UserError(
                f"{key}={row.limit} leaves {count} settings unbalanced: give a multiple of {count} ({key})"
            )
        return first_of_each(self.groups, row.limit)

    @cached_property
    def batches(self) -> list[Batch]:
        """All batches: one model after another, for each the same groups' rows together, whose inversions are
        shared.

        Which groups share a batch depends on the groups alone; a row with fewer groups leaves the others'
        places empty.
        """
        base, size = self.context.config, self.context.config.batch_size
        if size is None:
            raise UserError(
                "batch_size=null leaves open which groups share a batch: give a number (batch_size)"
            )
        rows = [row for row in self.study.shown if row.overrides is not None]
        settings = list(dict.fromkeys(g.setting for g in self.groups))
        counted = {r.name: {g.id for g in self.groups_of(r)} for r in rows}
        configs = {(r.name, s): compose_row(base, r, self._task(s)) for r in rows for s in settings}
        keys = {k: method_key(c) for k, c in configs.items()}
        out, number = [], 0
        for setting in settings:
            mine = [g for g in self.groups if g.setting == setting]
            for start in range(0, len(mine), size):
                sharing = mine[start : start + size]
                for seed in range(base.seed, base.seed + self.study.seeds):
                    for row in rows:
                        groups = tuple(g for g in sharing if g.id in counted[row.name])
                        if not groups:
                            continue
                        requests = tuple(seeded(g.request, seed) for g in groups)
                        config, method = configs[row.name, setting], keys[row.name, setting]
                        out.append(Batch(row, config, groups, requests, seed, number, method))
                    number += 1
        models = {k: str(c.resolved["model"]) for k, c in configs.items()}
        turn = {model: i for i, model in enumerate(dict.fromkeys(models.values()))}
        return sorted(out, key=lambda b: turn[models[b.row.name, b.groups[0].setting]])

    def _task(self, setting: str) -> str:
        """The task of a setting's requests."""
        group = next(g for g in self.groups if g.setting == setting)
        return group.request.task or self.context.config.task.name

    def found(self, batch: Batch) -> list[tuple[Batch, list[dict[str, Any]]]]:
        """A batch with its records; of one that failed,
        those of its groups that are there, each a batch of one."""
        records = self.store.read(batch.key, batch.names)
        if records is not None:
            return [(batch, records)]
        return [of_one for one in batch.alone for of_one in self.found(one)] if len(batch.groups) > 1 else []

    def missing(self, batches: Sequence[Batch]) -> list[Batch]:
        """Those of `batches`, or of their groups, that the store lacks, each once."""
        lost: dict[str, Batch] = {}
        for batch in batches:
            there = [group.id for part, _ in self.found(batch) for group in part.groups]
            if not there:
                lost.setdefault(batch.key, batch)
            elif len(there) < len(batch.groups):
                lost |= {one.key: one for one in batch.alone if one.groups[0].id not in there}
        return list(lost.values())

    def generate(self, batches: Sequence[Batch]) -> None:
        """Make and measure `batches`, each kept as soon as it is whole;
        groups that fail are left in `failures`."""
        with bar_over(batches, self.context) as advance:
            for batch in batches:
                self._one(batch)
                advance(batch)

    def _one(self, batch: Batch) -> None:
        from sow.pipeline.factory import build

        with self.context.timed("load"):
            started = time.perf_counter()
            sampler = build(batch.config)  # an error here is the row's, not a group's
            loaded = time.perf_counter() - started
        try:
            self._make(batch, sampler, loaded)
            self.made += 1
        except Exception as error:
            if len(batch.groups) > 1:
                for one in batch.alone:
                    self._one(one)
                return
            self._fail(batch, error)

    def _fail(self, batch: Batch, error: Exception) -> None:
        """Mark the group; raises `error` again if nothing works at all."""
        if not isinstance(error, UserError):
            log.warning("%s of row %s failed", batch.names[0], batch.row.name, exc_info=error)
        words = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        place = {"row": batch.row.name, "group": batch.groups[0].id, "seed": batch.seed}
        self.failures.append({**place, "error": " ".join(words.split())})
        if not self.made and len(self.failures) == HOPELESS:
            raise error

    def _make(self, batch: Batch, sampler: Any, loaded: float) -> None:
        from ..core.samples import open_gates

        started = time.perf_counter()
        plans = self._plan(sampler, batch)
        planned = time.perf_counter()
        samples = sampler.generate(list(batch.requests), plans=plans)
        made = time.perf_counter()
        measured = self.context.metrics.measure(samples)
        spent = {"plan": planned - started, "generate": made - planned, "measure": time.perf_counter() - made}
        rows = [
            {
                "name": image_name(group, batch.seed),
                "group": group.id,
                "setting": group.setting,
                "seed": batch.seed,
                **numbers,
                "open_gates": open_gates(sample.trace),
                "plan": sample.plan.to_dict(),
            }
            for group, sample, numbers in zip(batch.groups, samples, measured, strict=True)
        ]
        seconds = {
            "images": len(samples),
            "load": loaded,
            **spent,
            "phases": dict(samples[0].seconds),
            "unet_evaluations": evaluations(samples),
            **training_apart(samples),
        }
        images = {row["name"]: sample.image for row, sample in zip(rows, samples, strict=True)}
        self.store.write(batch.key, rows, images, seconds)
        total = self.context.seconds
        for phase, took in spent.items():
            total[phase] = total.get(phase, 0.0) + took

    def _plan(self, sampler: Any, batch: Batch) -> list[Plan]:
        """The batch's plans, made once for all rows that plan alike."""
        names = ("planner", "position", "intensify", "height", "width", "model")
        planning = [batch.config.values[name] for name in names]
        snap = batch.config.values["seed_init"].get("snap")
        key = str([planning, snap, type(sampler.method).__name__, batch.names])
        if key not in self.plans:
            self.plans[key] = sampler.plan(list(batch.requests))
            self.context.planned(self.plans[key])
        return self.plans[key]


def evaluations(samples: Sequence[Sample]) -> int:
    """UNet sample-evaluations of a batch: samples whose network calls were shared have one count together."""
    counts = {id(s.counts): s.counts for s in samples}
    return sum(sum(c.values()) for c in counts.values())


def training_apart(samples: Sequence[Sample]) -> dict[str, float]:
    """Seconds of a batch's trainings, when they were done, and of its generation without them; {} without
    any.

    A training that is found finished takes no time again, so the rest is the sum of its phases, not a
    difference.
    """
    if not any("train" in s.seconds for s in samples):
        return {}
    rest = [v for s in samples for phase, v in s.seconds.items() if phase not in ("train", "plan")]
    return {"train": sum(s.seconds.get("train", 0.0) for s in samples), "without_training": sum(rest)}


def seeded(request: Request, seed: int) -> Request:
    """The request of a group with the seed of its image number `seed`."""
    return replace(request, seed=request.seed + SEED_STRIDE * seed)


@contextmanager
def bar_over(batches: Sequence[Batch], context: StudyContext) -> Iterator[Callable[[Batch], None]]:
    """A bar over the images; without a terminal, a line per minute. Yields what moves it."""
    total, done = sum(len(b.groups) for b in batches), 0
    started = printed = time.monotonic()
    with report.bar(total, batches[0].row.name) as move:

        def advance(batch: Batch) -> None:
            nonlocal printed, done
            done += len(batch.groups)
            move(batch.row.name, len(batch.groups))
            now = time.monotonic()
            if not sys.stderr.isatty() and (now - printed > 60 or done == total):
                printed = now
                left = (now - started) / done * (total - done)
                context.console.print(f"{done} of {total} images, {left / 60:.1f} minutes left")

        yield advance
