"""`study=non_locality`: at which noise level does a model need to see far? The same network on windows
(arXiv 2508.06614)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from sow.errors import UserError
from sow.report import figures
from sow.types import Bound, component

from .core.fields import LIMIT, Filled, Prompts
from .core.finding import Finding, bracket, markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .core.laboratory import Laboratory
    from .core.study import StudyContext

NAME = "non_locality"


@component("study")
class NonLocality:
    """e_l of each of `radii` (latents) at `levels`, from `images` of the model's own and `positions` in
    each."""

    prompts: Prompts
    radii: Annotated[list[int], Bound(ge=0, le=LIMIT), Filled]
    positions: Annotated[int, Bound(ge=1, le=LIMIT)]
    images: Annotated[int, Bound(ge=1, le=LIMIT)]
    levels: Annotated[int, Bound(ge=3, le=LIMIT)]
    steps: Annotated[int, Bound(ge=1, le=LIMIT)]
    batch: Annotated[int, Bound(ge=1, le=LIMIT)]
    resamples: Annotated[int, Bound(ge=100, le=LIMIT)]
    full: bool
    publish: bool

    def run(self, context: StudyContext) -> None:
        """Noise the images, denoise whole and in windows, compare."""
        from sow.dynamics.measures import levels, non_locality

        from .core.laboratory import Cells, Laboratory, counted, each, evenly

        lab = Laboratory.of(context, self.levels, self.steps, self.batch)
        height, width = lab.size
        if max(self.radii) >= max(height, width) - 1:
            raise UserError(
                f"a window of radius {max(self.radii)} holds all {height} x {width} latents: take smaller "
                f"ones (study.radii)"
            )
        _ = context.tracked  # the input is known to be good
        cells, prompts = Cells(context), each(self.images, self.prompts)
        seeds = [context.config.seed + i for i in range(self.images)]
        with context.timed("images"):
            x0 = cells("images", lambda: lab.samples(prompts, seeds))
        n, places = lab.noise([s + 10**6 for s in seeds]), evenly(lab.size, self.positions)
        found = {}
        for level in counted(lab.levels, "levels"):
            x = levels.noised(x0, level, n)

            def measured(x: Any = x, level: float = level) -> tuple[Any, Any]:
                return non_locality.energies(lab.denoise, x, level, prompts, self.radii, places, self.batch)

            with context.timed("windows"):
                gaps, size = cells(f"level {level}", measured)
            found[level] = gaps.double().cpu().numpy(), size.double().cpu().numpy()
        headline = self.headline(context, lab, found)
        rows = [
            {"timestep": t, "log_snr": level, "radius": radius, "image": i, "gap": g, "energy": e}
            for t, level in zip(lab.timesteps, lab.levels, strict=True)
            for j, radius in enumerate(self.radii)
            for i, (g, e) in enumerate(
                zip(found[level][0][:, j].tolist(), found[level][1].tolist(), strict=True)
            )
        ]
        short = [
            {
                "timestep": t,
                "log_snr": level,
                **dict(
                    zip(
                        (f"radius_{r}" for r in self.radii),
                        non_locality.non_locality(*found[level]),
                        strict=True,
                    )
                ),
            }
            for t, level in zip(lab.timesteps, lab.levels, strict=True)
        ]
        figure = self.figure(context, lab, found)
        Finding(NAME, headline, self.markdown(headline), figure, {NAME: rows}, short).deliver(
            context, self.publish
        )

    def curve(self, found: Mapping[float, Any], which: int, index: Any) -> Any:
        """e_l over the level for one radius, of the images `index`."""
        from sow.dynamics.measures.non_locality import non_locality

        return [float(non_locality(gaps[index], size[index])[which]) for gaps, size in found.values()]

    def headline(self, context: StudyContext, lab: Laboratory, found: Mapping[float, Any]) -> dict[str, Any]:
        """Where each radius fails most, and by how much."""
        from sow.dynamics.curves import interval
        from sow.dynamics.measures import change_points

        from .core.laboratory import window

        how = context.resampling(self.resamples)
        out: dict[str, Any] = {}
        for which, radius in enumerate(self.radii):

            def peak(index: Any, which: int = which) -> float:
                return change_points.peak(lab.levels, self.curve(found, which, index))

            place = interval(peak, self.images, how)
            out[str(radius)] = {
                "peak": place,
                "timestep": lab.timestep(place["value"]),
                "largest": max(self.curve(found, which, slice(None))),
            }

        def ends(index: Any) -> tuple[float, float]:
            smallest = self.radii.index(min(self.radii))
            return change_points.half_maximum(lab.levels, self.curve(found, smallest, index))

        return {"radii": out, "window": window(ends, self.images, how)}

    def figure(self, context: StudyContext, lab: Laboratory, found: Mapping[float, Any]) -> Figure:
        """e_l over the level with bands, a curve per radius."""
        import numpy as np

        from sow.dynamics.curves import interval
        from sow.dynamics.plots import curve

        from .core.laboratory import axes

        how = context.resampling(self.resamples)

        def paint(figure: Figure) -> None:
            axis = figure.subplots()
            for which, radius in enumerate(self.radii):
                points = [
                    interval(partial(ratio, gaps[:, which], size), self.images, how)
                    for gaps, size in found.values()
                ]
                mean, low, high = (np.array([p[end] for p in points]) for end in ("value", "low", "high"))
                curve(axis, lab.levels, mean, low, high, label=f"radius {radius}", number=which)
            axis.set_ylabel("non-locality")
            axes(axis, lab.axis)
            axis.legend()

        return figures.draw(5.5, 3.6, paint)

    def markdown(self, found: Mapping[str, Any]) -> str:
        """What README says."""
        rows = [
            {
                "radius": int(radius),
                "fails most at log SNR": bracket(of["peak"]),
                "timestep": of["timestep"],
                "non-locality there": of["largest"],
            }
            for radius, of in found["radii"].items()
        ]
        return (
            f"![Where windows fail]({NAME}.png)\n\n"
            "Share of the prediction's energy that changes when the same network sees only a window of the "
            "latents around "
            f"the pixel it predicts (after arXiv 2508.06614), {self.images} of the model's own images, "
            f"{self.positions} pixels "
            "in each; 95 % intervals over images. A network may also fail on a window because it never saw "
            "one so small.\n\n"
            f"{markdown_table(rows)}"
        )


def ratio(gaps: Any, size: Any, index: Any) -> float:
    """e_l of one radius from the energies (images,) at `index`."""
    return float(gaps[index].mean() / size[index].mean())
