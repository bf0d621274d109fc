"""Drawn people in scenes with their ground truth: the same seed is the same picture at any size."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from sow.people.captions.attributes import Attributes, sample_attributes, sample_identity, with_identity
from sow.people.drawing.body import draw_body
from sow.people.drawing.canvas import Canvas, Color, Frame, Points, mix, outline_stroke
from sow.people.drawing.face import draw_brows, draw_eyes, draw_glasses, draw_marks, draw_mouth, draw_nose
from sow.people.drawing.hair import brow_color, draw_back_hair, draw_front_hair
from sow.people.drawing.hats import draw_hat
from sow.people.drawing.head import Head, Pose
from sow.people.drawing.identity import geometry
from sow.people.drawing.scenes import draw_scene
from sow.people.drawing.skin import draw_skin
from sow.people.drawing.styles import apply_style

Box = tuple[int, int, int, int]
FRAMINGS = ("scene", "closeup", "gray")
GRAY = 128
_BASE = 256  # pictures below this size are drawn at it and reduced, so that sizes agree


@dataclass(frozen=True)
class Render:
    """A picture and its ground truth; boxes are (x, y, w, h) in pixels, None without a person.

    image (H, W, 3) uint8 RGB; face_mask and figure_mask (H, W) bool. `face_box` bounds the face from
    hairline to chin without the ears, `head_box` adds hair and hat, `body_box` bounds neck, torso, arms and
    legs on the canvas.
    `identity` is -1 without a person.
    """

    image: NDArray[np.uint8]
    attributes: Attributes
    identity: int
    face_box: Box | None
    head_box: Box | None
    body_box: Box | None
    face_mask: NDArray[np.bool_]
    figure_mask: NDArray[np.bool_]


def render(
    seed: int,
    size: int = 128,
    *,
    attributes: Attributes | None = None,
    identity: int | None = None,
    framing: str = "scene",
    placement: tuple[float, float, float] | None = None,
) -> Render:
    """Draw one picture; what is not given is drawn from the seed.

    `identity` overrides skin and eyes of `attributes`; without it an identity that agrees with them is drawn.
    `placement` is the face's centre (x, y) and the head height from crown to chin, in units of the canvas.
    `framing`: "scene", where the head is as large as a visual condition's (0.36 to 0.56 of the canvas from
    crown to chin, in the upper half); "closeup", where the face box enlarged by 5 to 25 % fills the canvas;
    or "gray", the close-up with mid-gray outside the face mask. All but "scene" always show a person. Raises
    ValueError for another framing.
    """
    if framing not in FRAMINGS:
        raise ValueError(f"framing={framing!r} is not one of {FRAMINGS}")
    streams = [np.random.default_rng([seed, k]) for k in range(4)]
    rng, scene_rng, hair_rng, place_rng = streams
    chosen = sample_attributes(rng) if attributes is None else attributes
    if framing != "scene" and chosen.presence == "nobody":
        chosen = replace(chosen, presence="person")
    drawn = sample_identity(rng, None if attributes is None else chosen)
    who = drawn if identity is None else identity
    work = max(size, _BASE)
    canvas = Canvas(work)
    draw_scene(canvas, chosen.scene, chosen.wall_color, scene_rng)
    if chosen.presence == "nobody":
        image = _finish(canvas, chosen, scene_rng, size)
        empty = np.zeros((size, size), bool)
        return Render(image, chosen, -1, None, None, None, empty, empty.copy())
    chosen = with_identity(chosen, who)
    pose, tilt = _pose(place_rng)
    place = _place(place_rng, framing, placement, who)
    truth = _draw_figure(canvas, chosen, who, pose, tilt, place, hair_rng)
    image = _finish(canvas, chosen, scene_rng, size, truth.face)
    face_mask, figure = (_reduce(m, size) for m in (truth.face, cv2.extractChannel(canvas.pixels, 3)))
    if framing == "gray":
        image = np.where(face_mask[..., None], image, np.uint8(GRAY))
    face, head, body = (_clip(p, size) for p in (truth.oval, truth.head, truth.body))
    return Render(image, chosen, who, face, head, body, face_mask, figure)


def face_condition(
    seed: int,
    identity: int | None = None,
    attributes: Attributes | None = None,
    size: int = 128,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A visual condition: the face's close-up (size, size, 3) uint8 and its face mask (size, size) bool."""
    picture = render(seed, size, attributes=attributes, identity=identity, framing="closeup")
    return picture.image, picture.face_mask


def scene_placement(seed: int) -> tuple[float, float, float]:
    """The face's centre (x, y) and head height of the scene of this seed, in shares of the canvas.

    Known without drawing; of use only where the picture shows a person.
    """
    rng = np.random.default_rng([seed, 3])
    _pose(rng)
    return _place(rng, "scene", None, -1)


