"""`study=seed_init`: Fig. 6: the same requests from several backgrounds, and without seed initialisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sow import report
from sow.config.bounds import need_at_least, need_one_of
from sow.config.schema import instantiate
from sow.report import figures

from .core.finding import Finding, bracket, markdown_table, number
from .cycle_progress import shown

if TYPE_CHECKING:
    from sow.types import Sample

    from .core.study import StudyContext

NAME = "seed_init"
PANELS = 4  # measures in the figure


@dataclass(frozen=True)
class SeedInit:
    """`seeds` requests with each seed initialisation of `arms` (options of the group seed_init), compared seed by seed with
    the arm `reference`.
    """

    arms: dict[str, Any]
    reference: str
    seeds: int
    shown: int
    measures: list[str]
    resamples: int
    publish: bool

    def __post_init__(self) -> None:
        need_at_least(self, "study", seeds=1, shown=1, resamples=1)
        need_one_of(self, "study", reference=self.arms)
        self.components()

    def components(self) -> dict[str, Any]:
        """The seed initialisation of each arm; raises UserError for values that are none."""
        return {name: instantiate(values, f"study.arms.{name}") for name, values in self.arms.items()}

    def run(self, context: StudyContext) -> None:
        """Generate every arm from the same requests and plans, measure, show."""
        config = context.config
        context.metrics.check()
        requests = context.requests_by_seed(self.seeds)
        sampler = context.sampler()
        with context.timed("plan"):
            plans = sampler.plan(requests)
        _ = context.tracked  # the input is known to be good
        samples: dict[str, list[Sample]] = {}
        rows: list[dict[str, Any]] = []
        for arm, component in self.components().items():
            own = sampler.variant(seed_init=component)
            with (
                context.timed(f"sample_{arm}"),
                report.progress_bar(own, plans, config.batch_size) as on_step,
            ):
                samples[arm] = own.generate(requests, plans=plans, on_step=on_step)
            with context.timed("metrics"):
                measured = context.metrics.measure(samples[arm])
            for sample, row in zip(samples[arm], measured, strict=True):
                rows.append({"seed": sample.request.seed, "arm": arm, **row})
                context.folder.save_image(f"{arm}/seed_{sample.request.seed}.png", sample.image)
        found = self.headline(config.seed, rows)
        with context.timed("figures"):
            figure = figures.save(context.folder, NAME, self.figure(config.seed, samples, rows))
        table = self.short(found)
        Finding(
            name=NAME,
            headline=found,
            markdown=self.markdown(found),
            figure=figure,
            tables={NAME: rows},
            short=table,
            history=[{k: v for k, v in row.items() if k != "arm"} for row in table],
        ).deliver(context, self.publish)

    def headline(self, seed: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Means of every arm, and what they differ from the reference over the seeds that have both."""
        from sow.dynamics.curves import mean_interval
        from sow.dynamics.samples import by_unit, present

        measures = present(rows, self.measures)
        arms: dict[str, dict[str, Any]] = {arm: {} for arm in self.arms}
        for measure in measures:
            _, names, values = by_unit(rows, "seed", "arm", measure)
            base = values[:, names.index(self.reference)]
            for j, arm in enumerate(names):
                mean = mean_interval(values[:, j], seed, self.resamples)
                gap = mean_interval(values[:, j] - base, seed, self.resamples)
                arms[arm][measure] = {"mean": mean.to_dict(), "against_reference": gap.to_dict()}
        return {"seeds": self.seeds, "reference": self.reference, "measures": measures, "arms": arms}

    def short(self, found: Mapping[str, Any]) -> list[dict[str, Any]]:
        """A line an arm."""
        return [
            {"arm": arm, **{m: found["arms"][arm][m]["mean"]["value"] for m in found["measures"]}}
            for arm in self.arms
        ]

    def figure(
        self, seed: int, samples: Mapping[str, Sequence[Sample]], rows: Sequence[Mapping[str, Any]]
    ) -> Any:
        """Fig. 6: a row a seed, a column a background; below, the measures with intervals."""
        from sow.dynamics.curves import band
        from sow.dynamics.plots import MARKERS, montage
        from sow.dynamics.samples import by_unit, present

        first = next(iter(samples.values()))
        count = min(self.shown, len(first))
        measures = present(rows, self.measures)[:PANELS]

        def paint(figure: Any) -> None:
            above, below = figure.subfigures(2, 1, height_ratios=(1.25 * count + 0.3, 2.0))
            montage(
                above.subplots(),
                [[shown(first[i]), *(samples[arm][i].image for arm in samples)] for i in range(count)],
                ["condition", *samples],
                [f"seed {first[i].request.seed}" for i in range(count)],
                cell=128,
            )
            axes = below.subplots(1, max(1, len(measures)), squeeze=False)[0]
            for axis, measure in zip(axes, measures, strict=False):
                _, names, values = by_unit(rows, "seed", "arm", measure)
                found = band(values, seed, self.resamples)
                for j, _ in enumerate(names):
                    color = figures.CYCLE[j % len(figures.CYCLE)]
                    axis.plot(j, found.mean[j], MARKERS[j % len(MARKERS)], color=color, markersize=5)
                    axis.vlines(j, found.low[j], found.high[j], color=color)
                axis.set_xticks(range(len(names)), names)
                axis.set(ylabel=f"{measure.replace('_', ' ')} (mean, 95 %)", xlabel="background")
                axis.margins(x=0.15)
                axis.grid(axis="y", alpha=0.25)

        return figures.draw(8.0, 2.3 + 1.25 * count, paint)

    def markdown(self, found: Mapping[str, Any]) -> str:
        """What its page says."""
        others = [arm for arm in self.arms if arm != self.reference]
        each = [
            {
                "measure": m.replace("_", " "),
                self.reference: number(found["arms"][self.reference][m]["mean"]["value"]),
                **{
                    arm: f"{number(found['arms'][arm][m]['mean']['value'])} "
                    f"({bracket(found['arms'][arm][m]['against_reference'])})"
                    for arm in others
                },
            }
            for m in found["measures"]
        ]
        return "\n".join(
            [
                f"![Backgrounds of the seed initialisation]({NAME}.png)",
                "",
                f"{found['seeds']} seeds, all with the same conditions, plans and prompt; means, and in brackets the difference to "
                f"{self.reference} over the same seeds with its 95 % bootstrap interval.",
                "",
                markdown_table(each),
            ]
        )
