"""What every study shares: its context, and the job around it that is skipped when it is already done."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sow import report
from sow.errors import UserError
from sow.pipeline.factory import weights_taken
from sow.report import blocks
from sow.runs import folders, records
from sow.runs.console import printer
from sow.runs.records import RunFolder
from sow.runs.tracking import Job, Tracked
from sow.types import Request

from .samples import flat

if TYPE_CHECKING:
    from rich.console import Console

    from sow.config.compose import Config
    from sow.pipeline.pipeline import Pipeline
    from sow.report.statistics import Resampling
    from sow.types import Plan, Sample, Step


PUBLISHED = "people"  # the model that the documentation's tables and figures speak of


class Study(Protocol):
    """One question asked of a method; its numbers and pictures end in the run folder."""

    def run(self, context: StudyContext) -> None:
        """Do it; raises UserError for what the user can cure."""
        ...


def _anywhere(word: str) -> str:
    """A word for a page: a value that names folders of this machine, which no reader has, is left out."""
    key, _, value = word.partition("=")
    return f"{key}=..." if re.search(r"(^|[\s,\[{'\"])/", value) else word


def unwatched(step: Step) -> None:
    """Nobody looks on."""


@dataclass
class StudyContext:
    """What a study works with: `folder` takes its files, `console` its words, `seconds` its times for the
    manifest.

    `group` names the sweep, `repeats` the complete run that a skipped job repeats; `watch` sees every step of
    what `generate` makes.
    """

    config: Config
    folder: RunFolder
    group: str | None = None
    repeats: Path | None = None
    watch: Callable[[Step], None] = unwatched
    console: Console = field(default_factory=printer)
    seconds: dict[str, float] = field(default_factory=dict)
    images: int = 0  # that `generate` has made
    provisional: str = ""  # why the same command must run again; "" where its result stands

    def sampler(self) -> Pipeline:
        """The sampler of the configuration; the model is loaded once per process."""
        from sow.pipeline.factory import build

        with self.timed("load"):
            return build(self.config)

    def requests(self, count: int = 1) -> list[Request]:
        """`count` requests: the configuration's conditions and prompt, seeds counted up from `seed`."""
        config = self.config
        conditions = config.condition.load(config.seed)
        return [
            Request(conditions, config.prompt, config.task.name, config.seed + i, str(i))
            for i in range(count)
        ]

    def requests_by_seed(self, count: int) -> list[Request]:
        """One request for each of the seeds `seed` ..

        `seed` + count - 1, with the visual condition of its own seed.
        """
        config = self.config
        return [
            Request(config.condition.load(seed), config.prompt, config.task.name, seed, str(seed))
            for seed in range(config.seed, config.seed + count)
        ]

    def generate(
        self,
        sampler: Pipeline,
        requests: Sequence[Request],
        plans: Sequence[Plan] | None = None,
        snapshots: bool = False,
    ) -> list[Sample]:
        """Samples of `requests`, planned if `plans` is None, under a progress bar;
        seconds are counted by phase."""
        if plans is None:
            with self.timed("plan"):
                plans = sampler.plan(requests)
        self.planned(plans)
        _ = self.tracked  # the input is known to be good
        with report.progress_bar(sampler, plans, self.config.batch_size) as move:

            def on_step(step: Step) -> None:
                move(step)
                self.watch(step)

            samples = sampler.generate(requests, plans=plans, snapshots=snapshots, on_step=on_step)
        self.images += len(samples)
        for shared in {id(s.seconds): s.seconds for s in samples}.values():  # a batch's samples share them
            for phase, seconds in shared.items():
                self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
        return samples

    def planned(self, plans: Sequence[Plan]) -> None:
        """Look at plans that were made: those of a planner's fallback make the result provisional."""
        if any("fallback_from" in plan.details for plan in plans):
            self.provisional = "a plan is the fallback's: the same command asks the planner again"

    def measure(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """A row of the configured metrics for each sample."""
        with self.timed("metrics"):
            return self.metrics.measure(samples)

    def resampling(self, resamples: int, level: float = 0.95) -> Resampling:
        """How intervals are made: seeded by the configuration."""
        from sow.report.statistics import Resampling

        return Resampling(level, resamples, self.config.seed)

    def made(self, images: int | None = None, seconds: float | None = None) -> blocks.Made:
        """How what is published was measured: by this command at this commit, from `images`, by default as
        many as `generate` made, in `seconds`, by default this process's."""
        git = self.git
        return blocks.Made(
            command=shlex.join(["run.py", *map(_anywhere, repeated(self.config.overrides))]),
            day=datetime.now(UTC).date().isoformat(),
            commit=None if git is None else git["commit"][:10] + "+" * git["dirty"],
            images=images or self.images or None,
            seconds=seconds or sum(self.seconds.values()) or None,
            model=None if (model := self.config.choices["model"]) == PUBLISHED else model,
        )

    @property
    def metrics(self) -> Any:
        """The configured metrics."""
        return self.config.metrics

    @cached_property
    def git(self) -> dict[str, Any] | None:
        """Revision of this checkout."""
        return records.git_revision()

    @cached_property
    def tracked(self) -> Tracked:
        """The tracked run, opened at first use: touch it once the input is known to be good."""
        with self.timed("tracker"):
            commit = self.git["commit"] if self.git else None
            return self.config.tracker.start(
                Job(self.folder.path, self.config, self.group, commit, self.repeats)
            )

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the block's time to `seconds[phase]`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


def run_job(
    config: Config, folder: Path, group: str | None = None, watch: Callable[[Step], None] = unwatched
) -> Path:
    """One job: nothing if the same run is complete and `force` is off, else the study and, last, the
    manifest.

    A skipped job of a sweep leaves a link to the run that it repeats, another one no folder at all. `watch`
    sees every step, and ends the job where it raises. Returns the folder of the complete run, `folder` or an
    earlier one. Raises UserError; a folder left by that has no manifest and counts for nothing.
    """
    key, outputs = records.run_key(config, StudyContext), config.paths.outputs
    about = {"words": repeated(config.overrides), "key": key}
    context = StudyContext(config, RunFolder(folder, about), group, watch=watch)
    config.tracker.check()
    earlier = records.find(outputs, key)
    if earlier is not None and not config.force and not getattr(config.planner, "refresh", False):
        context.console.print(f"done before: {earlier} (force=true runs it again)")
        records.point_latest(outputs, earlier)
        if of_sweep(context):
            records.link_earlier(folder, earlier)
            show_repeated(context, earlier)
        else:
            folders.discard_untouched(folder)
        return earlier
    folders.take(folder, key)
    started, exit_code = time.time(), 1
    try:
        config.study.run(context)
        records.complete(
            context.folder, outputs, key, manifest(context, started), found_again=not context.provisional
        )
        if context.provisional:
            context.console.print(f"{context.provisional} (planner.on_error)")
        exit_code = 0
    except UserError as error:
        if context.folder.saved:
            raise UserError(f"{error}; what was finished stays in {folder}, no complete run") from error
        raise
    finally:
        if "tracked" in vars(context):
            context.tracked.finish(exit_code)
    return folder


def repeated(words: Sequence[str]) -> list[str]:
    """The words that make the same picture again: not where it is written, kept or told."""
    return [w for w in words if not w.lstrip("+~").startswith((*records.NOT_THE_RUN, "hydra"))]


def of_sweep(context: StudyContext) -> bool:
    """Whether a job is one of Hydra's sweep or of one that W&B steers."""
    return context.group is not None or bool(os.environ.get("WANDB_RUN_ID"))


def show_repeated(context: StudyContext, earlier: Path) -> None:
    """Track a skipped job of a sweep as a repetition with the numbers of the run `earlier`.

    Not if that run is of the same sweep, whose command was started again: it is there already.
    """
    if RunFolder(earlier).manifest().get("group") == context.group is not None:
        return
    context.repeats = earlier
    for name in ("metrics.json", "headline.json"):
        if (earlier / name).is_file():
            context.tracked.summary(flat(json.loads((earlier / name).read_text())))
    context.tracked.finish(0)


def manifest(context: StudyContext, started: float) -> dict[str, Any]:
    """Everything needed to know what a run was and to run it again."""
    config, folder = context.config, context.folder.path
    return {
        "config": config.resolved,
        "config_hash": records.config_hash(config),
        "choices": config.choices,
        "overrides": config.overrides,
        "seed": config.seed,
        "group": context.group,
        "device": device(),
        **({"weights": taken} if (taken := weights_taken(config)) else {}),
        "seconds": {phase: round(value, 3) for phase, value in context.seconds.items()},
        "total_seconds": round(time.time() - started, 3),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": sorted(
            p.name for p in folder.iterdir() if p.is_file() and p.suffix != ".log" and p.name != folders.KEY
        ),
        "git": context.git,
        **records.surroundings(),
    }


def device() -> str:
    """The accelerator of this process in words, "cpu" without one."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return "cpu"
