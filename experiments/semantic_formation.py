"""`study=semantic_formation`: App.

B, Fig. 2 and 3: from which step on a picture withstands noise around it, by size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from sow.errors import UserError
from sow.report import figures
from sow.types import component

from .core.fields import Count, Inside, Resamples
from .core.finding import Finding, bracket, markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from sow.report.statistics import Resampling
    from sow.types import Canvas

    from .core.study import StudyContext

NAME = "semantic_formation"
SHOWN = 9  # columns of pictures
Rows = Sequence[Mapping[str, Any]]


@component("study")
class SemanticFormation:
    """`seeds` conditions at each of `sizes` (shares of the canvas), inverted over `steps` steps and
    disturbed.

    A disturbance takes `length` steps from x_k on, k = K, K - `every`, ...
    """

    seeds: Count
    sizes: list[float]
    steps: int
    length: int
    every: int
    noise: Literal["unit", "state"]
    similarity: Literal["pixels", "judge", "clip"]
    tolerance: Inside
    batch: int
    resamples: Resamples
    publish: bool

    def __post_init__(self) -> None:
        if not self.sizes or not all(0 < size < 1 for size in self.sizes):
            raise UserError(f"sizes are shares of the canvas between 0 and 1, got {self.sizes} (study.sizes)")

    def run(self, context: StudyContext) -> None:
        """Invert, disturb at every start, measure against the original, show."""
        from sow.dynamics.formation import disturbed_pictures
        from sow.dynamics.likeness import embedding
        from sow.dynamics.samples import spread
        from sow.dynamics.trajectory import Trajectory
        from sow.dynamics.windows import window_starts

        starts = window_starts(self.steps, self.length, self.every)
        embed = embedding(self.similarity, context.metrics)
        seeds = [context.config.seed + i for i in range(self.seeds)]
        conditions = [context.config.condition.load(seed)[0] for seed in seeds]
        sampler = context.sampler()
        sides = pixel_sizes(self.sizes, sampler.canvas)
        trajectory = Trajectory.of(sampler.backbone, self.steps, self.batch)
        background = trajectory.draw(seeds, sampler.canvas.latent_size)
        _ = context.tracked  # the input is known to be good
        rows: list[dict[str, Any]] = []
        shown: dict[int, dict[str, Image.Image]] = {}
        apart: dict[int, float] = {}
        for side in sides:
            originals = [on_gray(condition, side) for condition in conditions]
            with context.timed(f"size_{side}"):
                plain, found = disturbed_pictures(
                    trajectory, originals, starts, self.length, background, self.noise
                )
            with context.timed("measure"):
                rows += self.measured(seeds, side, originals, plain, found, embed)
                apart[side] = apart_by(originals)
            first = {f"k = {s}": found[s][0] for s in spread(starts, SHOWN)}
            shown[side] = {"original": originals[0], **first, "undisturbed": plain[0]}
        how = context.resampling(self.resamples)
        headline, table = self.headline(how, rows, apart), self.short(rows, sides)
        words, figure = self.markdown(headline, table), self.figure(how, rows, shown)
        Finding(NAME, headline, words, figure, {NAME: rows}, table).deliver(context, self.publish)

    def measured(
        self,
        seeds: Sequence[int],
        side: int,
        originals: Sequence[Image.Image],
        plain: Sequence[Image.Image],
        disturbed: Mapping[int, Sequence[Image.Image]],
        embed: Any,
    ) -> list[dict[str, Any]]:
        """The tidy table's rows of one size; losses are against the picture that was inverted."""
        from sow.dynamics.likeness import cosines, mse

        wanted = embed(originals)
        base = cosines(wanted, embed(plain))
        undisturbed = [mse(a, b) for a, b in zip(originals, plain, strict=True)]
        rows = []
        for start in sorted(disturbed, reverse=True):
            near = cosines(wanted, embed(disturbed[start]))
            for i, seed in enumerate(seeds):
                loss = mse(originals[i], disturbed[start][i])
                rows.append(
                    {
                        "seed": seed,
                        "size": side,
                        "start": start,
                        "stop": start - self.length,
                        "noise": start / self.steps,
                        "mse": loss,
                        "mse_undisturbed": undisturbed[i],
                        "excess": loss - undisturbed[i],
                        "cosine": float(near[i]),
                        "cosine_undisturbed": float(base[i]),
                    }
                )
        return rows

    def headline(self, how: Resampling, rows: Rows, apart: Mapping[int, float]) -> dict[str, Any]:
        """Settle steps by size and their difference; how loss and cosine order with the time of the
        disturbance; the losses' size beside the distance of two pictures, `apart` by size."""
        from sow.dynamics.curves import interval, mean_over_units, settle, spearman, spearman_each

        sides = list(apart)
        excess = {side: by_seed(rows, side, "excess") for side in sides}

        def settled(side: int, index: Any, last: int | None = None) -> float:
            starts, values = excess[side]  # the noisiest first
            if len(starts[:last]) < 1:
                return math.nan
            return settle(starts[:last], mean_over_units(values[index])[:last], self.tolerance)

        each: dict[str, dict[str, Any]] = {}
        for side in sides:
            starts, mse = by_seed(rows, side, "mse")
            place = [1 - start / self.steps for start in starts]
            cosine = by_seed(rows, side, "cosine")[1]
            each[str(side)] = {
                "settle_step": interval(partial(settled, side), self.seeds, how),
                "settle_but_last": interval(partial(settled, side, last=-1), self.seeds, how),
                "spearman_mse": spearman(place, mse, how),
                "spearman_cosine": spearman(place, cosine, how),
                "spearman_mse_each": spearman_each(place, mse, how),
                "spearman_cosine_each": spearman_each(place, cosine, how),
                "mse_by_start": dict(zip(starts, mean_over_units(mse).tolist(), strict=True)),
                "of_another": (mean_over_units(excess[side][1]) / apart[side]).tolist(),
                "mse_undisturbed": float(by_seed(rows, side, "mse_undisturbed")[1].mean()),
            }
        small, large = min(sides), max(sides)
        gap = interval(lambda i: settled(large, i) - settled(small, i), self.seeds, how)
        return {
            "seeds": self.seeds,
            "steps": self.steps,
            "tolerance": self.tolerance,
            "sizes": each,
            "larger_settles_earlier_by": gap,
            "holds": {
                "loss_falls_with_later_disturbance": all(
                    s["spearman_mse_each"]["high"] < 0 for s in each.values()
                ),
                "cosine_rises": all(s["spearman_cosine_each"]["low"] > 0 for s in each.values()),
                "larger_settles_earlier": gap["value"] > 0,
            },
        }

    def short(self, rows: Rows, sides: Sequence[int]) -> list[dict[str, Any]]:
        """A line per start, means over the seeds."""
        from sow.dynamics.samples import means

        lines: dict[int, dict[str, Any]] = {}
        for side in sides:
            for row in means([r for r in rows if r["size"] == side], "seed", "start", ["mse", "cosine"]):
                line = lines.setdefault(row["start"], {"start": row["start"]})
                line |= {f"{name}_{side}": row[name] for name in ("mse", "cosine")}
        return list(lines.values())

    def figure(self, how: Resampling, rows: Rows, shown: Mapping[int, Mapping[str, Image.Image]]) -> Figure:
        """Loss and cosine over the start of the disturbance with bands, and one picture of each size."""
        from sow.dynamics.plots import banded, montage

        panels = {
            "mse": "mean squared error, pixels in [0, 1]",
            "cosine": f"cosine similarity ({self.similarity})",
        }

        def paint(figure: Any) -> None:
            above, below = figure.subfigures(2, 1, height_ratios=(2.6, 0.9 * len(shown) + 0.3))
            for axis, (column, label) in zip(above.subplots(1, 2), panels.items(), strict=True):
                for number, side in enumerate(shown):
                    starts, values = by_seed(rows, side, column)
                    banded(axis, starts, values, how, label=f"{side} x {side} pixels", number=number)
                    base = by_seed(rows, side, f"{column}_undisturbed")[1].mean()
                    axis.axhline(base, color=figures.CYCLE[number], linestyle=":", linewidth=0.9)
                axis.plot([], [], color="black", linestyle=":", label="undisturbed")
                axis.set(xlabel=f"disturbed from step k on ({self.steps} noise, 0 clean)", ylabel=label)
                axis.invert_xaxis()
                axis.legend()
            sheet = [list(images.values()) for images in shown.values()]
            montage(
                below.subplots(), sheet, list(next(iter(shown.values()))), [f"{side} px" for side in shown]
            )

        return figures.draw(8.5, 3.0 + 0.95 * len(shown), paint)

    def markdown(self, found: Mapping[str, Any], table: Rows) -> str:
        """What its page says."""
        each = [
            {
                "size": f"{side} px",
                "settle step (95 % interval)": bracket(of["settle_step"], 0),
                "without the last window": bracket(of["settle_but_last"], 0),
                "Spearman of MSE": bracket(of["spearman_mse"]),
                "Spearman of cosine": bracket(of["spearman_cosine"]),
                "MSE undisturbed": of["mse_undisturbed"],
                "loss by disturbance, of the way to another picture": span(of["of_another"]),
            }
            for side, of in found["sizes"].items()
        ]
        earlier = bracket(found["larger_settles_earlier_by"], 0)
        settling = f"the larger size settles earlier by {earlier} steps"
        if earlier == "-":
            settling = (
                "which size settles first is open, as not every size settles by that rule. On an exact "
                "denoiser of a field whose correlation spans the canvas none does either "
                "(`tests/test_phases.py`): the last window, noise around an almost clean picture, moves "
                "it more than any before, and all others by hundredths of the way to another one"
            )
        return (
            f"![Pictures disturbed by noise around them]({NAME}.png)\n\n"
            f"{found['seeds']} pictures, K = {self.steps}, {self.length} steps of disturbance from step k "
            "on. A size has settled at the largest k from which on the loss above the undisturbed one stays "
            f"within {self.tolerance:.0%} of that at k = {self.steps}; {settling}. Spearman's rank "
            "correlation is that of the mean curve with the time of the disturbance, early to late.\n\n"
            f"{markdown_table(each)}\n{markdown_table(table)}"
        )


