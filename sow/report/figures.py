"""What every figure shares: the style file, colours by name,
and PNG and PDF beside each other in the run folder."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sow.runs.records import RunFolder

STYLE = Path(__file__).with_suffix(".mplstyle")
# Okabe and Ito's colours, told apart with every kind of colour blindness.
COLORS = {
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "black": "#000000",
    "gray": "#999999",
}
CYCLE = tuple(COLORS.values())


@contextmanager
def style() -> Iterator[None]:
    """The project's look inside the block, matplotlib's own settings after it."""
    from matplotlib import pyplot as plt

    with plt.style.context(str(STYLE)):
        yield


def draw(width: float, height: float, paint: Callable[[Figure], None]) -> Figure:
    """A figure of `width` x `height` inches that `paint` fills; no window, nothing left open in pyplot."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(width, height))
        paint(figure)
        figure.canvas.draw()  # lays it out while the style holds
    return figure


def save(folder: RunFolder, name: str, figure: Figure) -> Path:
    """`name`.png and `name`.pdf in the run folder, each whole or not at all; the path of the PNG."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it logs every table of every font in a PDF
    paths = {}
    with style():
        for kind in ("pdf", "png"):
            buffer = io.BytesIO()
            # Without a date in it, the same numbers give the same bytes.
            metadata: dict[str, Any] = {"CreationDate": None} if kind == "pdf" else {}
            figure.savefig(buffer, format=kind, metadata=metadata)
            paths[kind] = folder.save_bytes(f"{name}.{kind}", buffer.getvalue())
    return paths["png"]
