"""Shares of votes with intervals, and how far raters agree.

Notation
p      share of the votes that a row got, of n votes
e_i    1 if vote i is for the row, else 0, minus p
P_g    share of the pairs of votes on item g that agree           q_k    share of all votes that are for row k
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from sow.report.statistics import Estimate, Resampling, bootstrap, wilson


@dataclass(frozen=True)
class Vote:
    """One answer: who (`rater`) chose which row (`choice`) on which group (`item`)."""

    rater: Hashable
    item: Hashable
    choice: str


def share(votes: Sequence[Vote], row: str, level: float) -> Estimate:
    """Share of the votes for `row`; its interval knows that votes of a rater, and on an item, hang together.

    Wilson's interval at the effective number of votes p (1 - p) / V, never more than n, with Student's
    quantile for the smaller number of clusters. V is the two-way cluster-robust variance of p (Cameron,
    Gelbach and Miller, 2011): V = V_item + V_rater - V_vote. Of one rater, or one item, the spread over
    raters (items) is not known and not in it.
    """
    n = len(votes)
    if not n:
        return Estimate(math.nan, math.nan, math.nan, 0, 0)
    hits = np.array([v.choice == row for v in votes], np.float64)
    p = float(hits.mean())
    clusters = [_clusters([v.item for v in votes]), _clusters([v.rater for v in votes])]
    several = [c for c in clusters if c.max() > 0]
    e = hits - p
    each = float((e**2).sum()) / n**2
    sums = [float((np.bincount(c, e) ** 2).sum()) / n**2 * (c.max() + 1) / c.max() for c in several]
    variance = max(sum(sums) - each * (len(sums) - 1), each) if sums else each
    effective = min(float(n), p * (1 - p) / variance) if 0 < p < 1 else float(n)
    low, high = wilson(p, effective, level, min((int(c.max()) for c in several), default=1))
    return Estimate(p, low, high, int(clusters[0].max()) + 1, n)


def fleiss_kappa(votes: Sequence[Vote]) -> float:
    """Fleiss' kappa: (mean P_g - sum q_k^2) / (1 - sum q_k^2) over items with the usual number of votes, two
    or more.

    nan where no item has two votes, or all votes are for one row.
    """
    counts = [c for c in _by_item(votes) if sum(c.values()) >= 2]
    if not counts:
        return math.nan
    usual = Counter(sum(c.values()) for c in counts).most_common(1)[0][0]
    counts = [c for c in counts if sum(c.values()) == usual]
    agree = sum(sum(k * (k - 1) for k in c.values()) for c in counts) / (len(counts) * usual * (usual - 1))
    total: Counter[str] = sum(counts, Counter())
    chance = sum((k / (len(counts) * usual)) ** 2 for k in total.values())
    return math.nan if chance == 1 else (agree - chance) / (1 - chance)


def krippendorff_alpha(votes: Sequence[Vote]) -> float:
    """Krippendorff's alpha for names: 1 - D_o / D_e from the coincidences of votes, any number of votes per
    item.

    Items with a single vote do not count; nan where nothing is left, or all votes are for one row.
    """
    counts = [c for c in _by_item(votes) if sum(c.values()) >= 2]
    n = sum(sum(c.values()) for c in counts)
    if not n:
        return math.nan
    sizes = [sum(c.values()) for c in counts]
    observed = sum((m * m - sum(k * k for k in c.values())) / (m - 1) for m, c in zip(sizes, counts)) / n
    total: Counter[str] = sum(counts, Counter())
    expected = (n * n - sum(k * k for k in total.values())) / (n * (n - 1))
    return math.nan if expected == 0 else 1 - observed / expected


def alpha_interval(votes: Sequence[Vote], how: Resampling) -> tuple[float, float]:
    """Percentile bootstrap interval over items of Krippendorff's alpha; nan if it does not exist."""
    items: dict[Hashable, list[Vote]] = {}
    for vote in votes:
        items.setdefault(vote.item, []).append(vote)
    kept = [v for v in items.values() if len(v) >= 2]
    if len(kept) < 2:
        return math.nan, math.nan
    names = sorted({v.choice for votes in kept for v in votes})
    table = np.array([[sum(v.choice == k for v in votes) for k in names] for votes in kept], np.float64)
    sizes = table.sum(1)
    disagree = (sizes**2 - (table**2).sum(1)) / (sizes - 1)

    def alpha(index: np.ndarray, axis: int = -1) -> np.ndarray:
        n = sizes[index].sum(-1)
        expected = (n * n - (table[index].sum(-2) ** 2).sum(-1)) / (n - 1)
        return 1 - disagree[index].sum(-1) / np.where(expected > 0, expected, np.nan)

    low, high = bootstrap(alpha, [len(kept)], how, vectorized=True)
    return float(low), float(high)


def _by_item(votes: Sequence[Vote]) -> list[Counter[str]]:
    out: dict[Hashable, Counter[str]] = {}
    for vote in votes:
        out.setdefault(vote.item, Counter())[vote.choice] += 1
    return list(out.values())


def _clusters(names: Sequence[Hashable]) -> np.ndarray:
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(n, len(numbers)) for n in names])
