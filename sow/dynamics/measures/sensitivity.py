"""How far a denoiser looks, and which way influence flows, by vector-Jacobian products (arXiv 2509.09672).

Notation (beside that of `levels`)
    J_ij      sqrt(sum over channel pairs of (dD_i / dx_j)^2), i a pixel of the output and j one of the input
    r_eff     sum r J / sum J, the reach of a denoiser in pixels, r the distance between i and j
    W         sqrt(a) C (a C + (1 - a) 1)^-1, the Wiener filter of data with covariance C: the best linear
              denoiser
    c, nc     a region and its complement; J(c -> nc)^2 = sum over i in nc, j in c of J_ij^2, and the other
              way round
    w         (J(c -> nc)^2 - J(nc -> c)^2) / (their sum), one-wayness in [-1, 1]

The Jacobian of an exact posterior mean is sqrt(a) / (1 - a) times the covariance of x_0 given x, so it is
symmetric: w is 0 for any region of any exact denoiser, W included. One-wayness therefore measures what a
method does to a denoiser, or what a trained one lacks to be exact, and never the data.

What differs from the source: it shows the mean gradient of single outputs; here J takes all channels
together, as a norm, and the reach is one number. One-wayness is not the source's. The squared norms of whole
blocks come from random probes v with E v v' = 1 (|J' v|^2 has mean |J|^2), rows of J from one product per
channel, without any error of drawing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sow.dynamics.measures.levels import Condition, Denoise, alpha_of

Positions = Sequence[tuple[int, int]]


def fields(denoise: Denoise, x: Tensor, level: float, condition: Condition, positions: Positions) -> Tensor:
    """J from every input pixel to the outputs at `positions`, (B, P, h, w), for states `x` (B, C, h, w).

    One backward pass per position and channel, on one forward pass.
    """
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        out = denoise(x, level, condition)
    rows = []
    for row, column in positions:
        square = torch.zeros_like(x[:, 0])
        for channel in range(x.shape[1]):
            probe = torch.zeros_like(out)
            probe[:, channel, row, column] = 1
            square += (_pulled_back(out, x, probe) ** 2).sum(1)
        rows.append(square.sqrt())
    return torch.stack(rows, 1)


def wiener_fields(data: Tensor, level: float, positions: Positions) -> Tensor:
    """J of the Wiener filter of `data` (n, C, h, w) at `positions`, (P, h, w): what second moments alone
    would look at.

    Covariances that the sample cannot know act as small far entries, and lengthen the reach: keep n well
    above C h w, or compare denoisers at equal n.
    """
    count, channels, height, width = data.shape
    flat = (data - data.mean(0)).flatten(1)
    _, size, directions = torch.linalg.svd(flat, full_matrices=False)
    variance, alpha = size**2 / (count - 1), alpha_of(level)
    gain = alpha**0.5 * variance / (alpha * variance + 1 - alpha)
    rows = []
    for row, column in positions:
        own = [channel * height * width + row * width + column for channel in range(channels)]
        block = (directions[:, own].T * gain) @ directions
        rows.append((block**2).sum(0).reshape(channels, height, width).sum(0).sqrt())
    return torch.stack(rows)


def reach(field: Tensor, positions: Positions, torus: bool = False) -> Tensor:
    """r_eff per image, (B,), of fields (B, P, h, w); all positions together.

    `torus` measures across the borders.
    """
    height, width = field.shape[-2:]
    distance = torch.stack([_distances(height, width, *place, torus) for place in positions]).to(field)
    return (distance * field).sum((1, 2, 3)) / field.sum((1, 2, 3))


def profile(field: Tensor, positions: Positions, torus: bool = False) -> Tensor:
    """Mean J at distances 0, 1, ... (rounded) per image, (B, R),
    of fields (B, P, h, w); nan where no pair lies."""
    height, width = field.shape[-2:]
    place = torch.stack([_distances(height, width, *p, torus) for p in positions]).round().long()
    size = int(place.max()) + 1
    total = field.new_zeros((len(field), size)).index_add_(1, place.flatten(), field.flatten(1))
    return total / torch.bincount(place.flatten(), minlength=size).to(field)


def between(
    denoise: Denoise, x: Tensor, level: float, condition: Condition, region: Tensor, probes: Tensor
) -> tuple[Tensor, Tensor]:
    """(J(c -> nc)^2, J(nc -> c)^2) per image, (B,) each, c the `region` (h, w) or (B, 1, h, w), bool.

    `probes` (P, B, C, h, w): standard normal or random signs; the mean over P is unbiased for every P. Two
    backward passes per probe, on one forward pass.
    """
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        out = denoise(x, level, condition)
    inside = region.to(x).expand(len(x), 1, *x.shape[-2:])
    forth, back = x.new_zeros(len(x)), x.new_zeros(len(x))
    for probe in probes:
        forth += ((_pulled_back(out, x, probe * (1 - inside)) * inside) ** 2).sum((1, 2, 3))
        back += ((_pulled_back(out, x, probe * inside) * (1 - inside)) ** 2).sum((1, 2, 3))
    return forth / len(probes), back / len(probes)


def one_wayness(forth: Tensor, back: Tensor) -> Tensor:
    """w in [-1, 1] of the energies of `between`:
    1 where the region acts on the rest and the rest never on it."""
    return (forth - back) / (forth + back)


def _pulled_back(out: Tensor, x: Tensor, probe: Tensor) -> Tensor:
    return torch.autograd.grad(out, x, probe, retain_graph=True)[0]


def _distances(height: int, width: int, row: int, column: int, torus: bool) -> Tensor:
    rows, columns = (torch.arange(height) - row).abs(), (torch.arange(width) - column).abs()
    if torus:
        rows, columns = torch.minimum(rows, height - rows), torch.minimum(columns, width - columns)
    return torch.hypot(rows[:, None].double(), columns[None].double())
