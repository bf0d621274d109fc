"""`study=text_sensitivity`: App. B, Fig. 1: when during denoising a prompt still changes the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sow.config.bounds import need_at_least
from sow.errors import UserError
from sow.report import figures

from .core.finding import Finding, bracket, markdown_table

if TYPE_CHECKING:
    from PIL import Image

    from sow.types import Canvas, Sample

    from .core.study import StudyContext

NAME = "text_sensitivity"
SHOWN = 4  # rows of pictures in the figure


@dataclass(frozen=True)
class TextSensitivity:
    """`prompts` x `seeds` unconditional images of `steps` steps, each with a window of `length` text-guided steps opening
    at K, K - `every`, ...; `agreement` names the metrics' column, the first that there is.
    """

    prompts: list[str]
    seeds: int
    steps: int
    length: int
    every: int
    scale: float
    agreement: list[str]
    batch: int
    resamples: int
    publish: bool

    def __post_init__(self) -> None:
        need_at_least(self, "study", seeds=1, resamples=1)
        if not self.prompts:
            raise UserError("need at least one prompt (study.prompts)")

    def run(self, context: StudyContext) -> None:
        """Sample with and without the window, measure, show."""
        import numpy as np

        from sow.dynamics.trajectory import Trajectory
        from sow.dynamics.windows import text_windows, window_starts

        starts = window_starts(self.steps, self.length, self.every)
        context.metrics.check()
        sampler = context.sampler()
        trajectory = Trajectory.of(sampler.backbone, self.steps, self.batch)
        column = self.column(context, sampler.canvas)
        _ = context.tracked  # the input is known to be good
        units = [
            (prompt, context.config.seed + i * self.seeds + j)
            for i, prompt in enumerate(self.prompts)
            for j in range(self.seeds)
        ]
        noise = trajectory.draw([seed for _, seed in units], sampler.canvas.latent_size)
        with context.timed("sample"):
            windows, plain = text_windows(
                trajectory, noise, [prompt for prompt, _ in units], starts, self.length, self.scale
            )
        with context.timed("decode"):
            pictures = {start: trajectory.pictures(x) for start, x in windows.items()}
            without = trajectory.pictures(plain)
        with context.timed("metrics"):
            text = self.measured(context, column, units, pictures, without, sampler.canvas)
        rows = [
            {
                "prompt": prompt,
                "seed": seed,
                "start": start,
                "stop": None if start is None else start - self.length,
                "noise": None if start is None else start / self.steps,
                "text": text[start][i],
                "effect": None if start is None else difference(pictures[start][i], without[i]),
            }
            for i, (prompt, seed) in enumerate(units)
            for start in (*windows, None)
        ]
        effects = np.array(
            [[difference(pictures[s][i], without[i]) for s in starts] for i in range(len(units))]
        )
        texts = np.array([[nan(text[s][i]) for s in starts] for i in range(len(units))])
        plain_text = np.array([nan(value) for value in text[None]])
        found = self.headline(context.config.seed, starts, texts, effects, plain_text)
        with context.timed("figures"):
            figure = figures.save(
                context.folder,
                NAME,
                self.figure(
                    context.config.seed, starts, texts, effects, plain_text, units, pictures, without, column
                ),
            )
        table = self.short(starts, texts, effects)
        Finding(
            name=NAME,
            headline={"measure": column, **found},
            markdown=self.markdown(found, column, table),
            figure=figure,
            tables={NAME: rows},
            short=table,
            history=table,
        ).deliver(context, self.publish)

    def column(self, context: StudyContext, canvas: Canvas) -> str:
        """The metrics' column that tells text agreement, asked of an empty picture before anything is sampled.

        Raises UserError when there is none.
        """
        from PIL import Image

        probe = Image.new("RGB", (canvas.width, canvas.height), (128, 128, 128))
        (row,) = context.metrics.measure([textual_sample(probe, self.prompts[0], 0, canvas)])
        for name in self.agreement:
            if name in row:
                return name
        raise UserError(
            f"metrics={context.config.choices.get('metrics')} has none of {', '.join(self.agreement)}: take metrics=clip or "
            "metrics=people (metrics, study.agreement)"
        )

    def measured(
        self,
        context: StudyContext,
        column: str,
        units: Sequence[tuple[str, int]],
        pictures: Mapping[int, Sequence[Image.Image]],
        without: Sequence[Image.Image],
        canvas: Canvas,
    ) -> dict[int | None, list[float | None]]:
        """Text agreement of every image by window, None for the images without text."""
        flat = [
            textual_sample(image, prompt, seed, canvas)
            for images in (*pictures.values(), without)
            for image, (prompt, seed) in zip(images, units, strict=True)
        ]
        values = [row.get(column) for row in context.metrics.measure(flat)]
        size = len(units)
        keys: list[int | None] = [*pictures, None]
        return {key: values[i * size : (i + 1) * size] for i, key in enumerate(keys)}

    def headline(
        self, seed: int, starts: Sequence[int], texts: Any, effects: Any, plain: Any
    ) -> dict[str, Any]:
        """Spearman of the mean curves with the window's place (0: the first steps, 1: the last), and their ends."""
        from sow.dynamics.curves import band, mean_interval, mean_over_units, spearman, spearman_each

        place = [1 - start / self.steps for start in starts]
        by_text = spearman(place, texts, seed, self.resamples)
        by_effect = spearman(place, effects, seed, self.resamples)
        each_text, each_effect = (spearman_each(place, v, seed, self.resamples) for v in (texts, effects))
        gain = texts - plain[:, None]
        first, last = (mean_interval(gain[:, j], seed, self.resamples) for j in (0, -1))
        curves = {
            name: band(v, seed, self.resamples).mean for name, v in (("text", texts), ("effect", effects))
        }
        return {
            "images": len(texts),
            "steps": self.steps,
            "spearman_text": by_text.to_dict(),
            "spearman_text_each": each_text.to_dict(),
            "spearman_effect": by_effect.to_dict(),
            "spearman_effect_each": each_effect.to_dict(),
            "gain_of_first_window": first.to_dict(),
            "gain_of_last_window": last.to_dict(),
            "text_by_start": dict(zip(map(str, starts), map(float, curves["text"]), strict=True)),
            "effect_by_start": dict(zip(map(str, starts), map(float, curves["effect"]), strict=True)),
            "text_without": float(mean_over_units(plain[:, None])[0]),
            "holds": {"falls_with_later_windows": each_text.high < 0, "effect_falls": each_effect.high < 0},
        }

    def short(self, starts: Sequence[int], texts: Any, effects: Any) -> list[dict[str, Any]]:
        """A line a window, means over the images."""
        from sow.dynamics.curves import mean_over_units

        text, effect = mean_over_units(texts), mean_over_units(effects)
        return [
            {"window": f"{s} to {s - self.length}", "start": s, "text": float(t), "effect": float(e)}
            for s, t, e in zip(starts, text, effect, strict=True)
        ]

    def figure(
        self,
        seed: int,
        starts: Sequence[int],
        texts: Any,
        effects: Any,
        plain: Any,
        units: Sequence[tuple[str, int]],
        pictures: Mapping[int, Sequence[Image.Image]],
        without: Sequence[Image.Image],
        column: str,
    ) -> Any:
        """Curves with bands beside the images of some prompts, a column a window."""
        from sow.dynamics.curves import band, mean_over_units
        from sow.dynamics.plots import curve, montage

        chosen = [i * self.seeds for i in range(min(SHOWN, len(self.prompts)))]

        def paint(figure: Any) -> None:
            above, below = figure.subfigures(2, 1, height_ratios=(2.3, 0.9 * len(chosen) + 0.4))
            axes = above.subplots(1, 2)
            labels = (f"{column.replace('_', ' ')}\nof the image", "change of the image\n(RMS gray levels)")
            for number, (axis, values, label) in enumerate(zip(axes, (texts, effects), labels, strict=True)):
                found = band(values, seed, self.resamples)
                curve(axis, starts, found.mean, found.low, found.high, label="mean, 95 % band", number=number)
                axis.set(xlabel=f"window opens at step k ({self.steps} noise, 0 clean)", ylabel=label)
                axis.invert_xaxis()
                axis.grid(alpha=0.25)
            axes[0].axhline(
                mean_over_units(plain[:, None])[0], color="black", linestyle=":", label="without text"
            )
            for axis in axes:
                axis.legend()
            sheet = [[*(pictures[s][i] for s in starts), without[i]] for i in chosen]
            montage(
                below.subplots(),
                sheet,
                [*(f"k = {s}" for s in starts), "no text"],
                [wrapped(units[i][0]) for i in chosen],
            )

        return figures.draw(8.5, 2.7 + 0.95 * len(chosen), paint)

    def markdown(self, found: Mapping[str, Any], column: str, table: Sequence[Mapping[str, Any]]) -> str:
        """What its page says."""
        text, effect = found["spearman_text"], found["spearman_effect"]
        return "\n".join(
            [
                f"![Text in a window of {self.length} of {self.steps} steps]({NAME}.png)",
                "",
                f"{found['images']} images, K = {self.steps}, windows of {self.length} guided steps. Spearman's rank correlation of a "
                f"window's place (early to late) with the mean {column.replace('_', ' ')}: {bracket(text)}, averaged over the images' own "
                f"correlations {bracket(found['spearman_text_each'])}; with the change of the image against the same seed without text: "
                f"{bracket(effect)} and {bracket(found['spearman_effect_each'])} (95 % bootstrap intervals over images). Against no text "
                f"at all the first window adds {bracket(found['gain_of_first_window'], 3)}, the last {bracket(found['gain_of_last_window'], 3)}. "
                f"Falls with later windows: {'yes' if found['holds']['falls_with_later_windows'] else 'not shown'}.",
                "",
                markdown_table([{k: v for k, v in row.items() if k != "start"} for row in table]),
            ]
        )


def textual_sample(image: Image.Image, prompt: str, seed: int, canvas: Canvas) -> Sample:
    """A sample without visual conditions, for metrics that look at image and prompt."""
    import torch

    from sow.types import Plan, Request, Sample

    plan = Plan((), (), prompt, "none")
    return Sample(Request((), prompt, seed=seed), plan, image, torch.empty(0), canvas)


def difference(a: Image.Image, b: Image.Image) -> float:
    """Root mean square difference of two pictures in gray levels."""
    import numpy as np

    return float(np.sqrt(np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2)))


def nan(value: float | None) -> float:
    """None as nan."""
    return float("nan") if value is None else float(value)


def wrapped(words: str) -> str:
    """A prompt on short lines."""
    import textwrap

    return "\n".join(textwrap.wrap(words, 16))
