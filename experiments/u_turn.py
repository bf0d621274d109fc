"""`study=u_turn`: noise an image to a level, denoise it again; what changes together, and what is kept
(arXiv 2410.13770)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from sow.errors import UserError
from sow.report import figures
from sow.types import Bound, component

from .core.fields import LIMIT, Prompts
from .core.finding import Finding, bracket, markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from .core.laboratory import Curves, Laboratory
    from .core.study import StudyContext

NAME = "u_turn"
LABELS = {
    "chi": "susceptibility, patches",
    "xi": "correlation length, patches",
    "change": "change, root mean square of latents",
}


@component("study")
class UTurn:
    """Two U-turns of each of `images` of the model's own at each of `levels`; changes of patches of `patch`
    latents.

    `attributes`: those that the embedded world's judge reads in the images, whose keeping is counted; [] for
    none.
    """

    prompts: Prompts
    attributes: list[str]
    images: Annotated[int, Bound(ge=4, le=LIMIT)]
    levels: Annotated[int, Bound(ge=3, le=LIMIT)]
    steps: Annotated[int, Bound(ge=1, le=LIMIT)]
    patch: Annotated[int, Bound(ge=1, le=LIMIT)]
    batch: Annotated[int, Bound(ge=1, le=LIMIT)]
    resamples: Annotated[int, Bound(ge=100, le=LIMIT)]
    full: bool
    publish: bool

    def run(self, context: StudyContext) -> None:
        """Draw images, turn at every level, measure how changes hang together and what is kept."""
        from .core.laboratory import Cells, Laboratory, counted, each

        lab = Laboratory.of(context, self.levels, self.steps, self.batch)
        height, width = lab.size
        if self.patch > min(height, width) // 2:
            raise UserError(
                f"a patch of {self.patch} leaves no two of {height} x {width} latents (study.patch)"
            )
        read = reader(lab, self.attributes)
        _ = context.tracked  # the input is known to be good
        cells, prompts = Cells(context), each(self.images, self.prompts)
        seeds = [context.config.seed + i for i in range(self.images)]
        with context.timed("images"):
            x0 = cells("images", lambda: lab.samples(prompts, seeds))
            before = cells("before", lambda: read(x0))
        turned = []
        for level in counted(lab.levels, "levels"):
            with context.timed("turns"):
                make = partial(self.turn, lab, x0, level, prompts, seeds, read)
                turned.append(cells(f"turn {level}", make))
        s = {level: t["s"].double().cpu().numpy() for level, t in zip(lab.levels, turned, strict=True)}
        kept = self.kept(before, [t["after"] for t in turned])
        found = self.headline(context, lab, s, kept, before)
        rows = self.rows(lab, s, kept)
        Finding(
            NAME,
            found,
            self.markdown(found),
            self.figure(context, lab, rows, kept, before),
            {NAME: rows},
            rows,
        ).deliver(context, self.publish)

    def turn(
        self,
        lab: Laboratory,
        x0: Tensor,
        level: float,
        prompts: Sequence[str],
        seeds: Sequence[int],
        read: Callable[[Tensor], Any],
    ) -> dict[str, Any]:
        """Changes of both turns (B, 2, h, w), and what is read in the images after the first."""
        import torch

        from sow.dynamics.measures import levels, u_turn

        ends = []
        for number in (1, 2):
            own = [seed + number * 10**6 for seed in seeds]
            x = levels.noised(x0, level, lab.noise(own))
            ends.append(lab.resample(x, level, prompts, [seed + 10**7 for seed in own]))
        s = torch.stack([u_turn.changes(x0, end, self.patch) for end in ends], 1)
        return {"s": s, "after": read(ends[0])}

    def kept(self, before: Mapping[str, Any], after: Sequence[Mapping[str, Any]]) -> Curves:
        """{attribute: (images, L)}, 1 where it is what it was."""
        import numpy as np

        from sow.dynamics.measures import u_turn

        return {
            name: np.stack([u_turn.kept(before[name], a[name]) for a in after], 1) for name in self.attributes
        }

    def statistics(self, s: Any) -> dict[str, float]:
        """chi, xi and the mean change of the turns (B, 2, h, w) of one level.

        The difference of two turns of one image has twice their covariance given the image: what images
        differ in by
        themselves drops out.
        """
        from sow.dynamics.measures import u_turn

        apart = s[:, 0] - s[:, 1]
        return {
            "chi": u_turn.susceptibility(apart),
            "xi": u_turn.length_of(apart),
            "change": float((s**2).mean() ** 0.5),
        }

    def headline(
        self,
        context: StudyContext,
        lab: Laboratory,
        s: Mapping[float, Any],
        kept: Curves,
        before: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Where chi peaks, and where each attribute is kept half way between chance and always."""
        from sow.dynamics.curves import interval
        from sow.dynamics.measures import change_points, u_turn

        from .core.laboratory import window

        how = context.resampling(self.resamples)

        def chi(index: Any) -> list[float]:
            return [u_turn.susceptibility(s[v][index, 0] - s[v][index, 1]) for v in lab.levels]

        with context.timed("intervals"):
            peak = interval(lambda index: change_points.peak(lab.levels, chi(index)), self.images, how)
            ends = window(lambda i: change_points.half_maximum(lab.levels, chi(i)), self.images, how)
        found: dict[str, Any] = {"peak": peak, "timestep": lab.timestep(peak["value"]), "window": ends}
        found["kept"] = {}
        for name, values in kept.items():
            chance = u_turn.chance(before[name])

            def half(axis: Any, curve: Any, chance: float = chance) -> float:
                return change_points.crossing(axis, curve, (1 + chance) / 2)

            found["kept"][name] = {
                "half_kept": change_points.located(half, lab.levels, values, how),
                "chance": chance,
            }
        return found

    def rows(self, lab: Laboratory, s: Mapping[float, Any], kept: Curves) -> list[dict[str, Any]]:
        """A line per level."""
        return [
            {
                "timestep": t,
                "log_snr": level,
                **self.statistics(s[level]),
                **{f"kept_{name}": float(values[:, i].mean()) for name, values in kept.items()},
            }
            for i, (t, level) in enumerate(zip(lab.timesteps, lab.levels, strict=True))
        ]

    def figure(
        self,
        context: StudyContext,
        lab: Laboratory,
        rows: Sequence[Mapping[str, Any]],
        kept: Curves,
        before: Mapping[str, Any],
    ) -> Figure:
        """chi, xi and the change over the level; beside them what is kept, if anything is read."""
        from sow.dynamics.measures.u_turn import chance
        from sow.dynamics.plots import banded, curve

        from .core.laboratory import axes

        def paint(figure: Figure) -> None:
            panels = figure.subplots(1, len(LABELS) + bool(kept))
            for axis, (name, label) in zip(panels, LABELS.items(), strict=False):
                curve(axis, lab.levels, [row[name] for row in rows], label=label, number=0)
                axis.set_ylabel(label)
                axes(axis, lab.axis)
            for number, (name, values) in enumerate(kept.items()):
                how = context.resampling(self.resamples)
                banded(panels[-1], lab.levels, values, how, label=name, number=number)
                panels[-1].axhline(chance(before[name]), color=figures.CYCLE[number], linestyle=":")
            if kept:
                panels[-1].set_ylabel("P(kept); dotted: chance")
                panels[-1].legend()
                axes(panels[-1], lab.axis)

        return figures.draw(3.2 * (len(LABELS) + bool(kept)), 3.3, paint)

    def markdown(self, found: Mapping[str, Any]) -> str:
        """What README says."""
        rows = [{"place": "susceptibility peaks", "log SNR": bracket(found["peak"])}]
        rows += [
            {"place": f"{name} half kept", "log SNR": bracket(found["kept"][name]["half_kept"])}
            for name in self.attributes
        ]
        return (
            f"![U-turns]({NAME}.png)\n\n"
            f"Two U-turns of each of {self.images} of the model's own images per level, without guidance; "
            f"chi and xi are those "
            "of the difference of the two, patches of "
            f"{self.patch} x {self.patch} latents (arXiv 2410.13770). Half kept is half way between chance "
            f"and always (arXiv "
            f"2403.01633); 95 % intervals over images.\n\n{markdown_table(rows)}"
        )


def reader(lab: Laboratory, attributes: Sequence[str]) -> Callable[[Tensor], dict[str, list[str]]]:
    """What reads attributes of latents: the embedded world's judge; nothing at all for no attributes.

    Raises UserError for an attribute that it does not read.
    """
    if not attributes:
        return lambda latents: {}
    from PIL import Image

    from sow.people.captions.attributes import VOCABULARY
    from sow.people.judge import load_judge

    for name in attributes:
        if name not in VOCABULARY:
            raise UserError(f"{name} is unknown, take of {', '.join(VOCABULARY)} (study.attributes)")
    judge = load_judge()

    def read(latents: Tensor) -> dict[str, list[str]]:
        pixels = lab.backbone.decode(latents).permute(0, 2, 3, 1).mul(255).round().byte().numpy()
        readings = judge.read([Image.fromarray(p) for p in pixels])
        return {name: [str(r.attributes.get(name)) for r in readings] for name in attributes}

    return read
