"""LanPaint (Zheng, Lan and Wang, TMLR 2025, arXiv 2502.03491): Langevin dynamics at each noise level, then
its step.

Its Sec. 4, Methodology: the bidirectional guided (BiG) score and fast Langevin dynamics (FLD).

Notation
    x, y     latents at noise level alpha: unknown and known; y_0 the known clean latents
    e        noise prediction; the joint score of (x, y) is -e / sqrt(1 - alpha)
    q        law of a noised latent, here with one noise for the whole chain: that which x_K is
    lambda   weight of the guided score
    u        latents over their own noise scale, x / sqrt(1 - alpha), so that all rates are plain numbers
    p        velocity; Gamma the friction

At each level the known part starts as q(y_t | y_0), which alone would be the method Replace; so it is without
Langevin steps. Then the unknown part follows the joint score and the known part the BiG score
    g = (1 + lambda) (sqrt(alpha) y_0 - y) / (1 - alpha) - lambda s_y(x, y),
which pulls it to y_0 and pushes it against what the model expects there, so that the two parts agree both
ways. The step to the next level takes y_0 for the known part of the predicted x_0.

Dynamics: du = p dt, dp = -Gamma p dt + score dt + sqrt(2 Gamma) dW, underdamped. With the prediction held for
a step both scores are linear in u, -a (u - u*), with a = 1 (unknown) and a = 1 + lambda (known): a stochastic
harmonic oscillator, which is solved exactly, whatever the step. A Langevin time of `step_size` (1 - alpha) in
x is `step_size` Gamma in u. The authors' code writes Gamma^2 / (1 - alpha) for its friction, and takes scores
in the middle of all steps but the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sow.baselines.sampler import BaselineSampler, Prepared
from sow.method.diffusion import replace
from sow.types import Step, StepContext


def oscillator(stiffness: float, friction: float, time: float) -> tuple[Tensor, Tensor]:
    """The exact step of du = p dt, dp = -(Gamma p + a u) dt + sqrt(2 Gamma) dW over `time`.

    Returns (E, L), each (2, 2) float64: (u, p) becomes E (u, p) + L n with n standard normal. Its stationary
    law has variances 1 / a and 1.
    """
    drift = torch.tensor([[0.0, 1.0], [-stiffness, -friction]], dtype=torch.float64)
    E = torch.linalg.matrix_exp(drift * time)
    stationary = torch.diag(torch.tensor([1.0 / stiffness, 1.0], dtype=torch.float64))
    covariance = stationary - E @ stationary @ E.T
    # A jitter far below every rounding that follows keeps a very short step positive definite.
    return E, torch.linalg.cholesky(covariance + 1e-14 * torch.eye(2, dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class LanPaintSampler(BaselineSampler):
    """At each noise level: Replace, the inner Langevin steps, one DDIM step on an x_0 that is y_0 where it is
    known."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.noise_schedule.need_signal("method=lanpaint")

    def denoising_steps(self, sizes: int = 1) -> int:
        return self.schedule.steps * (self.options.inner_steps + 1)

    def denoise(self, batch: Prepared) -> Iterator[Step]:
        x = noise = self.start(batch)
        yield Step(x, "start", StepContext("sample", None, self.schedule.steps))
        for k in range(self.schedule.steps - 1, -1, -1):
            context = StepContext("sample", None, k, self.schedule.timesteps[k])
            x = replace(x, self.schedule.noised(batch.encoded, k + 1, noise), batch.known)
            p = self.draw(batch, x)
            for _ in range(self.options.inner_steps):
                x, p = self.think(batch, x, p, k)
                yield Step(x, "denoise", context)
            x, x0 = self.ddim(batch, x, self.with_known(batch, x, self.epsilon(batch, x, k), k), k)
            if k == 0:
                x = replace(x, batch.encoded, batch.known)
            yield Step(x, "denoise", context, {}, replace(x0, batch.encoded, batch.known))

    def with_known(self, batch: Prepared, x: Tensor, e: Tensor, k: int) -> Tensor:
        """The noise prediction of step k, in the known part that whose x_0 is y_0."""
        alpha = self.noise_schedule.level(k + 1)
        return replace(e, (x - alpha**0.5 * batch.encoded) / (1 - alpha) ** 0.5, batch.known)

    def think(self, batch: Prepared, x: Tensor, p: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """One Langevin step at the level of x_{k+1}: (x, p) -> (x, p)."""
        alpha, weight = self.noise_schedule.level(k + 1), self.options.weight
        scale = (1 - alpha) ** 0.5
        e = self.epsilon(batch, x, k)
        clean = (x - scale * e) / alpha**0.5
        # Where each linear score vanishes: sqrt(alpha) x_0 for the unknown; y_0 displaced by the held score
        # for the known.
        unknown = alpha**0.5 * clean
        known = alpha**0.5 * batch.encoded + weight / (1 + weight) * scale * e
        time = self.options.step_size * self.options.friction
        moved = []
        first, second = (self.draw(batch, x) for _ in range(2))
        for rest, stiffness in ((unknown, 1.0), (known, 1.0 + weight)):
            E, L = (m.tolist() for m in oscillator(stiffness, self.options.friction, time))
            u = (x - rest) / scale
            here = E[0][0] * u + E[0][1] * p + L[0][0] * first
            speed = E[1][0] * u + E[1][1] * p + L[1][0] * first + L[1][1] * second
            moved.append((rest + scale * here, speed))
        (x_free, p_free), (x_held, p_held) = moved
        return replace(x_free, x_held, batch.known), replace(p_free, p_held, batch.known)
