"""The causal measure: perturb the latents inside one region at one step, and see what changes elsewhere at
the end.

Notation
    d         the perturbation: `strength` standard normal noise on the latents of region X, zero elsewhere
    D         the change of x_0; D_Y its part in region Y
    n_Y       values of the latents in region Y
    G[X, Y]   response sqrt(|D_Y|^2 / n_Y) / strength: what a change of one in X makes of Y, root mean square
    F[X, Y]   energy |D_Y|^2 / strength^2, an estimate of the squared Frobenius norm of dx_0[Y] / dx_k[X]
    w         one-wayness (F_out - F_in) / (F_out + F_in), out = F[c, nc], in = F[nc, c], in [-1, 1]: 1 means
              that the
              condition changes the others and is changed by none, 0 that both are alike (for a symmetric
              Jacobian)

The surroundings keep a perturbation by themselves; the condition loses it at the next replacement. A
condition that is another one from a step on ("held") is perturbed in every replacement after it, and that is
the way out that w compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sow.dynamics.observe import REGIONS
from sow.errors import UserError
from sow.method import noise
from sow.method.components import Components
from sow.method.run import Moves
from sow.method.seed_init import Batch
from sow.pipeline.cached import Cache
from sow.pipeline.pipeline import Pipeline
from sow.types import StepContext

HELD = "held"


@dataclass(frozen=True, eq=False)
class Perturbation:
    """`delta` (1, C, h, w) added before the denoising step at `context`.

    `held`: added again wherever a later step starts from freshly replaced latents, as if the condition itself
    had been another one from that step on.
    """

    delta: Tensor
    context: StepContext
    held: bool = False


@dataclass(frozen=True)
class Perturbing:
    """Puts perturbations, by request id, around a batch's moves; the other requests stay as they are."""

    perturbations: Mapping[str, Perturbation]

    def __call__(self, method: Components, batch: Batch, moves: Moves) -> Moves:
        own = [self.perturbations.get(r.id) for r in batch.requests]
        order = {moment(c): i for i, c in enumerate(denoising_contexts(method))}

        def added(x: Tensor, context: StepContext) -> Tensor:
            now = order[moment(context)]
            rows = []
            for row, p in zip(x, own, strict=True):
                if p is not None:
                    then = order[moment(p.context)]
                    if now == then or (p.held and now > then and freshly_replaced(method, context)):
                        row = row + p.delta[0].to(row)
                rows.append(row)
            return torch.stack(rows)

        return moves._replace(
            p_a=lambda x, context: moves.p_a(added(x, context), context),
            p_s=lambda x, context: moves.p_s(added(x, context), context),
        )


def perturbed(sampler: Pipeline, perturbations: Mapping[str, Perturbation]) -> Pipeline:
    """`sampler` with perturbations by request id; it computes every step: what is watched has to happen."""
    return sampler.variant(around=Perturbing(perturbations), cache=Cache())


def cyclic(sampler: Pipeline) -> Components:
    """The method of a sampler whose runs have cycles; raises UserError for any other."""
    if not isinstance(sampler.method, Components):
        name = type(sampler.method).__name__
        raise UserError(f"{name} has no cycles: take method=sow, cow or densediffusion (method)")
    return sampler.method


def moment(context: StepContext) -> tuple[str, int | None, int | None]:
    """What tells two denoising steps of one run apart."""
    return context.phase, context.cycle, context.index


def denoising_contexts(method: Components) -> list[StepContext]:
    """Every denoising step of the cycles and of the preservation, in order."""
    end, steps = method.last_state, method.schedule.timesteps
    inside = [
        StepContext("cycle", n, k, steps[k])
        for n in range(method.cycle.cycles)
        for k in range(method.t2 - 1, end - 1, -1)
    ]
    return inside + [StepContext("preserve", None, k, steps[k]) for k in range(end - 1, -1, -1)]


def freshly_replaced(method: Components, context: StepContext) -> bool:
    """Whether the latents that a denoising step reads hold v_k inside the condition,
    not what was made of it."""
    if context.phase == "cycle":
        return True
    assert context.index is not None
    end = method.last_state
    after_cycle = method.cycle.cycles > 0 and method.cycle.steps == "fitted" and context.index == end - 1
    return after_cycle or context.index + 1 in method.t3


def region_noise(indicator: Tensor, channels: int, strength: float, seed: int) -> Tensor:
    """(1, C, h, w) noise of standard deviation `strength` inside `indicator` (h, w), float32.

    It is the same field for every region.
    """
    draw = noise.randn((1, channels, *indicator.shape), noise.generator(seed), "cpu", torch.float32)
    return draw * strength * indicator.float()


def responses(delta: Tensor, indicators: Tensor, strength: float) -> dict[str, tuple[float, float]]:
    """Region Y -> (G, F) for the change `delta` (C, h, w) of x_0; `indicators` (h, w, 3);
    nan for an empty region."""
    energy = delta.double().pow(2).sum(0)
    out = {}
    for i, name in enumerate(REGIONS):
        inside = indicators[..., i].double()
        total, count = float((energy * inside).sum()), float(inside.sum()) * len(delta)
        out[name] = ((total / count) ** 0.5 / strength, total / strength**2) if count else (float("nan"),) * 2
    return out


def one_wayness(out: float, back: float) -> float:
    """w of the two energies; nan where nothing moved at all."""
    return (out - back) / (out + back) if out + back > 0 else float("nan")
