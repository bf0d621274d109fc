"""`study=cycle_progress`: Fig. 8: how the image grows around the condition, cycle by cycle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sow import report
from sow.config.bounds import need_at_least, need_within
from sow.report import figures

from .core.finding import Finding, bracket, markdown_table

if TYPE_CHECKING:
    from sow.types import Sample

    from .core.study import StudyContext

NAME = "cycle_progress"
COLUMNS = 10  # cycles in the figure
WORDS = {"boundary": "seam at the box (1 = none)", "whole": "whole outline (probability)"}


@dataclass(frozen=True)
class CycleProgress:
    """`seeds` images with `eta` in the cycles; after each cycle the predicted image is kept and measured."""

    seeds: int
    shown: int
    eta: float
    measures: list[str]
    resamples: int
    publish: bool

    def __post_init__(self) -> None:
        need_at_least(self, "study", seeds=1, shown=1, resamples=1)
        need_within(self, "study", 0, 1, "eta")

    def run(self, context: StudyContext) -> None:
        """Generate with snapshots, measure each snapshot, show."""
        config = context.config
        context.metrics.check()
        requests = context.requests_by_seed(self.seeds)
        sampler = context.sampler()
        sampler = sampler.variant(cycle=replace(sampler.method.cycle, eta=self.eta))
        with context.timed("plan"):
            plans = sampler.plan(requests)
        _ = context.tracked  # the input is known to be good
        with (
            context.timed("sample"),
            report.progress_bar(sampler, plans, config.batch_size) as on_step,
        ):
            samples = sampler.generate(requests, plans=plans, snapshots=True, on_step=on_step)
        with context.timed("metrics"):
            rows = self.measured(context, samples)
        found = self.headline(config.seed, rows)
        with context.timed("figures"):
            figure = figures.save(context.folder, NAME, self.figure(config.seed, samples, rows))
        table = self.short(rows)
        Finding(
            name=NAME,
            headline=found,
            markdown=self.markdown(found, table),
            figure=figure,
            tables={NAME: rows},
            short=table,
            history=table,
        ).deliver(context, self.publish)

    def measured(self, context: StudyContext, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """A row a seed and cycle (counted from 1): the metrics of the snapshot, and how much of the image changed."""
        from sow.dynamics.samples import change, inside_boxes

        flat = [replace(sample, image=image) for sample in samples for image in sample.snapshots]
        metrics = iter(context.metrics.measure(flat))
        rows = []
        for sample in samples:
            inside = inside_boxes(sample.image.size, sample.plan.boxes)
            last = sample.snapshots[-1]
            for cycle, image in enumerate(sample.snapshots, 1):
                before = sample.snapshots[cycle - 2] if cycle > 1 else None
                rows.append(
                    {
                        "seed": sample.request.seed,
                        "cycle": cycle,
                        "change_inside": None if before is None else change(image, before, inside),
                        "change_outside": None if before is None else change(image, before, ~inside),
                        "to_last_inside": change(image, last, inside),
                        "to_last_outside": change(image, last, ~inside),
                        **next(metrics),
                    }
                )
        return rows

    def headline(self, seed: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """First and last cycle, and rank correlation with the cycle, of every curve."""
        import numpy as np

        from sow.dynamics.curves import mean_interval, mean_over_units, spearman, spearman_each
        from sow.dynamics.samples import by_unit, present

        out: dict[str, Any] = {"seeds": self.seeds, "eta": self.eta}
        for measure in present(rows, ["change_inside", "change_outside", "to_last_outside", *self.measures]):
            _, cycles, values = by_unit(rows, "seed", "cycle", measure)
            first = int(np.isfinite(values).any(0).argmax())  # the first cycle changes nothing yet
            gain = mean_interval(values[:, -1] - values[:, first], seed, self.resamples)
            mean = mean_over_units(values)
            out[measure] = {
                "first": float(mean[first]),
                "last": float(mean[-1]),
                "gain": gain.to_dict(),
                "spearman": spearman(cycles, values, seed, self.resamples).to_dict(),
                "spearman_each": spearman_each(cycles, values, seed, self.resamples).to_dict(),
            }
        return out

    def short(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """A line a cycle, means over the seeds."""
        from sow.dynamics.curves import mean_over_units
        from sow.dynamics.samples import by_unit, present

        cycles = by_unit(rows, "seed", "cycle", "change_outside")[1]
        columns = {
            m: mean_over_units(by_unit(rows, "seed", "cycle", m)[2])
            for m in present(rows, ["change_inside", "change_outside", *self.measures])
        }
        return [{"cycle": c, **{m: float(v[j]) for m, v in columns.items()}} for j, c in enumerate(cycles)]

    def figure(self, seed: int, samples: Sequence[Sample], rows: Sequence[Mapping[str, Any]]) -> Any:
        """Snapshots of the first seeds from left to right, and the curves below."""
        from sow.dynamics.curves import band
        from sow.dynamics.plots import curve, montage
        from sow.dynamics.samples import by_unit, present

        chosen = samples[: self.shown]
        cycles = len(chosen[0].snapshots)
        picked = sorted({round(1 + i * (cycles - 1) / max(1, COLUMNS - 1)) for i in range(COLUMNS)})
        measures = present(rows, self.measures)[:3]

        def paint(figure: Any) -> None:
            above, below = figure.subfigures(2, 1, height_ratios=(0.9 * len(chosen) + 0.4, 2.3))
            sheet = [[shown(s), *(s.snapshots[c - 1] for c in picked), s.image] for s in chosen]
            montage(
                above.subplots(),
                sheet,
                ["condition", *(f"cycle {c}" for c in picked), "image"],
                [f"seed {s.request.seed}" for s in chosen],
            )
            axes = below.subplots(1, 1 + len(measures), squeeze=False)[0]
            for number, (name, words) in enumerate(
                (("change_outside", "outside the box"), ("change_inside", "inside the box"))
            ):
                _, x, values = by_unit(rows, "seed", "cycle", name)
                found = band(values[:, 1:], seed, self.resamples)
                curve(axes[0], x[1:], found.mean, found.low, found.high, label=words, number=number)
            axes[0].set(ylabel="change since the cycle before\n(RMS gray levels)")
            axes[0].legend()
            for number, (axis, name) in enumerate(zip(axes[1:], measures, strict=True), 2):
                _, x, values = by_unit(rows, "seed", "cycle", name)
                found = band(values, seed, self.resamples)
                curve(axis, x, found.mean, found.low, found.high, label=name, number=number)
                axis.set(ylabel=WORDS.get(name, f"{name.replace('_', ' ')} (mean)"))
            for axis in axes:
                axis.set(xlabel="cycle")
                axis.grid(alpha=0.25)

        return figures.draw(9.0, 2.8 + 0.85 * len(chosen), paint)

    def markdown(self, found: Mapping[str, Any], table: Sequence[Mapping[str, Any]]) -> str:
        """What its page says."""
        curves = {k: v for k, v in found.items() if isinstance(v, Mapping)}
        each = [
            {
                "curve": name.replace("_", " "),
                "first": v["first"],
                "last": v["last"],
                "last - first (95 % interval)": bracket(v["gain"], 3),
                "Spearman with the cycle": bracket(v["spearman"]),
            }
            for name, v in curves.items()
        ]
        return "\n".join(
            [
                f"![The predicted image after each cycle]({NAME}.png)",
                "",
                f"{found['seeds']} seeds, eta {found['eta']:g} in the cycles, the image predicted after each of {table[-1]['cycle']} cycles; "
                "change is the root mean square difference to the cycle before, in gray levels.",
                "",
                markdown_table(each),
            ]
        )


def shown(sample: Sample) -> Any:
    """The first visual condition of a sample on gray, as large as its image."""
    return sample.request.conditions[0].on_gray().resize(sample.image.size)
