"""Diffusion in diffusion (Fig. 4): inverted sources merged half and half at x_k, denoised,
and read off by quadrant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sow.dynamics.halves import (
    QUADRANTS,
    color_distance,
    contrast,
    first_half,
    mean_color,
    merge_halves,
    quadrant,
    share_kept,
)
from sow.dynamics.steering import Steering
from sow.dynamics.trajectory import Trajectory

Pictures = dict[int, NDArray[np.float64]]


def merged_runs(
    trajectory: Trajectory,
    states: Sequence[Tensor],
    layouts: Sequence[str],
    steering: Steering | None = None,
) -> Pictures:
    """For every k = 0 .. K the pictures (layouts, H, W, 3) of x_k merged half and half and denoised.

    `states` x_0 .. x_K, each (2, C, h, w): the first and the second source, inverted. Nothing is denoised at
    k = 0: what is mixed there is mixed by the decoder.
    """
    starts = {
        k: torch.stack([merge_halves(x[0], x[1], layout) for layout in layouts]) for k, x in enumerate(states)
    }
    return {k: trajectory.pixels(x) for k, x in trajectory.denoise_each(starts, steering=steering).items()}


def unmerged_runs(trajectory: Trajectory, states: Sequence[Tensor], layouts: Sequence[str]) -> Pictures:
    """The same pictures when each source is denoised on its own and only the finished pictures are merged.

    What they lack of the sources' contrast is lost by the autoencoder and the inversion, not by mixing.
    """
    found = trajectory.denoise_each(dict(enumerate(states)))
    out = {}
    for k, x in found.items():
        first, second = torch.from_numpy(trajectory.pixels(x)).permute(0, 3, 1, 2)
        both = torch.stack([merge_halves(first, second, layout) for layout in layouts])
        out[k] = both.permute(0, 2, 3, 1).numpy()
    return out


def corner_steering(latent_size: tuple[int, int], strength: float, device: Any) -> Steering:
    """Row (b) of Fig. 4: the upper right quarter's attention to the lower left quarter, lifted."""
    upper_right, lower_left = (quadrant(n, *latent_size) for n in ("upper_right", "lower_left"))
    return Steering(upper_right, lower_left, strength, device)


def corner_isolation(latent_size: tuple[int, int], strength: float | None, device: Any) -> Steering:
    """Row (c) of Fig. 4: the upper right quarter's attention to everything else suppressed;
    None cuts it off."""
    upper_right = quadrant("upper_right", *latent_size)
    return Steering(upper_right, upper_right, strength, device)


def measure(
    picture: NDArray[np.float64], layout: str, sources: NDArray[np.float64]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Numbers of one merged picture (H, W, 3), and one row per quadrant; `sources` (2, H, W, 3), gray levels
    0..255.

    contrast                    distance of the mean colours of the halves (see `color_distance`)
    contrast_kept, mixing       its share of the sources' own, and one minus that
    upper_right_to_lower_left   distance of the upper right quarter's mean colour to the lower left's *source*
                                colour
    upper_right_kept            1: the upper right has its own source's colour, 0: the lower left's source's
    """
    height, width = picture.shape[:2]
    where = first_half(layout, height, width)
    source = np.where(where.numpy()[..., None], sources[0], sources[1])
    masks = {name: quadrant(name, height, width) for name in QUADRANTS}
    colors = {name: mean_color(picture, mask) for name, mask in masks.items()}
    own = {name: mean_color(source, mask) for name, mask in masks.items()}
    original, now = contrast(source, layout), contrast(picture, layout)
    kept = now / original if original > 0 else float("nan")
    numbers = {
        "contrast": now,
        "contrast_kept": kept,
        "mixing": 1 - kept,
        "upper_right_to_lower_left": color_distance(colors["upper_right"], own["lower_left"]),
        "upper_right_kept": share_kept(colors["upper_right"], own["upper_right"], own["lower_left"]),
    }
    rows = [
        {
            "quadrant": name,
            "source": "first" if bool(where[masks[name]][0]) else "second",
            **dict(zip(("red", "green", "blue"), (float(c) for c in colors[name]), strict=True)),
            "to_own_source": color_distance(colors[name], own[name]),
            "to_lower_left_source": color_distance(colors[name], own["lower_left"]),
            "pixels_to_own_source": float(np.sqrt(np.mean((picture - source)[masks[name].numpy()] ** 2))),
        }
        for name in QUADRANTS
    ]
    return numbers, rows


def mean_by_k(rows: Sequence[Mapping[str, Any]], row: str, column: str) -> tuple[list[int], list[float]]:
    """The k of a row of Fig. 4, ascending, and the mean of a column over the layouts."""
    ks = sorted({r["k"] for r in rows if r["row"] == row})
    return ks, [float(np.mean([r[column] for r in rows if r["row"] == row and r["k"] == k])) for k in ks]
