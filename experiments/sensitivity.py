"""`study=sensitivity`: how far a model looks at each noise level, and whether influence has a direction
(arXiv 2509.09672)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from sow.report import figures
from sow.types import Bound, component

from .core.fields import LIMIT, Prompts
from .core.finding import Finding, bracket, markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .core.laboratory import Curves, Laboratory
    from .core.study import StudyContext

NAME = "sensitivity"
LABELS = {"reach": "reach, latents", "one_wayness": "one-wayness of the middle, w"}


@component("study")
class Sensitivity:
    """Reach at `positions` pixels and one-wayness of the canvas's middle, by `probes` random ones, at
    `levels`."""

    prompts: Prompts
    positions: Annotated[int, Bound(ge=1, le=LIMIT)]
    probes: Annotated[int, Bound(ge=1, le=LIMIT)]
    images: Annotated[int, Bound(ge=1, le=LIMIT)]
    levels: Annotated[int, Bound(ge=3, le=LIMIT)]
    steps: Annotated[int, Bound(ge=1, le=LIMIT)]
    batch: Annotated[int, Bound(ge=1, le=LIMIT)]
    resamples: Annotated[int, Bound(ge=100, le=LIMIT)]
    full: bool
    publish: bool

    def run(self, context: StudyContext) -> None:
        """Noise the images, pull probes back through the network, show reach, profiles and one-wayness."""
        import numpy as np

        from .core.laboratory import Cells, Laboratory, counted, each, means, tidy

        lab = Laboratory.of(context, self.levels, self.steps, self.batch)
        _ = context.tracked  # the input is known to be good
        cells, prompts = Cells(context), each(self.images, self.prompts)
        seeds = [context.config.seed + i for i in range(self.images)]
        with context.timed("images"):
            x0 = cells("images", lambda: lab.samples(prompts, seeds))
        found = []
        for level in counted(lab.levels, "levels"):
            with context.timed("products"):
                make = partial(self.measured, lab, x0, level, prompts, seeds)
                found.append(cells(f"level {level}", make))
        curves = {name: np.stack([f[name].double().cpu().numpy() for f in found], 1) for name in LABELS}
        profiles = {
            level: f["profile"].double().mean(0).cpu().numpy()
            for level, f in zip(lab.levels, found, strict=True)
        }
        headline = self.headline(context, lab, curves)
        tables = {
            NAME: tidy(lab, curves, "value"),
            "profiles": [
                {
                    "timestep": lab.timestep(level),
                    "log_snr": level,
                    "distance": r,
                    "sensitivity": float(value),
                }
                for level, values in profiles.items()
                for r, value in enumerate(values)
            ],
        }
        Finding(
            NAME,
            headline,
            self.markdown(headline),
            self.figure(context, lab, curves, profiles),
            tables,
            means(lab, curves),
        ).deliver(context, self.publish)

    def measured(self, lab: Laboratory, x0: Any, level: float, prompts: Any, seeds: Any) -> dict[str, Any]:
        """Reach (B,), profile over distance (B, R) and one-wayness (B,) at one level."""
        import torch

        from sow.dynamics.measures import levels, sensitivity

        from .core.laboratory import evenly

        places, (height, width) = evenly(lab.size, self.positions), lab.size
        x = levels.noised(x0, level, lab.noise([s + 10**6 for s in seeds]))
        fields = sensitivity.fields(lab.denoise, x, level, prompts, places)
        middle = torch.zeros(lab.size, dtype=torch.bool, device=x.device)
        middle[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
        probes = torch.stack(
            [lab.noise([s + (i + 2) * 10**6 for s in seeds]).sign() for i in range(self.probes)]
        )
        both = sensitivity.between(lab.denoise, x, level, prompts, middle, probes)
        return {
            "reach": sensitivity.reach(fields, places),
            "profile": sensitivity.profile(fields, places),
            "one_wayness": sensitivity.one_wayness(*both),
        }

    def headline(self, context: StudyContext, lab: Laboratory, curves: Curves) -> dict[str, Any]:
        """Where the reach changes fastest, its largest and smallest mean, and w over all levels."""
        from sow.dynamics.curves import mean_interval
        from sow.dynamics.measures import change_points

        from .core.laboratory import window

        how = context.resampling(self.resamples)

        def ends(index: Any) -> tuple[float, float]:
            return change_points.ramp(lab.levels, curves["reach"][index].mean(0))

        place = change_points.located(change_points.steepest, lab.levels, curves["reach"], how)
        mean = curves["reach"].mean(0)
        return {
            "steepest": place,
            "timestep": lab.timestep(place["value"]),
            "longest": float(mean.max()),
            "shortest": float(mean.min()),
            "one_wayness": mean_interval(curves["one_wayness"].mean(1), how),
            "window": window(ends, self.images, how),
        }

    def figure(
        self, context: StudyContext, lab: Laboratory, curves: Curves, profiles: Mapping[float, Any]
    ) -> Figure:
        """Reach and one-wayness over the level, and sensitivity over distance at five levels."""
        from sow.dynamics.plots import banded, curve

        from .core.laboratory import axes

        how = context.resampling(self.resamples)
        chosen = lab.levels[:: max(1, len(lab.levels) // 5)][:5]

        def paint(figure: Figure) -> None:
            panels = figure.subplots(1, 3)
            for axis, (name, label) in zip(panels, LABELS.items(), strict=False):
                banded(axis, lab.levels, curves[name], how, label=label, number=0)
                axis.set_ylabel(label)
                axes(axis, lab.axis)
            panels[1].axhline(0, color="black", linewidth=0.8)
            for number, level in enumerate(chosen):
                values = profiles[level]
                curve(
                    panels[2], range(len(values)), values, label=f"t = {lab.timestep(level)}", number=number
                )
            panels[2].set(xlabel="distance, latents", ylabel="mean sensitivity", yscale="log")
            panels[2].legend()

        return figures.draw(10.5, 3.4, paint)

    def markdown(self, found: Mapping[str, Any]) -> str:
        """What README says."""
        rows = [
            {
                "reach, longest": found["longest"],
                "shortest": found["shortest"],
                "changes fastest at log SNR": bracket(found["steepest"]),
                "timestep": found["timestep"],
                "w": bracket(found["one_wayness"]),
            }
        ]
        return (
            f"![How far the model looks]({NAME}.png)\n\n"
            "Reach of the network's Jacobian in latents, and one-wayness w of the canvas's middle against "
            "the rest (0 for any exact "
            f"denoiser, whose Jacobian is symmetric), {self.images} of the model's own images; 95 % "
            f"intervals over images.\n\n"
            f"{markdown_table(rows)}"
        )
