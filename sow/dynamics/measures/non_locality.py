"""Where a local denoiser fails: the same network on a window of radius l (arXiv 2508.06614, 2605.04830).

Notation (beside that of `levels`)
    l         radius in pixels of the state: an output sees the inputs at most l rows and l columns away
    D_l       D on that window, read at the window's centre; windows end at the border of the state
    e_l       E |D - D_l|^2 / E |D|^2 over images and positions, non-locality: 0 where l is enough

A window that ends at the state's border ends as the state does, so a convolutional D of radius R gives e_l =
0 for every l >= R, exactly, and not before.

What differs from the sources: they train a denoiser for each size of its window and compare losses, or ask
when trajectories of a restricted transformer go wrong; here one network is used as it is. A network whose
windows are smaller than anything it was trained on may fail for that reason too: compare with e_l at high and
at low noise, where locality ought to hold, before reading a peak as a transition.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from sow.dynamics.measures.levels import Condition, Denoise

Positions = Sequence[tuple[int, int]]


def local(
    denoise: Denoise,
    x: Tensor,
    level: float,
    condition: Condition,
    radius: int,
    positions: Positions,
    batch: int = 256,
) -> Tensor:
    """D_l at `positions`, (B, P, C), for states `x` (B, C, h, w);
    at most about `batch` windows share a call."""
    height, width = x.shape[-2:]
    by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    spans = []
    for index, (row, column) in enumerate(positions):
        span = (*_span(row, radius, height), *_span(column, radius, width))
        spans.append(span)
        by_size[span[1] - span[0], span[3] - span[2]].append(index)
    out = x.new_empty((len(x), len(positions), x.shape[1]))
    together = max(1, batch // len(x))
    for indices in by_size.values():
        for start in range(0, len(indices), together):
            part = indices[start : start + together]
            windows = [
                x[..., top:bottom, left:right] for top, bottom, left, right in (spans[i] for i in part)
            ]
            with torch.no_grad():
                answer = denoise(torch.cat(windows), level, repeated(condition, len(part)))
            for i, own in zip(part, answer.split(len(x)), strict=True):
                out[:, i] = own[..., positions[i][0] - spans[i][0], positions[i][1] - spans[i][2]]
    return out


def energies(
    denoise: Denoise,
    x: Tensor,
    level: float,
    condition: Condition,
    radii: Sequence[int],
    positions: Positions,
    batch: int = 256,
) -> tuple[Tensor, Tensor]:
    """(|D - D_l|^2 per image and radius (B, R), |D|^2 per image (B,)),
    means over positions, summed over channels."""
    rows, columns = zip(*positions, strict=True)
    with torch.no_grad():
        full = denoise(x, level, condition)[:, :, list(rows), list(columns)].transpose(1, 2)
    gaps = [
        ((full - local(denoise, x, level, condition, radius, positions, batch)) ** 2).sum(2).mean(1)
        for radius in radii
    ]
    return torch.stack(gaps, 1), (full**2).sum(2).mean(1)


def non_locality(gaps: ArrayLike, size: ArrayLike) -> np.ndarray:
    """e_l (R,) from the two energies of `energies`: a ratio of means over images."""
    return np.asarray(gaps, float).mean(0) / np.asarray(size, float).mean()


def radius_of(radii: Sequence[int], errors: ArrayLike, tolerance: float) -> int | None:
    """The smallest radius from which on e_l stays at or below `tolerance`;
    None where the largest is not enough."""
    order = np.argsort(radii)
    enough: int | None = None
    for i in order[::-1]:
        if not np.asarray(errors, float)[i] <= tolerance:
            break
        enough = int(radii[i])
    return enough


def repeated(condition: Condition, times: int) -> Condition:
    """The condition of a batch for `times` batches one after another."""
    if condition is None:
        return None
    return torch.cat([condition] * times) if isinstance(condition, Tensor) else list(condition) * times


def _span(middle: int, radius: int, size: int) -> tuple[int, int]:
    return max(0, middle - radius), min(size, middle + radius + 1)
