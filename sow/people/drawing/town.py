"""Built backgrounds: hall and car show, in unit coordinates."""

from __future__ import annotations

import numpy as np

from sow.people.drawing.canvas import Canvas, Color
from sow.people.drawing.nature import hills

_CAR_COLORS: tuple[Color, ...] = (
    (196, 40, 44),
    (56, 120, 190),
    (70, 160, 130),
    (236, 214, 150),
    (236, 150, 60),
)


def _car(canvas: Canvas, x: float, y: float, w: float, color: Color) -> None:
    h = 0.36 * w
    body = [
        (-0.5, -0.1),
        (-0.48, -0.5),
        (-0.28, -0.58),
        (-0.18, -0.98),
        (0.14, -1.0),
        (0.28, -0.6),
        (0.48, -0.46),
        (0.5, -0.1),
    ]
    canvas.poly(np.array(body) * (w, h) + (x, y), color)
    canvas.poly(
        np.array([(-0.23, -0.6), (-0.15, -0.9), (-0.02, -0.9), (-0.02, -0.6)]) * (w, h) + (x, y),
        (190, 220, 236),
    )
    canvas.poly(
        np.array([(0.02, -0.6), (0.02, -0.9), (0.12, -0.9), (0.22, -0.6)]) * (w, h) + (x, y),
        (176, 208, 228),
    )
    canvas.rect(x - 0.5 * w, y - 0.3 * h, x + 0.5 * w, y - 0.22 * h, (224, 226, 230))
    for side in (-0.3, 0.3):
        canvas.ellipse(x + side * w, y - 0.06 * h, 0.1 * w, 0.1 * w, (30, 30, 34))
        canvas.ellipse(x + side * w, y - 0.06 * h, 0.055 * w, 0.055 * w, (206, 208, 212))
    canvas.ellipse(x + 0.47 * w, y - 0.36 * h, 0.025 * w, 0.03 * w, (255, 246, 200))


def hall(canvas: Canvas, rng: np.random.Generator) -> None:
    """Curtains, columns, a chandelier and a red carpet."""
    canvas.gradient(0, 0.74, (150, 40, 46), (116, 26, 36))
    for x in np.arange(0.05, 1.0, 0.1):
        canvas.rect(x, 0, x + 0.035, 0.74, (132, 32, 40))
    canvas.rect(0, 0, 1, 0.06, (222, 184, 96))
    canvas.gradient(0.74, 1, (178, 132, 84), (120, 80, 50))
    offset = 0.1 * rng.uniform()
    for x in (offset, offset + 0.3, offset + 0.6, offset + 0.9):
        canvas.rect(x - 0.045, 0.06, x + 0.045, 0.76, (232, 224, 206))
        canvas.rect(x + 0.015, 0.06, x + 0.045, 0.76, (206, 196, 176))
        canvas.rect(x - 0.06, 0.06, x + 0.06, 0.1, (240, 214, 140))
        canvas.rect(x - 0.06, 0.72, x + 0.06, 0.77, (240, 214, 140))
    cx = offset + 0.15 + 0.3 * int(rng.integers(3))
    canvas.rect(cx - 0.004, 0.0, cx + 0.004, 0.14, (200, 170, 90))
    canvas.poly(
        np.array([(cx - 0.1, 0.13), (cx + 0.1, 0.13), (cx + 0.04, 0.2), (cx - 0.04, 0.2)]),
        (246, 220, 150),
    )
    for i in range(5):
        canvas.glow(cx - 0.1 + 0.05 * i, 0.12, 0.05, (255, 250, 220), 0.95)
    carpet = 0.3 + 0.4 * rng.uniform()
    canvas.poly(
        np.array(
            [
                (carpet - 0.08, 0.76),
                (carpet + 0.08, 0.76),
                (carpet + 0.22, 1.02),
                (carpet - 0.22, 1.02),
            ]
        ),
        (170, 30, 44),
    )
    for x, y in rng.uniform(size=(3, 2)):
        canvas.ellipse(x, 0.84 + 0.1 * y, 0.09, 0.03, (246, 244, 240))
        canvas.rect(x - 0.085, 0.84 + 0.1 * y, x + 0.085, 0.9 + 0.1 * y, (226, 222, 216))


def car_show(canvas: Canvas, rng: np.random.Generator) -> None:
    """Vintage cars on a lawn under bunting."""
    canvas.gradient(0, 0.5, (130, 190, 236), (220, 236, 244))
    hills(canvas, rng, 0.5, 0.08, (108, 158, 92))
    canvas.gradient(0.5, 1, (132, 178, 96), (92, 140, 66))
    flags = ((222, 60, 56), (246, 206, 70), (70, 120, 200), (250, 250, 246))
    for i in range(14):
        x = i / 13
        y = 0.1 + 0.06 * abs(np.sin(3 * np.pi * x))
        canvas.poly(np.array([(x - 0.028, y), (x + 0.028, y), (x, y + 0.07)]), flags[i % 4])
    picks = rng.permutation(len(_CAR_COLORS))
    for i, (x, y) in enumerate(((0.16, 0.6), (0.56, 0.6), (0.95, 0.61), (0.3, 0.78), (0.82, 0.8))):
        dx = 0.08 * rng.uniform(-1, 1)
        _car(canvas, x + dx, y, 0.34 if i < 3 else 0.46, _CAR_COLORS[picks[i]])
