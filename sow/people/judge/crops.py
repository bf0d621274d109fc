"""Pictures to the judge's inputs: letterboxed squares, crops around a face, uint8 arrays to tensors.

Boxes here are float arrays [x, y, w, h] in pixels of the square picture.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sow.people.judge.network import CROP, SIDE

Picture = NDArray[np.uint8]
GRAY = 128

# Side of the crop in face sizes (the larger of width and height), and how far its centre lies below the
# face's.
CLOSE = (1.3, -0.02)
FIGURE = (3.6, 0.75)


def letterbox(image: Picture, side: int = SIDE) -> tuple[Picture, float, tuple[int, int]]:
    """Fit an RGB picture (H, W, 3) into a gray square; returns it,
    the scale and the offset (x, y) of its corner."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if size != (width, height):
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    if size == (side, side):
        return image, scale, (0, 0)
    x, y = (side - size[0]) // 2, (side - size[1]) // 2
    square = np.full((side, side, 3), GRAY, np.uint8)
    square[y : y + size[1], x : x + size[0]] = image
    return square, scale, (x, y)


def crop(
    image: Picture,
    box: NDArray[np.float64],
    view: tuple[float, float],
    side: int = CROP,
) -> Picture:
    """A square view (side, side, 4) around a face box;
    the last channel is 255 inside the picture, 0 outside."""
    x, y, w, h = (float(v) for v in box)
    scale, drop = view
    size = max(w, h, 2.0)
    length = max(2, round(scale * size))
    left, top = (
        round(x + w / 2 - length / 2),
        round(y + h / 2 + drop * size - length / 2),
    )
    height, width = image.shape[:2]
    out = np.full((length, length, 4), GRAY, np.uint8)
    out[..., 3] = 0
    x0, y0 = max(0, left), max(0, top)
    x1, y1 = min(width, left + length), min(height, top + length)
    if x1 > x0 and y1 > y0:
        region = out[y0 - top : y1 - top, x0 - left : x1 - left]
        region[..., :3] = image[y0:y1, x0:x1]
        region[..., 3] = 255
    return cv2.resize(
        out,
        (side, side),
        interpolation=cv2.INTER_AREA if length > side else cv2.INTER_LINEAR,
    )


def to_tensor(pictures: list[Picture]) -> Tensor:
    """Pictures (h, w, C) uint8 -> (B, C, h, w) float32 in [-1, 1], channels last in memory."""
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return stacked.to(torch.float32).div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)


def iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of boxes (..., 4) given as x, y, w, h."""
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)
    return shared / np.maximum(np.prod(a[..., 2:], -1) + np.prod(b[..., 2:], -1) - shared, 1e-9)
