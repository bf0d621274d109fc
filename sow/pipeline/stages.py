"""The moves of Algorithm 1 on one batch: guided denoising in the cycles and in preservation, injection, replacement.

Each move draws its noise whether its result is computed or found in the cache, so that the generators of a run stand
where they would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sow.method import diffusion
from sow.store.cache import Chain
from sow.types import Plan, Request, StepContext

if TYPE_CHECKING:
    from sow.attention.processor import Modulator
    from sow.method.guidance import Rule
    from sow.pipeline.pipeline import Sampler

Moves = dict[str, Callable[..., Any]]  # by the names that Algorithm 1 takes them under


class Stages:
    """p_a, p_s, inject and replace, bound to the plans, mask M, modulator, generators and place in the cache of a batch."""

    def __init__(
        self,
        sampler: Sampler,
        requests: Sequence[Request],
        plans: Sequence[Plan],
        M: Tensor,
        modulator: Modulator | None,
        generators: Sequence[torch.Generator],
        chain: Chain,
    ) -> None:
        self.sampler = sampler
        self.M = M
        self.modulator = modulator
        self.generators = generators
        self.chain = chain
        self.rules = {"cycle": sampler.guidance.in_cycle(), "preserve": sampler.guidance.in_preservation()}
        user = sampler.preservation.prompt == "user"
        self.prompts = {
            "cycle": [p.prompt for p in plans],
            "preserve": [r.prompt if user else p.prompt for r, p in zip(requests, plans, strict=True)],
        }
        self.embeds = {phase: sampler._embeds(self.rules[phase], own) for phase, own in self.prompts.items()}
        self.levels = sampler.cycle.levels(sampler.schedule, sampler.t1, sampler.t2)
        self.per_cycle = sampler.t2 - sampler.cycle.last_state(sampler.t1)

    def functions(self) -> Moves:
        """By the names that Algorithm 1 takes them under."""
        return {"p_a": self.p_a, "p_s": self.p_s, "inject": self.inject, "replace": self.replace}

    def p_a(self, x: Tensor, context: StepContext) -> tuple[Tensor, Tensor, Mapping[str, Any]]:
        """Denoising with guided attention (Eq. 8, gated by R_c)."""
        sampler, modulator = self.sampler, self.modulator
        if modulator is None:
            return self.denoise(x, context, sampler.cycle.eta, ())
        assert context.cycle is not None and context.index is not None
        decays = sampler.decay_time.factors(
            context.cycle, sampler.t2 - 1 - context.index, sampler.cycle.cycles, self.per_cycle
        )
        strengths = (sampler.p_minus.omega * decays[0], sampler.p_plus.omega * decays[1])
        return self.denoise(x, context, sampler.cycle.eta, strengths)

    def p_s(self, x: Tensor, context: StepContext) -> tuple[Tensor, Tensor, Mapping[str, Any]]:
        """Stochastic denoising with the task's eta."""
        return self.denoise(x, context, self.sampler.preservation.eta, ())

    def inject(self, x: Tensor) -> Tensor:
        """q(x_{t2} | x_{t1})."""
        draw = self.draw(x)
        self.chain.reads(x)
        self.chain.note("inject", *self.levels)
        return self.chain.trust(diffusion.inject_noise(x, *self.levels, draw))

    def replace(self, x: Tensor, v: Tensor, M: Tensor) -> Tensor:
        """Replace(x, v)."""
        self.chain.reads(x)
        self.chain.note("replace")
        return self.chain.trust(diffusion.replace(x, v, M))

    def draw(self, x: Tensor) -> Tensor:
        """Standard normal noise of x's shape, noted before it leaves the host."""
        draw = self.sampler.draw_on_host((1, *x.shape[1:]), self.generators)
        self.chain.note(draw)
        return self.sampler.to_device(draw)

    def denoise(
        self, x: Tensor, context: StepContext, eta: float, strengths: tuple[float, ...]
    ) -> tuple[Tensor, Tensor, Mapping[str, Any]]:
        """x_{k+1} -> x_k: the step's latents, the predicted x_0, and what the gates read."""
        draw = self.draw(x) if eta > 0 else None
        self.chain.reads(x)
        k, phase = context.index, context.phase
        assert k is not None  # a denoising step has its index
        schedule = self.sampler.schedule
        modulator = self.modulator if strengths else None

        def made() -> tuple[Any, ...]:
            e, gates = self.epsilon(self.rules[phase], x, k, self.embeds[phase], strengths)
            x_k, x0 = diffusion.ddim_step(x, e, schedule.level(k + 1), schedule.level(k), eta, draw)
            return x_k, x0, gates, {} if modulator is None else dict(modulator.previous)

        # Prompts belong to the key of each step: the end of the cycles does not depend on those of the preservation.
        parts = ("denoise", phase, k, eta, strengths, self.prompts[phase])
        x_k, x0, gates, previous = self.chain.recall(parts, made)
        if modulator is not None:
            modulator.previous = dict(previous)  # R_c that later steps may borrow
        return x_k, x0, gates

    def epsilon(
        self, rule: Rule, x: Tensor, k: int, embeds: Tensor, strengths: tuple[float, ...]
    ) -> tuple[Tensor, Mapping[str, Any]]:
        """The guided prediction, with the self-attention modulated where there are strengths of P- and P+."""
        if not strengths:
            return self.sampler._epsilon(rule, x, k, embeds, self.M), {}
        from sow.attention.processor import modulated

        modulator = self.modulator
        assert modulator is not None  # the strengths are its own
        minus, plus = strengths
        with modulated(self.sampler.backbone.unet, modulator):
            modulator.begin(minus, plus, len(rule.prompts("")), rule.text_branch)
            e = self.sampler._epsilon(rule, x, k, embeds, self.M)
            return e, modulator.end()
