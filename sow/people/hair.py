"""Hair behind and in front of the head, and hats."""

from __future__ import annotations

import numpy as np

from sow.people.canvas import (
    Canvas,
    Color,
    Points,
    ellipse_points,
    outline_stroke,
    shade,
    smooth,
)
from sow.people.face import Head

HAIR: dict[str, Color] = {
    "black": (38, 32, 34),
    "brown": (104, 64, 38),
    "blond": (226, 186, 102),
    "red": (186, 72, 32),
    "gray": (172, 172, 176),
    "blue": (52, 98, 212),
}
_HAT_COLORS: dict[str, tuple[Color, ...]] = {
    "cap": ((196, 44, 48), (40, 74, 150), (40, 110, 70)),
    "beanie": ((232, 150, 50), (120, 60, 140), (60, 130, 150)),
    "straw hat": ((222, 190, 120), (208, 172, 104), (232, 204, 140)),
    "top hat": ((30, 28, 34), (44, 36, 52), (26, 34, 48)),
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
        x = 0.3 * w * head.pose.light
        canvas.glow(*head.frame([(x, -0.4)])[0], 0.13 * head.frame.scale, (255, 246, 236), 0.3)
        return
    line_y = g.hairline + head.pose.pitch * 0.6
    part = 0.3 * (1 if g.seed % 2 else -1) + np.sin(head.pose.yaw)
    volume = {
        "short": 0.045,
        "long": 0.06,
        "curly": 0.08,
        "bun": 0.03,
        "bob": 0.06,
        "spiky": 0.03,
    }[kind]
    low = {"short": 0.02, "bun": -0.06, "spiky": -0.04}.get(kind, 0.0)
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
    if kind == "spiky" and head.a.hat == "none":
        _spikes(canvas, head, rng, color)
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


def _spikes(canvas: Canvas, head: Head, rng: np.random.Generator, color: Color) -> None:
    w = head.half
    for i, u in enumerate(rng.uniform(size=9)):
        a = np.pi * (0.1 + 0.8 * i / 8)
        base = np.array([0.98 * w * np.cos(a), -0.24 - 0.27 * np.sin(a)])
        out = np.array([np.cos(a) * 0.8, -np.sin(a)]) * (0.17 + 0.07 * u)
        across = np.array([np.sin(a), np.cos(a)]) * 0.085
        canvas.poly(
            head.frame(np.array([base - across, base + out, base + across])),
            shade(color, 0.85 + 0.3 * u),
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


def draw_hat(canvas: Canvas, head: Head, rng: np.random.Generator) -> None:
    """The hat, sitting at the hairline."""
    kind = head.a.hat
    if kind == "none":
        return
    u = rng.uniform(size=2)
    color = _HAT_COLORS[kind][int(u[0] * 3)]
    w = head.half + (0.075 if head.a.hair in ("curly", "long", "bob") else 0.045)
    f, turn = head.frame, 0.5 * np.sin(head.pose.yaw)
    dome = [
        (-w, -0.24),
        (-1.0 * w, -0.4),
        (-0.66 * w, -0.56),
        (0, -0.62),
        (0.66 * w, -0.56),
        (1.0 * w, -0.4),
        (w, -0.24),
    ]
    rim = [(0.5 * w, -0.215), (0, -0.205), (-0.5 * w, -0.215)]
    if kind == "cap":
        canvas.poly(f(np.vstack([smooth(dome, False), rim])), color)
        canvas.poly(
            f(
                outline_stroke(
                    smooth([(0, -0.62), (turn * w, -0.45), (turn * w, -0.25)], False),
                    0.008,
                )
            ),
            shade(color, 0.75),
        )
        x = turn * 1.2 * w
        bill = [
            (x - 0.8 * w, -0.26),
            (x - 0.72 * w, -0.19),
            (x, -0.155),
            (x + 0.72 * w, -0.19),
            (x + 0.8 * w, -0.26),
            (x, -0.3),
        ]
        canvas.poly(f(smooth(bill)), shade(color, 0.7))
        canvas.poly(f(ellipse_points(x * 0.6, -0.42, 0.07, 0.06)), (244, 240, 230))
    elif kind == "beanie":
        canvas.poly(
            f(np.vstack([smooth([(x, 1.1 * y + 0.02) for x, y in dome], False), rim])),
            color,
        )
        for k in (-0.6, -0.2, 0.2, 0.6):
            rib = smooth(
                [(k * 0.6 * w, -0.63), (k * 1.1 * w, -0.48), (k * 1.2 * w, -0.34)],
                False,
            )
            canvas.poly(f(outline_stroke(rib, 0.012)), shade(color, 0.8))
        band = [
            (-1.05 * w, -0.36),
            (0, -0.325),
            (1.05 * w, -0.36),
            (1.04 * w, -0.23),
            (0, -0.19),
            (-1.04 * w, -0.23),
        ]
        canvas.poly(f(np.array(band)), shade(color, 1.25))
        canvas.poly(f(ellipse_points(0, -0.7, 0.075, 0.07)), shade(color, 1.4))
    elif kind == "straw hat":
        canvas.poly(f(ellipse_points(0, -0.265, 1.95 * w, 0.115)), shade(color, 0.82))
        canvas.poly(f(ellipse_points(0, -0.285, 1.95 * w, 0.1)), color)
        crown = [
            (-0.92 * w, -0.28),
            (-0.86 * w, -0.5),
            (-0.5 * w, -0.64),
            (0.5 * w, -0.64),
            (0.86 * w, -0.5),
            (0.92 * w, -0.28),
        ]
        canvas.poly(f(np.vstack([smooth(crown, False), [(0, -0.24)]])), shade(color, 1.08))
        band = ((150, 50, 44), (60, 80, 120), (70, 54, 40))[int(u[1] * 3)]
        canvas.poly(
            f(
                np.array(
                    [
                        (-0.93 * w, -0.36),
                        (0.93 * w, -0.36),
                        (0.92 * w, -0.27),
                        (0, -0.24),
                        (-0.92 * w, -0.27),
                    ]
                )
            ),
            band,
        )
    else:
        canvas.poly(
            f(
                np.array(
                    [
                        (-0.84 * w, -0.28),
                        (-0.92 * w, -0.95),
                        (0.92 * w, -0.95),
                        (0.84 * w, -0.28),
                    ]
                )
            ),
            color,
        )
        canvas.poly(f(ellipse_points(0, -0.95, 0.92 * w, 0.045)), shade(color, 1.7))
        canvas.poly(
            f(
                np.array(
                    [
                        (-0.85 * w, -0.4),
                        (0.85 * w, -0.4),
                        (0.84 * w, -0.28),
                        (-0.84 * w, -0.28),
                    ]
                )
            ),
            (150, 40, 50),
        )
        canvas.poly(f(ellipse_points(0, -0.265, 1.4 * w, 0.065)), shade(color, 1.25))
