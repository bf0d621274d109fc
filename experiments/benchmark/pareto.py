"""Quality at equal compute: a table's rows by the UNet's evaluations of an image, one panel per column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sow.report import figures

from .settings import EVALUATIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sow.report.tables import Table


@dataclass(frozen=True)
class Point:
    """A row: its UNet evaluations, a column's mean with its interval, and the groups that it rests on."""

    label: str
    compute: float
    value: float
    low: float
    high: float
    groups: int


def front(points: Sequence[Point], lower: bool) -> list[Point]:
    """The points that no other beats, by evaluations.

    One beats another where it takes no more evaluations and its interval lies wholly on the better side of
    the other's.
    Points of fewer groups than the most are not compared: they rest on other pictures.
    """
    most = max((p.groups for p in points), default=0)
    compared = [p for p in points if p.groups == most]

    def beats(a: Point, b: Point) -> bool:
        return a.compute <= b.compute and (a.high < b.low if lower else a.low > b.high)

    kept = [b for b in compared if not any(beats(a, b) for a in compared)]
    return sorted(kept, key=lambda p: p.compute)


def points_of(table: Table, metric: str) -> list[Point]:
    """A point per row that has both numbers."""
    place = {column.metric: i for i, column in enumerate(table.columns)}
    out = []
    for line in table.lines:
        compute, value = line.cells[place[EVALUATIONS]].ours, line.cells[place[metric]].ours
        if compute is not None and value is not None:
            label = line.label or line.name
            out.append(Point(label, compute.mean, value.mean, value.low, value.high, value.groups))
    return out


def draw(table: Table, metrics: Sequence[str]) -> Figure:
    """The panels; rows on the front are coloured, rows of fewer groups are hollow and say how many."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axis, metric in zip(axes, metrics, strict=True):
            _panel(axis, table, metric)

    return figures.draw(4.6 * len(metrics), 3.8, paint)


def _panel(axis: Axes, table: Table, metric: str) -> None:
    column = next(c for c in table.columns if c.metric == metric)
    points = points_of(table, metric)
    best = front(points, column.better == "lower") if column.better != "none" else []
    most = max((p.groups for p in points), default=0)
    for p in points:
        colour, whole = figures.COLORS["vermilion" if p in best else "gray"], p.groups == most
        axis.errorbar(
            p.compute, p.value, [[p.value - p.low], [p.high - p.value]],
            fmt="o", color=colour, mfc=colour if whole else "none", ms=4, lw=1,
        )  # fmt: skip
        label = p.label if whole else f"{p.label} (n = {p.groups})"
        axis.annotate(label, (p.compute, p.value), xytext=(4, 3), textcoords="offset points", fontsize=6)
    axis.set_xscale("log")
    axis.set_xlabel("UNet evaluations of an image, both branches counted")
    axis.set_ylabel(column.head)
