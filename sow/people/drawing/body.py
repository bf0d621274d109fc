"""Neck, torso with its clothing, arms and legs."""

from __future__ import annotations

import numpy as np

from sow.people.captions.attributes import Attributes
from sow.people.drawing.canvas import (
    Canvas,
    Color,
    Frame,
    Points,
    ellipse_points,
    outline_stroke,
    shade,
    smooth,
)
from sow.people.drawing.head import Head
from sow.people.drawing.identity import Geometry

CLOTH: dict[str, Color] = {
    "red": (198, 44, 48),
    "yellow": (240, 204, 62),
    "green": (54, 138, 76),
    "blue": (48, 92, 186),
    "purple": (124, 64, 158),
    "white": (240, 240, 238),
    "black": (42, 42, 48),
}


def draw_body(canvas: Canvas, frame: Frame, geo: Geometry, a: Attributes, head: Head) -> None:
    """Body in head heights, the chin near (0, 0.5): legs, arms, torso, neck, then the garment's details."""
    cloth, skin = CLOTH[a.clothing_color], shade(head.skin, 0.93)
    s = geo.shoulders * (0.68 if a.age == "child" else 1.0)
    neck = head.half * (0.46 if a.age == "child" else 0.54)
    long = 2.2 if a.clothing == "suit" else 2.0
    _legs(canvas, frame, a, s, long, skin)
    torso = _torso(s, neck, long)
    _arms(canvas, frame, a, s, cloth, skin)
    canvas.poly(frame(torso), cloth)
    _folds(canvas, frame, s, long, cloth)
    column = [
        (-neck, 0.2),
        (-neck * 1.0, 0.55),
        (-1.35 * neck, 0.69),
        (0, 0.86),
        (1.35 * neck, 0.69),
        (neck, 0.55),
        (neck, 0.2),
    ]
    canvas.poly(frame(np.array(column)), skin)
    jaw = smooth(
        [
            (-neck * 1.02, 0.38),
            (neck * 1.02, 0.38),
            (neck * 1.02, 0.5),
            (0.1 * neck, 0.62),
            (-neck * 1.02, 0.5),
        ]
    )
    canvas.poly(frame(jaw), shade(skin, 0.66))
    for side in (-1, 1):
        bone = smooth([(side * 0.3 * neck, 0.74), (side * 1.1 * neck, 0.70)], closed=False)
        canvas.poly(frame(outline_stroke(bone, 0.012)), shade(skin, 0.8))
    _DETAILS[a.clothing](canvas, frame, s, neck, cloth)


def _torso(s: float, neck: float, long: float) -> Points:
    right = [
        (neck * 1.3, 0.66),
        (0.62 * s, 0.76),
        (0.93 * s, 0.86),
        (s, 1.02),
        (0.82 * s, 1.3),
        (0.7 * s, 1.7),
        (0.726 * s, long),
    ]
    left = [(-x, y) for x, y in right[::-1]]
    return np.vstack([smooth(right, closed=False), smooth(left, closed=False)])


def _legs(canvas: Canvas, frame: Frame, a: Attributes, s: float, long: float, skin: Color) -> None:
    if a.clothing == "suit":
        trousers = shade(CLOTH[a.clothing_color], 0.85)
    else:
        trousers = (62, 70, 96) if a.clothing_color != "blue" else (92, 80, 66)
    for side in (-1, 1):
        leg = [
            (side * 0.02, long - 0.2),
            (side * 0.68 * s, long - 0.2),
            (side * 0.6 * s, 5.2),
            (side * 0.16 * s, 5.2),
        ]
        canvas.poly(frame(np.array(leg)), shade(trousers, 1.0 if side > 0 else 0.9))


def _arms(canvas: Canvas, frame: Frame, a: Attributes, s: float, cloth: Color, skin: Color) -> None:
    short = a.clothing == "t-shirt"
    for side in (-1, 1):
        path = smooth(
            [
                (side * 0.86 * s, 0.98),
                (side * 1.06 * s, 1.5),
                (side * 1.08 * s, 2.1),
                (side * 1.0 * s, 2.5),
            ],
            closed=False,
        )
        if short:
            canvas.poly(frame(outline_stroke(path, 0.24, 0.16)), shade(skin, 0.9))
            sleeve = path[:8]
            canvas.poly(frame(outline_stroke(sleeve, 0.33, 0.31)), shade(cloth, 0.86))
        else:
            canvas.poly(frame(ellipse_points(side * s, 2.55, 0.11, 0.13)), shade(skin, 0.92))
            canvas.poly(frame(outline_stroke(path, 0.33, 0.24)), shade(cloth, 0.84))
            canvas.poly(frame(outline_stroke(path[-3:], 0.26, 0.25)), shade(cloth, 0.7))


