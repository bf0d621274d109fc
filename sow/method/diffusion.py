"""DDIM sampling, its inversion and noise injection on plain tensors (Eq. 1-3), on an explicit step index.

Notation
    alpha       alphas_cumprod, the product of (1 - beta) up to a timestep (Eq. 2)
    t_k         timestep of step k, k = 0 .. K-1, in the checkpoint's spacing: leading (1, 101, .. 901 of K
                = 10), trailing (99, 199, .. 999) or linspace (0, 111, .. 999)
    x_k         state; x_0 clean, x_K the noise end; step k maps x_{k+1} -> x_k with one UNet call at t_k
    level(k)    alpha where the sampler reads x_k: alpha[t_{k-1}], and `final_alpha_cumprod` for k = 0
    e           predicted noise epsilon
    eta         0 deterministic DDIM, 1 the stochasticity of DDPM

Scalars stay 0-dimensional float32 tensors as in diffusers' schedulers, so that both agree to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sow.errors import UserError
from sow.models.checkpoint import training_schedule


@dataclass(frozen=True, eq=False)
class Schedule:
    """The noise schedule of a frozen model, read at K sampling steps.

    `alphas_cumprod` (num_train_timesteps,) float32; `timesteps` t_0 .. t_{K-1} as ints; `final_alpha` the
    level of x_0; `prediction_type` "epsilon", "v_prediction" or "sample".
    """

    alphas_cumprod: Tensor
    timesteps: tuple[int, ...]
    final_alpha: Tensor
    prediction_type: str = "epsilon"

    @classmethod
    def from_config(cls, config: dict, num_inference_steps: int) -> Schedule:
        """The schedule of a checkpoint's `scheduler_config.json`, with the timesteps of diffusers' DDIM.

        Raises UserError for what is not understood in it, and when K does not fit it.
        """
        from diffusers import DDIMScheduler

        arguments = training_schedule(config)
        trained = DDIMScheduler(**arguments)
        total = int(arguments["num_train_timesteps"])
        if not 1 <= num_inference_steps <= total:
            raise UserError(
                f"need 1 <= num_inference_steps <= {total}, got {num_inference_steps} (num_inference_steps)"
            )
        trained.set_timesteps(num_inference_steps)
        # Rounding may give trailing spacing one step too many, below 0.
        timesteps = tuple(reversed(trained.timesteps.tolist()[:num_inference_steps]))
        if timesteps[-1] >= total:
            raise UserError(
                f"num_inference_steps={num_inference_steps} puts the last step at timestep {timesteps[-1]}, "
                f"past {total - 1}: take fewer steps (num_inference_steps)"
            )
        if arguments["prediction_type"] == "epsilon" and trained.alphas_cumprod[timesteps[-1]] == 0:
            raise UserError(
                f"the betas of scheduler_config.json leave no signal at timestep {timesteps[-1]}, where "
                "epsilon says "
                "nothing: they are no betas of a model that predicts epsilon (model.path, "
                "model.prediction_type)"
            )
        return cls(
            trained.alphas_cumprod, timesteps, trained.final_alpha_cumprod, arguments["prediction_type"]
        )

    @property
    def steps(self) -> int:
        """K."""
        return len(self.timesteps)

    def level(self, k: int, official: bool = False) -> Tensor:
        """alpha where the sampler reads state x_k, k = 0 .. K (A4 "aligned").

        `official`: alpha[t_k], where the published COW code puts the inverted x_k, one level above.
        """
        if not official:
            return self.final_alpha if k == 0 else self.alphas_cumprod[self.timesteps[k - 1]]
        if k < self.steps:
            return self.alphas_cumprod[self.timesteps[k]]
        beyond = self.timesteps[-1] + (self.timesteps[-1] - self.timesteps[-2] if self.steps > 1 else 1)
        return self.alphas_cumprod[min(beyond, len(self.alphas_cumprod) - 1)]

    def epsilon(self, output: Tensor, x: Tensor, k: int) -> Tensor:
        """Noise prediction from the UNet's output at step k, whatever the model was trained to predict."""
        return self.predicted(output, x, k)[0]

    def predicted(self, output: Tensor, x: Tensor, k: int) -> tuple[Tensor, Tensor | None]:
        """(e, x_0) from the UNet's output at step k.

        x_0 is None where it follows from e; at a level that holds no signal (zero terminal SNR) it does not.
        """
        if self.prediction_type == "epsilon":
            return output, None
        alpha = self.alphas_cumprod[self.timesteps[k]]
        if self.prediction_type == "sample":
            return (x - alpha**0.5 * output) / (1 - alpha) ** 0.5, output
        signal, noise = alpha**0.5, (1 - alpha) ** 0.5
        return signal * output + noise * x, signal * x - noise * output

    def step(
        self,
        x: Tensor,
        e: Tensor,
        k: int,
        eta: float = 0.0,
        noise: Tensor | None = None,
        x0: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """x_{k+1} -> x_k and the predicted x_0 (Eq. 3); `x0` as `predicted` gives it."""
        return ddim_step(x, e, self.level(k + 1), self.level(k), eta, noise, x0)

    def need_signal(self, method: str) -> None:
        """Raise UserError where x_K holds no signal, for a method that reads x_0 from e alone."""
        if self.level(self.steps) == 0:
            raise UserError(
                f"{method} reads x_0 from the noise prediction, but timestep {self.timesteps[-1]} of this "
                "model holds "
                "noise alone: take model.timestep_spacing=leading (model.timestep_spacing, method)"
            )

    @cached_property
    def sigmas(self) -> tuple[float, ...]:
        """sigma_0 .. sigma_K, the share of noise in signal + noise of each state."""
        levels = [self.level(k).double() for k in range(self.steps + 1)]
        return tuple(float((1 - a) ** 0.5 / (a**0.5 + (1 - a) ** 0.5)) for a in levels)

    def end(self, noise: Tensor) -> Tensor:
        """x_K ~ N(0, 1)."""
        return noise

    def need_official(self) -> None:
        """Both readings of A4 exist here."""

    def inverted(self, x: Tensor, output: Tensor, k: int, official: bool = False) -> Tensor:
        """x_k -> x_{k+1} from the UNet's output for x_k at step k."""
        return self.invert(x, self.epsilon(output, x, k), k, official)

    def invert(self, x: Tensor, e: Tensor, k: int, official: bool = False) -> Tensor:
        """x_k -> x_{k+1}, the exact reverse of the deterministic step (Eq. 3)."""
        return invert_step(x, e, self.level(k, official), self.level(k + 1, official))

    def inject(self, x: Tensor, k: int, target: int, noise: Tensor, official: bool = False) -> Tensor:
        """q(x_target | x_k) in one jump, target > k (Eq. 2)."""
        return inject_noise(x, self.level(k, official), self.level(target, official), noise)

    def noised(self, x0: Tensor, k: int, noise: Tensor) -> Tensor:
        """q(x_k | x_0) at the level where the sampler reads x_k; x_0 itself for k = 0."""
        if k == 0:
            return x0
        level = self.level(k)
        return level**0.5 * x0 + (1 - level) ** 0.5 * noise


def ddim_step(
    x: Tensor,
    e: Tensor,
    alpha: Tensor,
    alpha_prev: Tensor,
    eta: float = 0.0,
    noise: Tensor | None = None,
    x0: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One DDIM step x_{k+1} -> x_k (Eq. 3 by Euler; DDIM's sigma for eta > 0): returns x_k and the predicted
    x_0.

    `x`, `e`, `noise`, `x0` (B, C, h, w); `alpha`, `alpha_prev` the levels of x_{k+1} and x_k. `noise` is
    needed for eta > 0, `x0` for alpha = 0.
    """
    variance = (1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev)
    sigma = eta * variance**0.5
    if x0 is None:
        x0 = (x - (1 - alpha) ** 0.5 * e) / alpha**0.5
    x_prev = alpha_prev**0.5 * x0 + (1 - alpha_prev - sigma**2) ** 0.5 * e
    if eta > 0:
        if noise is None:
            raise ValueError(f"eta={eta} needs noise")
        x_prev = x_prev + sigma * noise
    return x_prev, x0


def invert_step(x: Tensor, e: Tensor, alpha: Tensor, alpha_next: Tensor) -> Tensor:
    """The exact reverse of the deterministic step, x_k at level `alpha` -> x_{k+1} at level `alpha_next` (Eq.
    3)."""
    x0 = (x - (1 - alpha) ** 0.5 * e) / alpha**0.5
    return alpha_next**0.5 * x0 + (1 - alpha_next) ** 0.5 * e


def inject_noise(x: Tensor, alpha: Tensor, alpha_next: Tensor, noise: Tensor) -> Tensor:
    """q(x_{t2} | x_{t1}) in one jump (Eq. 2, whose printed standard deviation is the variance)."""
    ratio = alpha_next / alpha
    return ratio**0.5 * x + (1 - ratio) ** 0.5 * noise


def replace(x: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Replace(x, v): inside `mask` (B, 1, h, w, bool) the condition's inverted latents `v`, outside `x`
    untouched."""
    return torch.where(mask, v, x)
