"""Three regimes of denoising from its curves: refinement, semantic formation, chaos (Sec.

III-B), and a cycle from them.

Notation
    u         noise level of a state, k / K in [0, 1]; 0 clean, 1 noise
    f(u)      a curve that is low where nothing changes any more and high where all is open
    a, b      change points: f is flat below a (refinement) and above b (chaos), and a straight line between
              them
    ramp      r(u) = clip((u - a) / (b - a), 0, 1); the model of a curve is low + (high - low) r(u)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sow.dynamics.curves import mean_over_units
from sow.errors import UserError
from sow.report.statistics import Resampling, bootstrap

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curve:
    """`values` (units, p) at noise levels `noise` (p,), rising with noise;
    units are what a bootstrap resamples."""

    name: str
    noise: Array
    values: Array

    def mean(self, units: NDArray[np.int64] | None = None) -> Array:
        """Mean curve of `units` (all), scaled so that its ends over the points lie at 0 and 1; nan
        where it is flat."""
        curve = mean_over_units(self.values if units is None else self.values[units])
        low, high = np.nanmin(curve), np.nanmax(curve)
        return (curve - low) / (high - low) if high > low else np.full_like(curve, np.nan)


@dataclass(frozen=True, eq=False)
class Regimes:
    """Change points `a` < `b` with the ends of their intervals,
    and how much of each curve's variance the ramp explains."""

    a: float
    b: float
    a_interval: tuple[float, float]
    b_interval: tuple[float, float]
    explained: dict[str, float]


def ramp(noise: Array, a: float, b: float) -> Array:
    """r(u)."""
    return np.clip((noise - a) / (b - a), 0, 1)


def left_over(noise: Array, curve: Array, pairs: Array) -> Array:
    """Share of the curve's variance, in [0, 1], that the ramp of each pair (a, b) leaves; `pairs` (n, 2) ->
    (n,).

    Two levels fitted by least squares to a ramp are a linear regression, which explains the square of the
    correlation; a curve that falls with noise has no such regimes, so a negative correlation explains
    nothing.
    """
    known = np.isfinite(curve)
    y = curve[known] - curve[known].mean()
    ramps = np.clip((noise[known] - pairs[:, :1]) / (pairs[:, 1:] - pairs[:, :1]), 0, 1)
    ramps = ramps - ramps.mean(1, keepdims=True)
    size = np.sqrt((ramps**2).sum(1) * (y**2).sum())
    correlation = (ramps @ y) / np.where(size > 0, size, 1)
    return 1 - np.clip(correlation, 0, 1) ** 2


def candidates(grid: int, narrowest: float) -> Array:
    """(n, 2) pairs a < b on 0, 1 / grid, ..., 1 that lie at least `narrowest` apart."""
    levels = np.round(np.linspace(0, 1, grid + 1), 9)
    a, b = np.meshgrid(levels, levels, indexing="ij")
    wide = b - a >= max(narrowest, 1 / grid) - 1e-9
    return np.stack([a[wide], b[wide]], axis=1)


def change_points(curves: Sequence[tuple[Array, Array]], pairs: Array) -> tuple[float, float]:
    """The pair (a, b) of `pairs` (n, 2) that all curves, each (noise, mean), share best.

    Each curve counts alike, by the share of its own variance that is left. Raises UserError where no curve
    moves.
    """
    usable = [(noise, curve) for noise, curve in curves if np.isfinite(curve).sum() >= 3]
    if not usable:
        raise UserError("no curve changes with the noise level: there are no regimes to find (study)")
    left = sum(left_over(noise, curve, pairs) for noise, curve in usable)
    best = pairs[int(np.argmin(left))]
    return float(best[0]), float(best[1])


def regimes(curves: Sequence[Curve], grid: int, narrowest: float, how: Resampling) -> Regimes:
    """Change points of all curves together, with bootstrap intervals over the units of each curve."""
    pairs = candidates(grid, narrowest)
    several = [c for c in curves if len(c.values) > 1]

    def points(*index: NDArray[np.int64]) -> tuple[float, float]:
        drawn = {c.name: i for c, i in zip(several, index)}
        return change_points([(c.noise, c.mean(drawn.get(c.name))) for c in curves], pairs)

    a, b = points()
    ends = bootstrap(points, [len(c.values) for c in several], how) if several else [(a, b)] * 2
    (a_low, b_low), (a_high, b_high) = np.asarray(ends, float).tolist()
    explained = {
        c.name: float(1 - left_over(c.noise, c.mean(), np.array([[a, b]]))[0])
        for c in curves
        if np.isfinite(c.mean()).any()
    }
    return Regimes(a, b, (a_low, a_high), (b_low, b_high), explained)


@dataclass(frozen=True)
class Suggestion:
    """A cycle: t1, t2 and t3 on the K = 10 scale, and the number of cycles that costs as many network calls
    as before."""

    t1: int
    t2: int
    cycles: int
    t3: tuple[int, ...]

    @property
    def words(self) -> list[str]:
        """The words of a command line."""
        return [
            "cycle.unit=steps",
            f"cycle.t1={self.t1}",
            f"cycle.t2={self.t2}",
            f"cycle.cycles={self.cycles}",
            f"preservation.t3=[{','.join(map(str, self.t3))}]",
        ]

    def yaml(self, comment: str) -> str:
        """An option of the group cycle; t3 is another group's."""
        return (
            f"# {comment}\ndefaults:\n  - cyclic\nunit: steps\nt1: {self.t1}\nt2: {self.t2}\n"
            f"cycles: {self.cycles}\n"
        )


def propose(windows: ArrayLike, states: Sequence[float], calls: float) -> Suggestion:
    """The cycle over what several measures call the window of decision.

    `windows` (n, 2): log SNR of each measure's noisy and clean end, nan for a measure without one; `states`:
    log SNR of x_0 .. x_10 of the model at K = 10, falling; `calls` that the cycles may cost. t2 is the state
    nearest to the median noisy end, t1 that nearest to the median clean end, one step apart at least, room
    left for t3; t3 are the states below t1 down to that nearest to the last clean end, one at least. Raises
    UserError where no measure has a window.
    """
    ends = np.asarray(windows, float)
    ends = ends[np.isfinite(ends).all(1)] if ends.size else ends
    if not len(ends):
        raise UserError("no measure has a window of decision: there is no cycle to propose (study)")
    noisy, clean = np.median(ends, 0)

    def nearest(level: float) -> int:
        return int(np.abs(np.asarray(states) - level).argmin())

    high = min(max(nearest(noisy), 3), 10)
    low = min(max(nearest(clean), 2), high - 1)
    last = min(max(nearest(ends[:, 1].max()), 1), low - 1)
    return Suggestion(low, high, cycles_for(calls, low, high), tuple(range(low - 1, last - 1, -1)))


def cycles_for(calls: float, t1: int, t2: int) -> int:
    """How many cycles between t1 and t2 cost about `calls`."""
    return max(1, round(calls / (t2 - t1)))


def elsewhere(suggestion: Suggestion, calls: float) -> list[Suggestion]:
    """Every other cycle as wide as `suggestion`, with as many t3 right below its t1 as there is room for."""
    width = suggestion.t2 - suggestion.t1
    return [
        Suggestion(
            t1,
            t1 + width,
            cycles_for(calls, t1, t1 + width),
            tuple(range(t1 - 1, max(0, t1 - 1 - len(suggestion.t3)), -1)),
        )
        for t1 in range(2, 11 - width)
        if t1 != suggestion.t1
    ]
