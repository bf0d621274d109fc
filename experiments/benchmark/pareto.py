"""Quality at equal compute: a table's rows by the UNet's evaluations of an image, one panel per column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sow.report import figures

from .settings import EVALUATIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sow.report.tables import Table

Point = tuple[str, float, float, float, float]  # label, evaluations, value, ends of its interval


def front(points: Sequence[Point], lower: bool) -> list[Point]:
    """The points that no other beats in both: fewer evaluations and a better value, by evaluations."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p[1], p[2] if lower else -p[2])):
        if not best or (point[2] < best[-1][2] if lower else point[2] > best[-1][2]):
            best.append(point)
    return best


def points_of(table: Table, metric: str) -> list[Point]:
    """A point per row that has both numbers."""
    place = {column.metric: i for i, column in enumerate(table.columns)}
    out = []
    for line in table.lines:
        compute, value = line.cells[place[EVALUATIONS]].ours, line.cells[place[metric]].ours
        if compute is not None and value is not None:
            out.append((line.label or line.name, compute.mean, value.mean, value.low, value.high))
    return out


def draw(table: Table, metrics: Sequence[str]) -> Figure:
    """The panels; a line joins the rows that are on the front."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axis, metric in zip(axes, metrics, strict=True):
            _panel(axis, table, metric)

    return figures.draw(4.6 * len(metrics), 3.8, paint)


def _panel(axis: Axes, table: Table, metric: str) -> None:
    column = next(c for c in table.columns if c.metric == metric)
    points = points_of(table, metric)
    best = front(points, column.better == "lower") if column.better != "none" else []
    for label, compute, value, low, high in points:
        held = any(p[0] == label for p in best)
        colour = figures.COLORS["vermilion" if held else "gray"]
        axis.errorbar(compute, value, [[value - low], [high - value]], fmt="o", color=colour, ms=4, lw=1)
        axis.annotate(label, (compute, value), xytext=(4, 3), textcoords="offset points", fontsize=6)
    axis.plot([p[1] for p in best], [p[2] for p in best], color=figures.COLORS["vermilion"], lw=0.8)
    axis.set_xscale("log")
    axis.set_xlabel("UNet evaluations of an image, both branches counted")
    axis.set_ylabel(column.head)
