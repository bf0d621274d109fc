"""Plain sampling, the two-way diffusion that COW and SOW are held against:
the condition is laid in once and left alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sow.attention.modulation import NoModulation
from sow.dynamics.perturb import cyclic, perturbed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sow.pipeline.pipeline import Pipeline


@dataclass(frozen=True)
class NoCycle:
    """No cycle: Algorithm 1 goes from x_{t2} straight to its last stage. `start` is t2 as a step of K."""

    start: int
    cycles: int = 0
    eta: float = 0.0
    steps: str = "fitted"
    official: bool = False

    def resolve(self, num_inference_steps: int, sigmas: Sequence[float] = ()) -> tuple[int, int]:
        return self.start, self.start

    def last_state(self, t1: int) -> int:
        return t1


@dataclass(frozen=True)
class LaidInOnce:
    """The condition's inverted latents replace x_{t2} once; nothing is replaced after that."""

    start: int
    eta: float
    prompt: str = "intensified"

    def resolve(
        self, cycle: NoCycle, num_inference_steps: int, sigmas: Sequence[float] = ()
    ) -> tuple[int, ...]:
        return (self.start,)


def plain(sampler: Pipeline, eta: float = 0.0) -> Pipeline:
    """`sampler` without cycles, replacements after x_{t2}, and modulation:
    DDIM from x_{t2} to x_0 at `eta` with c'."""
    start = cyclic(sampler).t2
    return perturbed(sampler, {}).variant(
        cycle=NoCycle(start), preservation=LaidInOnce(start, eta), modulation=NoModulation()
    )
