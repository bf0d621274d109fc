"""Pieces of the studies' figures: a curve with its band, a picture without axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sow.report.figures import CYCLE

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


def montage(
    axis: Any,
    pictures: Sequence[Sequence[Any]],
    above: Sequence[str] = (),
    left: Sequence[str] = (),
    below: Sequence[Sequence[str]] = (),
    cell: int = 96,
) -> None:
    """Rows of pictures (PIL) as one image on `axis`, each `cell` pixels wide at most, with words above the columns, left
    of the rows and below each picture. One image, because a grid of axes takes seconds to lay out.
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
                axis.text(
                    x + width / 2, y + height + line / 2, below[i][j], ha="center", va="center", fontsize=6
                )
            if i == 0 and above:
                axis.text(x + width / 2, -gap, above[j], ha="center", va="bottom", fontsize=7)
        if left:
            axis.text(
                -2 * gap,
                i * step + height / 2,
                left[i],
                ha="right",
                va="center",
                fontsize=7,
                multialignment="right",
            )
    axis.imshow(sheet, interpolation="nearest")
    axis.axis("off")
