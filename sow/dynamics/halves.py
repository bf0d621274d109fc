"""Two sources on one canvas: layouts of halves, their merge,
and what the quadrants of the result look like (Fig. 4)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LAYOUTS = {  # what lies where: the half of the first source, then of the second
    "top_bottom": "first above second",
    "bottom_top": "second above first",
    "left_right": "first left of second",
    "right_left": "second left of first",
}
QUADRANTS = ("upper_left", "upper_right", "lower_left", "lower_right")


def first_half(layout: str, height: int, width: int) -> Tensor:
    """(h, w) bool: where the first source lies. Raises KeyError for an unknown layout."""
    if layout not in LAYOUTS:
        raise KeyError(layout)
    out = torch.zeros((height, width), dtype=torch.bool)
    if layout in ("top_bottom", "bottom_top"):
        out[: height // 2] = True
    else:
        out[:, : width // 2] = True
    return ~out if layout in ("bottom_top", "right_left") else out


def quadrant(name: str, height: int, width: int) -> Tensor:
    """(h, w) bool: one of the four quadrants."""
    vertical, _, horizontal = name.partition("_")
    out = torch.zeros((height, width), dtype=torch.bool)
    rows = slice(0, height // 2) if vertical == "upper" else slice(height // 2, height)
    columns = slice(0, width // 2) if horizontal == "left" else slice(width // 2, width)
    out[rows, columns] = True
    return out


def merge_halves(first: Tensor, second: Tensor, layout: str) -> Tensor:
    """`first` and `second` (..., h, w), each in its half."""
    where = first_half(layout, *first.shape[-2:]).to(first.device)
    return torch.where(where, first, second)


def mean_color(picture: NDArray[np.float64], where: Tensor) -> NDArray[np.float64]:
    """Mean colour (3,) of a picture (H, W, 3) inside `where` (H, W)."""
    return picture[where.numpy()].mean(0)


def color_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Root mean square over the channels of the difference of two colours,
    in gray levels 0..255 (white to 128: 127)."""
    return float(np.sqrt(np.mean((np.asarray(a) - b) ** 2)))


def contrast(picture: NDArray[np.float64], layout: str) -> float:
    """Distance of the mean colours of the two halves of a picture (H, W, 3), in gray levels."""
    where = first_half(layout, *picture.shape[:2])
    return color_distance(mean_color(picture, where), mean_color(picture, ~where))


def share_kept(color: NDArray[np.float64], own: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Where `color` lies on the line from `other` (0) to `own` (1); beyond either end it is below 0 or above
    1.

    nan where both ends are the same colour.
    """
    line = np.asarray(own) - other
    length = float(line @ line)
    return float((np.asarray(color) - other) @ line) / length if length > 0 else float("nan")
