"""`study=find_phases`: where chaos, semantic formation and refinement lie on a model, and the cycle that
follows.

Three curves over the noise level (Fig. 4; App. B, Fig. 1 and 2) share two change points a < b
(`sow/dynamics/regimes.py`). The suggested cycle runs between them with as many UNet calls as the default's;
both are then held against each other on groups of the data's validation split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from sow.errors import UserError
from sow.report import figures
from sow.report.figures import COLORS
from sow.types import Bound, component

from .core.fields import Count, Inside, Resamples
from .core.finding import Finding, markdown_table, number
from .core.groups import evenly, generate_groups

if TYPE_CHECKING:
    from sow.config.compose import Config
    from sow.dynamics.regimes import Curve, Regimes, Suggestion
    from sow.report.statistics import Resampling
    from sow.types import Sample

    from .core.study import StudyContext

NAME = "find_phases"
TITLES = {
    "diffusion_in_diffusion": "contrast lost after merging",
    "semantic_formation": "change by a disturbance",
    "text_sensitivity": "change by text",
}
Numbers = list[dict[str, Any]]


@component("study")
class FindPhases:
    """See conf/study/find_phases.yaml."""

    steps: int
    length: int
    every: int
    prompts: list[str]
    seeds: Count
    pictures: Count
    size: float
    layouts: list[str]
    scale: float
    runs: list[str]
    grid: Annotated[int, Bound(ge=2)]
    narrowest: Inside
    groups: Annotated[int, Bound(ge=0)]
    split: str
    level: Inside
    resamples: Resamples
    batch: int
    publish: bool

    def __post_init__(self) -> None:
        if not self.prompts:
            raise UserError("need at least one prompt (study.prompts)")

    def files(self) -> list[str]:
        """The folders whose curves are read."""
        return list(self.runs)

    def run(self, context: StudyContext) -> None:
        """Curves, regimes, suggestion, comparison."""
        from sow.dynamics.regimes import regimes, suggest

        config = context.config
        if self.groups:
            context.metrics.check()
        curves = self.curves(context)
        found = regimes(curves, self.grid, self.narrowest, context.resampling(self.resamples, self.level))
        cycle = config.cycle
        default = {"t1": cycle.t1, "t2": cycle.t2, "cycles": cycle.cycles}
        new = suggest(found.a, found.b, cycle.t1, cycle.t2, cycle.cycles)
        suggested = {"t1": new.t1, "t2": new.t2, "cycles": new.cycles}
        context.console.print(f"suggested: {' '.join(new.words)}")
        samples, rows, table = self.compare(context, new)
        sentence = verdict(new, config, table)
        found_on = f"Found by study=find_phases on model={config.choices['model']}"
        borders = f"refinement below {found.a:.3g}, chaos above {found.b:.3g} of the noise level"
        context.folder.save_bytes("found.yaml", new.yaml(f"{found_on}: {borders}.").encode())
        Finding(
            NAME,
            {
                **asdict(found),
                "default": default,
                "suggested": suggested,
                "overrides": " ".join(new.words),
                "comparison": {row["metric"]: row for row in table},
                "verdict": sentence,
            },
            f"{self.words(found, new, config)}\n\n{markdown_table(table)}\n{sentence}\n",
            paint(curves, found, config, new, samples),
            {NAME: curve_rows(curves), **({f"{NAME}_groups": rows} if rows else {})},
            table or [suggested],
            history=(),
        ).deliver(context, self.publish)
        place = context.folder.path / "found.yaml"
        context.console.print(f"{sentence}\ncopy {place} to conf/cycle/ for cycle=found")

    def curves(self, context: StudyContext) -> list[Curve]:
        """The three curves; those of `runs` are read, the others measured."""
        from PIL import Image

        from sow.dynamics import measured
        from sow.dynamics.trajectory import Trajectory
        from sow.dynamics.windows import window_starts

        from .semantic_formation import on_gray, pixel_sizes

        config = context.config
        known = measured.read(self.runs)
        sampler = context.sampler()
        _ = context.tracked  # the input is known to be good
        canvas = sampler.canvas
        trajectory = Trajectory.of(sampler.backbone, self.steps, self.batch)
        starts = window_starts(self.steps, self.length, self.every)

        def halves() -> Curve:
            pair = [Image.new("RGB", (canvas.width, canvas.height), color) for color in ("white", (128,) * 3)]
            return measured.merging(trajectory, pair, self.layouts)

        def pictures() -> Curve:
            seeds = range(config.seed, config.seed + self.pictures)
            (side,) = pixel_sizes([self.size], canvas)
            images = [on_gray(config.condition.load(seed)[0], side) for seed in seeds]
            background = trajectory.draw(seeds, canvas.latent_size)
            return measured.formation(trajectory, images, background, starts, self.length)

        def windows() -> Curve:
            prompts = [prompt for prompt in self.prompts for _ in range(self.seeds)]
            seeds = range(config.seed, config.seed + len(prompts))
            noise = trajectory.draw(seeds, canvas.latent_size)
            return measured.text(trajectory, noise, prompts, starts, self.length, self.scale)

        out = []
        for name, make in (
            ("diffusion_in_diffusion", halves),
            ("semantic_formation", pictures),
            ("text_sensitivity", windows),
        ):
            with context.timed(name):
                out.append(known[name] if name in known else make())
        return out

    def compare(
        self, context: StudyContext, suggestion: Suggestion
    ) -> tuple[dict[str, list[Sample]], Numbers, Numbers]:
        """Default and suggestion on the same groups: samples by row,
        one row per group, one row per metric."""
        if not self.groups:
            return {}, [], []
        config = context.config
        if (suggestion.t1, suggestion.t2) == (config.cycle.t1, config.cycle.t2):
            return {}, [], []
        groups = evenly(config.data.groups(self.split), self.groups)
        samples: dict[str, list[Sample]] = {}
        rows: Numbers = []
        for name, words in (("default", []), ("suggested", suggestion.words)):
            with context.timed(f"{name} cycle"):
                samples[name] = generate_groups(config, groups, words)
            rows += [
                {"row": name, "group": g.id, "setting": g.setting, **values}
                for g, values in zip(groups, context.measure(samples[name]), strict=True)
            ]
        return samples, rows, self.paired(rows, context.resampling(self.resamples, self.level))

    def paired(self, rows: Numbers, how: Resampling) -> Numbers:
        """A row per metric: both means, the difference paired by group with its interval, and the p-value."""
        from sow.dynamics.samples import as_number
        from sow.report.statistics import by_group, compare

        out = []
        for metric in dict.fromkeys(k for row in rows for k in row if k not in ("row", "group", "setting")):
            pair = [
                [(r["group"], as_number(r.get(metric))) for r in rows if r["row"] == name]
                for name in ("default", "suggested")
            ]
            known = [[v for values in by_group(part).values() for v in values] for part in pair]
            if not all(known):
                continue
            found = compare(pair[1], pair[0], how)
            default, suggested = (sum(values) / len(values) for values in known)
            row = {"metric": metric, "default": default, "suggested": suggested}
            ends = {"difference": found.difference, "low": found.low, "high": found.high, "p": found.p}
            out.append({**row, **ends})
        return out

    def words(self, found: Regimes, suggestion: Suggestion, config: Config) -> str:
        """What was found, in words."""
        fits = ", ".join(f"{TITLES[name].lower()} {number(value)}" for name, value in found.explained.items())
        a, b = (f"[{low:.3g}, {high:.3g}]" for low, high in (found.a_interval, found.b_interval))
        return (
            f"Refinement ends at a = {found.a:.3g} {a} and chaos begins at b = {found.b:.3g} {b} of the "
            f"noise level k / K ({self.level:.0%} bootstrap intervals; share of each curve's variance that "
            f"two flats and a slope explain: {fits}). Suggested: `{' '.join(suggestion.words)}`; default: "
            f"t1 {config.cycle.t1:g}, t2 {config.cycle.t2:g}, {config.cycle.cycles} cycles."
        )


def verdict(suggestion: Suggestion, config: Config, table: Sequence[Mapping[str, Any]]) -> str:
    """One sentence: which metrics the suggestion changes beyond chance;
    nothing is claimed where none does."""
    if (suggestion.t1, suggestion.t2) == (config.cycle.t1, config.cycle.t2):
        return "The suggested cycle is the default one."
    if not table:
        return "Not compared: no groups, or metrics that measure nothing."
    clear = [
        f"{row['metric']} {row['default']:.3g} to {row['suggested']:.3g}"
        for row in table
        if row["low"] > 0 or row["high"] < 0
    ]
    if not clear:
        return "No metric differs from the default's beyond its interval."
    return f"Beyond their intervals, not corrected for the number of metrics: {', '.join(clear)}."


def curve_rows(curves: Sequence[Curve]) -> Numbers:
    """The tidy table: a row per curve, unit and noise level."""
    return [
        {"curve": c.name, "unit": i, "noise": float(u), "value": float(value)}
        for c in curves
        for i, unit in enumerate(c.values)
        for u, value in zip(c.noise, unit, strict=True)
    ]


def paint(
    curves: Sequence[Curve],
    found: Regimes,
    config: Config,
    suggestion: Suggestion,
    samples: Mapping[str, Sequence[Sample]],
) -> Any:
    """The curves over the noise level with the regimes behind them, cycles as bars; below,
    the first groups of both."""
    from sow.dynamics.plots import curve as line
    from sow.dynamics.plots import montage
    from sow.dynamics.regimes import ramp

    def fill(figure: Any) -> None:
        heights = [3, 2] if samples else [3]
        parts = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)
        axis = parts[0, 0]
        for i, c in enumerate(curves):
            explained = found.explained.get(c.name, float("nan"))
            line(
                axis,
                c.noise.tolist(),
                c.mean(),
                label=f"{TITLES[c.name]} ({explained:.0%} explained)",
                number=i,
            )
        axis.grid(False)
        slope = ramp(curves[0].noise, found.a, found.b)
        axis.plot(curves[0].noise, slope, color=COLORS["gray"], lw=3, alpha=0.5)
        borders = (0, found.a, found.b, 1)
        for i, word in enumerate(("refinement", "semantic formation", "chaos")):
            axis.text((borders[i] + borders[i + 1]) / 2, 1.06, word, ha="center", fontsize=8)
        axis.axvspan(found.a, found.b, color=COLORS["sky"], alpha=0.15, lw=0)
        for ends in (found.a_interval, found.b_interval):
            axis.plot(ends, [1.02, 1.02], color=COLORS["black"], lw=1.5)
        cycles: Any = ((config.cycle, "default cycle"), (suggestion, "suggested cycle"))
        for i, (cycle, word) in enumerate(cycles):
            y, color = -0.08 - 0.07 * i, COLORS["black"] if i else COLORS["gray"]
            axis.plot([cycle.t1 / 10, cycle.t2 / 10], [y, y], lw=4, color=color)
            axis.text(cycle.t2 / 10 + 0.01, y, word, va="center", fontsize=7)
        axis.set(xlim=(0, 1), ylim=(-0.22, 1.14), ylabel="curve, scaled to [0, 1]")
        axis.set_xlabel("noise level k / K (0 clean, 1 noise)")
        figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=2)
        if samples:
            shown = [[s.image for s in row[:8]] for row in samples.values()]
            montage(parts[1, 0], shown, left=list(samples))

    return figures.draw(6.4, 6.0 if samples else 3.8, fill)
