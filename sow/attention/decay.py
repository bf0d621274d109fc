"""The decay functions of Eq. 6 in time and in distance.

Notation
    gamma(x) = (1/2 (1 + cos(pi (2T - x) / T)))^a, x clamped to [0, T]: 1 at 0, falling to 0 at T (Eq. 6 has
    period 2T)
    T, a     rate and extent of the decay
    D        distance of a token of the related region to the centre o* of the condition (Eq. 5)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from sow.types import Bound, component

if TYPE_CHECKING:
    from torch import Tensor


class DecayInTime(Protocol):
    """gamma_time of P- and P+."""

    def factors(self, cycle: int, step: int, cycles: int, steps_per_cycle: int) -> tuple[float, float]:
        """(gamma_time of P-, gamma_time of P+) in `cycle` at its denoising step `step`, both from 0."""
        ...


class DecayInDistance(Protocol):
    """gamma_dis of P+."""

    def factors(self, distance: Tensor, grid: int) -> Tensor:
        """gamma_dis for `distance` (m,) in tokens of a layer whose longer side has `grid` tokens; float64,
        (m,)."""
        ...


def gamma(x: float, T: float, a: float) -> float:
    """Eq. 6 for one number, in [0, 1]."""
    x = min(max(x, 0.0), T)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * (2 * T - x) / T))) ** a


@component("decay_time")
class TimeDecay:
    """gamma_time of P- and P+ (Eq. 4, 5, 6).

    `T` grows to the number of cycles (or of denoising steps) where that is larger; `a_minus`, `a_plus` the
    exponents; `clock` what counts as time (A10): "cycle" the cycle from 0, "cycle_from_one", "step" the
    denoising step from 0.
    """

    T: Annotated[float, Bound(gt=0)]
    a_minus: Annotated[float, Bound(ge=0)]
    a_plus: Annotated[float, Bound(ge=0)]
    clock: Literal["cycle", "cycle_from_one", "step"]

    def factors(self, cycle: int, step: int, cycles: int, steps_per_cycle: int) -> tuple[float, float]:
        if self.clock == "step":
            x, T = cycle * steps_per_cycle + step, max(self.T, cycles * steps_per_cycle)
        else:
            x, T = cycle + (self.clock == "cycle_from_one"), max(self.T, cycles)
        return gamma(x, T, self.a_minus), gamma(x, T, self.a_plus)


@component("decay_time")
class NoTimeDecay:
    """gamma_time = 1 (Table III, row without gamma_time)."""

    def factors(self, cycle: int, step: int, cycles: int, steps_per_cycle: int) -> tuple[float, float]:
        return 1.0, 1.0


@component("decay_distance")
class DistanceDecay:
    """gamma_dis of P+ (Eq. 5, 6).

    `unit` of the distance D (A11): "box" scales it so that the farthest token of the related region is at T;
    "grid16" counts sixteenths of the canvas's longer side; "token" counts tokens of the layer.
    """

    T: Annotated[float, Bound(gt=0)]
    a: Annotated[float, Bound(ge=0)]
    unit: Literal["box", "grid16", "token"]

    def factors(self, distance: Tensor, grid: int) -> Tensor:
        import torch

        d = distance.double()
        if self.unit == "box":
            x = self.T * d / d.max().clamp_min(1e-12)
        elif self.unit == "grid16":
            x = d * 16 / grid
        else:
            x = d
        x = x.clamp(0, self.T)
        return (0.5 * (1 + torch.cos(math.pi * (2 * self.T - x) / self.T))).clamp_min(0) ** self.a


@component("decay_distance")
class NoDistanceDecay:
    """gamma_dis = 1 (Table III, row without gamma_dis)."""

    def factors(self, distance: Tensor, grid: int) -> Tensor:
        return distance.double() * 0 + 1
