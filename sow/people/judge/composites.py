"""Broken and repaired pictures: heads without a body, swapped faces, halos, and the softness of generated images.

Truncated outlines are made in every way a generated picture has shown them: a cut-out head, a bare face or a
rectangular patch set on a scene, with or without somebody else in it; a body erased below the chin or moved away.
What is no sign of truncation (seams, gray halos, blur, a second head, another person's face) is also put on whole
figures, so that only the missing join between head and torso tells the two apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from sow.people.captions.attributes import Attributes

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Figure:
    """A rendered picture as the composites need it; boxes are float arrays x, y, w, h in pixels.

    `whole` is 1 where head and torso visibly join below `face`, 0 where truncated, -1 where too little of the
    body lies on the picture to tell. `faces` holds every face on the picture, `face` the one that is judged.
    `background` is the same scene without the person, where known.
    """

    image: Picture
    attributes: Attributes
    identity: int
    face: NDArray[np.float64] | None
    head: NDArray[np.float64] | None
    body: NDArray[np.float64] | None
    face_mask: Mask
    figure_mask: Mask
    framing: str
    background: Picture | None = None
    faces: tuple[NDArray[np.float64], ...] = ()
    whole: int = -1
    clothed: bool = True
    colorless: bool = False  # a pencil sketch, at least in part
    bare: bool = False  # hair and hat are cut away
    doubled: bool = False  # parts of a second face overlap the first, which `faces` does not list
    misdrawn: bool = False  # what the face shows may have changed

    @property
    def altered(self) -> bool:
        """Whether the face no longer shows what the attributes and the identity say."""
        return self.doubled or self.misdrawn

    @property
    def second(self) -> bool:
        """Whether a second face is there, whole or in part."""
        return self.doubled or len(self.faces) > 1

    @property
    def face_shown(self) -> NDArray[np.float64]:
        """`face` of a figure that is known to show one."""
        assert self.face is not None
        return self.face


def feather(mask: Mask | NDArray[np.float32], radius: float) -> NDArray[np.float32]:
    """A mask as weights in [0, 1] (H, W, 1), its border softened over about `radius` pixels."""
    weight = mask.astype(np.float32)
    if radius > 0.3:
        weight = cv2.GaussianBlur(weight, (0, 0), radius)
    return weight[..., None]


def blend(under: Picture, over: Picture, weight: NDArray[np.floating]) -> Picture:
    """over * weight + under * (1 - weight)."""
    return (under + weight * (over.astype(np.float32) - under)).round().astype(np.uint8)


def truncated(rng: np.random.Generator, donor: Figure, target: Figure) -> Figure | None:
    """A head of `donor` without a torso on the scene of `target`; None where no place for it was found."""
    if donor.background is not None and donor.framing == "scene" and rng.random() < 0.6:
        return _bodiless(rng, donor)
    return _pasted(rng, donor, target)


def _bodiless(rng: np.random.Generator, donor: Figure) -> Figure | None:
    """The donor on its own scene with the body erased below the chin, or standing apart from the head."""
    size = donor.image.shape[0]
    assert donor.background is not None
    _, y, w, h = donor.face_shown
    if y + h > 0.9 * size:
        return None
    alpha, bare = _head_alpha(rng, donor)
    base = donor.background.copy()
    if rng.random() < 0.45:  # the body is there, but elsewhere
        body = donor.figure_mask.astype(np.float32) * (np.arange(size) > y + h * 1.02)[:, None]
        side = rng.choice((-1.0, 1.0))
        shift = (side * rng.uniform(0.9, 2.0) * w, rng.uniform(-0.3, 0.5) * h)
        if rng.random() < 0.4:
            shift = (rng.uniform(-0.3, 0.3) * w, rng.uniform(0.4, 1.0) * h)
            if y + 1.5 * h + shift[1] > size:
                return None
        base = blend(
            base,
            moved(donor.image, shift),
            feather(moved(body, shift), rng.uniform(0, 1.5)),
        )
    base = _halo(rng, base, donor.face_shown) if rng.random() < 0.3 else base
    image = blend(base, donor.image, alpha * rng.uniform(0.85, 1.0))
    return replace(
        donor,
        image=image,
        body=None,
        background=None,
        whole=0,
        clothed=False,
        bare=bare,
    )


def _head_alpha(rng: np.random.Generator, donor: Figure) -> tuple[NDArray[np.float32], bool]:
    """Weights (H, W, 1) of the donor's head (outline with hair, bare face, or a patch), and whether hair is cut away."""
    size = donor.image.shape[0]
    x, y, w, h = donor.face_shown
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    kind = rng.choice(("head", "face", "rectangle", "oval"), p=(0.4, 0.2, 0.25, 0.15))
    soft = float(rng.choice((0.0, 1.0, 2.5))) * rng.uniform(0.4, 1.2)
    if kind == "head":
        stub = rng.uniform(-0.02, 0.16) * h  # some keep a piece of the neck
        mask = donor.figure_mask & (rows < y + h + stub) & (np.abs(columns - x - w / 2) < 1.1 * w)
    elif kind == "face":
        mask = donor.face_mask
        if rng.random() < 0.5:
            mask = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=2) > 0
    else:
        rx, up, down = (
            rng.uniform(0.52, 0.85) * w,
            rng.uniform(0.5, 0.85) * h,
            rng.uniform(0.5, 0.66) * h,
        )
        dx, dy = columns - x - w / 2, rows - y - h / 2
        ry = np.where(dy < 0, up, down)
        mask = (
            (np.abs(dx) < rx) & (np.abs(dy) < ry)
            if kind == "rectangle"
            else (dx / rx) ** 2 + (dy / ry) ** 2 < 1
        )
    return feather(mask, soft), kind != "head"


