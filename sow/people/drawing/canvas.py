"""Anti-aliased drawing in unit coordinates: one RGBA raster whose alpha channel marks the figure."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Color = tuple[float, float, float]

_SHIFT = 4  # fractional bits of OpenCV's fixed-point coordinates
_STEPS = np.linspace(0.0, 1.0, 6, endpoint=False)[:, None]
# Catmull-Rom basis: rows are steps within a segment, columns the four control points.
_BASIS = 0.5 * np.hstack(
    [
        -_STEPS + 2 * _STEPS**2 - _STEPS**3,
        2 - 5 * _STEPS**2 + 3 * _STEPS**3,
        _STEPS + 4 * _STEPS**2 - 3 * _STEPS**3,
        -(_STEPS**2) + _STEPS**3,
    ]
)
_ANGLES = np.linspace(0.0, 2 * np.pi, 28, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


def smooth(points: object, closed: bool = True) -> Points:
    """Catmull-Rom curve through control points (k, 2), six samples a segment."""
    p = np.asarray(points, dtype=np.float64)
    return _spline(len(p), closed) @ p


@cache
def _spline(k: int, closed: bool) -> Points:
    """The matrix from k control points to the curve's samples."""
    segments = k if closed else k - 1
    out = np.zeros((6 * segments + (not closed), k))
    for i in range(segments):
        for j in range(4):
            at = (i + j - 1) % k if closed else min(max(i + j - 1, 0), k - 1)
            out[6 * i : 6 * i + 6, at] += _BASIS[:, j]
    if not closed:
        out[-1, -1] = 1.0
    return out


def ellipse_points(x: float, y: float, rx: float, ry: float) -> Points:
    """Outline (28, 2) of an axis-aligned ellipse."""
    return _CIRCLE * (rx, ry) + (x, y)


def outline_stroke(
    points: Points, start: float, end: float | None = None, middle: float | None = None
) -> Points:
    """Polygon of a stroke along an open curve (k, 2), with widths at its start, middle and end."""
    end = start if end is None else end
    k = len(points)
    t = _ramp(k)
    if middle is None:
        width = start + (end - start) * t
    else:
        width = np.interp(t, (0.0, 0.5, 1.0), (start, middle, end))
    tangent = np.empty_like(points)
    np.subtract(points[2:], points[:-2], out=tangent[1:-1])
    np.subtract(points[1], points[0], out=tangent[0])
    np.subtract(points[-1], points[-2], out=tangent[-1])
    scale = 0.5 * width / (np.hypot(tangent[:, 0], tangent[:, 1]) + 1e-9)
    out = np.empty((2 * k, 2))
    nx, ny = -tangent[:, 1] * scale, tangent[:, 0] * scale
    out[:k, 0], out[:k, 1] = points[:, 0] + nx, points[:, 1] + ny
    out[: k - 1 : -1, 0], out[: k - 1 : -1, 1] = points[:, 0] - nx, points[:, 1] - ny
    return out


@cache
def _ramp(count: int) -> Points:
    return np.linspace(0.0, 1.0, count)


def mix(a: Color, b: Color, t: float) -> Color:
    """Linear blend of two colours, t = 0 gives a."""
    return (
        a[0] + (b[0] - a[0]) * t,
        a[1] + (b[1] - a[1]) * t,
        a[2] + (b[2] - a[2]) * t,
    )


def shade(color: Color, gain: float) -> Color:
    """The colour times a gain, clipped to [0, 255]."""
    return (
        min(color[0] * gain, 255.0),
        min(color[1] * gain, 255.0),
        min(color[2] * gain, 255.0),
    )


class Frame:
    """Similarity from local coordinates (head heights) to the unit canvas: rotate, scale, move."""

    def __init__(self, x: float, y: float, scale: float, angle: float = 0.0) -> None:
        c, s = np.cos(angle) * scale, np.sin(angle) * scale
        self.scale = scale
        self.matrix = np.array([[c, s], [-s, c]])  # row vectors times this matrix
        self.origin = np.array([x, y])

    def __call__(self, points: object) -> Points:
        return np.asarray(points, dtype=np.float64) @ self.matrix + self.origin


