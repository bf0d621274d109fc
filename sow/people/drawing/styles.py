"""The two drawing styles applied to a finished picture."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

_GRAIN = np.random.default_rng(11).normal(0, 1, (3, 256, 256)).astype(np.float32)
_FLOW = cv2.GaussianBlur(np.stack((_GRAIN[0], _GRAIN[1]), -1), (0, 0), 2.6)
_FLOW /= _FLOW.std()
_PAPER = cv2.GaussianBlur(_GRAIN[2], (0, 0), 0.8)
_PAPER /= _PAPER.std()


def _at(tile: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    return tile if size == tile.shape[0] else cv2.resize(tile, (size, size), interpolation=cv2.INTER_LINEAR)


def apply_style(image: Image, style: str) -> Image:
    """The picture (H, W, 3) redrawn in a style; "photo" returns it unchanged."""
    return _STYLES[style](image) if style in _STYLES else image


def _pencil(image: Image) -> Image:
    size = image.shape[0]
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    blurred = cv2.GaussianBlur(gray, (0, 0), size * 0.014)
    lines = cv2.divide(gray, blurred, scale=250)
    tone = 150 + 0.42 * gray.astype(np.float32)
    sketch = lines.astype(np.float32) * tone * (1 / 255) + 5.0 * _at(_PAPER, size)
    return cv2.merge([np.clip(sketch, 0, 255).astype(np.uint8)] * 3)


def _oil(image: Image) -> Image:
    size = image.shape[0]
    flow = _at(_FLOW, size) * (size * 0.0038)
    grid = np.arange(size, dtype=np.float32)
    moved = cv2.remap(
        image,
        flow[..., 0] + grid[None, :],
        flow[..., 1] + grid[:, None],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    moved = cv2.medianBlur(moved, max(3, int(size / 256 * 5) | 1))
    hsv = cv2.cvtColor(moved, cv2.COLOR_RGB2HSV)
    hsv[..., 1] = cv2.multiply(hsv[..., 1], 1.35)
    moved = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    relief = np.roll(flow[..., 0], 1, 0) - flow[..., 0] + np.roll(flow[..., 1], 1, 1) - flow[..., 1]
    return np.clip(moved + 11.0 * (relief / relief.std())[..., None] * 0.6, 0, 255).astype(np.uint8)


_STYLES = {
    "pencil sketch": _pencil,
    "oil painting": _oil,
}
