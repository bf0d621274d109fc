"""Rectified flow on plain tensors: sampling steps with eta, their reverse, and noise injection.

Notation
    sigma_k  level of state x_k, 0 = clean .. 1 = noise: x_k = (1 - sigma_k) x0 + sigma_k n
    v        velocity n - x0, what the network predicts (B, C, h, w)
    t, s     levels of a step's two states: t -> s with s < t in sampling, s -> t in inversion and injection
    R        standard deviation that injection from s to t adds

With x / sqrt((1 - sigma)^2 + sigma^2) in place of x, and alpha = (1 - sigma)^2 / ((1 - sigma)^2 + sigma^2),
every function here is its counterpart in `diffusion.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sow.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RectifiedFlow:
    """A flow's levels at K sampling steps: `sigmas` sigma_0 .. sigma_K, rising from 0 on; `timesteps` t_0 ..
    t_{K-1}, what the network is told in step k, where it sees x_{k+1}."""

    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]

    def __post_init__(self) -> None:
        pairs = zip(self.sigmas, self.sigmas[1:], strict=False)
        if len(self.timesteps) + 1 != len(self.sigmas) or not all(s < t for s, t in pairs):
            raise ValueError(f"need K + 1 rising levels for K timesteps, got {self.sigmas}, {self.timesteps}")

    @property
    def steps(self) -> int:
        """K."""
        return len(self.timesteps)

    def timestep(self, sigma: float) -> float:
        """What the network is told at a level between those of the grid."""
        return self.timesteps[-1] * sigma / self.sigmas[-1]

    def predicted(self, output: Tensor, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """(n, x0) from the velocity at x_{k+1}: n = x + (1 - t) v, x0 = x - t v."""
        t = self.sigmas[k + 1]
        return x + (1 - t) * output, x - t * output

    def step(
        self,
        x: Tensor,
        e: Tensor,
        k: int,
        eta: float = 0.0,
        noise: Tensor | None = None,
        x0: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """x_{k+1} -> x_k: (1 - s) x0 + sqrt(s^2 - g^2) n + g noise with g = eta (s / t) R(s -> t), and x0.

        `e` is n; eta 0 is Euler's step. `x0` may be left out below sigma = 1.
        """
        t, s = self.sigmas[k + 1], self.sigmas[k]
        if x0 is None:
            x0 = (x - t * e) / (1 - t)
        g = eta * (s / t) * added(s, t)
        x_prev = (1 - s) * x0 + max(0.0, s**2 - g**2) ** 0.5 * e
        if eta > 0:
            if noise is None:
                raise ValueError(f"eta={eta} needs noise")
            x_prev = x_prev + g * noise
        return x_prev, x0

    def inverted(self, x: Tensor, output: Tensor, k: int, official: bool = False) -> Tensor:
        """x_k -> x_{k+1} by reverse Euler on the sampler's grid: x + (t - s) v, v told t_k as in the step
        that it undoes."""
        return x + (self.sigmas[k + 1] - self.sigmas[k]) * output

    def inject(self, x: Tensor, k: int, target: int, noise: Tensor, official: bool = False) -> Tensor:
        """q(x_target | x_k) in one jump (Eq. 2 in these coordinates)."""
        s, t = self.sigmas[k], self.sigmas[target]
        return (1 - t) / (1 - s) * x + added(s, t) * noise

    def noised(self, x0: Tensor, k: int, noise: Tensor) -> Tensor:
        """q(x_k | x0); x0 itself for k = 0."""
        s = self.sigmas[k]
        return x0 if k == 0 else (1 - s) * x0 + s * noise

    def end(self, noise: Tensor) -> Tensor:
        """x_K of noise alone: as wide as the marginal there for clean latents of variance 1."""
        t = self.sigmas[-1]
        return ((1 - t) ** 2 + t**2) ** 0.5 * noise

    def need_official(self) -> None:
        """Raise UserError: a flow's state sits at its sigma, nowhere else (A4)."""
        raise UserError(
            "a rectified flow has one level a state, so that official levels have no meaning: take "
            "inversion.levels=aligned and cycle.inject_levels=aligned (inversion.levels, cycle.inject_levels)"
        )


def added(s: float, t: float) -> float:
    """R(s -> t), the standard deviation that q(x_t | x_s) adds: R^2 = t^2 - ((1 - t) s / (1 - s))^2."""
    return max(0.0, t**2 - ((1 - t) / (1 - s) * s) ** 2) ** 0.5