def head_square(seed: int) -> tuple[float, float, float, float]:
    """Square around the head of the scene of this seed: (x0, y0, x1, y1) in shares of the canvas."""
    cx, cy, height = scene_placement(seed)
    half = 0.6 * height
    return max(cx - half, 0.0), max(cy - half, 0.0), min(cx + half, 1.0), min(cy + half, 1.0)


@dataclass
class _Truth:
    oval: Points
    head: Points
    body: Points
    face: NDArray[np.uint8]


def _pose(rng: np.random.Generator) -> tuple[Pose, float]:
    """Where the head turns and looks, and its tilt in radians."""
    return Pose(*(rng.uniform(-1, 1, 4) * (0.25, 0.025, 0.9, 0.8))), float(rng.normal(0, 0.06))


def _place(
    rng: np.random.Generator,
    framing: str,
    placement: tuple[float, float, float] | None,
    identity: int,
) -> tuple[float, float, float]:
    u = rng.uniform(size=4)
    if placement is not None and framing == "scene":
        return placement
    if framing != "scene":
        geo = geometry(identity)
        extent = max(0.54 - geo.hairline, 2 * geo.half_width) * (1.05 + 0.2 * u[0])
        jitter = 0.04 * (u[1:3] - 0.5)
        return 0.5 + jitter[0], 0.5 + jitter[1], 1 / extent
    height = 0.36 + 0.20 * u[0]
    return float(0.33 + 0.34 * u[1]), float(0.6 * height + 0.12 * u[2]), float(height)


def _draw_figure(
    canvas: Canvas,
    a: Attributes,
    identity: int,
    pose: Pose,
    tilt: float,
    place: tuple[float, float, float],
    rng: np.random.Generator,
) -> _Truth:
    cx, cy, height = place
    geo = geometry(identity)
    middle = 0.5 * (geo.hairline + 0.5)  # the face's centre lies below the eyes
    frame = Frame(cx, cy, height, tilt)
    origin = frame([(0.0, -middle)])[0]
    frame = Frame(origin[0], origin[1], height, tilt)
    head = Head(frame, geo, a, pose)
    neck = frame([(0.0, 0.45)])[0]
    body_frame = Frame(neck[0], neck[1] - 0.45 * height, height, 0.25 * tilt)
    canvas.label = 255.0
    head_points: list[Points] = []
    body_points: list[Points] = []
    canvas.track = head_points
    draw_back_hair(canvas, head, rng)
    canvas.track = body_points
    draw_body(canvas, body_frame, geo, a, head)
    canvas.track = head_points
    draw_skin(canvas, head)
    oval = frame(head.oval())
    face = canvas.mask(oval)
    draw_marks(canvas, head)
    draw_nose(canvas, head)
    draw_mouth(canvas, head)
    brow = brow_color(head)
    draw_eyes(canvas, head, mix(brow, (20, 14, 14), 0.7))
    draw_brows(canvas, head, brow)
    draw_front_hair(canvas, head, rng)
    draw_glasses(canvas, head)
    canvas.erase = face
    draw_hat(canvas, head, rng)
    canvas.erase, canvas.track = None, None
    return _Truth(oval, np.vstack(head_points), np.vstack(body_points), face)


def _finish(
    canvas: Canvas,
    a: Attributes,
    rng: np.random.Generator,
    size: int,
    face: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Rain, style and reduction to the asked size."""
    if a.weather == "rain":
        _rain(canvas, rng, face)
    image = apply_style(cv2.cvtColor(canvas.pixels, cv2.COLOR_RGBA2RGB), a.style)
    return image if canvas.size == size else cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


def _rain(canvas: Canvas, rng: np.random.Generator, face: NDArray[np.uint8] | None) -> None:
    pixels = canvas.pixels
    keep = pixels[..., 3].copy()
    cv2.convertScaleAbs(pixels, pixels, alpha=0.8, beta=14)
    dry = pixels.copy()
    drop: Color = (206, 220, 236)
    for x, y, u in rng.uniform(size=(60, 3)):
        line = np.array([(x + 0.012, y - 0.03 - 0.03 * u), (x, y)])
        canvas.poly(outline_stroke(line, 0.003, 0.005), drop)
    if face is not None:  # drops across the features would hide who it is
        cv2.copyTo(dry, face, pixels)
    pixels[..., 3] = keep


def _reduce(mask: NDArray[np.uint8], size: int) -> NDArray[np.bool_]:
    if mask.shape[0] != size:
        mask = cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA)
    return mask >= 128


def _clip(points: Points, size: int) -> Box | None:
    """Tight box of unit points on the canvas, in pixels; None where nothing of it lies inside."""
    low = np.clip(np.floor(points.min(0) * size + 0.5), 0, size).astype(int)
    high = np.clip(np.ceil(points.max(0) * size - 0.5), 0, size).astype(int)
    w, h = high - low
    if w <= 0 or h <= 0:
        return None
    return int(low[0]), int(low[1]), int(w), int(h)
