"""The figure of `study=grid`: images with their prompts, methods and conditions, and a caption below."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sow.report import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

LABEL = 7  # points
LETTER = 0.062  # inches that a letter of a label takes
LINE = 0.125  # inches from line to line
INSET = 0.34  # of an image's side


@dataclass(frozen=True)
class Panel:
    """One place of the grid; `top` and `left` label its column and line if they are not empty."""

    picture: Image | None
    inset: Image | None = None
    top: str = ""
    left: str = ""


def panels(
    rows: Mapping[str, Sequence[Image]],
    prompts: Sequence[str],
    conditions: Sequence[Image],
    columns: int | None,
    inset: bool,
) -> list[list[Panel]]:
    """Lines of panels, each as long as the first; `rows` are images by the row's name, in the prompts' order.

    `columns` requests stand side by side, their rows below one another; None puts the rows side by side and
    the requests below one another.
    """
    shown = list(rows.items())
    if not inset:
        shown.insert(0, ("condition", conditions))
    corners = conditions if inset else [None] * len(prompts)
    if columns is None:
        return [
            [
                Panel(images[i], corners[i], "" if i else name, "" if j else prompt)
                for j, (name, images) in enumerate(shown)
            ]
            for i, prompt in enumerate(prompts)
        ]
    out = []
    named = len(shown) > 1
    for start in range(0, len(prompts), columns):
        block = range(start, min(start + columns, len(prompts)))
        empty = [Panel(None)] * (min(columns, len(prompts)) - len(block))
        for j, (name, images) in enumerate(shown):
            line = [
                Panel(images[i], corners[i], "" if j else prompts[i], name if named and i == start else "")
                for i in block
            ]
            out.append(line + empty)
    return out


def figure_of(lines: Sequence[Sequence[Panel]], title: str, caption: str, size: float) -> Figure:
    """Panels of `size` inches; labels wrap at the panel's side, the caption at the figure's."""
    letters = max(8, round(size / LETTER))
    tops = [max(_wrapped(p.top, letters).count("\n") + bool(p.top) for p in line) for line in lines]
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
    _bare(axis)
    if panel.picture is None:
        axis.set_axis_off()
        return
    axis.imshow(panel.picture, interpolation="lanczos")
    if panel.top:
        axis.set_title(_stressed(_wrapped(panel.top, letters)), fontsize=LABEL, pad=3)
    if panel.left:
        axis.set_ylabel(_stressed(_wrapped(panel.left, letters)), fontsize=LABEL, labelpad=3)
    if panel.inset is not None:
        width = INSET * min(panel.inset.width / panel.inset.height, 2)
        corner = axis.inset_axes((1 - width, 0, width, INSET))
        corner.imshow(panel.inset, interpolation="lanczos")
        _bare(corner, visible=True, color="white", linewidth=1.2)


def _bare(axis: Axes, **frame: Any) -> None:
    """No ticks, and a frame only if one is given."""
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set(**frame or {"visible": False})


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
