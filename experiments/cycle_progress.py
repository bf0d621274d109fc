"""`study=cycle_progress`: Fig. 8: how the image grows around the condition, cycle by cycle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sow.report import figures
from sow.types import component

from .core.fields import Count, Resamples, Share
from .core.finding import Finding, bracket, markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sow.report.statistics import Resampling
    from sow.types import Sample

    from .core.study import StudyContext

NAME = "cycle_progress"
COLUMNS = 10  # cycles in the figure
WORDS = {"boundary": "seam at the box (1 = none)", "whole": "whole outline (probability)"}


@component("study")
class CycleProgress:
    """`seeds` images with `eta` in the cycles; after each cycle the predicted image is kept and measured."""

    seeds: Count
    shown: Count
    eta: Share
    measures: list[str]
    resamples: Resamples
    publish: bool

    def run(self, context: StudyContext) -> None:
        """Generate with snapshots, measure each snapshot, show."""
        context.metrics.check()
        requests = context.requests_by_seed(self.seeds)
        sampler = context.sampler()
        method: Any = sampler.method
        sampler = sampler.variant(cycle=replace(method.cycle, eta=self.eta))
        samples = context.generate(sampler, requests, snapshots=True)
        rows = self.measured(context, samples)
        how = context.resampling(self.resamples)
        found, table = self.headline(how, rows), self.short(rows)
        figure = self.figure(how, samples, rows)
        finding = Finding(NAME, found, self.markdown(found, table), figure, {NAME: rows}, table)
        finding.deliver(context, self.publish)

    def measured(self, context: StudyContext, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """A row per seed and cycle (counted from 1): the snapshot's metrics,
        and how much of the image changed."""
        from sow.dynamics.samples import change, inside_boxes

        metrics = iter(context.measure([replace(s, image=image) for s in samples for image in s.snapshots]))
        rows = []
        for sample in samples:
            inside = inside_boxes(sample.image.size, sample.plan.boxes)
            last, before = sample.snapshots[-1], None
            for cycle, image in enumerate(sample.snapshots, 1):
                row = {
                    "seed": sample.request.seed,
                    "cycle": cycle,
                    "change_inside": change(image, before, inside) if before else None,
                    "change_outside": change(image, before, ~inside) if before else None,
                    "to_last_inside": change(image, last, inside),
                    "to_last_outside": change(image, last, ~inside),
                }
                rows.append({**row, **next(metrics)})
                before = image
        return rows

    def headline(self, how: Resampling, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """First and last cycle, and rank correlation with the cycle, of every curve."""
        import numpy as np

        from sow.dynamics.curves import mean_interval, mean_over_units, spearman, spearman_each
        from sow.dynamics.samples import by_unit, present

        out: dict[str, Any] = {"seeds": self.seeds, "eta": self.eta}
        for measure in present(rows, ["change_inside", "change_outside", "to_last_outside", *self.measures]):
            _, cycles, values = by_unit(rows, "seed", "cycle", measure)
            first = int(np.isfinite(values).any(0).argmax())  # the first cycle changes nothing yet
            mean = mean_over_units(values)
            out[measure] = {
                "first": float(mean[first]),
                "last": float(mean[-1]),
                "gain": mean_interval(values[:, -1] - values[:, first], how),
                "spearman": spearman(cycles, values, how),
                "spearman_each": spearman_each(cycles, values, how),
            }
        return out

    def short(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """A line per cycle, means over the seeds."""
        from sow.dynamics.samples import means, present

        return means(
            rows, "seed", "cycle", present(rows, ["change_inside", "change_outside", *self.measures])
        )

    def figure(self, how: Resampling, samples: Sequence[Sample], rows: Sequence[Mapping[str, Any]]) -> Figure:
        """Snapshots of the first seeds from left to right, and the curves below."""
        from sow.dynamics.plots import banded, montage
        from sow.dynamics.samples import by_unit, present, spread

        chosen = samples[: self.shown]
        picked = spread(range(1, len(chosen[0].snapshots) + 1), COLUMNS)
        measures = present(rows, self.measures)[:3]
        sheet = [[shown(s), *(s.snapshots[c - 1] for c in picked), s.image] for s in chosen]
        heads = ["condition", *(f"cycle {c}" for c in picked), "image"]

        def paint(figure: Any) -> None:
            above, below = figure.subfigures(2, 1, height_ratios=(0.9 * len(chosen) + 0.4, 2.3))
            montage(above.subplots(), sheet, heads, [f"seed {s.request.seed}" for s in chosen])
            axes = below.subplots(1, 1 + len(measures), squeeze=False)[0]
            for number, side in enumerate(("outside", "inside")):
                _, x, values = by_unit(rows, "seed", "cycle", f"change_{side}")
                banded(axes[0], x[1:], values[:, 1:], how, label=f"{side} the box", number=number)
            axes[0].set(ylabel="change since the cycle before\n(RMS gray levels)")
            axes[0].legend()
            for number, (axis, name) in enumerate(zip(axes[1:], measures, strict=True), 2):
                _, x, values = by_unit(rows, "seed", "cycle", name)
                banded(axis, x, values, how, label=name, number=number)
                axis.set(ylabel=WORDS.get(name, f"{name.replace('_', ' ')} (mean)"))
            for axis in axes:
                axis.set(xlabel="cycle")

        return figures.draw(9.0, 2.8 + 0.85 * len(chosen), paint)

    def markdown(self, found: Mapping[str, Any], table: Sequence[Mapping[str, Any]]) -> str:
        """What its page says."""
        each = [
            {
                "curve": name.replace("_", " "),
                "first": v["first"],
                "last": v["last"],
                "last - first (95 % interval)": bracket(v["gain"], 3),
                "Spearman with the cycle": bracket(v["spearman"]),
            }
            for name, v in found.items()
            if isinstance(v, Mapping)
        ]
        return (
            f"![The predicted image after each cycle]({NAME}.png)\n\n"
            f"{found['seeds']} seeds, eta {found['eta']:g} in the cycles, the image predicted after each of "
            f"{table[-1]['cycle']} cycles; change is the root mean square difference to the cycle before, "
            f"in gray levels.\n\n{markdown_table(each)}"
        )


def shown(sample: Sample) -> Any:
    """The first visual condition of a sample on gray, as large as its image."""
    return sample.request.conditions[0].on_gray().resize(sample.image.size)
