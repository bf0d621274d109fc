"""LanPaint (Zheng, Lan and Wang, TMLR 2025, arXiv 2502.03491): Langevin dynamics at each noise level, then
its step; as its authors' code does it in version 2.1 (August 2026).

The bidirectional guided (BiG) score is that of the paper's Sec. 4. The paper's fast Langevin dynamics have a
velocity; the authors' code has left it for the limit of large friction, and so does this.

Notation
    x, y     latents at noise level alpha: unknown and known; y_0 the known clean latents
    e        noise prediction; the joint score of (x, y) is -e / sqrt(1 - alpha)
    q        law of a noised latent, here with one noise for the whole chain: that which x_K is
    lambda   weight of the guided score
    z        either part; A = a / (1 - alpha), with a = 1 (unknown) and a = 1 + lambda (known)
    C        A z + the part's score at z, the constant force of a step
    h        Langevin time of a step

At each level the known part starts as q(y_t | y_0), which alone would be the method Replace; so it is without
Langevin steps. Then the unknown part follows the joint score and the known part the BiG score
    g = (1 + lambda) (sqrt(alpha) y_0 - y) / (1 - alpha) - lambda s_y(x, y),
which pulls it to y_0 and pushes it against what the model expects there, so that the two parts agree both
ways. The step to the next level takes y_0 for the known part of the predicted x_0.

Dynamics: dz = (C - A z) dt + sqrt(2) dW, with C held an Ornstein-Uhlenbeck process, solved exactly. The first
step of a level holds C(z). Each later one goes half its time with the C of the last, reads C' there, moves by
(C' - C) h, and goes the other half still with C. h = `step_size` max(1 - alpha, `ramp`) and a level has
round(`inner_steps` min(1, (1 - alpha) / `ramp`)) steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sow.baselines.sampler import BaselineSampler, Prepared
from sow.method.diffusion import replace
from sow.types import Step, StepContext


def drift(z: Tensor, A: Tensor, C: Tensor, time: float, noise: Tensor) -> Tensor:
    """The exact step of dz = (C - A z) dt + sqrt(2) dW over `time`; `noise` standard normal, like `z`."""
    decay = torch.exp(-A * time)
    return decay * z + (1 - decay) * C / A + ((1 - decay**2) / A) ** 0.5 * noise


@dataclass(frozen=True, eq=False)
class LanPaintSampler(BaselineSampler):
    """At each noise level: Replace, the inner Langevin steps, one DDIM step on an x_0 that is y_0 where it is
    known."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.noise_schedule.need_signal("method=lanpaint")

    def inner_steps(self, k: int) -> int:
        """The Langevin steps at the level of x_{k+1}."""
        if k < self.options.last_levels:
            return 0
        share = float(1 - self.noise_schedule.level(k + 1)) / self.options.ramp
        return round(self.options.inner_steps * min(1.0, share))

    def denoising_steps(self, sizes: int = 1) -> int:
        return self.schedule.steps + sum(map(self.inner_steps, range(self.schedule.steps)))

    def denoise(self, batch: Prepared) -> Iterator[Step]:
        x = noise = self.start(batch)
        yield Step(x, "start", StepContext("sample", None, self.schedule.steps))
        for k in range(self.schedule.steps - 1, -1, -1):
            context = StepContext("sample", None, k, self.schedule.timesteps[k])
            x = replace(x, self.schedule.noised(batch.encoded, k + 1, noise), batch.known)
            force = None
            for _ in range(self.inner_steps(k)):
                x, force = self.think(batch, x, force, k)
                yield Step(x, "denoise", context)
            x, x0 = self.ddim(batch, x, self.with_known(batch, x, self.epsilon(batch, x, k), k), k)
            if k == 0:
                x = replace(x, batch.encoded, batch.known)
            yield Step(x, "denoise", context, {}, replace(x0, batch.encoded, batch.known))

    def with_known(self, batch: Prepared, x: Tensor, e: Tensor, k: int) -> Tensor:
        """The noise prediction of step k, in the known part that whose x_0 is y_0."""
        alpha = self.noise_schedule.level(k + 1)
        return replace(e, (x - alpha**0.5 * batch.encoded) / (1 - alpha) ** 0.5, batch.known)

    def think(self, batch: Prepared, x: Tensor, force: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
        """One Langevin step at the level of x_{k+1}: the latents, and C; `force` is that of the last step,
        None in a level's first."""
        alpha = self.noise_schedule.level(k + 1)
        a = replace(torch.ones_like(x), torch.full_like(x, 1 + self.options.weight), batch.known)
        A = a / (1 - alpha)
        time = self.options.step_size * max(float(1 - alpha), self.options.ramp)
        if force is None:
            force = self.force(batch, x, k)
            return drift(x, A, force, time, self.draw(batch, x)), force
        x = drift(x, A, force, time / 2, self.draw(batch, x))
        new = self.force(batch, x, k)
        x = x + (new - force) * time
        return drift(x, A, force, time / 2, self.draw(batch, x)), new

    def force(self, batch: Prepared, x: Tensor, k: int) -> Tensor:
        """C of both parts at x: sqrt(alpha) x_0 / (1 - alpha) of the prediction for the unknown one; for the
        known one A y + g."""
        alpha, weight = self.noise_schedule.level(k + 1), self.options.weight
        pushed = (1 - alpha) ** 0.5 * self.epsilon(batch, x, k)
        known = (1 + weight) * alpha**0.5 * batch.encoded + weight * pushed
        return replace(x - pushed, known, batch.known) / (1 - alpha)
