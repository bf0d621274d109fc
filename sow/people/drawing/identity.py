"""Continuous face geometry and marks that an identity seed fixes, in head heights (crown to chin = 1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sow.people.drawing.canvas import Color

SKIN: dict[str, Color] = {
    "pale": (250, 222, 204),
    "light": (238, 196, 164),
    "tan": (212, 160, 118),
    "brown": (170, 116, 80),
    "dark": (128, 84, 60),
}
EYES: dict[str, Color] = {
    "brown": (96, 56, 28),
    "blue": (62, 124, 206),
    "green": (74, 146, 78),
    "gray": (134, 142, 150),
}


@dataclass(frozen=True)
class Geometry:
    """One identity's face: lengths in head heights, angles in radians; x right, y down, eyes at y = 0."""

    half_width: float  # at the cheek bones
    jaw: float  # jaw width as a share of half_width
    chin: float  # chin width as a share of half_width
    eye_x: float
    eye_y: float
    eye_half: float
    eye_open: float
    eye_tilt: float
    brow_y: float
    brow_thick: float
    brow_tilt: float
    brow_arch: float
    nose_length: float
    nose_half: float
    nose_bridge: float
    mouth_y: float
    mouth_half: float
    lip_upper: float
    lip_lower: float
    lip_red: float
    ear: float
    hairline: float
    skin_gain: tuple[float, float, float]
    freckles: int
    mole: tuple[float, float] | None
    shoulders: float
    seed: int


def geometry(identity: int) -> Geometry:
    """Draw the geometry of an identity from its own generator."""
    rng = np.random.default_rng([identity, 77])
    u = rng.uniform(-1, 1, 26)
    half = 0.365 + 0.045 * u[0]
    eye_half = 0.078 + 0.012 * u[1]
    gain = 1 + 0.05 * u[2]
    return Geometry(
        half_width=half,
        jaw=0.82 + 0.12 * u[3],
        chin=0.33 + 0.14 * u[4],
        eye_x=0.168 + 0.024 * u[5],
        eye_y=0.0 + 0.02 * u[6],
        eye_half=eye_half,
        eye_open=0.034 + 0.009 * u[7],
        eye_tilt=0.02 + 0.18 * u[8],
        brow_y=-0.105 - 0.022 * u[9],
        brow_thick=0.033 + 0.017 * u[10],
        brow_tilt=0.03 * u[11],
        brow_arch=0.022 + 0.018 * u[12],
        nose_length=0.215 + 0.035 * u[13],
        nose_half=0.075 + 0.026 * u[14],
        nose_bridge=0.5 + 0.4 * u[15],
        mouth_y=0.325 + 0.018 * u[16] + 0.4 * 0.035 * u[13],
        mouth_half=0.128 + 0.032 * u[17],
        lip_upper=0.024 + 0.011 * u[18],
        lip_lower=0.034 + 0.014 * u[19],
        lip_red=0.5 + 0.5 * u[20],
        ear=0.085 + 0.022 * u[21],
        hairline=-0.31 + 0.025 * u[22],
        skin_gain=(gain, gain * (1 + 0.02 * u[23]), gain * (1 + 0.03 * u[24])),
        freckles=int(rng.integers(10, 20)) if rng.uniform() < 0.25 else 0,
        mole=(float(rng.uniform(-0.2, 0.2)), float(rng.uniform(0.1, 0.36))) if rng.uniform() < 0.35 else None,
        shoulders=0.8 + 0.1 * u[25],
        seed=identity,
    )
