"""The cycle schedule: where a cycle starts and ends, how often it runs, and at which levels noise is
injected."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Annotated, Literal

from sow.errors import UserError
from sow.method.process import nearest_state
from sow.types import Bound, component

Unit = Literal["steps", "sigma", "log_snr"]


def on_grid(t: float, num_inference_steps: int) -> int:
    """A position on the K = 10 scale as a step of K, rounded down in floating point as COW's published code
    does."""
    return int(t / 10 * num_inference_steps)


def scale_of(cycle: Cycle) -> str:
    """How an error says what a position is given in."""
    return "of 10" if cycle.unit == "steps" else f"as {cycle.unit}"


@component("cycle")
class Cycle:
    """Algorithm 1, lines 7-18.

    `t1`, `t2`       ends of the cycle, in `unit`: "steps" of the K = 10 scale, 0 < t1 < t2 <= 10; "sigma",
                     levels 0 < t1 < t2 <= 1 of which the nearest states are taken; "log_snr", t1 > t2
    `cycles`         N, how often the cycle runs
    `eta`            stochasticity of the sampler inside the cycles, 0 .. 1 (A5)
    `inject_levels`  "aligned": Eq. 2 between the levels the states sit at; "official": alpha[t_{t1}],
                     alpha[t_{t2}] (A4)
    `steps`          "fitted": t2 - t1 UNet calls and one more replacement per cycle; "literal": the
                     pseudo-code's extra call, so that a cycle ends at x_{t1 - 1} (A3)
    """

    t1: float
    t2: float
    cycles: Annotated[int, Bound(ge=1, le=10_000)]
    eta: Annotated[float, Bound(ge=0, le=1)]
    inject_levels: Literal["aligned", "official"]
    steps: Literal["fitted", "literal"]
    unit: Unit = "steps"

    def __post_init__(self) -> None:
        low, high = (self.t2, self.t1) if self.unit == "log_snr" else (self.t1, self.t2)
        limits = {"steps": (0, 10), "sigma": (0, 1), "log_snr": (-inf, inf)}[self.unit]
        if not (limits[0] < low < high <= limits[1]):
            words = {
                "steps": "0 < t1 < t2 <= 10 steps",
                "sigma": "0 < t1 < t2 <= 1 as sigma",
                "log_snr": "t1 > t2 as log SNR",
            }[self.unit]
            keys = "cycle.t1, cycle.t2" + ("" if self.unit == "steps" else ", cycle.unit")
            raise UserError(f"need {words}, got t1={self.t1:g}, t2={self.t2:g} ({keys})")

    def state(self, t: float, num_inference_steps: int, sigmas: Sequence[float]) -> int:
        """A position in `unit` as a step of K; `sigmas` are the levels of the K + 1 states."""
        if self.unit == "steps":
            return on_grid(t, num_inference_steps)
        return nearest_state(t, self.unit, sigmas)

    def resolve(self, num_inference_steps: int, sigmas: Sequence[float] = ()) -> tuple[int, int]:
        """(t1, t2) as steps of K = `num_inference_steps`, on the levels `sigmas` of its states; raises
        UserError when K is too small to tell them apart."""
        t1, t2 = (self.state(t, num_inference_steps, sigmas) for t in (self.t1, self.t2))
        if not 0 < t1 < t2:
            raise UserError(
                f"num_inference_steps={num_inference_steps} is too small: t1={self.t1:g}, t2={self.t2:g} "
                f"{scale_of(self)} fall on steps {t1} and {t2}; take more steps (num_inference_steps)"
            )
        return t1, t2

    def last_state(self, t1: int) -> int:
        """Index k of the state a cycle ends at."""
        return t1 if self.steps == "fitted" else t1 - 1

    @property
    def official(self) -> bool:
        """Whether noise is injected between the levels of COW's published code (A4)."""
        return self.inject_levels == "official"