class Canvas:
    """A square RGBA raster drawn on in unit coordinates; `label` is the alpha that polygons leave behind."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pixels = np.zeros((size, size, 4), np.uint8)
        self.label = 0.0
        self.track: list[Points] | None = None
        self.erase: NDArray[np.uint8] | None = None

    def to_pixels(self, points: Points) -> NDArray[np.int32]:
        """Fixed-point pixel coordinates of unit points; pixel centres lie at half-integers."""
        return np.floor(points * (self.size << _SHIFT) - (0.5 * (1 << _SHIFT) - 0.5)).astype(np.int32)

    def poly(self, points: Points, color: Color) -> None:
        """Fill one polygon (k, 2); it is remembered in `track` and cut out of `erase` where those are set."""
        fixed = self.to_pixels(points)
        cv2.fillPoly(self.pixels, [fixed], (*color, self.label), cv2.LINE_AA, _SHIFT)
        if self.track is not None:
            self.track.append(points)
        if self.erase is not None:
            cv2.fillPoly(self.erase, [fixed], 0, cv2.LINE_AA, _SHIFT)

    def polys(self, many: list[Points], color: Color) -> None:
        """Fill polygons of one colour (overlaps inside one call cancel, so pass disjoint ones)."""
        fixed = [self.to_pixels(p) for p in many]
        cv2.fillPoly(self.pixels, fixed, (*color, self.label), cv2.LINE_AA, _SHIFT)

    def rect(self, x0: float, y0: float, x1: float, y1: float, color: Color) -> None:
        """Fill an axis-aligned rectangle."""
        self.poly(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]), color)

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: Color) -> None:
        """Fill an axis-aligned ellipse."""
        self.poly(ellipse_points(x, y, rx, ry), color)

    def stroke(self, points: Points, color: Color, width: float, end: float | None = None) -> None:
        """Draw an open curve with a width in canvas units."""
        self.poly(outline_stroke(points, width, end), color)

    def mask(self, points: Points) -> NDArray[np.uint8]:
        """A coverage mask (size, size) of one polygon, 0 to 255."""
        out = np.zeros((self.size, self.size), np.uint8)
        cv2.fillPoly(out, [self.to_pixels(points)], 255, cv2.LINE_AA, _SHIFT)
        return out

    def gradient(self, y0: float, y1: float, top: Color, bottom: Color) -> None:
        """Fill the rows from y0 to y1 with a vertical gradient."""
        a, b = max(round(y0 * self.size), 0), min(round(y1 * self.size), self.size)
        if b <= a:
            return
        t = ((np.arange(a, b) + 0.5) / self.size - y0) / max(y1 - y0, 1e-6)
        rows = np.zeros((b - a, 1, 4))
        rows[:, 0, :3] = np.asarray(top) + np.clip(t, 0, 1)[:, None] * (np.asarray(bottom) - np.asarray(top))
        # whole RGBA pixels copy as 32-bit words, faster than three channels; scenes have label 0
        words = rows.round().astype(np.uint8).view(np.uint32)[:, :, 0]
        self.pixels.view(np.uint32)[a:b, :, 0] = words

    def window(self, points: Points, pad: float = 0.0) -> tuple[int, int, int, int]:
        """Pixel bounds (x0, y0, x1, y1) of unit points, padded and clipped to the canvas."""
        low = np.floor((points.min(0) - pad) * self.size).astype(int)
        high = np.ceil((points.max(0) + pad) * self.size).astype(int)
        x0, y0 = np.clip(low, 0, self.size)
        x1, y1 = np.clip(high, 0, self.size)
        return int(x0), int(y0), int(x1), int(y1)

    def glow(self, x: float, y: float, radius: float, color: Color, strength: float) -> None:
        """Blend a soft round light towards a colour."""
        bounds = self.window(np.array([(x - radius, y - radius), (x + radius, y + radius)]))
        x0, y0, x1, y1 = bounds
        if x1 <= x0 or y1 <= y0:
            return
        u = ((np.arange(x0, x1) + 0.5) / self.size - x) / radius
        v = ((np.arange(y0, y1) + 0.5) / self.size - y) / radius
        weight = np.clip(1 - u[None, :] ** 2 - v[:, None] ** 2, 0, 1) ** 2 * strength
        region = self.pixels[y0:y1, x0:x1, :3]
        blended = region + weight[..., None] * (np.asarray(color) - region)
        self.pixels[y0:y1, x0:x1, :3] = blended.astype(np.uint8)
