"""Outdoor backgrounds: forest, beach, mountains, river and savanna, in unit coordinates."""

from __future__ import annotations

import numpy as np

from sow.people.drawing.canvas import Canvas, Color, mix, shade, smooth


def hills(canvas: Canvas, rng: np.random.Generator, base: float, height: float, color: Color) -> None:
    """Rolling hills down to the lower border, their crests within `height` above `base`."""
    x = np.linspace(-0.1, 1.1, 8)
    y = base - height * rng.uniform(0, 1, 8)
    top = smooth(np.stack([x, y], 1), closed=False)
    canvas.poly(np.vstack([top, [(1.1, 1.05), (-0.1, 1.05)]]), color)


def clouds(canvas: Canvas, rng: np.random.Generator, count: int, low: float, color: Color) -> None:
    """Flat clouds in the sky above `low`."""
    for x, y, s in rng.uniform(size=(count, 3)):
        y, s = 0.04 + y * low, 0.05 + 0.06 * s
        canvas.ellipse(x, y, 1.8 * s, 0.35 * s, color)
        canvas.ellipse(x - 0.5 * s, y - 0.2 * s, 0.8 * s, 0.45 * s, color)
        canvas.ellipse(x + 0.5 * s, y - 0.15 * s, 0.7 * s, 0.4 * s, color)


def _conifer(canvas: Canvas, x: float, base: float, h: float, color: Color) -> None:
    canvas.rect(x - 0.03 * h, base - 0.2 * h, x + 0.03 * h, base, (78, 54, 36))
    for i in range(3):
        top, bottom, half = (
            base - h * (1 - 0.26 * i),
            base - h * (0.5 - 0.2 * i),
            h * (0.15 + 0.06 * i),
        )
        canvas.poly(
            np.array([(x, top), (x + half, bottom), (x - half, bottom)]),
            shade(color, 1.12 - 0.12 * i),
        )


def forest(canvas: Canvas, rng: np.random.Generator) -> None:
    """Conifers in three depths, trunks in front."""
    canvas.gradient(0, 0.7, (176, 206, 170), (206, 222, 176))
    canvas.gradient(0.7, 1, (96, 128, 60), (56, 82, 36))
    for depth in range(3):
        tone = mix((138, 172, 130), (28, 78, 40), depth / 2)
        for x, h in rng.uniform(size=(7 - depth, 2)):
            _conifer(
                canvas,
                x * 1.1 - 0.05,
                0.72 + 0.05 * depth,
                0.4 + 0.18 * depth + 0.15 * h,
                tone,
            )
    for x, w in rng.uniform(size=(2, 2)):
        x = x * 0.3 if w > 0.5 else 0.7 + x * 0.3
        half = 0.025 + 0.03 * w
        canvas.poly(
            np.array(
                [
                    (x - half, -0.05),
                    (x + half, -0.05),
                    (x + 1.3 * half, 0.92),
                    (x - 1.3 * half, 0.92),
                ]
            ),
            (70, 48, 32),
        )
        canvas.rect(x - half, -0.05, x - 0.4 * half, 0.9, (98, 70, 46))
    for x, y in rng.uniform(size=(8, 2)):
        canvas.ellipse(x, 0.8 + 0.2 * y, 0.05, 0.022, mix((70, 116, 44), (40, 84, 34), y))
    canvas.glow(0.2 + 0.6 * rng.uniform(), 0.05, 0.5, (255, 250, 200), 0.6)


