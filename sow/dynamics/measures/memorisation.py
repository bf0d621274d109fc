"""Speciation, collapse, and what a model has by heart: a finite training set on the axis of noise (arXiv
2402.18491).

Notation (beside that of `levels`)
    Lambda    largest eigenvalue of the data's covariance
    level_S   -log Lambda, speciation: the signal's variance along the first principal axis equals the noise's
    a_i       training point i of n; i | x its posterior under the empirical measure, given a state x
    excess    E H[i | x] in nats, the entropy of which training point a state came from; log n at pure noise
    level_C   collapse: from here to the clean end the exact denoiser of the training set only copies

Before collapse many training points explain a state as well as its own does, and the excess entropy is log n
- I(x_0; x), with the information of the data's distribution; it would vanish where that information reaches
log n. So level_C is read in two ways: where the measured excess has fallen to a stated share of log n (a
crossover for finite dimension, which sharpens as the dimension grows), and where an information curve of the
distribution, if there is one, meets log n.

What differs from the source: its process has noise variance 1 - e^-2t, and Lambda e^-2t = 1 sets t_S; as a
ratio of variances the same condition reads snr Lambda = 1, which does not depend on how a process is written,
and agrees for large Lambda. The source's excess entropy is that of densities per dimension; here it is
written as the equal entropy of an index, in nats, which needs no density.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh
from torch import Tensor

from sow.dynamics.measures.change_points import crossing
from sow.dynamics.measures.levels import alpha_of, noised


class Nearest(NamedTuple):
    """For each sample (m,): its nearest training point, the root mean square distance,
    and its share of the second's."""

    which: Tensor
    distance: Tensor
    ratio: Tensor


def top_variance(data: Tensor) -> float:
    """Lambda of `data` (n, ...): the unbiased covariance's largest eigenvalue,
    by the smaller of its two Gram matrices."""
    flat = data.flatten(1).double()
    flat = flat - flat.mean(0)
    gram = flat @ flat.T if len(flat) < flat.shape[1] else flat.T @ flat
    return float(torch.linalg.eigvalsh(gram)[-1]) / (len(flat) - 1)


def speciation_level(data: Tensor) -> float:
    """level_S of `data` (n, ...), in the units that the denoiser works in (scaled latents
    for a latent model)."""
    return -math.log(top_variance(data))


def speciation_of(gram: NDArray[np.float64], index: NDArray[np.int64]) -> float:
    """level_S of the points `index` alone, from the products (n, n) of all: what a bootstrap asks for."""
    own = gram[np.ix_(index, index)]
    rows = own.mean(0)
    centred = own - rows - rows[:, None] + own.mean()
    last = len(index) - 1
    (top,) = eigh(centred, eigvals_only=True, subset_by_index=[last, last])
    return -math.log(top / last) if top > 0 else math.inf  # a resample of one point has no variance


def excess_entropy(
    data: Tensor, starts: Sequence[int] | Tensor, levels: Sequence[float], n: Tensor
) -> Tensor:
    """H[i | x] in nats per start and level, (B, L): x is training point starts[b] of `data` (n, ...) with
    noise n[b].

    Computed in float64; memory is B times the training set's size in numbers.
    """
    flat, own = data.flatten(1).double(), n.flatten(1).double()
    out = []
    for level in levels:
        alpha = alpha_of(level)
        x = noised(flat[torch.as_tensor(starts)], level, own)
        logits = -(torch.cdist(x, alpha**0.5 * flat) ** 2) / (2 * (1 - alpha))
        log_p = logits.log_softmax(1)
        out.append(-(log_p.exp() * log_p).nan_to_num().sum(1))
    return torch.stack(out, 1)


def collapse_level(levels: Sequence[float], excess: ArrayLike, count: int, share: float) -> float:
    """level_C: where the mean excess entropy (L,), at rising levels,
    falls to `share` in (0, 1) of log `count`."""
    return crossing(levels, excess, share * math.log(count))


def collapse_of_information(levels: Sequence[float], information: ArrayLike, count: int) -> float:
    """level_C: where I(x_0; x) (L,) in nats, at rising levels, reaches log `count`; nan where it does not."""
    return crossing(levels, information, math.log(count))


def nearest(samples: Tensor, data: Tensor, rows: int = 256) -> Nearest:
    """The nearest of `data` (n, ...) to each of `samples` (m, ...), `rows` samples at a time.

    A ratio near 1 says that a sample is as far from its nearest training point as from any other; well below
    1 it is a copy of that one. Two equal training points give the ratio 1 to their own copy: look for those
    first.
    """
    flat, base = samples.flatten(1).double(), data.flatten(1).double()
    if len(base) < 2:
        raise ValueError(f"need at least two training points, got {len(base)}")
    found = [torch.cdist(part, base).topk(2, largest=False) for part in flat.split(rows)]
    near = torch.cat([f.values for f in found])
    first, second = near[:, 0], near[:, 1]
    ratio = torch.where(second > 0, first / second, torch.ones_like(first))
    return Nearest(torch.cat([f.indices[:, 0] for f in found]), first / flat.shape[1] ** 0.5, ratio)