def apart_by(originals: Sequence[Image.Image]) -> float:
    """Mean squared error between each picture and the next, the last and the first; nan for one picture."""
    from sow.dynamics.likeness import mse

    pairs = zip(originals, [*originals[1:], originals[0]], strict=True)
    return sum(mse(a, b) for a, b in pairs) / len(originals) or float("nan")


def span(values: Sequence[float]) -> str:
    """The smallest and the largest of shares; "-" where there are none."""
    known = [v for v in values if math.isfinite(v)]
    return f"{min(known):.1%} to {max(known):.1%}" if known else "-"


def by_seed(rows: Rows, side: int, column: str) -> tuple[list[int], Any]:
    """Starts, and one column (seeds, starts) of a size."""
    from sow.dynamics.samples import by_unit

    return by_unit([row for row in rows if row["size"] == side], "seed", "start", column)[1:]


def pixel_sizes(sizes: Sequence[float], canvas: Canvas) -> list[int]:
    """Shares of the canvas's shorter side as pixels on the VAE's grid, each once.

    Raises UserError if two are the same.
    """
    short = min(canvas.width, canvas.height)
    sides = [max(canvas.factor, round(size * short / canvas.factor) * canvas.factor) for size in sizes]
    if len(set(sides)) < len(sides):
        raise UserError(
            f"sizes {list(sizes)} fall on {sides} pixels of a {canvas.width} x {canvas.height} canvas: take "
            "sizes farther apart (study.sizes)"
        )
    return sides


def on_gray(condition: Any, side: int) -> Image.Image:
    """A visual condition at `side` x `side` pixels, gray outside its mask as on the canvas of the method."""
    from PIL import Image

    image = condition.image.convert("RGB").resize((side, side))
    if condition.mask is None:
        return image
    mask = condition.mask.convert("L").resize((side, side)).point(lambda v: 255 * (v >= 128))
    return Image.composite(image, Image.new("RGB", image.size, (128, 128, 128)), mask)
