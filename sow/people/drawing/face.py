"""The features: eyes, brows, nose, mouth, the lines of age and mood, marks, and glasses."""

from __future__ import annotations

import numpy as np

from sow.people.drawing.canvas import (
    Canvas,
    Color,
    Points,
    ellipse_points,
    mix,
    outline_stroke,
    shade,
    smooth,
)
from sow.people.drawing.head import Head
from sow.people.drawing.identity import EYES


def _lids(head: Head, side: int) -> tuple[Points, Points]:
    """Upper and lower lid curves (k, 2), inner corner to outer, in local coordinates."""
    g, m = head.geo, head.mood
    w, h = g.eye_half * head.eye_scale, g.eye_open * head.eye_scale * m.eye
    tilt = g.eye_tilt + (-0.10 if head.a.expression == "sad" else 0.08 if head.a.expression == "angry" else 0)
    cx, cy = side * g.eye_x, g.eye_y
    t = np.linspace(-1, 1, 11)
    arch = (1 - np.abs(t) ** 2.2) ** 0.8
    raise_low = 0.35 if head.a.expression == "happy" else 0.0
    up = np.stack([t * w, -h * 1.08 * arch - np.sin(tilt) * w * t], 1)
    low = np.stack([t * w, h * (0.82 - raise_low) * arch - np.sin(tilt) * w * t], 1)
    for curve in (up, low):
        curve[:, 0] = cx + side * curve[:, 0]
        curve[:, 1] += cy
    return up, low


def draw_eyes(canvas: Canvas, head: Head, lash: Color) -> None:
    """Eye whites, irises, pupils, catch-lights, lids and lashes."""
    g, place = head.geo, head.place
    iris_color = EYES[head.a.eyes]
    for side in (-1, 1):
        up, low = _lids(head, side)
        eye = np.vstack([up, low[::-1]])
        crease = up + (0, -0.022)
        canvas.poly(
            place(outline_stroke(crease[1:], 0.004, 0.006, 0.011)),
            shade(head.skin, 0.62),
        )
        canvas.poly(place(eye), (240, 238, 236))
        cx = side * g.eye_x + head.pose.gaze * 0.25 * g.eye_half
        cy = 0.5 * (up[5, 1] + low[5, 1]) - 0.002
        r = 0.0365 * head.eye_scale
        order = np.argsort(up[:, 0])
        for radius, color in (
            (r, shade(iris_color, 0.55)),
            (0.84 * r, iris_color),
            (0.46 * r, (12, 10, 12)),
        ):
            disc = ellipse_points(cx, cy, radius, radius)
            top = np.interp(disc[:, 0], up[order, 0], up[order, 1])
            bottom = np.interp(disc[:, 0], low[order, 0], low[order, 1])
            disc[:, 1] = np.clip(disc[:, 1], top, bottom)
            canvas.poly(place(disc), color)
        canvas.poly(
            place(
                ellipse_points(
                    cx + 0.012 * np.sign(head.pose.light + 0.01),
                    cy - 0.013,
                    0.0085,
                    0.0085,
                )
            ),
            (255, 255, 255),
        )
        canvas.poly(place(outline_stroke(up + (0, -0.003), 0.010, 0.02, 0.017)), lash)
        canvas.poly(
            place(outline_stroke(low + (0, 0.003), 0.004, 0.008, 0.006)),
            shade(head.skin, 0.5),
        )
        canvas.poly(
            place(outline_stroke(low + (0, 0.026), 0.003, 0.004, 0.009)),
            shade(head.skin, 0.76),
        )


def draw_brows(canvas: Canvas, head: Head, color: Color) -> None:
    """Two tapered brows whose ends follow the expression."""
    g, m = head.geo, head.mood
    thick = g.brow_thick * (0.8 if head.a.age == "child" else 1.0)
    y = g.brow_y + m.brow_all - 0.01 * head.eye_scale
    for side in (-1, 1):
        inner = (
            side * (g.eye_x - 1.02 * g.eye_half),
            y + m.brow_inner + 0.4 * g.brow_tilt,
        )
        middle = (
            side * (g.eye_x + 0.28 * g.eye_half),
            y - g.brow_arch + 0.35 * m.brow_inner + 0.3 * m.brow_outer,
        )
        outer = (
            side * (g.eye_x + 1.3 * g.eye_half),
            y + m.brow_outer - 0.4 * g.brow_tilt,
        )
        curve = smooth([inner, middle, outer], closed=False)
        canvas.poly(
            head.place(outline_stroke(curve, 0.8 * thick, 0.28 * thick, thick), 0.02),
            color,
        )


