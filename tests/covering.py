"""Repeats of an estimate: how often its 95 % interval holds the truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from sow.dynamics.curves import band, interval
from sow.method import noise
from sow.report.statistics import Resampling

REPEATS = 100
MANY = 200  # where a repeat is cheap
HELD = 0.9  # share of intervals: below that an interval is too narrow or its estimate is biased


def normal(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Standard normal float64."""
    return noise.randn(shape, noise.generator(seed), "cpu", torch.float64)


def covered_means(values, truth: float, resamples: int = 600) -> float:
    """Of the means of MANY parts of independent `values` (MANY x units,), the share whose interval holds
    `truth`."""
    found = band(np.asarray(values).reshape(MANY, -1).T, Resampling(0.95, resamples, 0))
    return float(((found.low <= truth) & (truth <= found.high)).mean())


def covered(values, truth: float, statistic: Callable[..., float], resamples: int = 100) -> float:
    """Of `statistic` of REPEATS parts of independent `values` (REPEATS x units, ...), the share whose
    interval holds
    `truth`."""
    table = np.asarray(values)
    held = 0
    for seed, own in enumerate(table.reshape(REPEATS, -1, *table.shape[1:])):
        how = Resampling(0.95, resamples, seed)
        found = interval(lambda index, own=own: float(statistic(own[index])), len(own), how)
        held += found["low"] <= truth <= found["high"]
    return held / REPEATS