def moved(
    array: NDArray,
    shift: tuple[float, float],
    scale: float = 1.0,
    center: tuple[float, float] = (0, 0),
) -> NDArray:
    """The array scaled about `center` and moved by `shift` pixels; empty where it came from outside."""
    cx, cy = center
    matrix = np.array([[scale, 0, cx + shift[0] - scale * cx], [0, scale, cy + shift[1] - scale * cy]])
    height, width = array.shape[:2]
    flags = cv2.INTER_AREA if scale < 0.7 else cv2.INTER_LINEAR
    return cv2.warpAffine(array, matrix, (width, height), flags=flags)


def _halo(rng: np.random.Generator, base: Picture, face: NDArray[np.float64]) -> Picture:
    """A gray or tinted patch around the head, as the canvas under a visual condition leaves it."""
    size = base.shape[0]
    x, y, w, h = face
    rows, columns = np.mgrid[0:size, 0:size]
    grow = rng.uniform(0.55, 0.95, 2)
    mask = (np.abs(columns - x - w / 2) < grow[0] * w) & (np.abs(rows - y - h / 2) < grow[1] * h)
    tone = np.full_like(base, 128)
    if rng.random() < 0.4:
        tone[:] = np.clip(base[mask].mean(0) if mask.any() else 128, 0, 255).astype(np.uint8)
    return blend(base, tone, feather(mask, rng.uniform(0, 4)) * rng.uniform(0.3, 1.0))