def draw_nose(canvas: Canvas, head: Head) -> None:
    """Wings, nostrils and the shadow line of the far flank."""
    g, skin = head.geo, head.skin
    y, w = (
        g.nose_length * head.nose_scale,
        g.nose_half * (0.84 if head.a.age == "child" else 1.0),
    )
    dark, soft = shade(skin, 0.42), shade(skin, 0.66)
    for side in (-1, 1):
        wing = smooth(
            [
                (side * 0.82 * w, y - 0.05),
                (side * 1.04 * w, y - 0.012),
                (side * 0.86 * w, y + 0.018),
                (side * 0.6 * w, y + 0.012),
            ],
            closed=False,
        )
        canvas.poly(head.place(outline_stroke(wing, 0.003, 0.008, 0.012), 0.08), soft)
        nostril = ellipse_points(side * 0.46 * w, y + 0.014, 0.3 * w, 0.0125)
        canvas.poly(head.place(nostril, 0.09), dark)
    base = smooth([(-0.3 * w, y + 0.022), (0, y + 0.032), (0.3 * w, y + 0.022)], closed=False)
    canvas.poly(head.place(outline_stroke(base, 0.004, 0.004, 0.009), 0.1), soft)
    far = -1 if head.pose.light >= 0 else 1
    flank = smooth(
        [
            (far * 0.055, 0.0),
            (far * (0.03 + 0.012 * g.nose_bridge), 0.45 * y),
            (far * 0.6 * w, y - 0.04),
        ],
        closed=False,
    )
    canvas.poly(head.place(outline_stroke(flank, 0.004, 0.004, 0.01), 0.06), shade(skin, 0.76))


def draw_mouth(canvas: Canvas, head: Head) -> None:
    """Two-tone lips, and the open mouth with teeth where the expression opens it."""
    g, m, skin = head.geo, head.mood, head.skin
    old = head.a.age == "old"
    w = g.mouth_half * m.width * (0.86 if head.a.age == "child" else 1.0)
    upper, lower = (k * (0.7 if old else 1.0) for k in (g.lip_upper, g.lip_lower))
    y, lift, gap = g.mouth_y - 0.25 * m.open, m.corner, m.open
    rose = mix((176, 86, 84), (198, 62, 72), g.lip_red)
    red = mix(skin, rose, 0.62 if not head.deep else 0.42)
    t = np.linspace(-1, 1, 15)
    bow = 1 - np.abs(t) ** 1.8
    corner = -lift * np.abs(t) ** 1.7 + (0.35 * lift)
    square = 1 - np.abs(t) ** (6 if head.a.expression == "angry" else 2)
    top_in = y + corner - 0.30 * gap * square
    low_in = y + corner + 0.95 * gap * square
    dip = 0.35 * np.exp(-((t / 0.16) ** 2))
    top_out = top_in - upper * (bow**0.8) * (1.15 - dip) - 0.002
    low_out = low_in + lower * bow**0.7 + 0.002
    x = t * w

    def strip(a: Points, b: Points) -> Points:
        return np.vstack([np.stack([x, a], 1), np.stack([x, b], 1)[::-1]])

    canvas.poly(head.place(strip(top_out, 0.5 * (top_in + low_in)), 0.05), shade(red, 0.82))
    canvas.poly(head.place(strip(0.5 * (top_in + low_in), low_out), 0.05), red)
    if gap > 0:
        canvas.poly(head.place(strip(top_in, low_in), 0.05), (70, 22, 24))
        if m.teeth:
            middle = top_in + 0.6 * (low_in - top_in)
            canvas.poly(head.place(strip(top_in, middle), 0.05), (240, 236, 228))
            if head.a.expression == "angry":
                canvas.poly(head.place(strip(middle + 0.006, low_in), 0.05), (232, 226, 216))
        else:
            canvas.poly(
                head.place(ellipse_points(0, y + 0.7 * gap, 0.5 * w, 0.2 * gap), 0.05),
                (176, 70, 72),
            )
    else:
        line = np.stack([x, top_in], 1)
        canvas.poly(
            head.place(outline_stroke(line, 0.006, 0.006, 0.011), 0.05),
            shade(red, 0.42),
        )
    glint = ellipse_points(0, float(low_out[7]) - 0.5 * lower, 0.3 * w, 0.2 * lower)
    canvas.poly(head.place(glint, 0.05), mix(red, (255, 230, 225), 0.28))
    for side in (-1, 1):  # corner shadows
        canvas.poly(
            head.place(ellipse_points(side * w * 1.02, float(top_in[0]), 0.011, 0.01), 0.04),
            shade(skin, 0.55),
        )


