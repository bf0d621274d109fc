"""`study=find_phases`: seven measures and the paper's own studies on one axis, and the cycle that follows.

Each says between which two noise levels it sees things decided (its window):

    entropy_rate, pixel_information  a tenth and nine tenths of the information gathered, medians over
                                     attributes and texts
    u_turn, non_locality             where the susceptibility, and the smallest window's error, lie above the
                                     middle of their smallest and largest value
    sensitivity                      the two ends of the slope of the reach
    memorisation                     speciation and collapse of the training set
    patching                         a tenth and nine tenths of what all layers move
    the paper's three                the two ends of the slope (`sow/dynamics/regimes.py`); none where the
                                     slope explains less than `explained` of the curve

The rule (`regimes.propose`), fixed before any of it was measured: t2 at the median noisy end, t1 at the
median clean end, t3 below t1 down to the last clean end, with as many network calls as the default's. The
cycle is then held against the default and against random ones as wide on groups of the data's validation
split.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from sow.errors import UserError
from sow.store.files import place_of
from sow.types import Bound, component

from . import find_phases_figure as picture
from .core.fields import LIMIT, Count, Inside, Resamples, Share
from .core.finding import Finding, markdown_table
from .core.groups import evenly, generate_groups
from .core.laid import Laid, Slopes, agreement, laid
from .core.recompose import with_words

if TYPE_CHECKING:
    from sow.config.compose import Config
    from sow.dynamics.axis import Axis
    from sow.dynamics.regimes import Suggestion
    from sow.report.statistics import Resampling
    from sow.types import Sample

    from .core.study import StudyContext

NAME = "find_phases"
PAIRED = ("default", "random")  # what the suggested cycle is compared with
Numbers = list[dict[str, Any]]


@component("study")
class FindPhases:
    """See conf/study/find_phases.yaml."""

    studies: Mapping[str, list[str]]
    only: list[str] | None
    runs: list[str]
    grid: Annotated[int, Bound(ge=2, le=LIMIT)]
    narrowest: Inside
    explained: Share
    groups: Annotated[int, Bound(ge=0, le=LIMIT)]
    random: Count
    split: str
    level: Inside
    resamples: Resamples
    full: bool
    publish: bool

    def __post_init__(self) -> None:
        from .core.laid import KNOWN

        for key, names in (("studies", self.studies), ("only", self.only or ())):
            for name in names:
                if name not in KNOWN:
                    raise UserError(f"{name} is none of {', '.join(KNOWN)} (study.{key})")

    def files(self) -> list[str]:
        """The folders whose curves are read."""
        return list(self.runs)

    def configurations(self, config: Config) -> list[Config]:
        """Those of the studies."""
        return [self.of(config, name) for name in self.chosen]

    @property
    def chosen(self) -> list[str]:
        """The studies that are taken."""
        return [name for name in self.studies if self.only is None or name in self.only]

    def of(self, config: Config, name: str) -> Config:
        """The configuration of a study."""
        from .core.laid import KNOWN

        sized = ["study.full=true"] if self.full and "full" in KNOWN[name] else []
        return with_words(config, [f"study={name}", *sized, *self.studies[name]])

    def run(self, context: StudyContext) -> None:
        """Curves and windows, suggestion, comparison."""
        from sow.dynamics.axis import Axis
        from sow.dynamics.regimes import propose
        from sow.method.process import process_of

        config, how = context.config, context.resampling(self.resamples, self.level)
        if self.groups:
            context.metrics.check()
        folders = self.folders(context)
        sampler = context.sampler()
        axis = Axis(process_of(sampler.backbone, 10, sampler.canvas.latent_size))
        _ = context.tracked  # the input is known to be good
        slopes = Slopes(self.grid, self.narrowest, self.explained)
        lines = [laid(name, folder, axis, slopes, how) for name, folder in folders.items()]
        t1, t2 = config.cycle.resolve(10, axis.process.sigmas)
        calls = config.cycle.cycles * (t2 - t1)
        new = propose([one.ends for one in lines], [axis.state(k) for k in range(11)], calls)
        context.console.print(f"suggested: {' '.join(new.words)}")
        samples, rows, table = self.compare(context, new, calls)
        sentence = verdict(table)
        found_on = f"Found by study=find_phases on model={config.choices['model']}."
        context.folder.save_bytes("found.yaml", new.yaml(found_on).encode())
        default = {"t1": t1, "t2": t2, "cycles": config.cycle.cycles}
        headline = {
            "measures": {one.name: one.found() for one in lines},
            "agreement": {one.name: {two.name: one.overlap(two) for two in lines} for one in lines},
            "default": default,
            "suggested": asdict(new),
            "overrides": " ".join(new.words),
            "comparison": table,
            "verdict": sentence,
        }
        Finding(
            NAME,
            headline,
            f"{self.words(lines, axis, new, default)}\n\n{markdown_table(shown(table))}\n{sentence}\n",
            picture.paint(lines, axis, default, new, samples),
            {
                NAME: [row for one in lines for row in one.rows()],
                f"{NAME}_agreement": agreement(lines),
                **({f"{NAME}_groups": rows} if rows else {}),
            },
            shown(table) or [{"t1": new.t1, "t2": new.t2, "cycles": new.cycles}],
            history=(),
        ).deliver(context, self.publish)
        place = context.folder.path / "found.yaml"
        context.console.print(f"{sentence}\ncopy {place} to conf/cycle/ for cycle=found")

    def folders(self, context: StudyContext) -> dict[str, Path]:
        """Where each study's tables lie: in a folder of `runs`, in its complete run, or in one made now.

        Raises UserError for a folder of `runs` without any of them.
        """
        from sow.runs import records

        from .core.laid import KNOWN
        from .core.study import StudyContext as Job
        from .core.study import run_job

        out: dict[str, Path] = {}
        for folder in (place_of(run, "study.runs") for run in self.runs):
            names = [n for n in KNOWN if (folder / f"{n}.parquet").is_file()]
            if not names:
                raise UserError(
                    f"{folder} holds no table of {', '.join(KNOWN)}: give run folders of these (study.runs)"
                )
            out |= dict.fromkeys(names, folder)
        for name in self.chosen:
            if name in out:
                continue
            config, place = self.of(context.config, name), context.folder.path / name
            place.mkdir(parents=True, exist_ok=True)
            context.console.print(f"{name}:")
            with context.timed(name):
                run_job(config, place, context.group)
            found = records.find(config.paths.outputs, records.run_key(config, Job))
            out[name] = found or place
        return {name: out[name] for name in KNOWN if name in out}

    def compare(
        self, context: StudyContext, suggestion: Suggestion, calls: float
    ) -> tuple[dict[str, list[Sample]], Numbers, Numbers]:
        """Default, suggested and random cycles on the same groups: samples by row, a row per group, a row
        per metric."""
        from sow.dynamics.regimes import elsewhere

        if not self.groups:
            return {}, [], []
        config = context.config
        groups = evenly(config.data.groups(self.split), self.groups)
        others = elsewhere(suggestion, calls)
        drawn = random.Random(config.seed).sample(others, min(self.random, len(others)))
        cycles = {"default": [], "suggested": suggestion.words}
        cycles |= {f"random {one.t2} to {one.t1}": one.words for one in drawn}
        samples: dict[str, list[Sample]] = {}
        rows: Numbers = []
        for name, words in cycles.items():
            with context.timed("cycles"):
                samples[name] = generate_groups(config, groups, words)
            rows += [
                {"row": name, "group": g.id, "setting": g.setting, **values}
                for g, values in zip(groups, context.measure(samples[name]), strict=True)
            ]
        return samples, rows, paired(rows, context.resampling(self.resamples, self.level))

    def words(
        self, lines: Sequence[Laid], axis: Axis, suggestion: Suggestion, default: Mapping[str, Any]
    ) -> str:
        """What was found, in words."""
        return (
            f"![Seven measures and the paper's studies on one axis]({NAME}.png)\n\n"
            f"Between which noise levels each measure sees things decided, with {self.level:.0%} bootstrap "
            "intervals, and the share of the paper's 700 to 500 (of Stable Diffusion, at equal log SNR) that "
            f"lies in it.\n\n{markdown_table([one.line(axis) for one in lines])}\n"
            "How far two windows agree: the length in log SNR that they share, over what they cover "
            f"together.\n\n{markdown_table(agreement(lines))}\n"
            f"Suggested by the rule (t2 at the median noisy end, t1 at the median clean end, t3 down to the "
            f"last clean end): `{' '.join(suggestion.words)}`; default: t1 {default['t1']}, t2 "
            f"{default['t2']}, {default['cycles']} cycles."
        )


def paired(rows: Numbers, how: Resampling) -> Numbers:
    """A row per metric: the means of the cycles, random ones together, and the suggested one minus each of
    `PAIRED`, paired by group, with interval and p-value."""
    from sow.dynamics.samples import as_number
    from sow.report.statistics import by_group, compare

    out = []
    for metric in dict.fromkeys(k for row in rows for k in row if k not in ("row", "group", "setting")):
        parts = {
            name: [(r["group"], as_number(r.get(metric))) for r in rows if r["row"].startswith(name)]
            for name in ("suggested", *PAIRED)
        }
        known = {name: [v for own in by_group(part).values() for v in own] for name, part in parts.items()}
        if not all(known.values()):
            continue
        row: dict[str, Any] = {"metric": metric, **{n: sum(v) / len(v) for n, v in known.items()}}
        for name in PAIRED:
            found = compare(parts["suggested"], parts[name], how)
            row[f"minus_{name}"] = {"value": found.difference, "low": found.low, "high": found.high}
            row[f"p_{name}"] = found.p
        out.append(row)
    return out


def shown(table: Numbers) -> Numbers:
    """The rows of `paired` with intervals in words."""
    from .core.finding import bracket

    return [{k: bracket(v) if isinstance(v, Mapping) else v for k, v in row.items()} for row in table]


def verdict(table: Numbers) -> str:
    """Which metrics the suggestion changes beyond their intervals; nothing is claimed where none does."""
    if not table:
        return "Not compared: no groups, or metrics that measure nothing."
    out = []
    for name in PAIRED:
        clear = [
            f"{row['metric']} {row[name]:.3g} to {row['suggested']:.3g}"
            for row in table
            if row[f"minus_{name}"]["low"] > 0 or row[f"minus_{name}"]["high"] < 0
        ]
        against = "the default" if name == "default" else "random cycles as wide"
        out.append(f"against {against} {', '.join(clear) or 'no metric'}")
    return f"Beyond their intervals, not corrected for the number of metrics: {'; '.join(out)}."
