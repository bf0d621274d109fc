"""`study=seed_init`: Fig. 6: the same requests from several backgrounds, and without seed initialisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sow.errors import UserError
from sow.report import figures
from sow.types import component

from .core.fields import Count, Resamples
from .core.finding import Finding, bracket, markdown_table, number
from .cycle_progress import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sow.report.statistics import Resampling
    from sow.types import Sample

    from .core.study import StudyContext

NAME = "seed_init"
PANELS = 4  # measures in the figure


@component("study")
class SeedInit:
    """`seeds` requests with each seed initialisation of `arms` (options of the group seed_init).

    They are compared seed by seed with the arm `reference`.
    """

    arms: dict[str, Any]
    reference: str
    seeds: Count
    shown: Count
    measures: list[str]
    resamples: Resamples
    publish: bool

    def __post_init__(self) -> None:
        if self.reference not in self.arms:
            raise UserError(
                f"study.reference={self.reference!r}: choose one of {', '.join(self.arms)} (study.reference)"
            )

    def run(self, context: StudyContext) -> None:
        """Generate every arm from the same requests and plans, measure, show."""
        context.metrics.check()
        requests = context.requests_by_seed(self.seeds)
        sampler = context.sampler()
        with context.timed("plan"):
            plans = sampler.plan(requests)
        samples: dict[str, list[Sample]] = {}
        rows: list[dict[str, Any]] = []
        for arm, initial in self.arms.items():
            samples[arm] = context.generate(sampler.variant(seed_init=initial), requests, plans)
            for sample, row in zip(samples[arm], context.measure(samples[arm]), strict=True):
                rows.append({"seed": sample.request.seed, "arm": arm, **row})
                context.folder.save_image(f"{arm}/seed_{sample.request.seed}.png", sample.image)
        how = context.resampling(self.resamples)
        found = self.headline(how, rows)
        figure = self.figure(how, samples, rows)
        Finding(NAME, found, self.markdown(found), figure, {NAME: rows}, self.short(found)).deliver(
            context, self.publish
        )

    def headline(self, how: Resampling, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Means of every arm, and what they differ from the reference over the seeds that have both."""
        from sow.dynamics.curves import mean_interval
        from sow.dynamics.samples import by_unit, present

        measures = present(rows, self.measures)
        arms: dict[str, dict[str, Any]] = {arm: {} for arm in self.arms}
        for measure in measures:
            _, names, values = by_unit(rows, "seed", "arm", measure)
            base = values[:, names.index(self.reference)]
            for j, arm in enumerate(names):
                gap = mean_interval(values[:, j] - base, how)
                arms[arm][measure] = {"mean": mean_interval(values[:, j], how), "against_reference": gap}
        return {"seeds": self.seeds, "reference": self.reference, "measures": measures, "arms": arms}

    def short(self, found: Mapping[str, Any]) -> list[dict[str, Any]]:
        """A line per arm."""
        return [
            {"arm": arm, **{m: found["arms"][arm][m]["mean"]["value"] for m in found["measures"]}}
            for arm in self.arms
        ]

    def figure(
        self, how: Resampling, samples: Mapping[str, Sequence[Sample]], rows: Sequence[Mapping[str, Any]]
    ) -> Figure:
        """Fig. 6: a row per seed, a column per background; below, the measures with intervals."""
        from sow.dynamics.curves import band
        from sow.dynamics.plots import MARKERS, montage
        from sow.dynamics.samples import by_unit, present

        first = next(iter(samples.values()))[: self.shown]
        measures = present(rows, self.measures)[:PANELS]
        sheet = [[shown(s), *(samples[arm][i].image for arm in samples)] for i, s in enumerate(first)]
        seeds = [f"seed {s.request.seed}" for s in first]

        def paint(figure: Any) -> None:
            above, below = figure.subfigures(2, 1, height_ratios=(1.25 * len(first) + 0.3, 2.0))
            montage(above.subplots(), sheet, ["condition", *samples], seeds, cell=128)
            axes = below.subplots(1, max(1, len(measures)), squeeze=False)[0]
            for axis, measure in zip(axes, measures, strict=False):
                _, names, values = by_unit(rows, "seed", "arm", measure)
                found = band(values, how)
                for j, _ in enumerate(names):
                    color = figures.CYCLE[j % len(figures.CYCLE)]
                    axis.plot(j, found.mean[j], MARKERS[j % len(MARKERS)], color=color, markersize=5)
                    axis.vlines(j, found.low[j], found.high[j], color=color)
                axis.set_xticks(range(len(names)), names)
                axis.set(ylabel=f"{measure.replace('_', ' ')} (mean, 95 %)", xlabel="background")
                axis.margins(x=0.15)
                axis.grid(axis="y", alpha=0.25)

        return figures.draw(8.0, 2.3 + 1.25 * len(first), paint)

    def markdown(self, found: Mapping[str, Any]) -> str:
        """What its page says."""
        each = []
        for m in found["measures"]:
            row = {"measure": m.replace("_", " "), self.reference: ""}
            for arm, of in found["arms"].items():
                mean = number(of[m]["mean"]["value"])
                row[arm] = (
                    mean if arm == self.reference else f"{mean} ({bracket(of[m]['against_reference'])})"
                )
            each.append(row)
        return (
            f"![Backgrounds of the seed initialisation]({NAME}.png)\n\n"
            f"{found['seeds']} seeds, all with the same conditions, plans and prompt; means, and in "
            f"brackets the difference to {self.reference} over the same seeds with its 95 % bootstrap "
            f"interval.\n\n{markdown_table(each)}"
        )