def _pasted(rng: np.random.Generator, donor: Figure, target: Figure) -> Figure | None:
    """The donor's head scaled and set on the target's scene, away from the neck of whoever stands there."""
    size = target.image.shape[0]
    x, y, w, h = donor.face_shown
    scale = rng.uniform(20, 60) * size / 128 / h
    fw, fh = w * scale, h * scale
    cx = rng.uniform(0.3 * fw, size - 0.3 * fw)
    cy = rng.uniform(0.6 * fh, min(size - 0.5 * fh, 0.9 * size - 0.5 * fh))
    face = np.array([cx - fw / 2, cy - fh / 2, fw, fh])
    faces: tuple[NDArray[np.float64], ...] = (face,)
    if target.face is not None:
        tx, ty, tw, th = target.face
        joint = tx + tw / 2, ty + th
        near = (
            abs(cx - joint[0]) < 0.7 * (fw + tw)
            and -0.9 * (fh + th) < cy + fh / 2 - joint[1] < 0.9 * fh + 0.5 * th
        )
        bx, by, bw, _ = target.body if target.body is not None else (0, size, 0, 0)
        on_body = bx - 0.2 * fw < cx < bx + bw + 0.2 * fw and cy + fh / 2 > by - 0.25 * fh
        if near or on_body:
            return None
        faces = (face, target.face)
    center = (x + w / 2, y + h / 2)
    shift = (cx - center[0], cy - center[1])
    alpha, bare = _head_alpha(rng, donor)
    weight = moved(alpha[..., 0], shift, scale, center)[..., None]
    over = moved(donor.image, shift, scale, center)
    base = target.image
    if rng.random() < 0.3:
        base = _halo(rng, base, face)
    image = blend(base, over, weight * rng.uniform(0.85, 1.0))
    return replace(
        donor, image=image, face=face, head=face, body=None, framing="scene", background=None, faces=faces, whole=0,
        clothed=False, bare=bare or donor.framing != "scene",
    )  # fmt: skip


def disturbed(rng: np.random.Generator, figure: Figure, other: Figure) -> Figure:
    """A whole figure with the seams of generated pictures: a halo behind it, another face in place, a second head."""
    kind = rng.choice(("halo", "face", "second"), p=(0.35, 0.4, 0.25))
    if kind == "halo":
        weight = feather(figure.figure_mask, 0.5)
        return _with_image(figure, blend(_halo(rng, figure.image, figure.face_shown), figure.image, weight))
    if kind == "face" and other.face is not None:
        return _swapped(rng, figure, other)
    if kind == "second" and other.face is not None:
        added = _pasted(rng, other, figure)
        if added is not None:
            faces = (figure.face_shown, *added.faces)
            return _with_image(figure, added.image, faces=faces)
    return figure


def doubled(rng: np.random.Generator, figure: Figure, other: Figure) -> Figure:
    """A figure with a second face that overlaps its own, in the ways in which generated pictures show one.

    A copy of a face, or of its lower half alone, below or beside the first; or a smaller face within a head whose own
    mouth, brow or chin shows around it.
    """
    source = other if other.face is not None and rng.random() < 0.5 else figure
    x, y, w, h = source.face_shown
    fx, fy, fw, fh = figure.face_shown
    size = figure.image.shape[0]
    rows = np.arange(size)[:, None]
    mask = source.face_mask.astype(np.float32)
    center = (x + w / 2, y + h / 2)
    fit = 0.5 * (fw / w + fh / h)
    kind = rng.choice(("below", "beside", "within"), p=(0.45, 0.15, 0.4))
    if kind == "within":
        scale = fit * rng.uniform(0.4, 0.68)
        at = (fx + fw * rng.uniform(0.35, 0.65), fy + fh * rng.uniform(0.3, 0.62))
    else:
        scale = fit * rng.uniform(0.7, 1.15)
        if rng.random() < 0.5:  # mouth and chin alone
            mask = mask * (rows > y + h * rng.uniform(0.45, 0.62))
        drop = rng.uniform(0.35, 1.0) if kind == "below" else rng.uniform(-0.3, 0.3)
        aside = (
            rng.uniform(-0.2, 0.2) if kind == "below" else rng.choice((-1.0, 1.0)) * rng.uniform(0.45, 1.0)
        )
        at = (fx + fw / 2 + aside * fw, fy + fh / 2 + drop * fh)
    shift = (at[0] - center[0], at[1] - center[1])
    weight = feather(moved(mask, shift, scale, center), rng.uniform(0.5, 3))
    image = blend(figure.image, moved(source.image, shift, scale, center), weight * rng.uniform(0.6, 1.0))
    return replace(_with_image(figure, image), doubled=True)


