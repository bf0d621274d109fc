"""`study=semantic_formation`: App. B, Fig. 2 and 3: from which step on a picture withstands noise around it, by its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from sow.config.bounds import need_at_least, need_between
from sow.errors import UserError
from sow.report import figures

from .core.finding import Finding, bracket, markdown_table
from .semantic_formation_figure import by_seed, paint, spread

if TYPE_CHECKING:
    from PIL import Image

    from sow.dynamics.trajectory import Trajectory
    from sow.types import Canvas

    from .core.study import StudyContext

NAME = "semantic_formation"


@dataclass(frozen=True)
class SemanticFormation:
    """`seeds` conditions at each of `sizes` (shares of the canvas), inverted over `steps` steps and disturbed for `length`
    steps from x_k on, k = K, K - `every`, ...
    """

    seeds: int
    sizes: list[float]
    steps: int
    length: int
    every: int
    noise: Literal["unit", "state"]
    similarity: Literal["pixels", "judge", "clip"]
    tolerance: float
    batch: int
    resamples: int
    publish: bool

    def __post_init__(self) -> None:
        need_at_least(self, "study", seeds=1, resamples=1)
        if not self.sizes or not all(0 < size < 1 for size in self.sizes):
            raise UserError(f"sizes are shares of the canvas between 0 and 1, got {self.sizes} (study.sizes)")
        need_between(self, "study", 0, 1, "tolerance")

    def run(self, context: StudyContext) -> None:
        """Invert, disturb at every start, measure against the original, show."""
        from sow.dynamics.likeness import embedding
        from sow.dynamics.trajectory import Trajectory
        from sow.dynamics.windows import window_starts

        starts = window_starts(self.steps, self.length, self.every)
        embed = embedding(self.similarity, context.metrics)
        seeds = [context.config.seed + i for i in range(self.seeds)]
        conditions = [context.config.condition.load(seed)[0] for seed in seeds]
        sampler = context.sampler()
        canvas = sampler.canvas
        sides = pixel_sizes(self.sizes, canvas)
        trajectory = Trajectory.of(sampler.backbone, self.steps, self.batch)
        background = trajectory.draw(seeds, canvas.latent_size)
        _ = context.tracked  # the input is known to be good
        rows: list[dict[str, Any]] = []
        shown: dict[int, list[Image.Image]] = {}
        for side in sides:
            originals = [on_gray(condition, side) for condition in conditions]
            with context.timed(f"size_{side}"):
                plain, disturbed = self.disturb(trajectory, originals, starts, background)
            with context.timed("measure"):
                rows += self.measured(seeds, side, starts, originals, plain, disturbed, embed)
            shown[side] = [originals[0], *(disturbed[s][0] for s in spread(starts)), plain[0]]
        found = self.headline(context.config.seed, rows, sides, starts)
        with context.timed("figures"):
            figure = figures.save(
                context.folder, NAME, paint(self, context.config.seed, rows, sides, starts, shown)
            )
        table = self.short(rows, sides, starts)
        Finding(
            name=NAME,
            headline=found,
            markdown=self.markdown(found, sides, table),
            figure=figure,
            tables={NAME: rows},
            short=table,
            history=table,
        ).deliver(context, self.publish)

    def disturb(
        self, trajectory: Trajectory, originals: Sequence[Image.Image], starts: Sequence[int], background: Any
    ) -> tuple[list[Image.Image], dict[int, list[Image.Image]]]:
        """Pictures inverted and denoised undisturbed, and the disturbed ones by start."""
        import torch

        from sow.dynamics.formation import disturbed
        from sow.method.seed_init import to_tensor

        backbone = trajectory.backbone
        states = trajectory.invert(backbone.encode(torch.stack([to_tensor(image) for image in originals])))
        plain = trajectory.pictures(trajectory.denoise(states[-1], self.steps))
        found = disturbed(trajectory, states, starts, self.length, background, self.noise)
        return plain, {start: trajectory.pictures(x) for start, x in found.items()}

    def measured(
        self,
        seeds: Sequence[int],
        side: int,
        starts: Sequence[int],
        originals: Sequence[Image.Image],
        plain: Sequence[Image.Image],
        disturbed: Mapping[int, Sequence[Image.Image]],
        embed: Any,
    ) -> list[dict[str, Any]]:
        """The tidy table's rows of one size; losses are against the picture that was inverted."""
        from sow.dynamics.likeness import cosines, mse

        wanted = embed(originals)
        base = cosines(wanted, embed(plain))
        rows = []
        for start in starts:
            near = cosines(wanted, embed(disturbed[start]))
            for i, seed in enumerate(seeds):
                undisturbed = mse(originals[i], plain[i])
                loss = mse(originals[i], disturbed[start][i])
                rows.append(
                    {
                        "seed": seed,
                        "size": side,
                        "start": start,
                        "stop": start - self.length,
                        "noise": start / self.steps,
                        "mse": loss,
                        "mse_undisturbed": undisturbed,
                        "excess": loss - undisturbed,
                        "cosine": float(near[i]),
                        "cosine_undisturbed": float(base[i]),
                    }
                )
        return rows

    def headline(
        self, seed: int, rows: Sequence[Mapping[str, Any]], sides: Sequence[int], starts: Sequence[int]
    ) -> dict[str, Any]:
        """Settle steps by size and their difference, and how loss and cosine order with the time of the disturbance."""
        import numpy as np

        from sow.dynamics.curves import interval, mean_over_units, settle, spearman, spearman_each

        place = [1 - start / self.steps for start in starts]
        excess = {side: by_seed(rows, side, "excess", starts) for side in sides}

        def settled(side: int, index: Any) -> float:
            return settle(starts, mean_over_units(excess[side][index]), self.tolerance)

        each: dict[str, dict[str, Any]] = {
            str(side): {
                "settle_step": interval(partial(settled, side), self.seeds, seed, self.resamples).to_dict(),
                "spearman_mse": spearman(
                    place, by_seed(rows, side, "mse", starts), seed, self.resamples
                ).to_dict(),
                "spearman_cosine": spearman(
                    place, by_seed(rows, side, "cosine", starts), seed, self.resamples
                ).to_dict(),
                "spearman_mse_each": spearman_each(
                    place, by_seed(rows, side, "mse", starts), seed, self.resamples
                ).to_dict(),
                "spearman_cosine_each": spearman_each(
                    place, by_seed(rows, side, "cosine", starts), seed, self.resamples
                ).to_dict(),
                "mse_by_start": dict(
                    zip(starts, map(float, mean_over_units(by_seed(rows, side, "mse", starts))), strict=True)
                ),
                "mse_undisturbed": float(np.mean(by_seed(rows, side, "mse_undisturbed", starts))),
            }
            for side in sides
        }
        small, large = min(sides), max(sides)
        gap = interval(lambda i: settled(large, i) - settled(small, i), self.seeds, seed, self.resamples)
        return {
            "seeds": self.seeds,
            "steps": self.steps,
            "tolerance": self.tolerance,
            "sizes": each,
            "larger_settles_earlier_by": gap.to_dict(),
            "holds": {
                "loss_falls_with_later_disturbance": all(
                    s["spearman_mse_each"]["high"] < 0 for s in each.values()
                ),
                "cosine_rises": all(s["spearman_cosine_each"]["low"] > 0 for s in each.values()),
                "larger_settles_earlier": gap.value > 0,
            },
        }

    def short(
        self, rows: Sequence[Mapping[str, Any]], sides: Sequence[int], starts: Sequence[int]
    ) -> list[dict[str, Any]]:
        """A line a start, means over the seeds."""
        from sow.dynamics.curves import mean_over_units

        columns = {
            f"{name}_{side}": mean_over_units(by_seed(rows, side, name, starts))
            for side in sides
            for name in ("mse", "cosine")
        }
        return [
            {"start": start, **{name: float(values[i]) for name, values in columns.items()}}
            for i, start in enumerate(starts)
        ]

    def markdown(
        self, found: Mapping[str, Any], sides: Sequence[int], table: Sequence[Mapping[str, Any]]
    ) -> str:
        """What its page says."""
        each = [
            {
                "size": f"{side} px",
                "settle step (95 % interval)": bracket(found["sizes"][str(side)]["settle_step"], 0),
                "Spearman of MSE": bracket(found["sizes"][str(side)]["spearman_mse"]),
                "Spearman of cosine": bracket(found["sizes"][str(side)]["spearman_cosine"]),
                "MSE undisturbed": found["sizes"][str(side)]["mse_undisturbed"],
            }
            for side in sides
        ]
        earlier = found["larger_settles_earlier_by"]
        settling = (
            "which size settles first is open, as not every size settles by that rule"
            if bracket(earlier, 0) == "-"
            else f"the larger size settles earlier by {bracket(earlier, 0)} steps"
        )
        return "\n".join(
            [
                f"![Pictures disturbed by noise around them]({NAME}.png)",
                "",
                f"{found['seeds']} pictures, K = {self.steps}, {self.length} steps of disturbance from step k on. A size has settled at the "
                f"largest k from which on the loss above the undisturbed one stays within {self.tolerance:.0%} of that at k = {self.steps}; "
                f"{settling}. Spearman's rank correlation is that of the mean curve with the time of the disturbance, early to late.",
                "",
                markdown_table(each),
                markdown_table(table),
            ]
        )


def pixel_sizes(sizes: Sequence[float], canvas: Canvas) -> list[int]:
    """Shares of the canvas's shorter side as pixels on the VAE's grid, each once; raises UserError where two are the same."""
    short = min(canvas.width, canvas.height)
    sides = [max(canvas.factor, round(size * short / canvas.factor) * canvas.factor) for size in sizes]
    if len(set(sides)) < len(sides):
        raise UserError(
            f"sizes {list(sizes)} fall on {sides} pixels of a {canvas.width} x {canvas.height} canvas: take sizes farther apart "
            "(study.sizes)"
        )
    return sides


def on_gray(condition: Any, side: int) -> Image.Image:
    """A visual condition at `side` x `side` pixels, gray outside its mask as on the canvas of the method."""
    from PIL import Image

    image = condition.image.convert("RGB").resize((side, side))
    if condition.mask is None:
        return image
    mask = condition.mask.convert("L").resize((side, side))
    return Image.composite(
        image, Image.new("RGB", image.size, (128, 128, 128)), mask.point(lambda v: 255 * (v >= 128))
    )
