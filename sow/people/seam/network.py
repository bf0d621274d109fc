"""The seam classifier's network: one square around a condition, and where the condition lies in it.

Channels of its input: the picture in [-1, 1], 1 inside the picture and -1 outside, 1 inside the condition's
mask and -1 outside.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sow.people.judge.crops import crop, to_tensor
from sow.people.judge.network import convolution

VIEW = (1.4, 0.0)  # side of the square in the mask's longer sides, and how far its centre lies below
SIDE = 64  # pixels
WIDTHS = (16, 24, 32, 32, 48)
STRIDES = (2, 1, 2, 1, 2)


class SeamNetwork(nn.Module):
    """Five convolutions, then means and maxima over the places; 35,000 values."""

    def __init__(self) -> None:
        super().__init__()
        inputs = (5, *WIDTHS)
        self.layers = nn.Sequential(*(convolution(*c) for c in zip(inputs, WIDTHS, STRIDES, strict=False)))
        self.seam = nn.Linear(2 * WIDTHS[-1], 1)

    def forward(self, views: Tensor) -> Tensor:
        """Views (B, 5, SIDE, SIDE) -> logits (B,) of a composite."""
        x = self.layers(views)
        return self.seam(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))[:, 0]


def view(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """What the network sees, (SIDE, SIDE, 5) uint8, of a picture (H, W, 3) and a mask (H, W) with a pixel in
    it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    box = np.array([x, y, right - x, bottom - y], float)
    seen = crop(image, box, VIEW, SIDE)
    inside = crop(np.repeat(mask[..., None].astype(np.uint8) * 255, 3, 2), box, VIEW, SIDE)
    return np.concatenate([seen, np.minimum(inside[..., :1], seen[..., 3:])], -1)


def tensor(views: list[NDArray[np.uint8]]) -> Tensor:
    """Views as the network takes them, (B, 5, SIDE, SIDE) float32."""
    return to_tensor(views)
