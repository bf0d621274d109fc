"""Built backgrounds: street, night city, car show, library, kitchen and hall, in unit coordinates."""

from __future__ import annotations

import numpy as np

from sow.people.drawing.canvas import Canvas, Color, mix, shade
from sow.people.drawing.nature import hills


def _windows(
    canvas: Canvas,
    box: tuple[float, float, float, float],
    n: tuple[int, int],
    color: Color,
) -> None:
    x0, y0, x1, y1 = box
    columns, rows = n
    w, h = (x1 - x0) / columns, (y1 - y0) / rows
    cells = []
    for i in range(columns):
        for j in range(rows):
            x, y = x0 + (i + 0.25) * w, y0 + (j + 0.25) * h
            cells.append(
                np.array(
                    [
                        (x, y),
                        (x + 0.5 * w, y),
                        (x + 0.5 * w, y + 0.55 * h),
                        (x, y + 0.55 * h),
                    ]
                )
            )
    canvas.polys(cells, color)


def street(canvas: Canvas, rng: np.random.Generator) -> None:
    """House fronts, a pavement, a road, a lamp and often a car."""
    canvas.gradient(0, 0.6, (150, 186, 220), (226, 232, 236))
    walls = (
        (178, 100, 78),
        (202, 180, 146),
        (134, 140, 150),
        (210, 148, 100),
        (160, 160, 130),
    )
    x = -0.05
    while x < 1.0:
        w, h = 0.13 + 0.12 * rng.uniform(), 0.36 + 0.3 * rng.uniform()
        color = walls[int(rng.integers(len(walls)))]
        canvas.rect(x, 0.72 - h, x + w, 0.72, color)
        canvas.rect(x + 0.85 * w, 0.72 - h, x + w, 0.72, shade(color, 0.78))
        _windows(canvas, (x, 0.73 - h, x + 0.86 * w, 0.62), (3, 4), (82, 104, 130))
        canvas.rect(x + 0.1 * w, 0.63, x + 0.75 * w, 0.72, shade(color, 0.5))
        x += w
    canvas.gradient(0.72, 0.8, (188, 186, 180), (170, 168, 164))
    canvas.gradient(0.8, 1, (92, 92, 98), (70, 70, 76))
    for i in range(4):
        canvas.poly(
            np.array(
                [
                    (0.3 * i, 0.9),
                    (0.3 * i + 0.14, 0.9),
                    (0.3 * i + 0.13, 0.93),
                    (0.3 * i - 0.02, 0.93),
                ]
            ),
            (230, 226, 200),
        )
    if rng.uniform() < 0.7:
        _car(
            canvas,
            0.1 + 0.8 * rng.uniform(),
            0.84,
            0.3,
            _CAR_COLORS[int(rng.integers(len(_CAR_COLORS)))],
        )
    lamp = 0.06 + 0.88 * rng.uniform()
    canvas.rect(lamp - 0.007, 0.28, lamp + 0.007, 0.78, (52, 56, 60))
    canvas.ellipse(lamp, 0.27, 0.025, 0.03, (250, 240, 200))


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


def library(canvas: Canvas, rng: np.random.Generator) -> None:
    """Five shelves of books."""
    canvas.gradient(0, 1, (92, 60, 36), (66, 42, 26))
    rows = 5
    palette = np.array(
        [
            (150, 44, 40),
            (40, 74, 120),
            (60, 104, 66),
            (196, 160, 80),
            (110, 66, 110),
            (206, 196, 176),
            (70, 56, 50),
        ],
        float,
    )
    for r in range(rows):
        y0, y1 = 0.02 + 0.19 * r, 0.02 + 0.19 * (r + 1)
        canvas.rect(0, y0, 1, y1 - 0.02, (40, 26, 18))
        x = -0.01
        widths, tops, picks = (
            rng.uniform(0.022, 0.045, 34),
            rng.uniform(0, 0.045, 34),
            rng.integers(0, 7, 34),
        )
        for w, top, pick in zip(widths, tops, picks, strict=True):
            if x > 1:
                break
            color = tuple(palette[pick])
            canvas.rect(x, y0 + 0.02 + top, x + w - 0.004, y1 - 0.02, color)
            x += w
        canvas.rect(0, y1 - 0.022, 1, y1, (140, 94, 56))
    for x in (0.02 + 0.1 * rng.uniform(), 0.5, 0.9 + 0.08 * rng.uniform()):
        canvas.rect(x - 0.018, 0, x + 0.018, 0.97, (124, 82, 48))
    canvas.gradient(0.95, 1, (150, 104, 64), (110, 74, 44))