def draw_marks(canvas: Canvas, head: Head) -> None:
    """Freckles and mole of the identity; wrinkles of age; creases and tears of the expression."""
    g, skin, place = head.geo, head.skin, head.place
    if g.freckles:
        rng = np.random.default_rng([g.seed, 5])
        for x, y in rng.normal(0, 1, (g.freckles, 2)):
            canvas.poly(
                place(ellipse_points(0.13 * x, 0.11 + 0.045 * y, 0.0085, 0.0085)),
                shade(skin, 0.72),
            )
    if g.mole is not None:
        canvas.poly(place(ellipse_points(*g.mole, 0.015, 0.015)), shade(skin, 0.36))
    lines: list[tuple[list[tuple[float, float]], float, float]] = []
    nose = g.nose_length * head.nose_scale
    smile = head.a.expression in ("happy", "angry")
    for side in (-1, 1):
        fold = [
            (side * 0.1, nose - 0.02),
            (side * (g.mouth_half + 0.025), nose + 0.06),
            (side * (g.mouth_half + 0.045), g.mouth_y + 0.03),
        ]
        if head.a.age == "old":
            lines.append((fold, 0.014, 0.58))
            lines.append(
                (
                    [
                        (side * (g.eye_x - 0.06), 0.066),
                        (side * g.eye_x, 0.09),
                        (side * (g.eye_x + 0.07), 0.07),
                    ],
                    0.012,
                    0.64,
                )
            )
            for k in (-0.03, 0.0, 0.03):
                far = g.eye_x + g.eye_half
                lines.append(
                    (
                        [
                            (side * (far + 0.014), k * 0.5),
                            (side * (far + 0.06), k * 1.6),
                        ],
                        0.008,
                        0.6,
                    )
                )
        elif smile:
            lines.append((fold, 0.009, 0.72))
        if head.a.expression == "angry":
            lines.append(
                (
                    [
                        (side * 0.028, g.brow_y + 0.035),
                        (side * 0.022, g.brow_y - 0.045),
                    ],
                    0.011,
                    0.58,
                )
            )
    if head.a.age == "old" or head.a.expression == "surprised":
        for k, span in ((-0.16, 0.17), (-0.2, 0.19), (-0.24, 0.16)):
            lines.append(
                (
                    [
                        (-span, k + 0.008),
                        (-0.06, k - 0.006),
                        (0.06, k + 0.004),
                        (span, k + 0.006),
                    ],
                    0.008,
                    0.7,
                )
            )
    for line, width, gain in lines:
        curve = smooth(line, closed=False) if len(line) > 2 else np.array(line)
        canvas.poly(
            place(outline_stroke(curve, 0.4 * width, 0.3 * width, width)),
            shade(skin, gain),
        )
    if head.a.expression == "sad":
        for side in (-1, 1):
            x = side * (g.eye_x + 0.01)
            drop = smooth([(x, 0.07), (x + 0.02, 0.15), (x, 0.175), (x - 0.02, 0.15)])
            canvas.poly(place(drop), (150, 204, 244))
            canvas.poly(place(ellipse_points(x - 0.006, 0.145, 0.006, 0.01)), (240, 250, 255))


def draw_glasses(canvas: Canvas, head: Head) -> None:
    """Rims, bridge and temples; sunglasses fill the lenses."""
    g, dark = head.geo, (34, 30, 34)
    if head.a.glasses == "none":
        return
    w, h = g.eye_half * 1.42, 0.088
    w = min(w, g.eye_x - 0.025)
    for side in (-1, 1):
        cx, cy = side * (g.eye_x + 0.006), g.eye_y + 0.012
        temple = np.array([(cx + side * w, cy - 0.02), (side * head.half * 1.0, cy - 0.03)])
        canvas.poly(head.place(outline_stroke(temple, 0.018)), dark)
        rim = ellipse_points(cx, cy, w, h)
        if head.a.glasses == "sunglasses":
            shape = smooth(
                [
                    (cx - w, cy - 0.8 * h),
                    (cx + w, cy - 0.8 * h),
                    (cx + 0.9 * w, cy + 0.5 * h),
                    (cx, cy + 1.05 * h),
                    (cx - 0.9 * w, cy + 0.5 * h),
                ]
            )
            canvas.poly(head.place(shape, 0.04), (20, 20, 26))
            glint = np.array(
                [
                    (cx - 0.5 * w, cy - 0.6 * h),
                    (cx - 0.1 * w, cy - 0.6 * h),
                    (cx - 0.5 * w, cy + 0.2 * h),
                    (cx - 0.7 * w, cy + 0.1 * h),
                ]
            )
            canvas.poly(head.place(glint, 0.04), (92, 98, 116))
        else:
            closed = np.vstack([rim, rim[:1]])
            canvas.poly(head.place(outline_stroke(closed, 0.02), 0.04), dark)
    bridge = smooth([(-(g.eye_x - w), 0.0), (0, -0.018), (g.eye_x - w, 0.0)], closed=False)
    canvas.poly(head.place(outline_stroke(bridge, 0.02), 0.06), dark)
