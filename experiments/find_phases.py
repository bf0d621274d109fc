"""`study=find_phases`: where chaos, semantic formation and refinement lie on a model, and the cycle that follows from it.

Three curves over the noise level (Fig. 4; App. B, Fig. 1 and 2) share two change points a < b (`sow/dynamics/regimes.py`). The
suggested cycle runs between them with as many UNet calls as the default's; both are then held against each other on
groups of the data's validation split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sow.config.bounds import need_at_least, need_between
from sow.errors import UserError
from sow.report import figures

from .core.finding import Finding, markdown_table, number
from .find_phases_figure import TITLES, paint
from .recompose import with_words

if TYPE_CHECKING:
    from sow.config.compose import Config
    from sow.data import Group
    from sow.dynamics.regimes import Curve, Regimes, Suggestion
    from sow.types import Sample

    from .core.study import StudyContext

NAME = "find_phases"
Numbers = list[dict[str, Any]]


@dataclass(frozen=True)
class FindPhases:
    """See conf/study/find_phases.yaml."""

    steps: int
    length: int
    every: int
    prompts: list[str]
    seeds: int
    pictures: int
    size: float
    layouts: list[str]
    scale: float
    runs: list[str]
    grid: int
    narrowest: float
    groups: int
    split: str
    level: float
    resamples: int
    batch: int
    publish: bool

    def __post_init__(self) -> None:
        need_at_least(self, "study", seeds=1, pictures=1, groups=0, grid=2, resamples=100)
        need_between(self, "study", 0, 1, "narrowest")
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
        found = regimes(curves, self.grid, self.narrowest, self.resamples, config.seed, confidence=self.level)
        cycle = config.cycle
        suggestion = suggest(found.a, found.b, cycle.t1, cycle.t2, cycle.cycles)
        context.console.print(f"suggested: {' '.join(suggestion.words)}")
        samples, rows, table = self.compare(context, suggestion)
        sentence = verdict(suggestion, config, table)
        yaml = suggestion.yaml(
            f"Found by study=find_phases on model={config.choices['model']}: {borders(found)}."
        )
        context.folder.save_bytes("found.yaml", yaml.encode())
        figure = figures.save(context.folder, NAME, paint(curves, found, config, suggestion, samples))
        short = table or [{"t1": suggestion.t1, "t2": suggestion.t2, "cycles": suggestion.cycles}]
        Finding(
            name=NAME,
            headline={
                "a": found.a,
                "a_interval": list(found.a_interval),
                "b": found.b,
                "b_interval": list(found.b_interval),
                "explained": found.explained,
                "default": {"t1": cycle.t1, "t2": cycle.t2, "cycles": cycle.cycles},
                "suggested": {"t1": suggestion.t1, "t2": suggestion.t2, "cycles": suggestion.cycles},
                "overrides": " ".join(suggestion.words),
                "comparison": {row["metric"]: row for row in table},
                "verdict": sentence,
            },
            markdown=f"{self.told(found, suggestion, config)}\n\n{markdown_table(table)}\n{sentence}\n",
            figure=figure,
            tables={
                NAME: curve_rows(curves),
                **({"find_phases_groups": rows} if rows else {}),
            },
            short=short,
        ).deliver(context, self.publish)
        context.console.print(
            f"{sentence}\ncopy {context.folder.path / 'found.yaml'} to conf/cycle/ for cycle=found"
        )

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
        """Default and suggestion on the same groups: samples by row, one row a group, one row a metric."""
        if not self.groups:
            return {}, [], []
        config = context.config
        if (suggestion.t1, suggestion.t2) == (config.cycle.t1, config.cycle.t2):
            return {}, [], []
        groups = config.data.groups(self.split)
        count = min(self.groups, len(groups))
        taken = [groups[i * len(groups) // count] for i in range(count)]
        samples: dict[str, list[Sample]] = {}
        rows: Numbers = []
        for name, words in (("default", []), ("suggested", suggestion.words)):
            with context.timed(f"{name} cycle"):
                samples[name] = generate(config, taken, words)
            with context.timed("metrics"):
                measured = context.metrics.measure(samples[name])
            rows += [
                {"row": name, "group": g.id, "setting": g.setting, **values}
                for g, values in zip(taken, measured, strict=True)
            ]
        return samples, rows, self.paired(rows, config.seed)

    def paired(self, rows: Numbers, seed: int) -> Numbers:
        """A row a metric: both means, the difference paired by group with its interval, and the p-value."""
        from sow.report.statistics import Resampling, compare

        how = Resampling(self.level, max(100, self.resamples), seed)
        out = []
        names = dict.fromkeys(k for row in rows for k in row if k not in ("row", "group", "setting"))
        for metric in names:
            values = {
                name: [(r["group"], as_number(r.get(metric))) for r in rows if r["row"] == name]
                for name in ("default", "suggested")
            }
            known = [[v for _, v in part if v is not None] for part in values.values()]
            if not all(known):
                continue
            found = compare(values["suggested"], values["default"], how)
            out.append(
                {
                    "metric": metric,
                    "default": sum(known[0]) / len(known[0]),
                    "suggested": sum(known[1]) / len(known[1]),
                    "difference": found.difference,
                    "low": found.low,
                    "high": found.high,
                    "p": found.p,
                }
            )
        return out

    def told(self, found: Regimes, suggestion: Suggestion, config: Config) -> str:
        """What was found, in words."""
        fits = ", ".join(f"{TITLES[name].lower()} {number(value)}" for name, value in found.explained.items())
        return (
            f"Refinement ends at a = {found.a:.3g} [{found.a_interval[0]:.3g}, {found.a_interval[1]:.3g}] and chaos begins at "
            f"b = {found.b:.3g} [{found.b_interval[0]:.3g}, {found.b_interval[1]:.3g}] of the noise level k / K ({self.level:.0%} "
            f"bootstrap intervals; share of each curve's variance that two flats and a slope explain: {fits}). Suggested: "
            f"`{' '.join(suggestion.words)}`; default: t1 {config.cycle.t1:g}, t2 {config.cycle.t2:g}, {config.cycle.cycles} cycles."
        )


def generate(config: Config, groups: Sequence[Group], words: Sequence[str]) -> list[Sample]:
    """Samples of the groups in their order, each setting by a sampler composed for it."""
    from sow.pipeline.factory import build

    found: dict[str, Sample] = {}
    for setting in dict.fromkeys(g.setting for g in groups):
        mine = [g.request for g in groups if g.setting == setting]
        sampler = build(with_words(config, [*words, f"task={setting}"]))
        found |= {r.id: s for r, s in zip(mine, sampler.generate(mine), strict=True)}
    return [replace(found[g.request.id], request=g.request) for g in groups]


def as_number(value: Any) -> float | bool | None:
    """Numbers and truths; None for words and for what does not exist."""
    return value if isinstance(value, (bool, int, float)) and value == value else None


def borders(found: Regimes) -> str:
    return f"refinement below {found.a:.3g}, chaos above {found.b:.3g} of the noise level"


def verdict(suggestion: Suggestion, config: Config, table: Sequence[Mapping[str, Any]]) -> str:
    """One sentence: which metrics the suggestion changes beyond chance; nothing is claimed where none does."""
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
    """The tidy table: a row a curve, unit and noise level."""
    return [
        {"curve": c.name, "unit": i, "noise": float(u), "value": float(value)}
        for c in curves
        for i, unit in enumerate(c.values)
        for u, value in zip(c.noise, unit, strict=True)
    ]
