"""What a condition tells about each pixel: mutual information, pixel by pixel (arXiv 2310.07972).

Notation (beside that of `levels`)
    y, w      the condition that is asked about, and what is known without it (None: nothing)
    d_j       D_j(x, y) - D_j(x, w), the change of the prediction of x_0 at coordinate j
    i_j       1/2 int snr E_n d_j^2 dlevel, information in nats that y adds about coordinate j beyond w

The I-MMSE relation: information gained per unit of snr is half the error that the condition takes away. For
an exact posterior mean that error is E d_j^2 ("gap", never negative, and zero noise where the condition says
nothing); without that assumption it is the difference of the two squared errors ("errors", which may be
negative for a single image). Both have one mean where D is exact, so their distance says how far a trained
denoiser is from that.

What differs from the source: it draws levels from a logistic distribution and weighs them; here the levels
are a grid and the integral is the trapezoid's, so that the integrand itself is the curve that other measures
are laid over. It compares with no text or with a text that lacks a word; here `without` is any condition, so
that both are cases of one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from sow.dynamics.measures.levels import Condition, Denoise, noised

Estimator = Literal["gap", "errors"]


def rates(
    denoise: Denoise,
    x0: Tensor,
    given: Condition,
    without: Condition,
    levels: Sequence[float],
    n: Tensor,
    estimator: Estimator = "gap",
) -> Tensor:
    """di_j / dlevel in nats for every image, level and coordinate: (B, L, *shape) for `x0` and noise `n` (B,
    *shape).

    One noise serves all levels of an image, so that its curve is smooth; `given` and `without` have one entry
    per image.
    """
    out = []
    for level in levels:
        x = noised(x0, level, n)
        with torch.no_grad():
            with_it, without_it = denoise(x, level, given), denoise(x, level, without)
        if estimator == "gap":
            gained = (with_it - without_it) ** 2
        elif estimator == "errors":
            gained = (x0 - without_it) ** 2 - (x0 - with_it) ** 2
        else:
            raise ValueError(f"estimator is gap or errors, got {estimator!r}")
        out.append(0.5 * math.exp(level) * gained)
    return torch.stack(out, 1)


def integral(levels: Sequence[float], rate: Tensor) -> Tensor:
    """Information in nats gained up to each level, like `rate` (B, L, ...), from its rates at rising `levels`
    (L,).

    Below the first level the error that a condition takes away no longer depends on the noise, so the rate
    falls as snr does and what was gained before equals the rate there; choose the first level low enough for
    that.
    """
    step = torch.as_tensor(levels, dtype=rate.dtype, device=rate.device).diff()
    if len(step) and not (step > 0).all():
        raise ValueError("levels must rise")
    step = step.reshape(1, -1, *[1] * (rate.ndim - 2))
    pieces = step * (rate[:, 1:] + rate[:, :-1]) / 2
    return torch.cat([rate[:, :1], rate[:, :1] + pieces.cumsum(1)], 1)


def map_of(levels: Sequence[float], rate: Tensor) -> Tensor:
    """i_j over all levels, (B, h, w) in nats: `rate` (B, L, C, h, w) integrated and summed over channels."""
    return integral(levels, rate)[:, -1].sum(1)
