"""Numbers of many samples side by side: which measures there are, their values by seed,
what changed between pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sow.dynamics.curves import mean_over_units

if TYPE_CHECKING:
    from PIL import Image

    from sow.types import Box

T = TypeVar("T")


def present(rows: Sequence[Mapping[str, Any]], measures: Sequence[str]) -> list[str]:
    """Those of `measures` that have a number in some row, in the order given."""
    return [m for m in measures if any(np.isfinite(as_number(row.get(m))) for row in rows)]


def as_number(value: Any) -> float:
    """A number, 1 and 0 for truths, nan for what is none."""
    return float(value) if isinstance(value, (bool, int, float)) else float("nan")


def by_unit(
    rows: Sequence[Mapping[str, Any]], unit: str, column: str, measure: str
) -> tuple[list[Any], list[Any], NDArray[np.float64]]:
    """(units, columns, values (units, columns)) of one measure of tidy rows, nan without a row or number."""
    units = list(dict.fromkeys(row[unit] for row in rows))
    columns = list(dict.fromkeys(row[column] for row in rows))
    values = np.full((len(units), len(columns)), np.nan)
    for row in rows:
        values[units.index(row[unit]), columns.index(row[column])] = as_number(row.get(measure))
    return units, columns, values


def inside_boxes(size: tuple[int, int], boxes: Sequence[Box]) -> NDArray[np.bool_]:
    """(H, W) bool of a picture of `size` (width, height): where one of `boxes` lies."""
    out = np.zeros((size[1], size[0]), bool)
    for box in boxes:
        out[max(0, box.y) : box.bottom, max(0, box.x) : box.right] = True
    return out


def change(a: Image.Image, b: Image.Image, where: NDArray[np.bool_] | None = None) -> float:
    """Root mean square difference of two pictures inside `where` (H, W), None = all of it, in gray levels.

    nan if `where` is empty.
    """
    gap = np.asarray(a.convert("RGB"), np.float64) - np.asarray(b.convert("RGB"), np.float64)
    inside = gap if where is None else gap[where]
    return float(np.sqrt(np.mean(inside**2))) if inside.size else float("nan")


def spread(values: Sequence[T], count: int) -> list[T]:
    """At most `count` of `values`, evenly spread, the first and the last among them."""
    if min(count, len(values)) == 1:
        return [values[0]]
    places = np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)
    return [values[i] for i in dict.fromkeys(places.tolist())]


def means(
    rows: Sequence[Mapping[str, Any]], unit: str, column: str, measures: Sequence[str]
) -> list[dict[str, Any]]:
    """A row per value of `column` with the means over units of each measure."""
    found = {m: mean_over_units(by_unit(rows, unit, column, m)[2]) for m in measures}
    columns = dict.fromkeys(row[column] for row in rows)
    return [{column: c, **{m: float(v[i]) for m, v in found.items()}} for i, c in enumerate(columns)]
