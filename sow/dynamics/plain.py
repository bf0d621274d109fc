"""Plain sampling, the two-way diffusion that COW and SOW are held against: the condition is laid in once and left alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sow.attention.modulation import NoModulation
from sow.dynamics.perturb import perturbed

if TYPE_CHECKING:
    from torch import Tensor

    from sow.method.diffusion import Schedule
    from sow.pipeline.pipeline import Sampler


@dataclass(frozen=True)
class NoCycle:
    """No cycle: Algorithm 1 goes from x_{t2} straight to its last stage. `start` is t2 as a step of K."""

    start: int
    cycles: int = 0
    eta: float = 0.0
    steps: str = "fitted"

    def resolve(self, num_inference_steps: int) -> tuple[int, int]:
        return self.start, self.start

    def last_state(self, t1: int) -> int:
        return t1

    def levels(self, schedule: Schedule, t1: int, t2: int) -> tuple[Tensor, Tensor]:
        return schedule.level(t1), schedule.level(t2)


@dataclass(frozen=True)
class LaidInOnce:
    """The condition's inverted latents replace x_{t2} once; nothing is replaced after that."""

    start: int
    eta: float
    prompt: str = "intensified"

    def resolve(self, cycle: NoCycle, num_inference_steps: int) -> tuple[int, ...]:
        return (self.start,)


def plain(sampler: Sampler, eta: float = 0.0) -> Sampler:
    """`sampler` without cycles, replacements after x_{t2}, and modulation: DDIM from x_{t2} to x_0 at `eta` with c'."""
    parts: dict[str, Any] = {
        "cycle": NoCycle(sampler.t2),
        "preservation": LaidInOnce(sampler.t2, eta),
        "modulation": NoModulation(),
    }
    return replace(perturbed(sampler, {}), **parts)
