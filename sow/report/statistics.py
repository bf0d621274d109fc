"""Intervals and paired tests for a benchmark: groups are what is drawn, so groups are what is resampled.

Notation
x_g   sum of a metric over the images of group g that have it      n_g   how many have it
theta = sum x_g / sum n_g, the mean over images

Groups that share something, as two groups of one prompt do, are drawn together: they are one unit, and
units are resampled.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from sow.types import Bound, component

Values = Sequence[tuple[Hashable, float | bool | None]]  # (group, value of one image)
_EXACT = 12  # up to so many differing groups all 2^n signs are counted
POWER = 0.9  # of `detectable`
_AT_ONCE = 1 << 22  # drawn groups that are held in memory


@component("study")
class Resampling:
    """Level of intervals, number of resamples, and the seed of their draws."""

    level: Annotated[float, Bound(gt=0, lt=1)]
    resamples: Annotated[int, Bound(ge=100, le=1_000_000)]
    seed: int


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval; `groups` (or units of them) and `images` that it rests on.
    nan where nothing was measured."""

    mean: float
    low: float
    high: float
    groups: int
    images: int


@dataclass(frozen=True)
class Comparison:
    """Mean difference of a row minus the reference over the groups that both have, its interval, the
    p-value, and its standard `error` with groups of one unit drawn together."""

    difference: float
    low: float
    high: float
    p: float
    groups: int
    test: str
    error: float = math.nan


def estimate(values: Values, how: Resampling, share: bool = False) -> Estimate:
    """Mean of `values` with a BCa bootstrap interval over groups; of a `share` with Wilson's, in [0, 1].

    Wilson's interval stays honest at 0 and 1, where every resample is alike. It counts groups, not images:
    several seeds of a group are not independent.
    """
    found = by_group(values)
    if not found:
        return Estimate(math.nan, math.nan, math.nan, 0, 0)
    sums = np.array([sum(v) for v in found.values()], np.float64)
    counts = np.array([len(v) for v in found.values()], np.float64)
    mean = float(sums.sum() / counts.sum())
    low, high = wilson(mean, len(found), how.level) if share else bca(sums, counts, how)
    return Estimate(mean, low, high, len(found), int(counts.sum()))


def compare(
    row: Values, reference: Values, how: Resampling, units: Mapping[Hashable, Hashable] | None = None
) -> Comparison:
    """`row` minus `reference`, paired by group: BCa interval over units, and a paired test of no difference.

    `units` names the unit of each group; without it every group is one. The test flips the signs of the
    units' differences: all ways of it where 12 or fewer units differ, `resamples` drawn ones else. Of values
    that are only 0 and 1, one image per unit, that is McNemar's test, counted exactly.
    """
    mine, theirs = group_means(row), group_means(reference)
    shared = [g for g in mine if g in theirs]
    if not shared:
        return Comparison(math.nan, math.nan, math.nan, math.nan, 0, "none")
    together = by_group([((units or {}).get(g, g), mine[g] - theirs[g]) for g in shared])
    sums = np.array([sum(v) for v in together.values()], np.float64)
    counts = np.array([len(v) for v in together.values()], np.float64)
    mean = float(sums.sum() / counts.sum())
    low, high = bca(sums, counts, how)
    n = len(sums)
    squares = float(((sums - counts * mean) ** 2).sum())
    error = math.sqrt(squares * n / (n - 1)) / len(shared) if n > 1 else math.nan
    binary = n == len(shared) and all(v in (0.0, 1.0) for g in shared for v in (mine[g], theirs[g]))
    p = mcnemar(int((sums > 0).sum()), int((sums < 0).sum())) if binary else sign_flips(sums, how)
    return Comparison(mean, low, high, p, len(shared), "McNemar" if binary else "permutation", error)


def detectable(error: float, how: Resampling, tests: int) -> float:
    """The smallest true difference that a two-sided test at 1 - `how.level` finds with probability `POWER`,
    from the standard `error` of the measured one; Holm's strictest step over `tests` comparisons.

    The normal approximation, (z_{1 - alpha / 2 tests} + z_POWER) error. It falls with the root of the number
    of groups: a difference d needs (detectable / d)^2 times as many.
    """
    from scipy import stats

    alpha = (1 - how.level) / max(tests, 1)
    return float(stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(POWER)) * error


