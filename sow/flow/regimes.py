"""Three regimes of denoising from its curves: refinement, semantic formation, chaos (Sec. III-B), and a cycle from them.

Notation
    u         noise level of a state, k / K in [0, 1]; 0 clean, 1 noise
    f(u)      a curve that is low where nothing changes any more and high where all is open
    a, b      change points: f is flat below a (refinement) and above b (chaos), and a straight line between them
    ramp      r(u) = clip((u - a) / (b - a), 0, 1); the model of a curve is low + (high - low) r(u)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sow.errors import UserError
from sow.phases.curves import mean_over_units

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curve:
    """`values` (units, p) at noise levels `noise` (p,), rising with noise; units are what a bootstrap resamples."""

    name: str
    noise: Array
    values: Array

    def mean(self, units: NDArray[np.int64] | None = None) -> Array:
        """Mean curve of `units` (all), scaled so that its ends over the points lie at 0 and 1; nan where it is flat."""
        curve = mean_over_units(self.values if units is None else self.values[units])
        low, high = np.nanmin(curve), np.nanmax(curve)
        return (curve - low) / (high - low) if high > low else np.full_like(curve, np.nan)


@dataclass(frozen=True, eq=False)
class Regimes:
    """Change points `a` < `b` with the ends of their intervals, and how much of each curve's variance the ramp explains."""

    a: float
    b: float
    a_interval: tuple[float, float]
    b_interval: tuple[float, float]
    explained: dict[str, float]


def ramp(noise: Array, a: float, b: float) -> Array:
    """r(u)."""
    return np.clip((noise - a) / (b - a), 0, 1)


def residual(noise: Array, curve: Array, a: float, b: float) -> float:
    """Least squares of the ramp's two levels: what is left of the curve's variance, in [0, 1]."""
    known = np.isfinite(curve)
    x, y = noise[known], curve[known]
    total = float(((y - y.mean()) ** 2).sum())
    if total == 0:
        return 0.0
    design = np.stack([1 - ramp(x, a, b), ramp(x, a, b)], axis=1)
    levels, *_ = np.linalg.lstsq(design, y, rcond=None)
    return float(((y - design @ levels) ** 2).sum()) / total


def change_points(curves: Sequence[tuple[Array, Array]], grid: int, narrowest: float) -> tuple[float, float]:
    """The a, b on a grid of `grid` + 1 levels, at least `narrowest` apart, that all curves (noise, mean) share best.

    Each curve counts alike, by the share of its own variance that is left. Raises UserError where no curve moves.
    """
    usable = [(noise, curve) for noise, curve in curves if np.isfinite(curve).sum() >= 3]
    if not usable:
        raise UserError("no curve changes with the noise level: there are no regimes to find (study)")
    levels = np.linspace(0, 1, grid + 1)
    best, found = np.inf, (0.0, 1.0)
    for i, a in enumerate(levels):
        for b in levels[i + 1 :]:
            if b - a < narrowest - 1e-9:
                continue
            left = sum(residual(noise, curve, a, b) for noise, curve in usable)
            if left < best - 1e-12:
                best, found = left, (float(a), float(b))
    return found


def regimes(
    curves: Sequence[Curve], grid: int, narrowest: float, resamples: int, seed: int, confidence: float = 0.95
) -> Regimes:
    """Change points of all curves together, with bootstrap intervals over the units of each curve."""
    a, b = change_points([(c.noise, c.mean()) for c in curves], grid, narrowest)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        sample = [(c.noise, c.mean(rng.integers(0, len(c.values), len(c.values)))) for c in curves]
        drawn.append(change_points(sample, grid, narrowest))
    tail = (1 - confidence) / 2
    ends = np.quantile(np.array(drawn or [(a, b)]), [tail, 1 - tail], axis=0)
    return Regimes(
        a,
        b,
        (float(ends[0, 0]), float(ends[1, 0])),
        (float(ends[0, 1]), float(ends[1, 1])),
        {c.name: 1 - residual(c.noise, c.mean(), a, b) for c in curves if np.isfinite(c.mean()).any()},
    )


@dataclass(frozen=True)
class Suggestion:
    """A cycle: t1, t2 on the K = 10 scale and the number of cycles that costs as many UNet calls as before."""

    t1: int
    t2: int
    cycles: int

    @property
    def words(self) -> list[str]:
        """The words of a command line."""
        return [f"cycle.t1={self.t1}", f"cycle.t2={self.t2}", f"cycle.cycles={self.cycles}"]

    def yaml(self, comment: str) -> str:
        """An option of the group cycle."""
        return f"# {comment}\ndefaults:\n  - cyclic\nt1: {self.t1}\nt2: {self.t2}\ncycles: {self.cycles}\n"


def suggest(a: float, b: float, t1: float, t2: float, cycles: int) -> Suggestion:
    """The cycle over semantic formation: a and b on the K = 10 scale, one step apart at least, room left for t3 < t1.

    `t1`, `t2`, `cycles` are the default's, whose number of UNet calls in the cycles is kept.
    """
    low = min(max(round(10 * a), 2), 9)
    high = min(max(round(10 * b), low + 1), 10)
    return Suggestion(low, high, max(1, round(cycles * (t2 - t1) / (high - low))))
