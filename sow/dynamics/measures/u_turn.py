"""U-turns: noise an image to a level, denoise it again, and see what changed together (arXiv 2410.13770,
2403.01633).

Notation (beside that of `levels`)
    s_i       how much patch i changed in one U-turn, a number per patch
    C_ij      covariance of s_i and s_j over images
    chi       sum_ij C_ij / sum_i C_ii = Var(sum s) / sum Var(s): how many patches change as one; 1 where each
              is alone
    C(r)      mean of C_ij over pairs at distance r (between centres, in patches), over that at r = 0
    xi        the distance at which C(r) has fallen to 1/e: the length of exp(-r / xi), in patches
    kept      P(the attribute is the same after the U-turn)

chi and xi peak where whole objects change as one, which the sources read as a transition; `kept` falls from 1
to chance there, and the span of its fall is the critical window.

What differs from the sources: 2410.13770 takes the change of a vision model's patch embedding; `changes`
takes that of pixels or latents, and the functions below take any s. It averages over U-turns of a start, too;
here every image is one unit with one U-turn, so that intervals over images are intervals. xi is read off at
1/e, between distances on a logarithmic line; 2403.01633 defines its window by total variation, here it is two
crossings of `kept`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from sow.dynamics.measures.levels import Array


def changes(before: Tensor, after: Tensor, patch: int = 1, root: bool = True) -> Tensor:
    """s (B, h / patch, w / patch): root mean square change of each patch of images (B, C, h, w), or the mean
    square.

    Rows and columns beyond the last whole patch are left out.
    """
    square = ((after - before) ** 2).mean(1, keepdim=True)
    mean = torch.nn.functional.avg_pool2d(square, patch)[:, 0]
    return mean.sqrt() if root else mean


def susceptibility(s: ArrayLike) -> float:
    """chi of s (B, h, w), or any (B, ...); nan where nothing varies over the images."""
    table = np.asarray(s, float).reshape(len(np.asarray(s)), -1)
    alone = table.var(0, ddof=1).sum()
    return float(table.sum(1).var(ddof=1) / alone) if alone > 0 else math.nan


def correlation(s: ArrayLike, torus: bool = False) -> tuple[Array, Array]:
    """(r, C(r)) of s (B, h, w): distances that occur, rising from 0, and the correlation at each.

    `torus` joins opposite borders; without it all pairs inside the image count alike. The mean that is taken
    off is each patch's own over images, as in a covariance. All nan where nothing varies.
    """
    table = np.asarray(s, float)
    count, height, width = table.shape
    off = table - table.mean(0)
    size = (height, width) if torus else (2 * height, 2 * width)
    power = np.abs(np.fft.fft2(off, size)) ** 2
    total = np.fft.ifft2(power.sum(0)).real / (count - 1)
    pairs = np.fft.ifft2(np.abs(np.fft.fft2(np.ones((height, width)), size)) ** 2).real
    rows, columns = (np.minimum(np.arange(n), n - np.arange(n)) for n in size)
    squares = rows[:, None] ** 2 + columns[None] ** 2
    there = np.round(pairs) > 0
    distances, place = np.unique(squares[there], return_inverse=True)
    summed, weight = np.bincount(place, total[there]), np.bincount(place, pairs[there])
    covariance = summed / weight
    scale = covariance[0] if covariance[0] > 0 else np.nan
    return np.sqrt(distances.astype(float)), covariance / scale


def correlation_length(distance: ArrayLike, correlations: ArrayLike) -> float:
    """xi in patches: where C(r) first falls to 1/e, on a straight line of log C between two distances.

    nan where it never does (the whole image changes as one) or nothing varies; a value that is not positive
    counts as small, 1e-12, so that uncorrelated patches have a length near zero.
    """
    r, c = np.asarray(distance, float), np.asarray(correlations, float)
    below = np.flatnonzero(c <= math.exp(-1))
    if not len(below) or np.isnan(c).any():
        return math.nan
    i = int(below[0])
    high, low = math.log(c[i - 1]), math.log(max(c[i], 1e-12))
    return float(r[i - 1] + (r[i] - r[i - 1]) * (high + 1) / (high - low))


def length_of(s: ArrayLike, torus: bool = False) -> float:
    """xi of s (B, h, w) in patches: `correlation_length` of its `correlation`."""
    return correlation_length(*correlation(s, torus))


def kept(before: ArrayLike, after: ArrayLike) -> Array:
    """1.0 where an image's attribute is what it was, else 0.0;
    attributes as integers or words, (B, ...) each."""
    return (np.asarray(before) == np.asarray(after)).astype(float)


def chance(labels: ArrayLike) -> float:
    """P(kept) where nothing is left of the start: the sum of the squared frequencies of `labels`."""
    _, counts = np.unique(np.asarray(labels), return_counts=True)
    return float(((counts / counts.sum()) ** 2).sum())
