"""Backgrounds: thirteen places with depth and clutter, drawn from a generator in unit coordinates."""

from __future__ import annotations

import numpy as np

from sow.people.canvas import Canvas, Color, mix, shade, smooth

WALL_COLORS: dict[str, Color] = {
    "white": (244, 243, 240),
    "gray": (128, 128, 128),
    "black": (18, 18, 20),
    "red": (186, 52, 48),
    "green": (78, 140, 84),
    "blue": (66, 106, 176),
    "yellow": (232, 198, 84),
    "beige": (214, 196, 166),
}


def draw_scene(canvas: Canvas, scene: str, wall_color: str, rng: np.random.Generator) -> None:
    """Fill the canvas with the scene; `wall_color` matters for plain walls only."""
    if scene == "plain wall":
        _wall(canvas, WALL_COLORS[wall_color], wall_color, rng)
    else:
        _SCENES[scene](canvas, rng)


def _wall(canvas: Canvas, color: Color, name: str, rng: np.random.Generator) -> None:
    u = rng.uniform(size=4)
    if name == "gray":
        level = (0.5 if u[3] < 0.4 else 0.25 + 0.5 * u[0]) * 255
        color = (level, level, level)
    else:
        color = shade(color, 0.9 + 0.15 * u[0])
    kind = int(rng.integers(0, 3))
    if kind == 0:
        canvas.gradient(0, 1, color, color)
    elif kind == 1:
        other = shade(color, 0.72 + 0.1 * u[1]) if name != "black" else (44.0, 44.0, 46.0)
        split = 0.45 + 0.3 * u[2]
        canvas.gradient(0, split, color, color)
        canvas.gradient(split, 1, other, other)
        canvas.rect(0, split - 0.012, 1, split + 0.012, shade(other, 0.85))
    else:
        canvas.gradient(0, 1, shade(color, 1.1), shade(color, 0.7 + 0.15 * u[1]))


def _hills(canvas: Canvas, rng: np.random.Generator, base: float, height: float, color: Color) -> None:
    x = np.linspace(-0.1, 1.1, 8)
    y = base - height * rng.uniform(0, 1, 8)
    top = smooth(np.stack([x, y], 1), closed=False)
    canvas.poly(np.vstack([top, [(1.1, 1.05), (-0.1, 1.05)]]), color)


def _clouds(canvas: Canvas, rng: np.random.Generator, count: int, low: float, color: Color) -> None:
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


def _forest(canvas: Canvas, rng: np.random.Generator) -> None:
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


def _beach(canvas: Canvas, rng: np.random.Generator) -> None:
    horizon = 0.42 + 0.1 * rng.uniform()
    canvas.gradient(0, horizon, (92, 168, 232), (206, 232, 246))
    _clouds(canvas, rng, 3, horizon * 0.6, (250, 252, 255))
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


def _street(canvas: Canvas, rng: np.random.Generator) -> None:
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


def _mountains(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.gradient(0, 0.7, (110, 164, 222), (224, 236, 246))
    _clouds(canvas, rng, 2, 0.2, (248, 250, 254))
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
    _hills(canvas, rng, 0.78, 0.06, (232, 240, 250))
    for x, h in rng.uniform(size=(5, 2)):
        _conifer(canvas, x, 0.84, 0.12 + 0.08 * h, (42, 78, 66))
    _hills(canvas, rng, 0.9, 0.06, (248, 250, 254))


def _library(canvas: Canvas, rng: np.random.Generator) -> None:
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


def _kitchen(canvas: Canvas, rng: np.random.Generator) -> None:
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


def _river(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.gradient(0, 0.5, (138, 190, 230), (226, 236, 232))
    _clouds(canvas, rng, 2, 0.15, (250, 250, 252))
    _hills(canvas, rng, 0.46, 0.14, (132, 168, 150))
    _hills(canvas, rng, 0.52, 0.08, (92, 140, 84))
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


def _desert(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.gradient(0, 0.62, (240, 166, 92), (252, 224, 160))
    canvas.glow(0.15 + 0.7 * rng.uniform(), 0.2, 0.22, (255, 250, 220), 1.0)
    _hills(canvas, rng, 0.6, 0.1, (196, 120, 76))
    for i in range(3):
        base, tone = 0.66 + 0.12 * i, mix((222, 158, 92), (238, 190, 120), i / 2)
        _hills(canvas, rng, base, 0.09, tone)
    for x, s in rng.uniform(size=(3, 2)):
        h, y, green = 0.14 + 0.16 * s, 0.72 + 0.2 * s, (66, 116, 66)
        canvas.rect(x - 0.016, y - h, x + 0.016, y, green)
        canvas.ellipse(x, y - h, 0.016, 0.02, green)
        canvas.rect(x - 0.06, y - 0.6 * h, x, y - 0.6 * h + 0.022, green)
        canvas.rect(x - 0.06, y - 0.85 * h, x - 0.038, y - 0.6 * h + 0.02, green)
        canvas.rect(x, y - 0.4 * h, x + 0.05, y - 0.4 * h + 0.022, green)
        canvas.rect(x + 0.03, y - 0.65 * h, x + 0.05, y - 0.4 * h + 0.02, green)


def _night_city(canvas: Canvas, rng: np.random.Generator) -> None:
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


def _hall(canvas: Canvas, rng: np.random.Generator) -> None:
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


def _car_show(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.gradient(0, 0.5, (130, 190, 236), (220, 236, 244))
    _hills(canvas, rng, 0.5, 0.08, (108, 158, 92))
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


def _savanna(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.gradient(0, 0.55, (246, 196, 120), (252, 232, 176))
    canvas.glow(0.2 + 0.6 * rng.uniform(), 0.36, 0.2, (255, 244, 190), 0.9)
    _hills(canvas, rng, 0.55, 0.05, (176, 150, 104))
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


_SCENES = {
    "forest": _forest,
    "beach": _beach,
    "city street": _street,
    "snowy mountains": _mountains,
    "library": _library,
    "kitchen": _kitchen,
    "river": _river,
    "desert": _desert,
    "night city": _night_city,
    "formal hall": _hall,
    "car show": _car_show,
    "savanna": _savanna,
}
