"""Hair behind and in front of the head."""

from __future__ import annotations

import numpy as np

from sow.people.drawing.canvas import Canvas, Color, Points, ellipse_points, outline_stroke, shade, smooth
from sow.people.drawing.head import Head

HAIR: dict[str, Color] = {
    "black": (38, 32, 34),
    "brown": (104, 64, 38),
    "blond": (226, 186, 102),
    "red": (186, 72, 32),
    "gray": (172, 172, 176),
}


def brow_color(head: Head) -> Color:
    """Brow colour: the hair's, darkened so that brows show on any skin."""
    return shade(HAIR[head.a.hair_color], 0.62 if head.a.hair_color != "black" else 0.8)


def draw_back_hair(canvas: Canvas, head: Head, rng: np.random.Generator) -> None:
    """Hair that hangs behind the head and neck."""
    color, w, kind = HAIR[head.a.hair_color], head.half, head.a.hair
    dark = shade(color, 0.62)
    if kind == "long":
        side = [
            (0.9 * w, -0.46),
            (1.24 * w, -0.2),
            (1.32 * w, 0.2),
            (1.42 * w, 0.62),
            (1.3 * w, 0.95),
            (0.9 * w, 1.02),
        ]
        canvas.poly(head.frame(smooth([*side, *[(-x, y) for x, y in side[::-1]]])), dark)
    elif kind == "bob":
        side = [
            (0.9 * w, -0.46),
            (1.26 * w, -0.15),
            (1.34 * w, 0.2),
            (1.32 * w, 0.45),
            (1.0 * w, 0.53),
        ]
        canvas.poly(head.frame(smooth([*side, *[(-x, y) for x, y in side[::-1]]])), dark)
    elif kind == "curly":
        angles = np.linspace(-0.28 * np.pi, 1.28 * np.pi, 17)
        for a, u in zip(angles, rng.uniform(size=17), strict=True):
            x, y, r = 1.14 * w * np.cos(a), -0.1 - 0.44 * np.sin(a), 0.125 + 0.04 * u
            canvas.poly(head.frame(ellipse_points(x, y, r, r)), shade(dark, 0.9 + 0.25 * u))
    elif kind == "bun" and head.a.hat == "none":
        canvas.poly(head.frame(ellipse_points(0.0, -0.63, 0.17, 0.15)), color)
        for k in (-0.5, 0.1, 0.6):
            arc = smooth(
                [
                    (-0.13, -0.6 + 0.05 * k),
                    (0.0, -0.66 + 0.12 * k),
                    (0.13, -0.6 + 0.05 * k),
                ],
                closed=False,
            )
            canvas.poly(head.frame(outline_stroke(arc, 0.006, 0.006, 0.014)), dark)


def _cap_of_hair(head: Head, volume: float, low: float, line: list[tuple[float, float]]) -> Points:
    """Hair over the skull: the outer arc from one ear to the other and back along a hairline."""
    w = head.half
    right = [
        (1.0 * w + 0.3 * volume, low),
        (w + 0.7 * volume, -0.16),
        (0.93 * w + volume, -0.3),
        (0.62 * w + 0.6 * volume, -0.46 - 0.7 * volume),
    ]
    arc = [*[(-x, y) for x, y in right], (0.0, -0.51 - volume), *right[::-1]]
    return np.vstack([smooth(arc, closed=False), smooth(line, closed=False)])


def _strands(canvas: Canvas, head: Head, rng: np.random.Generator, volume: float, color: Color) -> None:
    """Lighter and darker strands from the parting outwards."""
    w = head.half
    for x, u in rng.uniform(-1, 1, (9, 2)):
        start = (0.25 * w * x, -0.49 - 0.8 * volume)
        end = (0.92 * w * x, -0.33 - 0.06 * (1 - abs(x)))
        middle = (0.7 * w * x, -0.44 - 0.5 * volume)
        curve = smooth([start, middle, end], closed=False)
        gain = 1.28 if u > 0 else 0.72
        canvas.poly(head.frame(outline_stroke(curve, 0.003, 0.003, 0.014)), shade(color, gain))


