"""Numbers of many samples side by side: which measures there are, their values by seed, what changed between pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

    from sow.types import Box


def present(rows: Sequence[Mapping[str, Any]], measures: Sequence[str]) -> list[str]:
    """Those of `measures` that have a number in some row, in the order given."""
    return [m for m in measures if any(np.isfinite(as_number(row.get(m))) for row in rows)]


def as_number(value: Any) -> float:
    """A number, 1 and 0 for truths, nan for what is none."""
    return float(value) if isinstance(value, (bool, int, float)) else float("nan")


def by_unit(
    rows: Sequence[Mapping[str, Any]], unit: str, column: str, measure: str
) -> tuple[list[Any], list[Any], NDArray[np.float64]]:
    """(units, columns, values (units, columns)) of one measure of tidy rows, nan where there is no row or number."""
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


def change(a: Image.Image, b: Image.Image, where: NDArray[np.bool_]) -> float:
    """Root mean square difference of two pictures inside `where` (H, W), in gray levels; nan where that is empty."""
    if not where.any():
        return float("nan")
    gap = np.asarray(a.convert("RGB"), np.float64) - np.asarray(b.convert("RGB"), np.float64)
    return float(np.sqrt(np.mean(gap[where] ** 2)))
