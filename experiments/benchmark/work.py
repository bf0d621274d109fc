"""The batches of a benchmark: which there are, which are missing, and the making of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sow.errors import UserError

from ..benchmark.rows import Row, compose_row
from ..benchmark.store import Store, batch_key, image_name, method_key

if TYPE_CHECKING:
    from sow.config.compose import Config
    from sow.data import Group
    from sow.types import Plan, Request, Sample

    from ..benchmark.benchmark import Benchmark
    from ..core.study import StudyContext

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
    key: str

    @property
    def names(self) -> list[str]:
        """Names of its images."""
        return [image_name(g, self.seed) for g in self.groups]


class Work:
    """The batches of a benchmark in the order in which they are made, and the making of them."""

    def __init__(self, study: Benchmark, context: StudyContext) -> None:
        self.study, self.context = study, context
        self.store = Store(context.config.paths.outputs / ".batches")
        self.plans: dict[str, list[Plan]] = {}

    @cached_property
    def groups(self) -> list[Group]:
        """The groups of the table, settings after one another, by id."""
        study = self.study
        groups = self.context.config.data.groups(study.split)
        if study.settings is not None:
            known = {g.setting for g in groups}
            if unknown := set(study.settings) - known:
                raise UserError(
                    f"the data has no setting {sorted(unknown)[0]}: choose among {', '.join(sorted(known))} (study.settings)"
                )
            groups = [g for g in groups if g.setting in study.settings]
        if not groups:
            raise UserError(f"the data has no groups in {study.split} (data, study.split)")
        return first_of_each(groups, study.limit)

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
        """All batches: one model after another, for each the same groups' rows together, whose inversions are shared.

        Which groups share a batch depends on the groups alone; a row with fewer groups leaves the others' places empty.
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
                        key = batch_key(method, requests)
                        out.append(Batch(row, config, groups, requests, seed, number, key))
                    number += 1
        models = [str(c.resolved["model"]) for c in configs.values()]
        return sorted(out, key=lambda b: models.index(str(b.config.resolved["model"])))

    def _task(self, setting: str) -> str:
        """The task of a setting's requests."""
        group = next(g for g in self.groups if g.setting == setting)
        return group.request.task or self.context.config.task.name

    def missing(self, batches: Sequence[Batch]) -> list[Batch]:
        """Those of `batches` that the store lacks, each once."""
        lost = {b.key: b for b in reversed(batches) if self.store.read(b.key, b.names) is None}
        return [b for b in batches if lost.get(b.key) is b]

    def generate(self, batches: Sequence[Batch]) -> None:
        """Make and measure `batches`, each kept as soon as it is whole."""
        with progress(batches, self.context) as advance:
            for batch in batches:
                self._one(batch)
                advance(batch)

    def _one(self, batch: Batch) -> None:
        from sow.pipeline.factory import build

        from ..generate import open_gates

        started = time.perf_counter()
        sampler = build(batch.config)
        loaded = time.perf_counter()
        plans = self._plan(sampler, batch)
        planned = time.perf_counter()
        samples = sampler.generate(list(batch.requests), plans=plans)
        made = time.perf_counter()
        measured = self.context.metrics.measure(samples)
        done = time.perf_counter()
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
        spent = {
            "load": loaded - started,
            "plan": planned - loaded,
            "generate": made - planned,
            "measure": done - made,
        }
        seconds = {
            "images": len(samples),
            **spent,
            "phases": dict(samples[0].seconds),
            "unet_evaluations": sum(sum(s.counts.values()) for s in samples[:1]),
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
        planning = [batch.config.resolved[name] for name in names]
        snap = batch.config.resolved["seed_init"].get("snap")
        key = str([planning, snap, type(sampler.method).__name__, batch.names])
        if key not in self.plans:
            self.plans[key] = sampler.plan(list(batch.requests))
        return self.plans[key]


def training_apart(samples: Sequence[Sample]) -> dict[str, float]:
    """Seconds of a batch's trainings, when they were done, and of its generation without them; {} where none is trained.

    A training that is found finished takes no time again, so the rest is the sum of its phases, not a difference.
    """
    if not any("train" in s.seconds for s in samples):
        return {}
    rest = [v for s in samples for phase, v in s.seconds.items() if phase not in ("train", "plan")]
    return {"train": sum(s.seconds.get("train", 0.0) for s in samples), "without_training": sum(rest)}


def seeded(request: Request, seed: int) -> Request:
    """The request of a group with the seed of its image number `seed`."""
    return replace(request, seed=request.seed + SEED_STRIDE * seed)


def first_of_each(groups: Sequence[Group], limit: int | None) -> list[Group]:
    """`limit` groups in all, taken from the settings in turn, each setting's in order."""
    settings = list(dict.fromkeys(g.setting for g in groups))
    seen = dict.fromkeys(settings, 0)
    turns: dict[str, tuple[int, int]] = {}
    for group in groups:
        turns[group.id] = (seen[group.setting], settings.index(group.setting))
        seen[group.setting] += 1
    chosen = set(sorted(turns, key=turns.__getitem__)[:limit])
    return [g for s in settings for g in groups if g.setting == s and g.id in chosen]


@contextmanager
def progress(batches: Sequence[Batch], context: StudyContext) -> Iterator[Callable[[Batch], None]]:
    """A bar over the images with the time left; without a terminal, a line a minute. Yields what moves it."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    total = sum(len(b.groups) for b in batches)
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    started = told = time.monotonic()
    done = 0
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(batches[0].row.name, total=total)

        def advance(batch: Batch) -> None:
            nonlocal told, done
            done += len(batch.groups)
            bar.update(task, advance=len(batch.groups), description=batch.row.name)
            now = time.monotonic()
            if not console.is_terminal and (now - told > 60 or done == total):
                told = now
                left = (now - started) / done * (total - done)
                context.console.print(f"{done} of {total} images, {left / 60:.1f} minutes left")

        yield advance