def beach(canvas: Canvas, rng: np.random.Generator) -> None:
    """Sea, sand and sun, often a parasol."""
    horizon = 0.42 + 0.1 * rng.uniform()
    canvas.gradient(0, horizon, (92, 168, 232), (206, 232, 246))
    clouds(canvas, rng, 3, horizon * 0.6, (250, 252, 255))
    canvas.glow(0.15 + 0.7 * rng.uniform(), 0.14, 0.2, (255, 250, 210), 0.95)
    canvas.gradient(horizon, 0.76, (28, 110, 168), (70, 190, 200))
    for x, y, w in rng.uniform(size=(9, 3)):
        yy = horizon + 0.02 + y * (0.7 - horizon)
        canvas.rect(x - 0.1 * w, yy, x + 0.1 * w, yy + 0.006, (176, 226, 232))
    shore = np.stack([np.linspace(-0.1, 1.1, 6), 0.72 + 0.05 * rng.uniform(-1, 1, 6)], 1)
    curve = smooth(shore, closed=False)
    canvas.poly(np.vstack([curve - (0, 0.02), [(1.1, 1.1), (-0.1, 1.1)]]), (246, 250, 250))
    canvas.poly(np.vstack([curve, [(1.1, 1.1), (-0.1, 1.1)]]), (232, 208, 158))
    canvas.poly(np.vstack([curve + (0, 0.1), [(1.1, 1.1), (-0.1, 1.1)]]), (240, 218, 170))
    if rng.uniform() < 0.75:
        x = 0.12 if rng.uniform() < 0.5 else 0.88
        hue = ((226, 70, 60), (70, 130, 210), (244, 190, 60))[int(rng.integers(3))]
        canvas.rect(x - 0.006, 0.45, x + 0.006, 0.86, (120, 90, 60))
        arc = np.linspace(np.pi, 2 * np.pi, 13)
        for i in range(0, 12, 2):
            for j, c in ((i, hue), (i + 1, (250, 246, 236))):
                a, b = arc[j], arc[j + 1]
                rim = [
                    (x + 0.17 * np.cos(a), 0.48 + 0.12 * np.sin(a)),
                    (x + 0.17 * np.cos(b), 0.48 + 0.12 * np.sin(b)),
                ]
                canvas.poly(np.array([(x, 0.48), *rim]), c)


def mountains(canvas: Canvas, rng: np.random.Generator) -> None:
    """Snow-capped peaks over a snow field."""
    canvas.gradient(0, 0.7, (110, 164, 222), (224, 236, 246))
    clouds(canvas, rng, 2, 0.2, (248, 250, 254))
    for depth in range(2):
        for x, h in rng.uniform(size=(3, 2)):
            x, top, base = x * 1.1 - 0.05, 0.1 + 0.12 * h + 0.14 * depth, 0.78
            half = 0.34 - 0.06 * depth
            rock = mix((136, 154, 184), (88, 100, 124), depth)
            canvas.poly(np.array([(x, top), (x + half, base), (x - half, base)]), rock)
            canvas.poly(
                np.array([(x, top), (x + half, base), (x + 0.1 * half, base)]),
                shade(rock, 0.8),
            )
            t = 0.42
            y = top + t * (base - top)
            cap = [
                (x, top),
                (x + t * half, y),
                (x + 0.18 * half, y - 0.05),
                (x, y + 0.03),
                (x - 0.2 * half, y - 0.05),
                (x - t * half, y),
            ]
            canvas.poly(np.array(cap), (246, 249, 253))
    canvas.gradient(0.7, 1, (232, 240, 250), (248, 250, 254))
    hills(canvas, rng, 0.78, 0.06, (232, 240, 250))
    for x, h in rng.uniform(size=(5, 2)):
        _conifer(canvas, x, 0.84, 0.12 + 0.08 * h, (42, 78, 66))
    hills(canvas, rng, 0.9, 0.06, (248, 250, 254))