def misdrawn(rng: np.random.Generator, figure: Figure) -> Figure:
    """A figure of one face whose features are bent, rubbed out or smeared: badly drawn, and no second face."""
    x, y, w, h = figure.face_shown
    size = figure.image.shape[0]
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    image = figure.image
    if rng.random() < 0.7:  # a smooth field moves features by up to a tenth of the face and draws none twice
        bend = rng.standard_normal((2, 4, 4), dtype=np.float32) * np.float32(rng.uniform(0.02, 0.06) * w)
        inside = feather(figure.face_mask, 0.06 * w)[..., 0]
        dx, dy = (cv2.resize(b, (size, size), interpolation=cv2.INTER_CUBIC) * inside for b in bend)
        image = cv2.remap(image, columns + dx, rows + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    for _ in range(int(rng.integers(0, 3))):
        cx, cy = x + w * rng.uniform(0.2, 0.8), y + h * rng.uniform(0.25, 0.85)
        rx, ry = w * rng.uniform(0.08, 0.2), h * rng.uniform(0.06, 0.15)
        spot = ((columns - cx) / rx) ** 2 + ((rows - cy) / ry) ** 2 < 1
        if rng.random() < 0.5:
            over = cv2.inpaint(image, spot.astype(np.uint8), 3, cv2.INPAINT_TELEA)
        else:
            over = cv2.blur(image, (max(3, int(w * rng.uniform(0.1, 0.3))), 3))
        image = blend(image, over, feather(spot, rng.uniform(0.3, 1.5)))
    return replace(_with_image(figure, image), misdrawn=True)


def _swapped(rng: np.random.Generator, figure: Figure, other: Figure) -> Figure:
    """The figure wearing the other's face, head height fitted: whole, though seams and colours differ."""
    x, y, w, h = other.face_shown
    fx, fy, fw, fh = figure.face_shown
    scale = 0.5 * (fw / w + fh / h) * rng.uniform(0.92, 1.08)
    center = (x + w / 2, y + h / 2)
    shift = (fx + fw / 2 - center[0], fy + fh / 2 - center[1])
    mask = moved(other.face_mask.astype(np.float32), shift, scale, center)
    image = blend(
        figure.image,
        moved(other.image, shift, scale, center),
        feather(mask, rng.uniform(0, 2)),
    )
    worn = {
        name: getattr(other.attributes, name) for name in ("age", "skin", "eyes", "expression", "glasses")
    }
    return replace(
        _with_image(figure, image), attributes=replace(figure.attributes, **worn), identity=other.identity,
        colorless=figure.colorless or other.colorless,
    )  # fmt: skip


def _with_image(
    figure: Figure, image: Picture, faces: tuple[NDArray[np.float64], ...] | None = None
) -> Figure:
    return replace(figure, image=image, background=None, faces=faces or figure.faces)


def degraded(rng: np.random.Generator, image: Picture) -> Picture:
    """Mild damage of every kind that is no truncation: softness, blur, JPEG, noise, shifts of colour and contrast."""
    size = image.shape[0]
    kind = rng.random()
    if kind < 0.35:
        small = round(size / rng.uniform(1.1, 2.1))
        image = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)
    elif kind < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 0.9))
    if rng.random() < 0.2:
        quality = int(rng.integers(25, 90))
        written = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        decoded = cv2.imdecode(written, cv2.IMREAD_COLOR)
        assert decoded is not None
        image = decoded
    if rng.random() < 0.25:
        coarse = int(rng.choice((size, size // 2, size // 8)))
        noise = rng.standard_normal((coarse, coarse, 3), dtype=np.float32) * np.float32(rng.uniform(2, 9))
        if coarse != size:
            noise = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        gain = rng.uniform(0.9, 1.1) * rng.uniform(0.95, 1.05, 3)
        table = np.arange(256)[:, None] * gain + rng.uniform(-10, 10)
        image = cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8)[:, None])
    return image
