"""The head's skin: ears, contour, and the shading that makes its relief."""

from __future__ import annotations

import cv2
import numpy as np

from sow.people.drawing.canvas import Canvas, Points, ellipse_points, shade
from sow.people.drawing.head import Head

_GRID = 48  # samples a side of the shading map
_X, _Y = np.meshgrid(np.linspace(-0.5, 0.5, _GRID), np.linspace(-0.55, 0.6, _GRID))


def draw_skin(canvas: Canvas, head: Head) -> None:
    """Ears, the head and its shading."""
    g, skin, frame = head.geo, head.skin, head.frame
    for side in (-1, 1):
        x = side * (head.half + 0.012)
        far = 1 - 0.5 * max(0.0, side * head.pose.yaw * 2)
        y = 0.06 + head.down
        canvas.poly(frame(ellipse_points(x, y, g.ear * 0.62 * far, g.ear)), shade(skin, 0.86))
        canvas.poly(
            frame(ellipse_points(x, y + 0.005, g.ear * 0.36 * far, g.ear * 0.66)),
            shade(skin, 0.68),
        )
    outline = frame(head.outline())
    canvas.poly(outline, skin)
    _apply_shading(canvas, head, outline)


def _spot(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    """A Gaussian bump on the shading grid."""
    gx = np.exp(-(((_X[0] - x) / rx) ** 2))
    gy = np.exp(-(((_Y[:, 0] - y) / ry) ** 2))
    return gy[:, None] * gx[None, :]


def _shading(head: Head) -> np.ndarray:
    """RGBA gains (48, 48, 4) of the skin: an ellipsoid under a soft light, plus the face's relief."""
    g, pose = head.geo, head.pose
    dx = 1.12 * head.half * np.sin(pose.yaw)  # where the middle of the face went
    dy = head.down + pose.pitch
    nx, ny = _X / (head.half * 1.08), (_Y + 0.0) / 0.58
    nz = np.sqrt(np.clip(1 - nx**2 - 0.8 * ny**2, 0.0, 1))
    light = np.array([0.55 * pose.light, -0.42, 0.75])
    light /= np.linalg.norm(light)
    gain = 0.66 + 0.42 * np.clip(nx * light[0] + ny * light[1] + nz * light[2], 0, 1)
    ex, ey, eh = g.eye_x, g.eye_y + dy, g.eye_half
    nose_y, mouth_y = g.nose_length * head.nose_scale + dy, g.mouth_y + dy
    for side in (-1, 1):
        gain -= 0.15 * _spot(dx + side * ex, ey - 0.015, eh * 1.25, 0.075)  # eye sockets
        gain -= 0.10 * _spot(dx + side * 0.075, ey + 0.01, 0.045, 0.07)  # inner corners
        gain += 0.07 * _spot(dx + side * 0.22, ey + 0.16, 0.09, 0.07)  # cheek light
        gain -= 0.06 * _spot(dx + side * (g.mouth_half + 0.05), mouth_y, 0.05, 0.08)
        # the two flanks of the nose, the far one from the light darker
        flank = 0.10 - 0.10 * side * pose.light
        gain -= flank * _spot(dx * 1.2 + side * (0.05 + 0.02 * g.nose_bridge), nose_y - 0.09, 0.03, 0.12)
    gain += 0.10 * _spot(dx * 1.25, nose_y - 0.1, 0.026, 0.13)  # ridge
    gain += 0.09 * _spot(dx * 1.3, nose_y - 0.025, 0.035, 0.03)  # tip
    gain -= 0.17 * _spot(dx * 1.2, nose_y + 0.035, g.nose_half * 1.05, 0.028)  # below the nose
    gain -= 0.13 * _spot(dx, mouth_y + 0.075, 0.085, 0.025)  # below the lower lip
    gain += 0.05 * _spot(dx, 0.42, 0.08, 0.045)  # chin
    gain += 0.06 * _spot(dx + 0.06 * pose.light, -0.22, 0.16, 0.09)  # forehead
    if head.deep:
        gain = 1.06 + 1.12 * (gain - 1)  # relief must survive on dark skin
    rgb = np.ones((_GRID, _GRID, 4), np.float32)  # RGBA: the alpha channel keeps its label
    rgb[..., :3] = gain[..., None]
    # Shadows of skin turn warm: blue and green fall faster than red.
    rgb[..., 1:3] -= ((1.03 - gain) * 0.13).clip(0)[..., None]
    if head.a.expression == "angry":
        flush, where = 0.13, _spot(dx, 0.08, 0.32, 0.3)
    else:
        flush = 0.07
        where = _spot(dx - 0.21, ey + 0.19, 0.1, 0.08) + _spot(dx + 0.21, ey + 0.19, 0.1, 0.08)
    rgb[..., 1:3] -= (flush * where)[..., None]
    return rgb


def _apply_shading(canvas: Canvas, head: Head, outline: Points) -> None:
    """Multiply the skin inside the outline by the shading map, carried into place by an affine map."""
    x0, y0, x1, y1 = canvas.window(outline, 2 / canvas.size)
    if x1 <= x0 or y1 <= y0:
        return
    rgb = _shading(head)
    corners = head.frame(np.array([(-0.5, -0.55), (0.5, -0.55), (-0.5, 0.6)])) * canvas.size - 0.5 - (x0, y0)
    grid = np.array([(0, 0), (_GRID - 1, 0), (0, _GRID - 1)], np.float32)
    affine = cv2.getAffineTransform(grid, corners.astype(np.float32))
    gains = cv2.warpAffine(
        rgb,
        affine,
        (x1 - x0, y1 - y0),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    fixed = canvas.to_pixels(outline) - (np.array([x0, y0]) << 4).astype(np.int32)
    cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, 4)  # nonzero wherever the skin touched a pixel
    region = canvas.pixels[y0:y1, x0:x1]
    shaded = cv2.multiply(region, gains, dtype=cv2.CV_8U)
    cv2.copyTo(shaded, mask, region)
