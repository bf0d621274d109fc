"""SOW and COW on one batch: place, encode, invert, cycle, preserve (Sec. IV).

COW is `OneWayDiffusion` composed of other components (conf/method/cow.yaml); there is no second loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from sow.method.algorithm import Denoise, selective_one_way_diffusion
from sow.method.components import Components
from sow.method.denoiser import Attention, Held
from sow.method.modulated import guided_attention
from sow.method.seed_init import Batch
from sow.method.start import invert_conditions, start
from sow.types import Step, StepContext


class Moves(NamedTuple):
    """p_a, p_s and inject, by the names that Algorithm 1 takes them under; each draws its own noise."""

    p_a: Denoise
    p_s: Denoise
    inject: Callable[[Tensor], Tensor]


def unchanged(method: Components, batch: Batch, moves: Moves) -> Moves:
    """Nothing is put around the moves."""
    return moves


@dataclass(frozen=True, eq=False)
class OneWayDiffusion(Components):
    """Algorithm 1 on a frozen model.

    `attention` makes the attention of a batch's cycles; `around` may put functions of its own around the
    batch's moves.
    """

    attention: Callable[[Components, Batch], Attention] = guided_attention
    around: Callable[[Components, Batch, Moves], Moves] = unchanged

    def run(self, batch: Batch) -> Iterator[Step]:
        """Algorithm 1 on one batch of placed conditions."""
        v = yield from invert_conditions(self, batch)
        x = yield from start(self, batch, v)
        moves = self.around(self, batch, moves_of(self, batch, self.attention(self, batch)))
        yield from selective_one_way_diffusion(
            x,
            v,
            batch.M.to(self.backbone.device),
            t1=self.t1,
            t2=self.t2,
            t3=self.t3,
            N=self.cycle.cycles,
            inject_first=self.seed_init.start == "inject",
            literal=self.cycle.steps == "literal",
            timesteps=self.schedule.timesteps,
            **moves._asdict(),
        )


def moves_of(method: Components, batch: Batch, attention: Attention) -> Moves:
    """The moves bound to a batch's prompts, mask and generators; `attention` is that of the cycles."""
    model, cycle, preservation = method.model, method.cycle, method.preservation
    M = batch.M.to(method.backbone.device)
    in_cycle = model.denoiser(method.guidance.in_cycle(), batch.prompts(user=False), attention)
    last = model.denoiser(
        method.guidance.in_preservation(), batch.prompts(user=preservation.prompt == "user")
    )
    held: Held = ()  # R_c that later steps may borrow

    def draw(x: Tensor) -> Tensor:
        return model.draw(x.shape[-2:], batch.generators)

    def p_a(x: Tensor, context: StepContext) -> tuple[Tensor, Tensor, Mapping[str, Any]]:
        """Denoising with guided attention (Eq. 8, gated by R_c)."""
        nonlocal held
        k, noise = _index(context), draw(x) if cycle.eta > 0 else None
        strengths = attention.strengths(context)
        x, x0, gates, held = in_cycle.step(x, k, M, cycle.eta, noise, strengths, held)
        return x, x0, gates

    def p_s(x: Tensor, context: StepContext) -> tuple[Tensor, Tensor, Mapping[str, Any]]:
        """Stochastic denoising with the task's eta."""
        eta = preservation.eta
        x, x0, gates, _ = last.step(x, _index(context), M, eta, draw(x) if eta > 0 else None)
        return x, x0, gates

    def inject(x: Tensor) -> Tensor:
        """q(x_{t2} | x_{t1}) (Eq. 2)."""
        return method.schedule.inject(x, method.last_state, method.t2, draw(x), cycle.official)

    return Moves(p_a, p_s, inject)


def _index(context: StepContext) -> int:
    assert context.index is not None  # a denoising step has its index
    return context.index