def draw_front_hair(canvas: Canvas, head: Head, rng: np.random.Generator) -> None:
    """Hair over the skull and forehead, and strands down the sides."""
    color, w, kind, g = HAIR[head.a.hair_color], head.half, head.a.hair, head.geo
    if kind == "bald":
        x, y = head.frame([(0.3 * w * head.pose.light, -0.4)])[0]
        canvas.glow(x, y, 0.13 * head.frame.scale, (255, 246, 236), 0.3)
        return
    line_y = g.hairline + head.pose.pitch * 0.6
    part = 0.3 * (1 if g.seed % 2 else -1) + np.sin(head.pose.yaw)
    volume = {
        "short": 0.045,
        "long": 0.06,
        "curly": 0.08,
        "bun": 0.03,
        "bob": 0.06,
    }[kind]
    low = {"short": 0.02, "bun": -0.06}.get(kind, 0.0)
    if kind == "bob":
        fringe = [
            (0.93 * w, low),
            (0.86 * w, -0.13),
            (0.5 * w, -0.165),
            (0.0, -0.172),
            (-0.5 * w, -0.165),
            (-0.86 * w, -0.13),
            (-0.93 * w, low),
        ]
    else:
        fringe = [
            (0.95 * w, low),
            (0.87 * w, -0.17),
            (0.55 * w, line_y + 0.025),
            (part * w, line_y - 0.03),
            (-0.55 * w, line_y + 0.025),
            (-0.87 * w, -0.17),
            (-0.95 * w, low),
        ]
    shadow = [(x, y + 0.028) if abs(x) < 0.8 * w else (0.97 * x, y + 0.01) for x, y in fringe]
    canvas.poly(head.frame(_cap_of_hair(head, 0.0, low, shadow)), shade(head.skin, 0.66))
    canvas.poly(head.frame(_cap_of_hair(head, volume, low, fringe)), color)
    if kind == "curly":
        _curls(canvas, head, rng, color, line_y)
    else:
        _strands(canvas, head, rng, volume, color)
    if kind in ("long", "bob"):
        end = 0.92 if kind == "long" else 0.46
        for side in (-1, 1):
            lock = [
                (0.86 * w, -0.22),
                (0.95 * w, 0.0),
                (1.0 * w, 0.25),
                (1.02 * w, 0.7 * end + 0.1),
                (1.12 * w, end),
                (1.3 * w, 0.9 * end),
                (1.26 * w, 0.3),
                (1.16 * w, -0.1),
                (1.02 * w, -0.33),
            ]
            lock = [(side * x, y) for x, y in lock]
            canvas.poly(head.frame(smooth(lock)), color)
            for k in (1.06, 1.17):
                curve = smooth(
                    [
                        (side * 0.97 * w, -0.2),
                        (side * k * w, 0.15),
                        (side * k * w, 0.85 * end),
                    ],
                    closed=False,
                )
                canvas.poly(
                    head.frame(outline_stroke(curve, 0.004, 0.004, 0.016)),
                    shade(color, 1.25 if k < 1.1 else 0.74),
                )


def _curls(canvas: Canvas, head: Head, rng: np.random.Generator, color: Color, line_y: float) -> None:
    w = head.half
    rows = ((1.06, -0.04, 0.34, 13, 0.1), (0.8, -0.16, 0.25, 9, 0.085))
    for sx, y0, sy, count, r in rows:
        for a, u in zip(
            np.linspace(0.04 * np.pi, 0.96 * np.pi, count),
            rng.uniform(size=count),
            strict=True,
        ):
            x, y = sx * w * np.cos(a), y0 - (sy + 0.09) * np.sin(a)
            if abs(x) < 0.72 * w:
                y = min(y, line_y - 0.05)
            canvas.poly(head.frame(ellipse_points(x, y, r, r)), shade(color, 0.8 + 0.35 * u))
            canvas.poly(
                head.frame(ellipse_points(x - 0.02, y - 0.02, 0.45 * r, 0.4 * r)),
                shade(color, 1.0 + 0.4 * u),
            )
