"""The components of Algorithm 1 on one model and canvas, and the steps that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from sow.method.base import Method
from sow.method.cycle import Cycle
from sow.method.denoiser import Model
from sow.method.guidance import ClassifierFree, Regional
from sow.method.inversion import Inversion
from sow.method.preservation import Preservation
from sow.method.seed_init import SeedInit
from sow.types import Canvas

if TYPE_CHECKING:
    from sow.attention.decay import DecayInDistance, DecayInTime
    from sow.attention.gate import Gate
    from sow.attention.modulation import Modulation, NoModulation
    from sow.attention.strength import PMinus, PPlus


@dataclass(frozen=True, eq=False)
class Components(Method):
    """Every field but the first two is the component of the config group of the same name."""

    model: Model
    canvas: Canvas
    seed_init: SeedInit
    inversion: Inversion
    cycle: Cycle
    preservation: Preservation
    guidance: ClassifierFree | Regional
    modulation: Modulation | NoModulation
    p_plus: PPlus
    p_minus: PMinus
    decay_time: DecayInTime
    decay_distance: DecayInDistance
    gate: Gate

    def __post_init__(self) -> None:
        _ = self.t1, self.t3  # both are resolved, or fail, before anything runs
        self.inversion.check_start(self.seed_init.start)
        self.inversion.check_process(self.schedule)
        self.inversion.check_positions(self.backbone.transformer)
        if self.inversion.official or self.cycle.official:
            self.schedule.need_official()

    @cached_property
    def ends(self) -> tuple[int, int]:
        """(t1, t2) as steps of K."""
        return self.cycle.resolve(self.schedule.steps, self.schedule.sigmas)

    @property
    def cycles(self) -> int:
        return self.cycle.cycles

    @property
    def t1(self) -> int:
        return self.ends[0]

    @property
    def t2(self) -> int:
        return self.ends[1]

    @cached_property
    def t3(self) -> tuple[int, ...]:
        """The states that are replaced in preservation, as steps of K."""
        return self.preservation.resolve(self.cycle, self.schedule.steps, self.schedule.sigmas)

    @property
    def last_state(self) -> int:
        """k of the state that a cycle ends at (A3)."""
        return self.cycle.last_state(self.t1)

    @property
    def inverted_steps(self) -> int:
        """How far the canvas is inverted: to where noise is injected first, if v does not need more (A6)."""
        to_end = self.seed_init.start == "inject" and self.inversion.condition == "alone"
        return self.last_state if to_end else self.t2

    def denoising_steps(self, sizes: int = 1) -> int:
        per_cycle = self.t2 - self.last_state
        conditions = 0 if self.inversion.condition == "canvas" else sizes * self.inversion.calls(self.t2)
        from_noise = self.seed_init.start == "noise"
        first = self.schedule.steps - self.t2 if from_noise else self.inversion.calls(self.inverted_steps)
        return conditions + first + self.cycle.cycles * per_cycle + self.last_state
