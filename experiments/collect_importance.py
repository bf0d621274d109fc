"""How much of a metric's variance over runs each key explains alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def importances(
    rows: Sequence[Mapping[str, Any]], keys: Sequence[str], metric: str, bins: int
) -> dict[str, float]:
    """Epsilon squared of each key that differs among the rows with `metric`, in [0, 1], the largest first.

    epsilon^2 = max(0, (SS_between - df_between MS_within) / SS_total) of a one-way analysis of variance over the key's
    levels; numbers with more than `bins` values are cut at their quantiles. It is 0 in expectation for a key without
    influence, where the plain share of variance grows with the number of levels. Interactions are not in it. Keys that name
    the same levels in every row, as a group's option and its numbers, are given once.
    """
    kept = [row for row in rows if row.get(metric) is not None]
    values = np.array([row[metric] for row in kept], dtype=float)
    found: dict[str, float] = {}
    seen: set[tuple[int, ...]] = set()
    for key in keys:
        level = levels([row.get(key) for row in kept], bins)
        pattern = tuple(int(i) for i in level)
        if len(set(pattern)) < 2 or pattern in seen:
            continue
        seen.add(pattern)
        found[key] = epsilon_squared(values, level)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def levels(column: Sequence[Any], bins: int) -> NDArray[np.int64]:
    """The level (n,) int64 of each value, numbered in order of appearance; many numbers are binned at their quantiles."""
    if (
        all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in column)
        and len(set(column)) > bins
    ):
        cuts = np.quantile(np.array(column, dtype=float), np.linspace(0, 1, bins + 1)[1:-1])
        column = np.searchsorted(cuts, np.array(column, dtype=float), side="right").tolist()
    words = [json.dumps(v, sort_keys=True, default=str) for v in column]
    order = {word: i for i, word in enumerate(dict.fromkeys(words))}
    return np.array([order[word] for word in words], dtype=np.int64)


def epsilon_squared(values: NDArray[np.float64], level: NDArray[np.int64]) -> float:
    """See `importances`; 0 where every level has one value or nothing varies."""
    total = float(((values - values.mean()) ** 2).sum())
    groups = [values[level == i] for i in np.unique(level)]
    within = float(sum(((g - g.mean()) ** 2).sum() for g in groups))
    free = len(values) - len(groups)
    if total <= 0 or free <= 0:
        return 0.0
    return max(0.0, (total - within - (len(groups) - 1) * within / free) / total)
