"""The cycle schedule: where a cycle starts and ends, how often it runs, and at which levels noise is injected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sow.config.bounds import need_at_least, need_one_of, need_within
from sow.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from sow.method.diffusion import Schedule


def on_grid(t: float, num_inference_steps: int) -> int:
    """A position on the K = 10 scale as a step of K, rounded down in floating point as COW's published code does."""
    return int(t / 10 * num_inference_steps)


@dataclass(frozen=True)
class Cycle:
    """Algorithm 1, lines 7-18.

    `t1`, `t2`       ends of the cycle on the K = 10 scale, 0 < t1 < t2 <= 10
    `cycles`         N, how often the cycle runs
    `eta`            stochasticity of the sampler inside the cycles, 0 .. 1 (A5)
    `inject_levels`  "aligned": Eq. 2 between the levels the states sit at; "official": alpha[t_{t1}], alpha[t_{t2}] (A4)
    `steps`          "fitted": t2 - t1 UNet calls and one more replacement a cycle; "literal": the pseudo-code's extra
                     call, so that a cycle ends at x_{t1 - 1} (A3)
    """

    t1: float
    t2: float
    cycles: int
    eta: float
    inject_levels: str
    steps: str
    _target_: str = "sow.method.cycle.Cycle"

    def __post_init__(self) -> None:
        need_at_least(self, "cycle", cycles=1)
        need_within(self, "cycle", 0, 1, "eta")
        need_one_of(self, "cycle", inject_levels=("aligned", "official"), steps=("fitted", "literal"))
        if not 0 < self.t1 < self.t2 <= 10:
            raise UserError(
                f"need 0 < t1 < t2 <= 10 steps, got t1={self.t1:g}, t2={self.t2:g} (cycle.t1, cycle.t2)"
            )

    def resolve(self, num_inference_steps: int) -> tuple[int, int]:
        """(t1, t2) as steps of K = `num_inference_steps`; raises UserError when K is too small to tell them apart."""
        t1, t2 = on_grid(self.t1, num_inference_steps), on_grid(self.t2, num_inference_steps)
        if not 0 < t1 < t2:
            raise UserError(
                f"num_inference_steps={num_inference_steps} is too small: t1={self.t1:g}, t2={self.t2:g} of 10 fall on "
                f"steps {t1} and {t2}; take more steps (num_inference_steps)"
            )
        return t1, t2

    def last_state(self, t1: int) -> int:
        """Index k of the state a cycle ends at."""
        return t1 if self.steps == "fitted" else t1 - 1

    def levels(self, schedule: Schedule, t1: int, t2: int) -> tuple[Tensor, Tensor]:
        """The two alphas of InjectNoise (Eq. 2; A4)."""
        k = self.last_state(t1)
        if self.inject_levels == "official":
            return schedule.official_level(k), schedule.official_level(t2)
        return schedule.level(k), schedule.level(t2)
