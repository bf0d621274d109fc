"""Curves over the denoising process: bands, rank correlation, when a curve settles; intervals by the
bootstrap.

Units (seeds, prompts) are resampled, never single points of a curve: points of one unit share their noise.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sow.report.statistics import Resampling, bootstrap

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Band:
    """A mean curve and the ends of its pointwise confidence interval, each (p,)."""

    mean: Array
    low: Array
    high: Array


def interval(
    statistic: Callable[[NDArray[np.int64]], float], units: int, how: Resampling
) -> dict[str, float]:
    """`value`: `statistic` of all `units` (an index array); `low`, `high`:
    its bootstrap interval over units."""
    low, high = bootstrap(statistic, [units], how)
    return {"value": float(statistic(np.arange(units))), "low": float(low), "high": float(high)}


def mean_interval(values: ArrayLike, how: Resampling) -> dict[str, float]:
    """Mean of `values` (units,), nan left out, and its bootstrap interval."""
    table = np.asarray(values, float)[:, None]
    return interval(lambda index: float(mean_over_units(table[index])[0]), len(table), how)


def band(values: ArrayLike, how: Resampling) -> Band:
    """Mean over units of `values` (units, p), nan left out,
    and its pointwise percentile bootstrap interval."""
    table = np.asarray(values, float)
    mean = mean_over_units(table)
    low, high = bootstrap(lambda index: mean_over_units(table[index]), [len(table)], how)
    return Band(mean, *(np.broadcast_to(end, mean.shape) for end in (low, high)))


def mean_over_units(values: ArrayLike) -> Array:
    """Mean over the first axis without nan; nan where there is nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(np.asarray(values, float), axis=0)


def spearman(positions: ArrayLike, values: ArrayLike, how: Resampling) -> dict[str, float]:
    """Spearman's rank correlation of `positions` (p,) with the mean curve of `values` (units, p), over units.

    It says how monotone the mean curve is; whether single units follow it is `spearman_each`'s to say. nan
    for a constant curve or fewer than two points.
    """
    place, table = np.asarray(positions, float), np.asarray(values, float)
    return interval(lambda i: rank_correlation(place, mean_over_units(table[i])), len(table), how)


def spearman_each(positions: ArrayLike, values: ArrayLike, how: Resampling) -> dict[str, float]:
    """Mean over units of their own rank correlations with `positions` (p,); constant units are left out.

    Units are independent, so under no trend the interval holds 0 about as often as it says.
    """
    place, table = np.asarray(positions, float), np.asarray(values, float)
    return mean_interval([rank_correlation(place, row) for row in table], how)


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rho of two sequences, points with nan left out; nan where one of them is constant."""
    from scipy import stats

    x, y = np.asarray(a, float), np.asarray(b, float)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(stats.spearmanr(x, y).statistic)


def settle(steps: ArrayLike, losses: ArrayLike, tolerance: float) -> float:
    """The largest step from which on, down to the clean end, the loss is within `tolerance` of the noisiest
    step's.

    `steps` (p,) in any order, larger is noisier; nan where even the cleanest step's loss exceeds
    `tolerance` x the loss at the noisiest step, or that loss is not positive. A larger value settles earlier.
    """
    place, loss = np.asarray(steps, float), np.asarray(losses, float)
    order = np.argsort(place)
    place, loss = place[order], loss[order]
    if not loss[-1] > 0:
        return float("nan")
    settled = float("nan")
    for step, value in zip(place, loss, strict=True):
        if not value <= tolerance * loss[-1]:
            break
        settled = float(step)
    return settled
