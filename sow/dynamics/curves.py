"""Curves over the denoising process: bands, rank correlation, when a curve settles; intervals by the bootstrap.

Units (seeds, prompts) are resampled, never single points of a curve: points of one unit share their noise.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A number with the ends of its confidence interval; nan ends where there is too little to resample."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """Plain container."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, eq=False)
class Band:
    """A mean curve and the ends of its pointwise confidence interval, each (p,)."""

    mean: Array
    low: Array
    high: Array


def interval(
    statistic: Callable[[NDArray[np.int64]], float],
    units: int,
    seed: int,
    resamples: int,
    confidence: float = 0.95,
) -> Interval:
    """`statistic` of all `units` (an index array) and its percentile bootstrap interval over units.

    Resamples whose statistic does not exist (nan) are left out; fewer than two units, or none left, give nan ends.
    """
    from scipy import stats

    value = float(statistic(np.arange(units)))
    if units < 2:
        return Interval(value, float("nan"), float("nan"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            (np.arange(units),),
            lambda index: statistic(np.asarray(index, dtype=np.int64)),
            vectorized=False,
            n_resamples=resamples,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    known = result.bootstrap_distribution[np.isfinite(result.bootstrap_distribution)]
    if not len(known):
        return Interval(value, float("nan"), float("nan"))
    tail = (1 - confidence) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def mean_interval(values: ArrayLike, seed: int, resamples: int) -> Interval:
    """Mean of `values` (units,), nan left out, and its bootstrap interval."""
    table = np.asarray(values, float)[:, None]
    return interval(lambda index: float(mean_over_units(table[index])[0]), len(table), seed, resamples)


def band(values: ArrayLike, seed: int, resamples: int, confidence: float = 0.95) -> Band:
    """Mean over units of `values` (units, p), nan left out, and its pointwise percentile bootstrap interval."""
    table = np.asarray(values, float)
    mean = mean_over_units(table)
    if len(table) < 2:
        return Band(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    rng = np.random.default_rng(seed)
    drawn = np.stack(
        [mean_over_units(table[rng.integers(0, len(table), len(table))]) for _ in range(resamples)]
    )
    tail = (1 - confidence) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a point that no unit has
        low, high = np.nanquantile(drawn, [tail, 1 - tail], axis=0)
    return Band(mean, low, high)


def mean_over_units(values: ArrayLike) -> Array:
    """Mean over the first axis without nan; nan where there is nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(np.asarray(values, float), axis=0)


def spearman(positions: ArrayLike, values: ArrayLike, seed: int, resamples: int) -> Interval:
    """Spearman's rank correlation of `positions` (p,) with the mean curve of `values` (units, p), resampled over units.

    It says how monotone the mean curve is; whether single units follow it is `spearman_each`'s to say. nan for a
    constant curve or fewer than two points.
    """
    place, table = np.asarray(positions, float), np.asarray(values, float)
    return interval(
        lambda index: rank_correlation(place, mean_over_units(table[index])), len(table), seed, resamples
    )


def spearman_each(positions: ArrayLike, values: ArrayLike, seed: int, resamples: int) -> Interval:
    """Mean over units of their own rank correlations with `positions` (p,); units without one (a constant row) left out.

    Units are independent, so under no trend the interval holds 0 about as often as it says.
    """
    place, table = np.asarray(positions, float), np.asarray(values, float)
    each = np.array([rank_correlation(place, row) for row in table])
    return mean_interval(each, seed, resamples)


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
    """The largest step from which on, down to the clean end, the loss stays within `tolerance` of the noisiest step's.

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
