"""When an attribute is decided: the entropy of Z given a noisy image, and its rate (arXiv 2602.09651,
2506.10433).

Notation (beside that of `levels`)
    Z         an attribute with finitely many values, H[Z] its entropy in nats (log K for K equal ones)
    I         I(Z; x) = 1/2 int E |D(x, z) - D(x)|^2 dsnr, what a state at this level says about Z
    H[Z | x]  H[Z] - I, the entropy that is left; its rate -dH / dlevel is dI / dlevel, largest where Z is
              decided

D(x) without the attribute must average over its values as they occur: for a class, the model without its
class; for a word of a caption, the caption without the word. Information then is what the word adds to the
others' (`without`).

What differs from the sources: they follow log p(z | x) along the path of a sampler and average; here both
denoisers are asked at independent states and the I-MMSE relation is integrated. The two agree for an exact
denoiser; here no run of a sampler is needed, single images have their own curve, and a denoiser that is not
exact shows in `estimator=errors` of `pixel_information`. Rates are per unit of log SNR, not of the sampler's
time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sow.dynamics.measures import pixel_information
from sow.dynamics.measures.levels import Condition, Denoise
from sow.dynamics.measures.pixel_information import Estimator


def rates(
    denoise: Denoise,
    x0: Tensor,
    given: Condition,
    without: Condition,
    levels: Sequence[float],
    n: Tensor,
    estimator: Estimator = "gap",
) -> Tensor:
    """dI / dlevel in nats per image and level, (B, L); the mean over images estimates the rate.

    `x0` (B, ...) must be images whose attribute is `given`, one entry per image; `n` is standard normal noise
    like x0.
    """
    each = pixel_information.rates(denoise, x0, given, without, levels, n, estimator)
    return each.flatten(2).sum(2)


def entropy(levels: Sequence[float], rate: Tensor, prior: float) -> Tensor:
    """H[Z | x] in nats like `rate` (B, L), for rising `levels` and the attribute's own entropy `prior` in
    nats.

    A single image's value may lie beyond 0 and `prior`: only the mean is an entropy.
    """
    return prior - pixel_information.integral(levels, rate)


def prior_entropy(weights: Sequence[float]) -> float:
    """H[Z] in nats of the values' frequencies, which need not add up to one."""
    share = torch.as_tensor(weights, dtype=torch.float64)
    if not (share > 0).all():
        raise ValueError("every value of an attribute needs a positive weight")
    share = share / share.sum()
    return float(-(share * share.log()).sum())


def saturated(levels: Sequence[float], rate: Tensor, prior: float) -> float:
    """Information over all levels as a share of `prior`: 1 for an exact denoiser and levels wide enough.

    Much above 1 says that the two conditions differ by more than the attribute, or that the denoiser is not
    exact.
    """
    return float(pixel_information.integral(levels, rate)[:, -1].mean()) / prior if prior > 0 else math.nan