def kitchen(canvas: Canvas, rng: np.random.Generator) -> None:
    """Cupboards, tiles, a window and jars."""
    wall = ((238, 226, 196), (206, 226, 220), (240, 216, 206))[int(rng.integers(3))]
    cupboard = ((240, 240, 236), (128, 160, 150), (176, 124, 80))[int(rng.integers(3))]
    canvas.gradient(0, 1, wall, shade(wall, 0.9))
    lines = [
        np.array([(x, 0.34), (x + 0.004, 0.34), (x + 0.004, 0.64), (x, 0.64)])
        for x in np.arange(0.02, 1, 0.08)
    ]
    canvas.polys(lines, shade(wall, 0.8))
    for y in (0.42, 0.5, 0.58):
        canvas.rect(0, y, 1, y + 0.004, shade(wall, 0.8))
    window = 0.3 + 0.4 * rng.uniform()
    for i in range(5):
        x = 0.2 * i
        canvas.rect(x + 0.006, 0.0, x + 0.194, 0.3, cupboard)
        canvas.rect(x + 0.03, 0.03, x + 0.17, 0.27, shade(cupboard, 0.9))
        canvas.ellipse(x + 0.16, 0.24, 0.01, 0.01, (90, 80, 70))
    canvas.rect(window - 0.14, 0.02, window + 0.14, 0.46, (250, 250, 246))
    canvas.rect(window - 0.12, 0.04, window - 0.01, 0.44, (170, 214, 240))
    canvas.rect(window + 0.01, 0.04, window + 0.12, 0.44, (180, 220, 242))
    canvas.rect(0, 0.64, 1, 0.69, (92, 84, 80))
    for i in range(4):
        x = 0.25 * i
        canvas.rect(x, 0.69, x + 0.25, 1, cupboard)
        canvas.rect(x + 0.02, 0.72, x + 0.23, 0.98, shade(cupboard, 0.88))
        canvas.rect(x + 0.09, 0.74, x + 0.16, 0.75, (90, 80, 70))
    for x, k in rng.uniform(size=(4, 2)):
        color = ((196, 60, 50), (60, 96, 150), (220, 170, 60), (110, 150, 80))[int(4 * k) % 4]
        canvas.rect(x - 0.03, 0.55, x + 0.03, 0.64, color)
        canvas.ellipse(x, 0.55, 0.03, 0.012, shade(color, 1.25))


def night_city(canvas: Canvas, rng: np.random.Generator) -> None:
    """Lit windows under a moon."""
    canvas.gradient(0, 0.8, (12, 14, 44), (70, 52, 108))
    for x, y in rng.uniform(size=(14, 2)):
        canvas.rect(x, 0.4 * y, x + 0.006, 0.4 * y + 0.006, (230, 230, 250))
    canvas.ellipse(0.12 + 0.76 * rng.uniform(), 0.13, 0.055, 0.055, (246, 240, 210))
    for depth in range(2):
        tone = mix((38, 36, 74), (20, 20, 38), depth)
        x = -0.04
        while x < 1:
            w, h = 0.1 + 0.1 * rng.uniform(), 0.3 + 0.34 * rng.uniform() - 0.12 * depth
            canvas.rect(x, 0.86 - h, x + w, 0.9, tone)
            lit = ((250, 214, 120), (255, 170, 90), (150, 210, 250))[int(rng.integers(3))]
            _windows(
                canvas,
                (x, 0.87 - h, x + w, 0.85),
                (3, 5 - depth),
                shade(lit, 0.55 + 0.45 * depth),
            )
            x += w + 0.01
    canvas.gradient(0.84, 1, (34, 30, 56), (18, 18, 30))
    for x, k in rng.uniform(size=(5, 2)):
        canvas.glow(
            x,
            0.84 + 0.1 * k,
            0.09,
            ((255, 120, 90), (255, 220, 130), (120, 200, 255))[int(3 * k)],
            0.75,
        )


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
