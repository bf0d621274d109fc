"""Hats, sitting at the hairline."""

from __future__ import annotations

import numpy as np

from sow.people.drawing.canvas import Canvas, Color, ellipse_points, outline_stroke, shade, smooth
from sow.people.drawing.head import Head

_HAT_COLORS: dict[str, tuple[Color, ...]] = {
    "cap": ((196, 44, 48), (40, 74, 150), (40, 110, 70)),
    "straw hat": ((222, 190, 120), (208, 172, 104), (232, 204, 140)),
    "top hat": ((30, 28, 34), (44, 36, 52), (26, 34, 48)),
}


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
        ribbon = ((150, 50, 44), (60, 80, 120), (70, 54, 40))[int(u[1] * 3)]
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
            ribbon,
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
