"""The cycle schedule: where a cycle starts and ends, how often it runs, and at which levels noise is
injected."""

from __future__ import annotations

from typing import Annotated, Literal

from sow.errors import UserError
from sow.types import Bound, component


def on_grid(t: float, num_inference_steps: int) -> int:
    """A position on the K = 10 scale as a step of K, rounded down in floating point as COW's published code
    does."""
    return int(t / 10 * num_inference_steps)


@component("cycle")
class Cycle:
    """Algorithm 1, lines 7-18.

    `t1`, `t2`       ends of the cycle on the K = 10 scale, 0 < t1 < t2 <= 10
    `cycles`         N, how often the cycle runs
    `eta`            stochasticity of the sampler inside the cycles, 0 .. 1 (A5)
    `inject_levels`  "aligned": Eq. 2 between the levels the states sit at; "official": alpha[t_{t1}],
                     alpha[t_{t2}] (A4)
    `steps`          "fitted": t2 - t1 UNet calls and one more replacement per cycle; "literal": the
                     pseudo-code's extra call, so that a cycle ends at x_{t1 - 1} (A3)
    """

    t1: float
    t2: float
    cycles: Annotated[int, Bound(ge=1)]
    eta: Annotated[float, Bound(ge=0, le=1)]
    inject_levels: Literal["aligned", "official"]
    steps: Literal["fitted", "literal"]

    def __post_init__(self) -> None:
        if not 0 < self.t1 < self.t2 <= 10:
            raise UserError(
                f"need 0 < t1 < t2 <= 10 steps, got t1={self.t1:g}, t2={self.t2:g} (cycle.t1, cycle.t2)"
            )

    def resolve(self, num_inference_steps: int) -> tuple[int, int]:
        """(t1, t2) as steps of K = `num_inference_steps`; raises UserError when K is too small to tell them
        apart."""
        t1, t2 = on_grid(self.t1, num_inference_steps), on_grid(self.t2, num_inference_steps)
        if not 0 < t1 < t2:
            raise UserError(
                f"num_inference_steps={num_inference_steps} is too small: t1={self.t1:g}, t2={self.t2:g} of "
                f"10 fall on steps {t1} and {t2}; take more steps (num_inference_steps)"
            )
        return t1, t2

    def last_state(self, t1: int) -> int:
        """Index k of the state a cycle ends at."""
        return t1 if self.steps == "fitted" else t1 - 1

    @property
    def official(self) -> bool:
        """Whether noise is injected between the levels of COW's published code (A4)."""
        return self.inject_levels == "official"
