"""A frozen model at K steps, and its guided noise prediction for a batch of prompts.

Notation
    x_k      latents (B, C, h, w) at state k; step k maps x_{k+1} -> x_k
    e        the guided noise prediction (B, C, h, w)
    M        (B, 1, h, w) bool, where the conditions lie; None where there are none
    R_c      what the attention's gates read (Eq. 7)

Every method of `Model` and `Denoiser` is a function of its arguments and of the object's compared fields
alone, and draws nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from sow.method import noise
from sow.method.flow import RectifiedFlow
from sow.method.guidance import Rule
from sow.method.process import Process, process_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sow.models.backbone import Backbone
    from sow.types import StepContext

Gates = Mapping[str, tuple[Tensor, Tensor]]  # layer -> (R_c, factor), each (B, parts)
Held = tuple[
    tuple[int, Tensor], ...
]  # guidance branches, and the R_c (B, parts) that their next step may borrow
Inputs = Callable[["Denoiser", Tensor, int], tuple[Tensor, dict[str, Any]]]


class Attention(Protocol):
    """Who computes the network's attention in a step."""

    def strengths(self, context: StepContext) -> tuple[float, ...]:
        """The numbers that change from step to step."""
        ...

    def applied(
        self, unet: Any, rule: Rule, strengths: Sequence[float], held: Held
    ) -> AbstractContextManager[Callable[[], tuple[Gates, Held]]]:
        """Within the block attention is this one; what is yielded returns, after the call, what was read in
        it."""
        ...


@dataclass(frozen=True)
class StockAttention:
    """The network's own attention."""

    def strengths(self, context: StepContext) -> tuple[float, ...]:
        return ()

    @contextmanager
    def applied(
        self, unet: Any, rule: Rule, strengths: Sequence[float], held: Held
    ) -> Iterator[Callable[[], tuple[Gates, Held]]]:
        yield lambda: ({}, ())


@dataclass(frozen=True, eq=False)
class Denoiser:
    """The guided noise prediction of one batch.

    `rule` combines its branches, one row of `prompts` per latent in each; `attention` computes their
    attention; `inputs` says what the network sees of the latents (branches x B, C, h, w) at step k and is
    given besides, None = just them.
    """

    backbone: Backbone = field(compare=False)
    schedule: Process
    rule: Rule
    prompts: tuple[str, ...]
    attention: Attention = field(default_factory=StockAttention)
    inputs: Inputs | None = None

    @cached_property
    def embeds(self) -> Tensor:
        """Prompt embeddings of every branch, branch by branch: (branches x B, length, channels)."""
        branches = zip(*(self.rule.prompts(p) for p in self.prompts), strict=True)
        return torch.cat([self.backbone.embed(branch) for branch in branches])

    def epsilon(self, x: Tensor, k: int, M: Tensor | None = None) -> Tensor:
        """e of step k for x_{k+1}, or for x_k in an inversion."""
        return self.predict(x, k, M)[0]

    def predict(self, x: Tensor, k: int, M: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """e of step k, and x_0 of a model that does not predict e."""
        return self.schedule.predicted(self.output(x, k, M), x, k)

    def output(self, x: Tensor, k: int, M: Tensor | None = None, timestep: float | None = None) -> Tensor:
        """What the network predicts of x, guided, told t_k or another `timestep`."""
        branches = len(self.embeds) // len(x)
        rows = torch.cat([x] * branches)
        seen, more = self.inputs(self, rows, k) if self.inputs else (rows, {})
        told = self.schedule.timesteps[k] if timestep is None else timestep
        output = self.backbone.predict(seen, told, self.embeds, **more)
        # Guidance weighs the branches to a sum of 1, so that it may come before x, which is theirs all.
        return self.rule.combine(output.chunk(branches), M)

    def step(
        self,
        x: Tensor,
        k: int,
        M: Tensor | None = None,
        eta: float = 0.0,
        noise: Tensor | None = None,
        strengths: Sequence[float] = (),
        held: Held = (),
    ) -> tuple[Tensor, Tensor, Gates, Held]:
        """x_{k+1} -> x_k: the latents, the predicted x_0, what the attention's gates read, and what they
        hold.

        `noise` like x, needed for `eta` > 0; `strengths` and `held` are the attention's.
        """
        with self.attention.applied(self.backbone.unet, self.rule, strengths, held) as read:
            e, x0 = self.predict(x, k, M)
            gates, held = read()
        return *self.schedule.step(x, e, k, eta, noise, x0), gates, held

    def invert(self, x: Tensor, k: int, official: bool = False) -> Tensor:
        """x_k -> x_{k+1}; `official` between the levels of COW's published code."""
        return self.schedule.inverted(x, self.output(x, k), k, official)

    def invert_midpoint(self, x: Tensor, k: int, v: Tensor | None) -> tuple[Tensor, Tensor]:
        """x_k -> x_{k+1} of a flow by the midpoint rule, and the velocity there.

        `v` is the midpoint's velocity of the step before, which stands for the one at x_k (Deng et al.,
        2412.07517), so that a step costs one call; None = it is computed.
        """
        flow = self.schedule
        assert isinstance(flow, RectifiedFlow)  # the inversion was checked against the process
        s, t = flow.sigmas[k : k + 2]
        if v is None:
            v = self.output(x, k, timestep=flow.timestep(s))
        middle = self.output(x + (t - s) / 2 * v, k, timestep=flow.timestep((s + t) / 2))
        return x + (t - s) * middle, middle


@dataclass(frozen=True, eq=False)
class Model:
    """A frozen model at the K steps of its schedule: encodes pictures, draws latents, makes denoisers."""

    backbone: Backbone = field(compare=False)
    schedule: Process

    @classmethod
    def of(
        cls, backbone: Backbone, num_inference_steps: int, latent_size: Sequence[int] | None = None
    ) -> Model:
        """The model at K = `num_inference_steps`, on latents of `latent_size` (h, w), None = its own; raises
        UserError for a K that its process does not have."""
        return cls(backbone, process_of(backbone, num_inference_steps, latent_size))

    def encode(self, images: Tensor, noises: Tensor | None = None) -> Tensor:
        """Latents (B, C, h, w) of images (B, 3, H, W) in [-1, 1]: the posterior's mode, or mean + std *
        `noises`."""
        return self.backbone.encode(images, noises)

    def draw(self, size: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
        """Standard normal latents (B, C, h, w) of `size` (h, w), one row per generator."""
        shape = (1, self.backbone.channels, *size)
        return noise.batch(shape, generators, self.backbone.device, self.backbone.dtype)

    def denoiser(self, rule: Rule, prompts: Sequence[str], attention: Attention | None = None) -> Denoiser:
        """The denoiser of a batch with one prompt per row."""
        return Denoiser(self.backbone, self.schedule, rule, tuple(prompts), attention or StockAttention())
