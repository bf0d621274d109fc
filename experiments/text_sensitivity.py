"""`study=text_sensitivity`: App. B, Fig. 1: when during denoising a prompt still changes the image."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sow.errors import UserError
from sow.report import figures
from sow.types import component

from .core.fields import Count, Prompts, Resamples
from .core.finding import Finding, bracket, markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from sow.report.statistics import Resampling
    from sow.types import Canvas, Sample

    from .core.study import StudyContext

NAME = "text_sensitivity"
SHOWN = 4  # rows of pictures in the figure


@component("study")
class TextSensitivity:
    """`prompts` x `seeds` unconditional images of `steps` steps, each with a window of `length` text-guided
    steps.

    It opens at K, K - `every`, ...; `agreement` names columns of the metrics, of which the first that exists
    counts.
    """

    prompts: Prompts
    seeds: Count
    steps: int
    length: int
    every: int
    scale: float
    agreement: list[str]
    batch: int
    resamples: Resamples
    publish: bool

    def run(self, context: StudyContext) -> None:
        """Sample with and without the window, measure, show."""
        from sow.dynamics.samples import means
        from sow.dynamics.trajectory import Trajectory
        from sow.dynamics.windows import text_windows, window_starts

        starts = window_starts(self.steps, self.length, self.every)
        context.metrics.check()
        sampler = context.sampler()
        trajectory = Trajectory.of(sampler.backbone, self.steps, self.batch)
        column = self.column(context, sampler.canvas)
        _ = context.tracked  # the input is known to be good
        prompts = [prompt for prompt in self.prompts for _ in range(self.seeds)]
        seeds = range(context.config.seed, context.config.seed + len(prompts))
        noise = trajectory.draw(seeds, sampler.canvas.latent_size)
        with context.timed("sample"):
            windows, plain = text_windows(trajectory, noise, prompts, starts, self.length, self.scale)
        with context.timed("decode"):
            pictures: dict[int | None, list[Image.Image]] = {
                s: trajectory.pictures(x) for s, x in windows.items()
            }
            pictures[None] = trajectory.pictures(plain)
        rows = self.measured(
            context, column, list(zip(prompts, seeds, strict=True)), pictures, sampler.canvas
        )
        how = context.resampling(self.resamples)
        found = {"measure": column, **self.headline(how, rows)}
        inside = [row for row in rows if row["start"] is not None]
        table = [
            {"window": f"{row['start']} to {row['start'] - self.length}", **row}
            for row in means(inside, "seed", "start", ["text", "effect"])
        ]
        figure = self.figure(how, rows, prompts, pictures, column)
        finding = Finding(NAME, found, self.markdown(found, column, table), figure, {NAME: rows}, table)
        finding.deliver(context, self.publish)

    def column(self, context: StudyContext, canvas: Canvas) -> str:
        """The metrics' column of text agreement, asked of an empty picture before anything is
        sampled.

        Raises UserError if the metrics have no such column.
        """
        from PIL import Image

        probe = Image.new("RGB", (canvas.width, canvas.height), (128, 128, 128))
        (row,) = context.metrics.measure([textual_sample(probe, self.prompts[0], 0, canvas)])
        for name in self.agreement:
            if name in row:
                return name
        raise UserError(
            f"metrics={context.config.choices.get('metrics')} has none of {', '.join(self.agreement)}: take "
            "metrics=clip or metrics=people (metrics, study.agreement)"
        )

    def measured(
        self,
        context: StudyContext,
        column: str,
        units: Sequence[tuple[str, int]],
        pictures: Mapping[int | None, Sequence[Image.Image]],
        canvas: Canvas,
    ) -> list[dict[str, Any]]:
        """The tidy table: a row per prompt, seed and window; `start` None is the image without text."""
        from sow.dynamics.samples import change

        samples = [
            textual_sample(image, prompt, seed, canvas)
            for images in pictures.values()
            for image, (prompt, seed) in zip(images, units, strict=True)
        ]
        text = iter(context.measure(samples))
        agreement = {start: [next(text).get(column) for _ in units] for start in pictures}
        rows = []
        for i, (prompt, seed) in enumerate(units):
            for start, images in pictures.items():
                window: dict[str, Any] = {"start": start, "stop": None, "noise": None, "effect": None}
                if start is not None:
                    effect = change(images[i], pictures[None][i])
                    window |= {"stop": start - self.length, "noise": start / self.steps, "effect": effect}
                rows.append({"prompt": prompt, "seed": seed, **window, "text": agreement[start][i]})
        return rows

    def headline(self, how: Resampling, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Spearman of the mean curves with the window's place (0: the first steps, 1: the
        last), and their ends."""
        from sow.dynamics.curves import mean_interval, mean_over_units, spearman, spearman_each

        starts, texts, effects, plain = curves(rows)
        place = [1 - start / self.steps for start in starts]
        each_text, each_effect = (spearman_each(place, v, how) for v in (texts, effects))
        gain = texts - plain
        by_start = {n: mean_over_units(v).tolist() for n, v in (("text", texts), ("effect", effects))}
        return {
            "images": len(texts),
            "steps": self.steps,
            "spearman_text": spearman(place, texts, how),
            "spearman_text_each": each_text,
            "spearman_effect": spearman(place, effects, how),
            "spearman_effect_each": each_effect,
            "gain_of_first_window": mean_interval(gain[:, 0], how),
            "gain_of_last_window": mean_interval(gain[:, -1], how),
            **{f"{n}_by_start": dict(zip(map(str, starts), v, strict=True)) for n, v in by_start.items()},
            "text_without": float(mean_over_units(plain)[0]),
            "holds": {
                "falls_with_later_windows": each_text["high"] < 0,
                "effect_falls": each_effect["high"] < 0,
            },
        }

    def figure(
        self,
        how: Resampling,
        rows: Sequence[Mapping[str, Any]],
        prompts: Sequence[str],
        pictures: Mapping[int | None, Sequence[Image.Image]],
        column: str,
    ) -> Figure:
        """Curves with bands above the images of some prompts, a column per window."""
        from sow.dynamics.curves import mean_over_units
        from sow.dynamics.plots import banded, montage

        starts, texts, effects, plain = curves(rows)
        chosen = [i * self.seeds for i in range(min(SHOWN, len(self.prompts)))]
        labels = (f"{column.replace('_', ' ')}\nof the image", "change of the image\n(RMS gray levels)")
        heads = ["no text" if s is None else f"k = {s}" for s in pictures]
        sheet = [[images[i] for images in pictures.values()] for i in chosen]
        left = ["\n".join(textwrap.wrap(prompts[i], 16)) for i in chosen]

        def paint(figure: Any) -> None:
            above, below = figure.subfigures(2, 1, height_ratios=(2.3, 0.9 * len(chosen) + 0.4))
            axes = above.subplots(1, 2)
            for number, (axis, values, label) in enumerate(zip(axes, (texts, effects), labels, strict=True)):
                banded(axis, starts, values, how, label="mean, 95 % band", number=number)
                axis.set(xlabel=f"window opens at step k ({self.steps} noise, 0 clean)", ylabel=label)
                axis.invert_xaxis()
            axes[0].axhline(mean_over_units(plain)[0], color="black", linestyle=":", label="without text")
            for axis in axes:
                axis.legend()
            montage(below.subplots(), sheet, heads, left)

        return figures.draw(8.5, 2.7 + 0.95 * len(chosen), paint)

    def markdown(self, found: Mapping[str, Any], column: str, table: Sequence[Mapping[str, Any]]) -> str:
        """What its page says."""
        first, last = (bracket(found[f"gain_of_{which}_window"], 3) for which in ("first", "last"))
        return (
            f"![Text in a window of {self.length} of {self.steps} steps]({NAME}.png)\n\n"
            f"{found['images']} images, K = {self.steps}, windows of {self.length} guided steps. Spearman's "
            f"rank correlation of a window's place (early to late) with the mean {column.replace('_', ' ')}: "
            f"{bracket(found['spearman_text'])}, averaged over the images' own correlations "
            f"{bracket(found['spearman_text_each'])}; with the change of the image against the same seed "
            f"without text: {bracket(found['spearman_effect'])} and "
            f"{bracket(found['spearman_effect_each'])} (95 % bootstrap intervals over images). Against no "
            f"text at all the first window adds {first}, the last {last}. Falls with later windows: "
            f"{'yes' if found['holds']['falls_with_later_windows'] else 'not shown'}.\n\n"
            f"{markdown_table([{k: v for k, v in row.items() if k != 'start'} for row in table])}"
        )


def curves(rows: Sequence[Mapping[str, Any]]) -> tuple[list[int], Any, Any, Any]:
    """Windows' starts, text agreement and effect (images, starts), and agreement without text (images, 1)."""
    from sow.dynamics.samples import by_unit

    inside = [row for row in rows if row["start"] is not None]
    _, starts, texts = by_unit(inside, "seed", "start", "text")
    effects = by_unit(inside, "seed", "start", "effect")[2]
    plain = by_unit([row for row in rows if row["start"] is None], "seed", "start", "text")[2]
    return starts, texts, effects, plain


def textual_sample(image: Image.Image, prompt: str, seed: int, canvas: Canvas) -> Sample:
    """A sample without visual conditions, for metrics that look at image and prompt."""
    import torch

    from sow.types import Plan, Request, Sample

    plan = Plan((), (), prompt, "none")
    return Sample(Request((), prompt, seed=seed), plan, image, torch.empty(0), canvas)
