"""Pieces of the studies' figures: a curve with its band, a picture without axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sow.figures import CYCLE

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")


def curve(
    axis: Any, x: Sequence[float], mean: Any, low: Any = None, high: Any = None, *, label: str, number: int
) -> None:
    """One curve with its band; `number` picks colour, marker and dash together, so that colour alone never tells."""
    color = CYCLE[number % len(CYCLE)]
    marker, dash = MARKERS[number % len(MARKERS)], DASHES[number % len(DASHES)]
    axis.plot(x, mean, color=color, marker=marker, markersize=3.5, linestyle=dash, label=label)
    if low is not None and np.isfinite(low).any():
        axis.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)


def picture(axis: Any, image: Any, title: str = "", left: str = "", below: str = "") -> None:
    """One picture without axes; words above it, to its left and below it."""
    axis.imshow(image, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    for side in axis.spines.values():
        side.set_visible(False)
    axis.set_title(title, fontsize=7, pad=2)
    axis.set_ylabel(left, fontsize=8)
    axis.set_xlabel(below, fontsize=7, labelpad=2)
