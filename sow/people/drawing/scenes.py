"""Backgrounds by name: seven places with depth and clutter, and plain walls."""

from __future__ import annotations

import numpy as np

from sow.people.drawing.canvas import Canvas, Color, shade
from sow.people.drawing.nature import beach, forest, mountains, river, savanna
from sow.people.drawing.town import car_show, hall

WALL_COLORS: dict[str, Color] = {
    "white": (244, 243, 240),
    "gray": (128, 128, 128),
    "red": (186, 52, 48),
    "green": (78, 140, 84),
    "blue": (66, 106, 176),
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
        other = shade(color, 0.72 + 0.1 * u[1])
        split = 0.45 + 0.3 * u[2]
        canvas.gradient(0, split, color, color)
        canvas.gradient(split, 1, other, other)
        canvas.rect(0, split - 0.012, 1, split + 0.012, shade(other, 0.85))
    else:
        canvas.gradient(0, 1, shade(color, 1.1), shade(color, 0.7 + 0.15 * u[1]))


_SCENES = {
    "forest": forest,
    "beach": beach,
    "snowy mountains": mountains,
    "river": river,
    "formal hall": hall,
    "car show": car_show,
    "savanna": savanna,
}
