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
    """A row: its place in the table, its UNet evaluations, a column's mean with its interval, and the groups
    that it rests on."""

    number: int
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
    for number, line in enumerate(table.lines, 1):
        compute, value = line.cells[place[EVALUATIONS]].ours, line.cells[place[metric]].ours
        if compute is not None and value is not None:
            label = line.label or line.name
            out.append(Point(number, label, compute.mean, value.mean, value.low, value.high, value.groups))
    return out


def draw(table: Table, metrics: Sequence[str]) -> Figure:
    """The panels, rows by their numbers, which a list beside them names; rows on the front are coloured, rows
    of fewer groups are hollow."""

    def paint(figure: Figure) -> None:
        *axes, names = figure.subplots(
            1, len(metrics) + 1, squeeze=False, width_ratios=[*[4] * len(metrics), 2]
        )[0]
        for axis, metric in zip(axes, metrics, strict=True):
            _panel(axis, table, metric)
        rows = {p.number: p for metric in reversed(metrics) for p in points_of(table, metric)}
        most = max((p.groups for p in rows.values()), default=0)
        fewer = {n: "" if p.groups == most else " (fewer groups)" for n, p in rows.items()}
        lines = [f"{n:2d}  {rows[n].label}{fewer[n]}" for n in sorted(rows)]
        names.text(0, 1, "\n".join(lines), va="top", fontsize=7, linespacing=1.4, transform=names.transAxes)
        names.set_axis_off()

    return figures.draw(4.2 * len(metrics) + 2.6, 4.4, paint)


def _panel(axis: Axes, table: Table, metric: str) -> None:
    column = next(c for c in table.columns if c.metric == metric)
    points = points_of(table, metric)
    best = front(points, column.better == "lower") if column.better != "none" else []
    most = max((p.groups for p in points), default=0)
    right: dict[float, int] = {}
    for p in sorted(points, key=lambda p: p.value):
        colour, whole = figures.COLORS["vermilion" if p in best else "gray"], p.groups == most
        # Rows of as many evaluations stand side by side, in the order of their values.
        shift = right[p.compute] = right.get(p.compute, -1) + 1
        x = p.compute * 1.035**shift
        axis.errorbar(
            x, p.value, [[p.value - p.low], [p.high - p.value]],
            fmt="o", color=colour, mfc=colour if whole else "none", ms=4, lw=1,
        )  # fmt: skip
        axis.annotate(
            str(p.number), (x, p.high), xytext=(0, 2), textcoords="offset points", fontsize=7, ha="center"
        )
    axis.set_xscale("log")
    axis.set_xlabel("UNet evaluations of an image, both branches counted")
    axis.set_ylabel(column.head)
