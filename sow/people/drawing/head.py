"""The head: where the features of one identity lie for an age, an expression and a pose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sow.people.captions.attributes import Attributes
from sow.people.drawing.canvas import Color, Frame, Points, smooth
from sow.people.drawing.identity import SKIN, Geometry


@dataclass(frozen=True)
class Pose:
    """Head pose and light: yaw and light direction in [-1, 1] radians-like units, `gaze` moves the irises."""

    yaw: float
    pitch: float
    light: float
    gaze: float


@dataclass(frozen=True)
class Mood:
    """How an expression moves the features, in head heights."""

    eye: float  # factor on the eye opening
    brow_inner: float  # positive lowers the inner end
    brow_outer: float
    brow_all: float
    corner: float  # positive lifts the mouth corners
    open: float
    width: float
    teeth: bool = False


MOODS = {
    "neutral": Mood(0.95, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    "happy": Mood(0.78, 0.0, 0.0, -0.012, 0.055, 0.058, 1.28, True),
    "sad": Mood(0.74, -0.042, 0.030, 0.0, -0.048, 0.0, 0.92),
    "angry": Mood(0.74, 0.048, -0.034, 0.016, -0.022, 0.03, 1.06, True),
    "surprised": Mood(1.4, -0.01, 0.0, -0.05, -0.006, 0.105, 0.74),
}


class Head:
    """Where the features of one head lie: geometry adjusted for age, on a head turned by a small yaw."""

    def __init__(self, frame: Frame, geo: Geometry, a: Attributes, pose: Pose) -> None:
        child, old = a.age == "child", a.age == "old"
        self.frame, self.geo, self.a, self.pose = frame, geo, a, pose
        self.mood = MOODS[a.expression]
        self.half = geo.half_width * (1.1 if child else 1.0)
        self.down = 0.065 if child else 0.0  # a child's features sit lower
        self.eye_scale = 1.24 if child else 0.94 if old else 1.0
        self.nose_scale = 0.76 if child else 1.1 if old else 1.0
        base = SKIN[a.skin]
        gain = np.array(geo.skin_gain)
        self.skin: Color = tuple(np.clip(np.array(base) * gain, 0, 255))
        self.deep = base[0] < 180  # dark skins need gentler, redder shadows

    def turn(self, points: object, depth: float = 0.0) -> Points:
        """Local points on the turned head surface; `depth` is how far they stand out in front."""
        p = np.array(points, dtype=np.float64)
        r = 1.12 * self.half
        angle = np.arcsin(np.minimum(np.maximum(p[:, 0] / r, -0.98), 0.98)) + self.pose.yaw
        p[:, 0] = r * np.sin(angle) + depth * np.sin(self.pose.yaw)
        p[:, 1] += self.down + self.pose.pitch * (1 + depth)
        return p

    def place(self, points: object, depth: float = 0.0) -> Points:
        """Feature points in canvas units."""
        return self.frame(self.turn(points, depth))

    def outline(self) -> Points:
        """The head's contour, crown to chin, in local coordinates."""
        g, w = self.geo, self.half
        child = self.a.age == "child"
        jaw, chin = (g.jaw * 1.03, g.chin * 0.9) if child else (g.jaw, g.chin)
        right = [
            (0.0, -0.5), (0.6 * w, -0.452), (0.93 * w, -0.28), (w, -0.06), (0.965 * w, 0.1),
            (jaw * w, 0.29), (0.5 * (jaw + chin) * w, 0.415), (chin * w, 0.478),
        ]  # fmt: skip
        pts = [*right, (0.0, 0.503), *[(-x, y) for x, y in right[:0:-1]]]
        return smooth(pts)

    def oval(self) -> Points:
        """The face below the hairline, in local coordinates."""
        out = self.outline()
        top = self.geo.hairline - 0.035 * (1 - (out[:, 0] / self.half) ** 2)
        return np.stack([out[:, 0], np.maximum(out[:, 1], np.minimum(top, out[:, 1] + 0.2))], axis=1)
