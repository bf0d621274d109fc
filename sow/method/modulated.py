"""P- and P+ on one batch (Eq. 4 to 8): the attention of the cycles, as the configured components make it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from sow.attention.modulation import Modulation, NoModulation
from sow.method.components import Components
from sow.method.denoiser import Attention, Gates, Held, StockAttention
from sow.method.guidance import Rule
from sow.method.regions import regions_of
from sow.types import StepContext

if TYPE_CHECKING:
    from sow.attention.decay import DecayInDistance
    from sow.attention.gate import Gate
    from sow.attention.modulator import Modulator
    from sow.attention.regions import SampleRegions
    from sow.method.seed_init import Batch


@dataclass(frozen=True, eq=False)
class ModulatedAttention:
    """Self-attention with P- and P+, gated by R_c; `strengths_at` gives omega gamma_time of both at a
    step."""

    modulation: Modulation
    gate: Gate
    decay_distance: DecayInDistance
    regions: tuple[SampleRegions, ...]
    latent_size: tuple[int, int]
    device: torch.device = field(compare=False)
    strengths_at: Callable[[StepContext], tuple[float, float]] = field(compare=False)

    @cached_property
    def modulator(self) -> Modulator:
        """What the attention's layers are given to."""
        from sow.attention.modulator import Modulator

        return Modulator(
            self.modulation, self.gate, self.decay_distance, self.regions, self.latent_size, self.device
        )

    def strengths(self, context: StepContext) -> tuple[float, ...]:
        return self.strengths_at(context)

    @contextmanager
    def applied(
        self, unet: Any, rule: Rule, strengths: Sequence[float], held: Held
    ) -> Iterator[Callable[[], tuple[Gates, Held]]]:
        from sow.attention.processor import modulated

        modulator, (minus, plus) = self.modulator, strengths
        modulator.previous = dict(held)
        with modulated(unet, modulator):
            modulator.begin(minus, plus, len(rule.prompts("")), rule.text_branch)
            yield lambda: (modulator.end(), tuple(modulator.previous.items()))


def guided_attention(method: Components, batch: Batch) -> Attention:
    """The attention of the cycles: stock without a modulation, else Eq. 8 with P- and P+ that decay in
    time."""
    if isinstance(method.modulation, NoModulation):
        return StockAttention()
    per_cycle = method.t2 - method.last_state

    def strengths(context: StepContext) -> tuple[float, float]:
        assert context.cycle is not None and context.index is not None
        step = method.t2 - 1 - context.index
        minus, plus = method.decay_time.factors(context.cycle, step, method.cycle.cycles, per_cycle)
        return method.p_minus.omega * minus, method.p_plus.omega * plus

    regions = regions_of(batch.plans, batch.placed, batch.canvas, method.modulation.region)
    made = ModulatedAttention(
        method.modulation,
        method.gate,
        method.decay_distance,
        tuple(regions),
        batch.canvas.latent_size,
        method.backbone.device,
        strengths,
    )
    # Its tables and indices go to the device now: in the cycles a card would wait for them.
    with made.applied(method.backbone.unet, method.guidance.in_cycle(), (0.0, 0.0), ()) as read:
        read()
    return made
