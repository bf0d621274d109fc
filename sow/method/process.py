"""The diffusion process of a frozen model at K sampling steps, whichever it was trained with.

Notation
    x_k      state; x_0 clean, x_K the noise end; step k maps x_{k+1} -> x_k with one network call at t_k
    sigma_k  level of x_k: the share of noise in signal + noise, 0 clean, 1 noise alone
    log SNR  2 log((1 - sigma) / sigma), the same level in the terms that all processes share
    n, x0    noise and clean latents as a network's output implies them

Two members: `diffusion.Schedule`, variance-preserving (x = sqrt(a) x0 + sqrt(1 - a) n, so that sigma =
sqrt(1 - a) / (sqrt(a) + sqrt(1 - a))), and `flow.RectifiedFlow` (x = (1 - sigma) x0 + sigma n). At equal
log SNR their states differ by a factor alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from sow.errors import UserError
from sow.method.flow import RectifiedFlow

if TYPE_CHECKING:
    from torch import Tensor

    from sow.method.diffusion import Schedule
    from sow.models.backbone import Backbone


class Process(Protocol):
    """What the method asks of a process; states and noise are (B, C, h, w)."""

    @property
    def timesteps(self) -> tuple[float, ...]:
        """t_0 .. t_{K-1}, what the network is told in step k."""
        ...

    @property
    def sigmas(self) -> tuple[float, ...]:
        """sigma_0 .. sigma_K, rising."""
        ...

    @property
    def steps(self) -> int:
        """K."""
        ...

    def predicted(self, output: Tensor, x: Tensor, k: int) -> tuple[Tensor, Tensor | None]:
        """(n, x0) from the network's output at step k; x0 None where it follows from n."""
        ...

    def step(
        self, x: Tensor, e: Tensor, k: int, eta: float, noise: Tensor | None, x0: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """x_{k+1} -> x_k and the predicted x0; `eta` 0 deterministic .. 1, `noise` for eta > 0."""
        ...

    def inverted(self, x: Tensor, output: Tensor, k: int, official: bool = False) -> Tensor:
        """x_k -> x_{k+1}, the exact reverse of the deterministic step, from the output for x_k at step k."""
        ...

    def inject(self, x: Tensor, k: int, target: int, noise: Tensor, official: bool = False) -> Tensor:
        """q(x_target | x_k) in one jump, target > k (Eq. 2)."""
        ...

    def noised(self, x0: Tensor, k: int, noise: Tensor) -> Tensor:
        """q(x_k | x0)."""
        ...

    def end(self, noise: Tensor) -> Tensor:
        """x_K, of noise alone."""
        ...

    def need_official(self) -> None:
        """Raise UserError where a state has one level only, so that A4 has no alternative."""
        ...


def process_of(
    backbone: Backbone, num_inference_steps: int, latent_size: Sequence[int] | None = None
) -> Process:
    """The process of a model at K = `num_inference_steps`, on latents of `latent_size` (h, w), None = its
    own; raises UserError for a K that it does not have."""
    from sow.method.diffusion import Schedule

    if backbone.flow:
        return RectifiedFlow(*backbone.levels(num_inference_steps, latent_size))
    return Schedule.from_config(backbone.scheduler_config, num_inference_steps)


def need_noise(process: Process) -> Schedule:
    """The process of a model that predicts noise; raises UserError for a rectified flow."""
    from sow.method.diffusion import Schedule

    if not isinstance(process, Schedule):
        raise UserError(
            "this reads the noise levels of a model that predicts noise, and this model is a rectified flow: "
            "take another model, or method=sow (model, method)"
        )
    return process


def log_snr(sigma: float) -> float:
    """The log signal-to-noise ratio of a level, infinite for 0 and 1."""
    if sigma in (0.0, 1.0):
        return math.inf if sigma == 0 else -math.inf
    return 2 * math.log((1 - sigma) / sigma)


def nearest_state(level: float, unit: str, sigmas: Sequence[float]) -> int:
    """k of the state whose level is nearest to `level`, given as "sigma" or as "log_snr"."""
    sigma = level if unit == "sigma" else 1 / (1 + math.exp(level / 2))
    return min(range(len(sigmas)), key=lambda k: abs(sigmas[k] - sigma))
