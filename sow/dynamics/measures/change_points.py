"""Where a curve over log SNR changes, with an interval over images.

A place is a function (levels, mean curve) -> level; `located` adds its bootstrap interval. Levels rise, so
that time runs
as denoising does: from noise, left, to the clean image, right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from sow.dynamics.curves import interval, mean_over_units
from sow.dynamics.measures.levels import Array
from sow.dynamics.regimes import left_over
from sow.report.statistics import Resampling

Place = Callable[[Array, Array], float]


def located(place: Place, levels: ArrayLike, values: ArrayLike, how: Resampling) -> dict[str, float]:
    """`place` of the mean of `values` (units, L), nan left out, and its interval over units: `value`, `low`,
    `high`.

    Units are what was drawn independently: images, never levels of one image.
    """
    axis, table = _rising(levels), np.asarray(values, float)
    return interval(lambda index: place(axis, mean_over_units(table[index])), len(table), how)


def crossing(levels: ArrayLike, curve: ArrayLike, value: float) -> float:
    """The level at which the straight pieces of a curve first meet `value`, from the noisy side; nan where
    they never do."""
    axis, off = _rising(levels), np.asarray(curve, float) - value
    if off[0] == 0:
        return float(axis[0])
    sides = np.flatnonzero((off[:-1] != 0) & (np.sign(off[:-1]) * np.sign(off[1:]) <= 0))
    if not len(sides):
        return float("nan")
    i = int(sides[0])
    return float(axis[i] + (axis[i + 1] - axis[i]) * off[i] / (off[i] - off[i + 1]))


def peak(levels: ArrayLike, curve: ArrayLike) -> float:
    """The level of a curve's maximum, by the parabola through the largest point and its neighbours; nan for
    all nan."""
    axis, height = _rising(levels), np.asarray(curve, float)
    if np.isnan(height).all():
        return float("nan")
    i = int(np.nanargmax(height))
    if i in (0, len(axis) - 1) or not np.isfinite(height[i - 1 : i + 2]).all():
        return float(axis[i])
    a, b, _ = np.polyfit(axis[i - 1 : i + 2] - axis[i], height[i - 1 : i + 2], 2)
    return float(axis[i] - b / (2 * a)) if a < 0 else float(axis[i])


def steepest(levels: ArrayLike, curve: ArrayLike) -> float:
    """The level where a curve changes fastest, up or down: the peak of |slope|."""
    axis = _rising(levels)
    return peak(axis, np.abs(np.gradient(np.asarray(curve, float), axis)))


def gathered(levels: ArrayLike, rate: ArrayLike, share: float) -> float:
    """The level by which `share` in (0, 1) of a rate's integral has come together, from the noisy side.

    The levels of shares 0.1 and 0.9 bound the window in which an attribute is decided.
    """
    axis, height = _rising(levels), np.asarray(rate, float)
    total = np.concatenate([[0.0], np.cumsum((height[1:] + height[:-1]) / 2 * np.diff(axis))])
    return crossing(axis, total / total[-1], share) if total[-1] > 0 else float("nan")


def ramp(levels: ArrayLike, curve: ArrayLike, grid: int = 60) -> tuple[float, float]:
    """The two change points (noisy side, clean side) of a curve that is flat, then a straight line, then
    flat.

    Both lie on `grid` equal parts of the axis; the pair that leaves least of the curve's variance wins,
    rising or
    falling, and needs at least two parts between them. (nan, nan) for a constant curve.
    """
    axis, height = _rising(levels), np.asarray(curve, float)
    if np.nanmax(height) == np.nanmin(height):
        return float("nan"), float("nan")
    places = np.linspace(axis[0], axis[-1], grid + 1)
    i, j = np.triu_indices(grid + 1, 2)
    pairs = np.stack([places[i], places[j]], axis=1)
    known = np.isfinite(height)
    rises, falls = (left_over(axis[known], sign * height[known], pairs) for sign in (1, -1))
    best = pairs[int(np.argmin(np.minimum(rises, falls)))]
    return float(best[0]), float(best[1])


def ramp_end(which: int, grid: int = 60) -> Place:
    """`ramp`'s noisy (0) or clean (1) end as a place."""
    return lambda levels, curve: ramp(levels, curve, grid)[which]


def half_maximum(levels: ArrayLike, curve: ArrayLike) -> tuple[float, float]:
    """The ends of the stretch around a curve's maximum where it lies above the middle of its smallest and
    largest value; the axis's own end where it stays above. (nan, nan) for a constant curve."""
    axis, height = _rising(levels), np.asarray(curve, float)
    low, high = np.nanmin(height), np.nanmax(height)
    if not high > low:
        return float("nan"), float("nan")
    top, middle = int(np.nanargmax(height)), (low + high) / 2
    before = crossing(-axis[top::-1], height[top::-1], middle) if top else float("nan")
    after = crossing(axis[top:], height[top:], middle) if top < len(axis) - 1 else float("nan")
    return (
        float(axis[0]) if np.isnan(before) else -before,
        float(axis[-1]) if np.isnan(after) else after,
    )


def nearest_index(levels: Sequence[float], level: float) -> int:
    """The index of the grid's level nearest to `level`."""
    return int(np.argmin(np.abs(np.asarray(levels, float) - level)))


def _rising(levels: ArrayLike) -> Array:
    axis = np.asarray(levels, float)
    if len(axis) < 2 or not (np.diff(axis) > 0).all():
        raise ValueError("need at least two rising levels")
    return axis