def wilson(share: float, n: float, level: float, freedom: float = math.inf) -> tuple[float, float]:
    """Wilson's score interval of a share of `n`, in [0, 1]; with Student's quantile where `freedom` is
    finite.

    Unlike scipy's it takes a share that no count of `n` makes: a mean over several images per group.
    """
    from scipy import stats

    z = float(stats.t.ppf(0.5 + level / 2, freedom))
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def bca(sums: NDArray[np.float64], counts: NDArray[np.float64], how: Resampling) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval (Efron, 1987) of sum(sums) / sum(counts) over groups.

    One group says nothing of the spread and gives nan; groups that are all alike give the mean twice.
    """
    theta = sums.sum() / counts.sum()
    if len(sums) > 1 and np.allclose(sums / counts, theta, rtol=1e-12, atol=0):
        return float(theta), float(theta)

    def mean(index: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:
        return sums[index].sum(axis) / counts[index].sum(axis)

    low, high = bootstrap(mean, [len(sums)], how, "BCa", vectorized=True)
    return float(low), float(high)


def bootstrap(
    statistic: Callable[..., Any],
    units: Sequence[int],
    how: Resampling,
    method: Literal["BCa", "percentile"] = "percentile",
    vectorized: bool = False,
) -> tuple[Any, Any]:
    """Ends of scipy's bootstrap interval of `statistic`, each of its shape.

    `statistic` takes an array of indices for every entry n of `units`, drawn from 0 .. n - 1; several entries
    are drawn independently. `vectorized` means indices (resamples, n) and an argument `axis`. Resamples whose
    statistic does not exist (nan) are left out of a percentile interval; nan where an entry of `units` is
    below two, or no resample is left.
    """
    from scipy import stats

    if min(units) < 2:
        return math.nan, math.nan
    data = tuple(np.arange(n) for n in units)
    # One draw at a time of several samples: then the draws of one do not depend on the number of resamples.
    batch = max(1, _AT_ONCE // units[0]) if len(units) == 1 else 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing but nan
        found = stats.bootstrap(
            data,
            statistic,
            n_resamples=how.resamples,
            batch=batch,
            vectorized=vectorized,
            confidence_level=how.level,
            method=method,
            rng=np.random.default_rng(how.seed),
        )
        if method == "BCa":
            return found.confidence_interval
        tail = (1 - how.level) / 2
        low, high = np.nanquantile(found.bootstrap_distribution, [tail, 1 - tail], axis=-1)
    return low, high


def mcnemar(wins: int, losses: int) -> float:
    """Two-sided exact p-value of `wins` against `losses` under a fair coin; 1 without any."""
    from scipy import stats

    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def sign_flips(d: NDArray[np.float64], how: Resampling) -> float:
    """Two-sided p-value of the mean of paired differences `d` when every sign is as
    likely as its opposite."""
    from scipy import stats

    d = d[d != 0]
    if len(d) < 2:
        return 1.0

    def size(flipped: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return np.abs(flipped.sum(axis))

    # Large sizes of the mean are large on both sides.
    if len(d) <= _EXACT:
        found: Any = stats.permutation_test(
            (d,),
            size,
            permutation_type="samples",
            n_resamples=2 ** len(d),
            alternative="greater",
            vectorized=True,
        )
    else:
        rng = np.random.default_rng(how.seed)

        def signed(size: tuple[int, int]) -> NDArray[np.float64]:
            return np.where(rng.integers(0, 2, size, dtype=np.int8), d, -d)

        batch = max(1, _AT_ONCE // len(d))
        found = stats.monte_carlo_test(
            d, signed, size, n_resamples=how.resamples, batch=batch, alternative="greater", vectorized=True
        )
    return float(found.pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's correction of p-values for their number; nan stays nan and does not count."""
    known = sorted((p, name) for name, p in p_values.items() if not math.isnan(p))
    out = dict(p_values)
    least = 0.0
    for i, (p, name) in enumerate(known):
        least = max(least, min(1.0, p * (len(known) - i)))
        out[name] = least
    return out


def group_means(values: Values) -> dict[Hashable, float]:
    """The mean of each group that has any value."""
    return {g: sum(v) / len(v) for g, v in by_group(values).items()}


def by_group(values: Values) -> dict[Hashable, list[float]]:
    """The values of each group that has any; None and nan are left out."""
    kept: dict[Hashable, list[float]] = {}
    for group, value in values:
        if value is not None and not math.isnan(value):
            kept.setdefault(group, []).append(float(value))
    return kept