def _folds(canvas: Canvas, frame: Frame, s: float, long: float, cloth: Color) -> None:
    dark, light = shade(cloth, 0.82), shade(cloth, 1.14)
    for side in (-1, 1):
        crease = smooth(
            [(side * 0.74 * s, 1.05), (side * 0.66 * s, 1.4), (side * 0.62 * s, long)],
            closed=False,
        )
        canvas.poly(frame(outline_stroke(crease, 0.01, 0.02, 0.07)), dark)
    canvas.poly(frame(ellipse_points(-0.42 * s, 1.02, 0.2 * s, 0.1)), light)
    canvas.poly(frame(ellipse_points(0.42 * s, 1.02, 0.16 * s, 0.08)), shade(cloth, 1.07))


def _collar_ring(canvas: Canvas, frame: Frame, neck: float, color: Color, width: float, drop: float) -> None:
    ring = smooth(
        [
            (-1.4 * neck, 0.65),
            (-0.9 * neck, 0.65 + 0.6 * drop),
            (0, 0.65 + drop),
            (0.9 * neck, 0.65 + 0.6 * drop),
            (1.4 * neck, 0.65),
        ],
        closed=False,
    )
    canvas.poly(frame(outline_stroke(ring, width)), color)


def _tshirt(canvas: Canvas, frame: Frame, s: float, neck: float, cloth: Color) -> None:
    _collar_ring(canvas, frame, neck, shade(cloth, 0.76), 0.05, 0.2)


def _sweater(canvas: Canvas, frame: Frame, s: float, neck: float, cloth: Color) -> None:
    _collar_ring(canvas, frame, neck, shade(cloth, 0.8), 0.13, 0.12)
    light = shade(cloth, 1.3) if sum(cloth) < 600 else shade(cloth, 0.78)
    for y in (1.28, 1.5, 1.72):
        x = np.linspace(-0.7 * s, 0.7 * s, 13)
        zigzag = np.stack([x, y + 0.04 * (-1.0) ** np.arange(13)], 1)
        canvas.poly(frame(outline_stroke(zigzag, 0.04)), light)


def _shirt(canvas: Canvas, frame: Frame, s: float, neck: float, cloth: Color) -> None:
    for side in (-1, 1):
        flap = [
            (0.0, 0.88),
            (side * 1.5 * neck, 0.62),
            (side * 1.65 * neck, 0.8),
            (side * 0.9 * neck, 1.02),
        ]
        canvas.poly(
            frame(np.array(flap)),
            shade(cloth, 1.16) if sum(cloth) < 600 else shade(cloth, 0.9),
        )
    canvas.poly(
        frame(outline_stroke(np.array([(0.0, 0.88), (0.0, 2.0)]), 0.022)),
        shade(cloth, 0.68),
    )
    for y in (1.05, 1.3, 1.55, 1.8):
        canvas.poly(
            frame(ellipse_points(0.045, y, 0.026, 0.026)),
            (246, 244, 236) if sum(cloth) < 600 else (90, 90, 96),
        )


def _suit(canvas: Canvas, frame: Frame, s: float, neck: float, cloth: Color) -> None:
    shirt = (246, 246, 244) if sum(cloth) < 640 else (120, 150, 190)
    canvas.poly(
        frame(np.array([(-1.35 * neck, 0.66), (0, 0.84), (1.35 * neck, 0.66), (0.0, 1.62)])),
        shirt,
    )
    tie = (160, 30, 44) if cloth[0] < 150 or sum(cloth) > 600 else (34, 44, 84)
    canvas.poly(
        frame(
            np.array(
                [
                    (-0.06, 0.84),
                    (0.06, 0.84),
                    (0.05, 0.94),
                    (0.08, 1.4),
                    (0, 1.54),
                    (-0.08, 1.4),
                    (-0.05, 0.94),
                ]
            )
        ),
        tie,
    )
    for side in (-1, 1):
        flap = [
            (0.0, 0.85),
            (side * 1.4 * neck, 0.62),
            (side * 1.45 * neck, 0.72),
            (side * 0.7 * neck, 0.98),
        ]
        canvas.poly(frame(np.array(flap)), shade(shirt, 0.92))
        lapel = [
            (side * 1.4 * neck, 0.66),
            (side * 2.2 * neck, 0.86),
            (side * 1.8 * neck, 1.02),
            (side * 2.0 * neck, 1.1),
            (0.0, 1.66),
            (side * 0.8 * neck, 1.05),
        ]
        canvas.poly(
            frame(np.array(lapel)),
            shade(cloth, 1.22) if sum(cloth) < 600 else shade(cloth, 0.86),
        )
    canvas.poly(
        frame(outline_stroke(np.array([(0.0, 1.62), (0.02, 2.2)]), 0.02)),
        shade(cloth, 0.6),
    )
    for y in (1.72, 1.92):
        canvas.poly(frame(ellipse_points(0.06, y, 0.03, 0.03)), shade(cloth, 0.5))


_DETAILS = {
    "t-shirt": _tshirt,
    "shirt": _shirt,
    "sweater": _sweater,
    "suit": _suit,
}
