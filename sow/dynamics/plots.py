"""Pieces of the studies' figures: a curve with its band, a picture without axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sow.dynamics.curves import band
from sow.report.figures import CYCLE
from sow.report.statistics import Resampling

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")
MIDDLE = {"ha": "center", "va": "center"}


def curve(
    axis: Any, x: Sequence[float], mean: Any, low: Any = None, high: Any = None, *, label: str, number: int
) -> None:
    """One curve with its band; `number` picks colour, marker and dash together:
    colour alone decides nothing."""
    color = CYCLE[number % len(CYCLE)]
    marker, dash = MARKERS[number % len(MARKERS)], DASHES[number % len(DASHES)]
    axis.plot(x, mean, color=color, marker=marker, markersize=3.5, linestyle=dash, label=label)
    if low is not None and np.isfinite(low).any():
        axis.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
    axis.grid(alpha=0.25)


def banded(axis: Any, x: Sequence[float], values: Any, how: Resampling, *, label: str, number: int) -> None:
    """The mean curve over units of `values` (units, p) with its bootstrap band."""
    found = band(values, how)
    curve(axis, x, found.mean, found.low, found.high, label=label, number=number)


def montage(
    axis: Any,
    pictures: Sequence[Sequence[Any]],
    above: Sequence[str] = (),
    left: Sequence[str] = (),
    below: Sequence[Sequence[str]] = (),
    cell: int = 96,
) -> None:
    """Rows of pictures (PIL), each `cell` pixels wide at most, as one image on `axis`.

    Words stand above the columns, left of the rows and below each picture. One image, because a grid of axes
    takes seconds to lay out.
    """
    from PIL import Image

    columns = max(len(row) for row in pictures)
    first = pictures[0][0]
    width = min(cell, first.width)
    height = round(first.height * width / first.width)
    gap = max(2, width // 16)
    line = round(0.2 * width) if below else 0  # room for the words below a picture
    step = height + gap + line
    sheet = Image.new("RGB", (columns * (width + gap) - gap, len(pictures) * step - gap), "white")
    for i, row in enumerate(pictures):
        for j, image in enumerate(row):
            x, y = j * (width + gap), i * step
            sheet.paste(image.convert("RGB").resize((width, height)), (x, y))
            if below:
                axis.text(x + width / 2, y + height + line / 2, below[i][j], fontsize=6, **MIDDLE)
            if i == 0 and above:
                axis.text(x + width / 2, -gap, above[j], fontsize=7, ha="center", va="bottom")
        if left:
            where = {"ha": "right", "va": "center", "multialignment": "right"}
            axis.text(-2 * gap, i * step + height / 2, left[i], fontsize=7, **where)
    axis.imshow(sheet, interpolation="nearest")
    axis.axis("off")
