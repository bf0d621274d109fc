"""The picture of `study=semantic_formation`: losses over the start of the disturbance, and one picture of each size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sow.report import figures

if TYPE_CHECKING:
    from PIL import Image

    from .semantic_formation import SemanticFormation

SHOWN = 9  # columns of pictures


def paint(
    study: SemanticFormation,
    seed: int,
    rows: Sequence[Mapping[str, Any]],
    sides: Sequence[int],
    starts: Sequence[int],
    shown: Mapping[int, Sequence[Image.Image]],
) -> Any:
    """Loss and cosine over the start of the disturbance with bands, and one picture of each size."""
    from sow.dynamics.curves import band, mean_over_units
    from sow.dynamics.plots import curve, montage

    panels = (
        ("mse", "mse_undisturbed", "mean squared error, pixels in [0, 1]"),
        ("cosine", "cosine_undisturbed", f"cosine similarity ({study.similarity})"),
    )

    def fill(figure: Any) -> None:
        above, below = figure.subfigures(2, 1, height_ratios=(2.6, 0.9 * len(sides) + 0.3))
        for axis, (column, without, label) in zip(above.subplots(1, 2), panels, strict=True):
            for number, side in enumerate(sides):
                found = band(by_seed(rows, side, column, starts), seed, study.resamples)
                curve(
                    axis,
                    starts,
                    found.mean,
                    found.low,
                    found.high,
                    label=f"{side} x {side} pixels",
                    number=number,
                )
                base = mean_over_units(by_seed(rows, side, without, starts)).mean()
                axis.axhline(base, color=figures.CYCLE[number], linestyle=":", linewidth=0.9)
            axis.plot([], [], color="black", linestyle=":", label="undisturbed")
            axis.set(xlabel=f"disturbed from step k on ({study.steps} noise, 0 clean)", ylabel=label)
            axis.invert_xaxis()
            axis.grid(alpha=0.25)
            axis.legend()
        montage(
            below.subplots(),
            [list(images) for images in shown.values()],
            ["original", *(f"k = {s}" for s in spread(starts)), "undisturbed"],
            [f"{side} px" for side in shown],
        )

    return figures.draw(8.5, 3.0 + 0.95 * len(sides), fill)


def by_seed(rows: Sequence[Mapping[str, Any]], side: int, column: str, starts: Sequence[int]) -> Any:
    """(seeds, starts) of one column."""
    import numpy as np

    found = {(r["seed"], r["start"]): r[column] for r in rows if r["size"] == side}
    seeds = sorted({seed for seed, _ in found})
    return np.array([[found[seed, start] for start in starts] for seed in seeds], float)


def spread(starts: Sequence[int]) -> list[int]:
    """At most nine starts, evenly spread."""
    import numpy as np

    picked = np.linspace(0, len(starts) - 1, min(SHOWN, len(starts))).round().astype(int)
    return [starts[i] for i in dict.fromkeys(picked.tolist())]
