"""The figure of `study=grid`: images with their prompts, methods and conditions, and a caption below."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sow.report import figures

from .gallery.pictures import on_gray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from sow.types import Request, Sample

    from .benchmark.rows import Row
    from .grid import Grid

LABEL = 7  # points
LETTER = 0.062  # inches that a letter of a label takes
LINE = 0.125  # inches from line to line
INSET = 0.34  # of an image's side


@dataclass(frozen=True)
class Panel:
    """One place of the grid; `top` and `left` label its column and line where they are not empty."""

    picture: Image | None
    inset: Image | None = None
    top: str = ""
    left: str = ""


def figure_of(
    grid: Grid,
    rows: Sequence[Row],
    requests: Sequence[Request],
    samples: Mapping[str, Sequence[Sample]],
    caption: str,
) -> Figure:
    """The grid drawn, not yet saved."""
    return figure_of_panels(panels(grid, rows, requests, samples), grid.title, caption, grid.size)


def panels(
    grid: Grid, rows: Sequence[Row], requests: Sequence[Request], samples: Mapping[str, Sequence[Sample]]
) -> list[list[Panel]]:
    """Lines of panels; every line has as many as the first."""
    prompts = [a.prompt for a in grid.asked]
    conditions = [on_gray(r.conditions) for r in requests]
    names = [row.label or row.name for row in rows]
    if grid.across == "rows":
        out = []
        for i, prompt in enumerate(prompts):
            line = [] if grid.inset else [Panel(conditions[i], top="condition" if i == 0 else "")]
            for row, name in zip(rows, names, strict=True):
                inset = conditions[i] if grid.inset else None
                line.append(Panel(samples[row.name][i].image, inset, name if i == 0 else ""))
            line[0] = Panel(line[0].picture, line[0].inset, line[0].top, prompt)
            out.append(line)
        return out
    out = []
    for start in range(0, len(requests), grid.columns):
        block = range(start, min(start + grid.columns, len(requests)))
        empty = [Panel(None)] * (min(grid.columns, len(requests)) - len(block))
        top = {i: prompts[i] for i in block}
        if not grid.inset:
            out.append(
                [Panel(conditions[i], None, top.pop(i), "" if i > start else "condition") for i in block]
                + empty
            )
        for row, name in zip(rows, names, strict=True):
            left = name if len(rows) > 1 or not grid.inset else ""
            line = [
                Panel(
                    samples[row.name][i].image,
                    conditions[i] if grid.inset else None,
                    top.pop(i, ""),
                    "" if i > start else left,
                )
                for i in block
            ]
            out.append(line + empty)
    return out


def figure_of_panels(lines: Sequence[Sequence[Panel]], title: str, caption: str, size: float) -> Figure:
    """Panels of `size` inches; labels wrap at the panel's side, the caption at the figure's."""
    letters = max(8, round(size / LETTER))
    tops = [
        max((_wrapped(p.top, letters).count("\n") + 1 for p in line if p.top), default=0) for line in lines
    ]
    left = any(p.left for line in lines for p in line)
    columns = len(lines[0])
    width = columns * size * 1.03 + (3 * LINE if left else 0)
    # Two figures share no scale: the caption's letters are counted on the width that there is.
    below = textwrap.wrap(caption, max(20, round(width / (LETTER * 0.95))))
    above = textwrap.wrap(title, max(16, round(width / (LETTER * 1.4))))
    height = len(lines) * size * 1.03 + (sum(tops) + 1.3 * len(above) + len(below) + 2) * LINE

    def paint(figure: Figure) -> None:
        axes = figure.subplots(len(lines), columns, squeeze=False)
        for line, shown in zip(lines, axes, strict=True):
            for panel, axis in zip(line, shown, strict=True):
                _paint(panel, axis, letters, size)
        figure.suptitle("\n".join(above), fontsize=9)
        figure.supxlabel("\n".join(below), fontsize=LABEL, x=0.01, ha="left")
        engine: Any = figure.get_layout_engine()
        engine.set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)

    return figures.draw(width, height, paint)


def _paint(panel: Panel, axis: Axes, letters: int, size: float) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_visible(False)
    if panel.picture is None:
        axis.set_axis_off()
        return
    axis.imshow(panel.picture, interpolation="lanczos")
    if panel.top:
        axis.set_title(_stressed(_wrapped(panel.top, letters)), fontsize=LABEL, pad=3)
    if panel.left:
        axis.set_ylabel(_stressed(_wrapped(panel.left, letters)), fontsize=LABEL, labelpad=3)
    if panel.inset is not None:
        ratio = panel.inset.width / panel.inset.height
        corner = axis.inset_axes((1 - INSET * min(ratio, 2), 0, INSET * min(ratio, 2), INSET))
        corner.imshow(panel.inset, interpolation="lanczos")
        corner.set_xticks([])
        corner.set_yticks([])
        for side in corner.spines.values():
            side.set(visible=True, color="white", linewidth=1.2)


def _wrapped(text: str, letters: int) -> str:
    """Lines of about `letters`; a stressed stretch keeps its marks on each of its words."""
    marked = re.sub(r"\*\*(.+?)\*\*", lambda m: " ".join(f"**{w}**" for w in m[1].split()), text)
    return "\n".join(textwrap.wrap(marked, letters, break_long_words=False))


def _stressed(text: str) -> str:
    """`**word**` in bold, by matplotlib's own mathematics; everything else as it stands."""

    def bold(match: re.Match[str]) -> str:
        letters = match[1].replace("-", "{-}").replace("_", r"\_")
        return rf"$\mathbf{{{letters}}}$"

    return re.sub(r"\*\*(\S+?)\*\*", bold, text.replace("$", r"\$"))
