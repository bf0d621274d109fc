"""The picture of `study=find_phases`: the curves over the noise level, their regimes, both cycles, and what both make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sow.report import figures
from sow.report.figures import COLORS

if TYPE_CHECKING:
    from sow.config.compose import Config
    from sow.dynamics.regimes import Curve, Regimes, Suggestion
    from sow.types import Sample

TITLES = {
    "diffusion_in_diffusion": "contrast lost after merging",
    "semantic_formation": "change by a disturbance",
    "text_sensitivity": "change by text",
}


def paint(
    curves: Sequence[Curve],
    found: Regimes,
    config: Config,
    suggestion: Suggestion,
    samples: Mapping[str, Sequence[Sample]],
) -> Any:
    """The curves over the noise level with the regimes behind them, cycles as bars; below, the first groups of both."""
    from sow.dynamics.plots import curve as line
    from sow.dynamics.plots import montage
    from sow.dynamics.regimes import ramp

    def fill(figure: Any) -> None:
        parts = figure.subplots(
            2 if samples else 1, 1, squeeze=False, height_ratios=[3, 2][: 1 + bool(samples)]
        )
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
        axis.plot(
            curves[0].noise, ramp(curves[0].noise, found.a, found.b), color=COLORS["gray"], lw=3, alpha=0.5
        )
        for left, right, word in (
            (0, found.a, "refinement"),
            (found.a, found.b, "semantic formation"),
            (found.b, 1, "chaos"),
        ):
            axis.text((left + right) / 2, 1.06, word, ha="center", fontsize=8)
        axis.axvspan(found.a, found.b, color=COLORS["sky"], alpha=0.15, lw=0)
        for ends in (found.a_interval, found.b_interval):
            axis.plot(ends, [1.02, 1.02], color=COLORS["black"], lw=1.5)
        cycle = config.cycle
        for height, (t1, t2, word) in enumerate(
            ((cycle.t1, cycle.t2, "default cycle"), (suggestion.t1, suggestion.t2, "suggested cycle"))
        ):
            y = -0.08 - 0.07 * height
            axis.plot([t1 / 10, t2 / 10], [y, y], lw=4, color=COLORS["black"] if height else COLORS["gray"])
            axis.text(t2 / 10 + 0.01, y, word, va="center", fontsize=7)
        axis.set_xlim(0, 1)
        axis.set_ylim(-0.22, 1.14)
        axis.set_xlabel("noise level k / K (0 clean, 1 noise)")
        axis.set_ylabel("curve, scaled to [0, 1]")
        figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=2)
        if samples:
            shown = [[s.image for s in row[:8]] for row in samples.values()]
            montage(parts[1, 0], shown, left=list(samples))

    return figures.draw(6.4, 6.0 if samples else 3.8, fill)