def river(canvas: Canvas, rng: np.random.Generator) -> None:
    """Water between hills and a grassy bank."""
    canvas.gradient(0, 0.5, (138, 190, 230), (226, 236, 232))
    clouds(canvas, rng, 2, 0.15, (250, 250, 252))
    hills(canvas, rng, 0.46, 0.14, (132, 168, 150))
    hills(canvas, rng, 0.52, 0.08, (92, 140, 84))
    for x, s in rng.uniform(size=(7, 2)):
        r = 0.04 + 0.035 * s
        canvas.rect(x - 0.008, 0.48, x + 0.008, 0.56, (86, 62, 42))
        canvas.ellipse(x, 0.5 - 0.6 * r, r, 1.1 * r, mix((70, 122, 56), (104, 150, 64), s))
    canvas.gradient(0.55, 1, (112, 168, 188), (38, 96, 136))
    for x, y, w in rng.uniform(size=(14, 3)):
        yy = 0.57 + 0.4 * y
        canvas.rect(
            x - 0.12 * w,
            yy,
            x + 0.12 * w,
            yy + 0.004 + 0.004 * y,
            mix((190, 220, 226), (90, 150, 180), y),
        )
    side = -1 if rng.uniform() < 0.5 else 1
    bank = np.array(
        [
            (0.5 + 0.6 * side, 0.54),
            (0.5 + 0.3 * side, 0.58),
            (0.5 + 0.18 * side, 0.7),
            (0.5 + 0.3 * side, 0.86),
            (0.5 + 0.1 * side, 1.1),
            (0.5 + 0.6 * side, 1.1),
        ]
    )
    canvas.poly(bank, (104, 150, 70))
    canvas.poly(bank + (0.06 * side, 0.02), (122, 168, 80))
    for x, y in rng.uniform(size=(5, 2)):
        canvas.ellipse(0.5 + side * (0.26 + 0.2 * x), 0.7 + 0.28 * y, 0.035, 0.02, (140, 138, 132))


def savanna(canvas: Canvas, rng: np.random.Generator) -> None:
    """Grassland with flat trees and a giraffe."""
    canvas.gradient(0, 0.55, (246, 196, 120), (252, 232, 176))
    canvas.glow(0.2 + 0.6 * rng.uniform(), 0.36, 0.2, (255, 244, 190), 0.9)
    hills(canvas, rng, 0.55, 0.05, (176, 150, 104))
    canvas.gradient(0.56, 1, (206, 176, 92), (164, 132, 60))
    for x, s in rng.uniform(size=(3, 2)):
        y, k = 0.56 + 0.2 * s, 0.7 + 0.6 * s
        canvas.poly(
            np.array(
                [
                    (x - 0.012 * k, y),
                    (x + 0.012 * k, y),
                    (x + 0.05 * k, y - 0.2 * k),
                    (x - 0.03 * k, y - 0.2 * k),
                ]
            ),
            (84, 62, 40),
        )
        canvas.ellipse(x, y - 0.21 * k, 0.17 * k, 0.04 * k, (92, 116, 50))
        canvas.ellipse(x + 0.03, y - 0.25 * k, 0.11 * k, 0.035 * k, (110, 134, 58))
    gx = 0.1 + 0.8 * rng.uniform()
    _giraffe(canvas, gx, 0.74, 0.5)
    for x, y in rng.uniform(size=(14, 2)):
        yy = 0.7 + 0.3 * y
        canvas.poly(
            np.array(
                [
                    (x - 0.02, yy),
                    (x - 0.024, yy - 0.06),
                    (x, yy - 0.02),
                    (x + 0.006, yy - 0.075),
                    (x + 0.02, yy),
                ]
            ),
            mix((190, 160, 70), (132, 110, 44), y),
        )


def _giraffe(canvas: Canvas, x: float, y: float, h: float) -> None:
    coat, spot = (226, 174, 88), (146, 92, 44)
    parts = [
        [(-0.12, -0.45), (0.1, -0.5), (0.12, -0.32), (-0.12, -0.3)],
        [(0.04, -0.48), (0.1, -0.4), (0.2, -0.92), (0.15, -0.94)],
        [(0.13, -0.95), (0.19, -1.0), (0.3, -0.9), (0.27, -0.86), (0.17, -0.88)],
    ]
    for leg in (-0.11, -0.06, 0.05, 0.1):
        parts.append(
            [
                (leg - 0.014, -0.34),
                (leg + 0.014, -0.34),
                (leg + 0.01, 0),
                (leg - 0.01, 0),
            ]
        )
    for part in parts:
        canvas.poly(np.array(part) * h + (x, y), coat)
    for sx, sy in (
        (-0.07, -0.4),
        (0.0, -0.42),
        (0.05, -0.36),
        (-0.03, -0.34),
        (0.1, -0.56),
        (0.13, -0.68),
        (0.155, -0.8),
    ):
        canvas.ellipse(x + sx * h, y + sy * h, 0.02 * h, 0.024 * h, spot)
