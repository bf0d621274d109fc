"""The figure of `study=collect`: runs as lines over the keys that matter,
and how much each of them matters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sow.report import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sow.runs.records import RunFolder

MOST_LABELS = 8  # of an axis with words


def draw(
    folder: RunFolder,
    rows: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    importance: Mapping[str, float],
    metric: str,
) -> Path:
    """Parallel coordinates of `keys` and the metric beside the keys' importance; the path of the PNG."""
    kept = [row for row in rows if row.get(metric) is not None]

    def paint(figure: Any) -> None:
        left, right = figure.subplots(
            1, 2, gridspec_kw={"width_ratios": [max(3, len(keys) + 1), 2.2]}, squeeze=True
        )
        parallel(left, kept, [*keys, metric])
        bars(right, {key: importance[key] for key in keys}, metric)
        figure.tight_layout()

    width = 4.5 + 1.35 * (len(keys) + 1)
    return figures.save(folder, "collect", figures.draw(width, 4.2, paint))


def parallel(axis: Axes, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """One line per run over one vertical scale per key, coloured by the last."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    columns = [positions([row.get(name) for row in rows]) for name in names]
    values = np.array([row[names[-1]] for row in rows], dtype=float)
    norm = Normalize(values.min(), values.max() if values.max() > values.min() else values.min() + 1)
    height = np.array([place for place, _ in columns])
    for i in np.argsort(values)[::-1]:  # the smallest on top
        axis.plot(
            range(len(names)), height[:, i], color=colormaps["cividis"](norm(values[i])), alpha=0.75, lw=1.2
        )
    for x, (_, labels) in enumerate(columns):
        axis.axvline(x, color="#444444", lw=0.8, zorder=0)
        for y, text in labels:
            axis.annotate(text, (x, y), xytext=(3, 0), textcoords="offset points", fontsize=7, va="center")
    axis.set_xticks(range(len(names)), [short(name) for name in names], rotation=20, ha="right", fontsize=8)
    axis.set_yticks([])
    axis.set_ylim(-0.06, 1.06)
    axis.set_xlim(-0.1, len(names) - 0.6)
    axis.set_title(f"{len(rows)} runs, coloured by {short(names[-1])} (dark: low)", fontsize=9)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.grid(False)


def positions(column: Sequence[Any]) -> tuple[NDArray[np.float64], list[tuple[float, str]]]:
    """Heights in [0, 1] of the values of a column, and the labels of its scale by height."""
    if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in column):
        values = np.array(column, dtype=float)
        low, high = values.min(), values.max()
        if high == low:
            return np.full(len(values), 0.5), [(0.5, f"{low:.3g}")]
        return (values - low) / (high - low), [(h, f"{low + h * (high - low):.3g}") for h in (0.0, 0.5, 1.0)]
    words = [v if isinstance(v, str) else json.dumps(v, default=str) for v in column]
    distinct = sorted(set(words))
    step = 1 / max(1, len(distinct) - 1)
    place = {word: i * step if len(distinct) > 1 else 0.5 for i, word in enumerate(distinct)}
    shown = distinct if len(distinct) <= MOST_LABELS else [distinct[0], distinct[-1]]
    return np.array([place[w] for w in words]), [(place[w], w[:18]) for w in shown]


def bars(axis: Axes, importance: Mapping[str, float], metric: str) -> None:
    """How much of the metric's variance each key explains alone."""
    names = list(importance)[::-1]
    axis.barh(range(len(names)), [importance[n] for n in names], color=figures.COLORS["blue"])
    axis.set_yticks(range(len(names)), [short(n) for n in names], fontsize=8)
    axis.set_xlim(0, 1)
    axis.set_xlabel(
        f"share of the variance of {short(metric)}\nexplained alone (epsilon squared)", fontsize=8
    )


def short(name: str) -> str:
    """A column's name without its kind."""
    return name.partition(".")[2] or name
