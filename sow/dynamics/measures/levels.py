"""The axis that all measures share, and the denoiser that all measures ask.

Notation
    level     natural logarithm of the signal-to-noise ratio, log(alpha / (1 - alpha)); falls as noise rises
    alpha     share of signal variance, sigmoid(level): what diffusers calls alphas_cumprod
    x         sqrt(alpha) x_0 + sqrt(1 - alpha) n, n standard normal: a state at that level
    D         a denoiser, D(x, level, condition) -> x_0 of the shape of x

Levels are floats: one call has one level. A condition is a sequence with one entry per image, or None for no
condition at all; what an entry is (a class, an embedding, a caption) is between the caller and the denoiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sow.method import noise

Condition = Sequence[Any] | Tensor | None
Denoise = Callable[[Tensor, float, Condition], Tensor]
Array = NDArray[np.float64]


def alpha_of(level: float) -> float:
    """alpha in (0, 1) of a log SNR."""
    return 1 / (1 + math.exp(-level)) if level >= 0 else math.exp(level) / (1 + math.exp(level))


def level_of(alpha: ArrayLike) -> Array:
    """Log SNR of alpha in (0, 1), any shape."""
    share = np.asarray(alpha, float)
    if not ((share > 0) & (share < 1)).all():
        raise ValueError("alpha must lie between 0 and 1, both left out")
    return np.log(share) - np.log1p(-share)


def timestep_of(levels: ArrayLike, alphas: ArrayLike) -> Array:
    """The timestep, not rounded, at which a schedule `alphas` (T,) has each log SNR; nan beyond its ends.

    `alphas` falls with t = 0 .. T - 1; between two timesteps the log SNR is taken as a straight line.
    """
    known = level_of(alphas)
    order = np.argsort(known)
    return np.interp(np.asarray(levels, float), known[order], order.astype(float), left=np.nan, right=np.nan)


def noised(x0: Tensor, level: float, n: Tensor) -> Tensor:
    """The state of clean `x0` at a log SNR, with noise `n` of its shape."""
    alpha = alpha_of(level)
    return alpha**0.5 * x0 + (1 - alpha) ** 0.5 * n


def draw_like(x0: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise like `x0` (B, ...), each row from the generator of its image."""
    if len(generators) != len(x0):
        raise ValueError(f"need one generator per image, got {len(generators)} for {len(x0)}")
    return torch.cat([noise.randn((1, *x0.shape[1:]), g, x0.device, x0.dtype) for g in generators])


def from_epsilon(predict: Denoise) -> Denoise:
    """A denoiser from a prediction of the noise, epsilon(x, level, condition):
    x_0 = (x - sqrt(1 - alpha) eps) / sqrt(alpha)."""

    def denoise(x: Tensor, level: float, condition: Condition) -> Tensor:
        alpha = alpha_of(level)
        return (x - (1 - alpha) ** 0.5 * predict(x, level, condition)) / alpha**0.5

    return denoise
