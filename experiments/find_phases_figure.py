"""The figure of `study=find_phases`: a strip per study over one axis, cycles as bars, images below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sow.report import figures
from sow.report.figures import COLORS, CYCLE

from .core.laid import LABELS

if TYPE_CHECKING:
    from sow.dynamics.axis import Axis
    from sow.dynamics.regimes import Suggestion
    from sow.types import Sample

    from .core.laid import Laid

SHOWN = 8  # images of a cycle


def paint(
    lines: Sequence[Laid],
    axis: Axis,
    default: Mapping[str, Any],
    suggestion: Suggestion,
    samples: Mapping[str, Sequence[Sample]],
) -> Any:
    """Each curve scaled to [0, 1] with its window shaded and the intervals of its ends; the paper's 700 to
    500 behind all; log SNR above, timesteps below."""
    from sow.dynamics.plots import montage

    from .core.laboratory import axes

    def strip(panel: Any, one: Laid, number: int) -> None:
        low, high = np.nanmin(one.curve), np.nanmax(one.curve)
        color = CYCLE[number % len(CYCLE)]
        panel.plot(one.levels, (one.curve - low) / ((high - low) or 1), "o-", ms=2.5, lw=1, color=color)
        first, last = one.ends
        if first < last:
            panel.axvspan(first, last, color=color, alpha=0.18, lw=0)
            for y, word in ((1.12, "from"), (1.22, "to")):
                ends = [one.window[word][end] for end in ("low", "high")]
                panel.plot(ends, [y, y], color=color, lw=2, solid_capstyle="butt", clip_on=False)
        panel.set(ylim=(-0.1, 1.3), yticks=[])
        panel.set_ylabel(
            LABELS[one.name].replace(" ", "\n", 1), rotation=0, ha="right", va="center", fontsize=7
        )

    def fill(figure: Any) -> None:
        tall = 0.62 * len(lines) + 1.5
        parts = [figure]
        if samples:
            parts = figure.subfigures(2, 1, height_ratios=(tall, 0.75 * len(samples) + 0.2))
        panels = parts[0].subplots(len(lines) + 1, 1, gridspec_kw={"hspace": 0.05})
        for number, (panel, one) in enumerate(zip(panels, lines, strict=False)):
            axes(panel, axis)
            panel.set_xlabel("")
            if number:
                panel.child_axes[0].remove()
            panel.tick_params(labelbottom=False)
            strip(panel, one, number)
        last = panels[-1]
        axes(last, axis)
        last.child_axes[0].remove()
        bars = ((default["t1"], default["t2"], "default"), (suggestion.t1, suggestion.t2, "suggested"))
        for i, (t1, t2, word) in enumerate(bars):
            color = COLORS["black"] if i else COLORS["gray"]
            last.plot([axis.state(t2), axis.state(t1)], [1 - i] * 2, lw=5, color=color, solid_capstyle="butt")
            last.text(axis.state(1) - 0.2, 1 - i, word, ha="right", va="center", fontsize=7)
        last.plot([axis.state(k) for k in suggestion.t3], [0] * len(suggestion.t3), "|", color="black")
        last.set(ylim=(-0.6, 1.6), yticks=[])
        last.set_ylabel("cycles\n(| t3)", rotation=0, ha="right", va="center", fontsize=7)
        if samples:
            shown = [[s.image for s in row[:SHOWN]] for row in samples.values()]
            montage(parts[1].subplots(), shown, left=[name.replace(" ", "\n", 1) for name in samples])

    height = 0.62 * len(lines) + 1.5 + (0.75 * len(samples) + 0.2 if samples else 0)
    return figures.draw(7.0, height, fill)
