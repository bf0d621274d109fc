"""Intervals and paired tests for a benchmark: groups are what is drawn, so groups are what is resampled.

Notation
x_g   sum of a metric over the images of group g that have it      n_g   how many have it
theta = sum x_g / sum n_g, the mean over images
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from sow.config.bounds import need_at_least, need_between

Values = Sequence[tuple[Hashable, float | bool | None]]  # (group, value of one image)
_NORMAL = NormalDist()
_EXACT = 12  # up to so many differing groups all 2^n signs are counted


@dataclass(frozen=True)
class Resampling:
    """Level of intervals in (0, 1), number of resamples, and the seed of their draws."""

    level: float
    resamples: int
    seed: int

    def __post_init__(self) -> None:
        need_between(self, "study", 0, 1, "level")
        need_at_least(self, "study", resamples=100)


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval; `groups` and `images` that it rests on. nan where nothing was measured."""

    mean: float
    low: float
    high: float
    groups: int
    images: int


@dataclass(frozen=True)
class Comparison:
    """Mean difference of a row minus the reference over the groups that both have, its interval, and the p-value."""

    difference: float
    low: float
    high: float
    p: float
    groups: int
    test: str


def estimate(values: Values, how: Resampling, share: bool = False) -> Estimate:
    """Mean of `values` with a BCa bootstrap interval over groups; of a `share` with Wilson's, in [0, 1].

    Wilson's interval stays honest at 0 and 1, where every resample is alike. It counts groups, not images: several seeds
    of a group are not independent.
    """
    sums, counts = _by_group(values)
    groups, images = len(sums), int(counts.sum())
    if not images:
        return Estimate(math.nan, math.nan, math.nan, 0, 0)
    mean = float(sums.sum() / counts.sum())
    low, high = wilson(mean, groups, how.level) if share else bca(sums, counts, how)
    return Estimate(mean, low, high, groups, images)


def compare(row: Values, reference: Values, how: Resampling) -> Comparison:
    """`row` minus `reference`, paired by group: BCa interval over groups, and a paired test of no difference.

    The test flips the signs of the groups' differences: all ways of it where 12 or fewer groups differ, `resamples`
    drawn ones else. Of values that are only 0 and 1, one image a group, that is McNemar's test, counted exactly.
    """
    mine, theirs = group_means(row), group_means(reference)
    shared = [g for g in mine if g in theirs]
    d = np.array([mine[g] - theirs[g] for g in shared], np.float64)
    if not len(d):
        return Comparison(math.nan, math.nan, math.nan, math.nan, 0, "none")
    low, high = bca(d, np.ones_like(d), how)
    binary = all(v in (0.0, 1.0) for g in shared for v in (mine[g], theirs[g]))
    p = mcnemar(int((d > 0).sum()), int((d < 0).sum())) if binary else sign_flips(d, how)
    return Comparison(float(d.mean()), low, high, p, len(d), "McNemar" if binary else "permutation")


def wilson(share: float, n: int, level: float) -> tuple[float, float]:
    """Wilson's score interval of a share of `n`, in [0, 1]."""
    z = _NORMAL.inv_cdf(0.5 + level / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def bca(sums: NDArray[np.float64], counts: NDArray[np.float64], how: Resampling) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval (Efron, 1987) of sum(sums) / sum(counts) over groups.

    One group tells nothing of the spread and gives nan; groups that are all alike give the mean twice.
    """
    n = len(sums)
    theta = sums.sum() / counts.sum()
    if n < 2:
        return math.nan, math.nan
    if np.allclose(sums / counts, theta, rtol=1e-12, atol=0):
        return float(theta), float(theta)
    rng = np.random.default_rng(how.seed)
    drawn = rng.integers(0, n, (how.resamples, n))
    thetas = np.sort(sums[drawn].sum(1) / counts[drawn].sum(1))
    # Half of the ties count as below, so that a coarse statistic is not taken for a biased one.
    below = float((thetas < theta).mean() + (thetas == theta).mean() / 2)
    below = min(max(below, 1 / how.resamples), 1 - 1 / how.resamples)
    left_out = (sums.sum() - sums) / (counts.sum() - counts)
    spread = left_out.mean() - left_out
    a = float((spread**3).sum() / (6 * (spread**2).sum() ** 1.5)) if spread.any() else 0.0
    z0 = _NORMAL.inv_cdf(below)
    ends = []
    for z in (_NORMAL.inv_cdf(0.5 - how.level / 2), _NORMAL.inv_cdf(0.5 + how.level / 2)):
        moved = z0 + (z0 + z) / max(1 - a * (z0 + z), 1e-6)
        ends.append(float(np.quantile(thetas, min(max(_NORMAL.cdf(moved), 0.0), 1.0))))
    return ends[0], ends[1]


def mcnemar(wins: int, losses: int) -> float:
    """Two-sided exact p-value of `wins` against `losses` under a fair coin; 1 without any."""
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n
    return min(1.0, 2 * tail)


def sign_flips(d: NDArray[np.float64], how: Resampling) -> float:
    """Two-sided p-value of the mean of paired differences `d` when every sign is as likely as its opposite."""
    d = d[d != 0]
    n = len(d)
    if not n:
        return 1.0
    if n <= _EXACT:
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        extra = 0  # the observed signs are among them
    else:
        bits = np.random.default_rng(how.seed).integers(0, 2, (how.resamples, n), dtype=np.int8)
        extra = 1
    means = np.abs(np.where(bits, d, -d).sum(1))
    reached = int((means >= abs(d.sum()) * (1 - 1e-12)).sum())
    return (reached + extra) / (len(bits) + extra)


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
    kept: dict[Hashable, list[float]] = {}
    for group, value in values:
        if value is not None and not math.isnan(value):
            kept.setdefault(group, []).append(float(value))
    return {g: sum(v) / len(v) for g, v in kept.items()}


def _by_group(values: Values) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(x_g, n_g) of the groups that have any value."""
    sums: dict[Hashable, float] = {}
    counts: dict[Hashable, int] = {}
    for group, value in values:
        if value is None or math.isnan(value):
            continue
        sums[group] = sums.get(group, 0.0) + float(value)
        counts[group] = counts.get(group, 0) + 1
    return np.array(list(sums.values()), np.float64), np.array(list(counts.values()), np.float64)
