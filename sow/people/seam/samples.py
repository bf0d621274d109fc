"""Composites and whole renders that teach the seam classifier, and those that measure it.

A composite differs from the render it was made of inside the face's mask, or in a ring around it, alone: in
colour and light, in place or size, in sharpness, by another person's face, or by the gray that a canvas
leaves around a condition. Whatever else happens to a picture (softness, noise, the autoencoder) happens to
both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sow.people.judge.composites import Figure, Mask, Picture, blend, degraded, feather, moved
from sow.people.judge.samples import EVALUATION_SEED, HELD_OUT_IDENTITY, TRAINING_SEED, figure_of

KINDS = ("color", "other", "moved", "sharpness", "ring")
OFFSET = 95_000_000  # of the seeds within the judge's ranges
SOFT = (0.0, 0.8, 1.6)  # pixels over which a composite's edge may be feathered


@dataclass(frozen=True, eq=False)
class Example:
    """A picture (H, W, 3), the mask (H, W) of the condition in it, and what was done: a kind, or ""."""

    image: Picture
    mask: Mask
    kind: str


def people(count: int, seed: int, held_out: bool = False) -> list[Figure]:
    """`count` renders of one person each in a scene; held-out ones have seeds and identities of their own."""
    first = (EVALUATION_SEED if held_out else TRAINING_SEED) + OFFSET + seed * 1_000_000
    who = (HELD_OUT_IDENTITY if held_out else 0) + 7_000_000 + seed * 100_000
    return [figure_of(first + i, who + i, nobody=False) for i in range(count)]


def pairs(rng: np.random.Generator, figures: list[Figure], count: int) -> Iterator[Example]:
    """`count` times a whole render and a composite of it, the kinds in turn, neither softened yet."""
    for number in range(count):
        figure = figures[int(rng.integers(len(figures)))]
        kind = KINDS[number % len(KINDS)]
        mask = _mask(rng, figure.face_mask)
        yield Example(figure.image, mask, "")
        yield Example(composite(rng, figure, figures, mask, kind), mask, kind)


def softened(rng: np.random.Generator, example: Example) -> Example:
    """Half of them softened, compressed, made noisy or recoloured as a whole, half of them mirrored."""
    image, mask = example.image, example.mask
    if rng.random() < 0.5:
        image = degraded(rng, image)
    if rng.random() < 0.5:
        image, mask = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(mask[:, ::-1])
    return Example(image, mask, example.kind)


def through(autoencoder: Callable[[list[Picture]], list[Picture]], examples: list[Example]) -> list[Example]:
    """The examples as an autoencoder draws them again."""
    images = autoencoder([e.image for e in examples])
    return [Example(i, e.mask, e.kind) for i, e in zip(images, examples, strict=True)]


def _mask(rng: np.random.Generator, mask: Mask) -> Mask:
    """The face's mask, a pixel smaller or larger at times: a plan's place is rounded."""
    change = int(rng.integers(-1, 2))
    if not change:
        return mask
    alter = cv2.dilate if change > 0 else cv2.erode
    return alter(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0


def composite(
    rng: np.random.Generator, figure: Figure, others: list[Figure], mask: Mask, kind: str
) -> Picture:
    """The figure with something else in `mask`, by one of KINDS; it ends at the mask's edge, feathered by at
    most two pixels."""
    image = figure.image
    weight = feather(mask, float(rng.choice(SOFT)))
    if kind == "color":
        return blend(image, recolored(rng, image), weight)
    if kind == "other":
        return blend(image, _another(rng, figure, others, mask), weight)
    if kind == "moved":
        return blend(image, _shifted(rng, figure), weight)
    if kind == "sharpness":
        return _blurred(rng, image, weight)
    return _ringed(rng, image, mask)


def recolored(rng: np.random.Generator, image: Picture) -> Picture:
    """The picture under another light: each channel's gain and offset visibly changed."""
    gain = 1 + rng.choice((-1.0, 1.0)) * rng.uniform(0.08, 0.3) + rng.uniform(-0.1, 0.1, 3)
    return np.clip(image * gain + rng.uniform(-12, 12), 0, 255).astype(np.uint8)


def _another(rng: np.random.Generator, figure: Figure, others: list[Figure], mask: Mask) -> Picture:
    """Another person's face, fitted to this one's."""
    other = others[int(rng.integers(len(others)))]
    x, y, w, h = other.face_shown
    fx, fy, fw, fh = figure.face_shown
    center = (x + w / 2, y + h / 2)
    shift = (fx + fw / 2 - center[0], fy + fh / 2 - center[1])
    scale = max(fw / w, fh / h) * rng.uniform(1.0, 1.1)
    there = moved(np.ones(mask.shape, np.float32), shift, scale, center)[..., None] > 0.99
    return np.where(there, moved(other.image, shift, scale, center), figure.image)


def _shifted(rng: np.random.Generator, figure: Figure) -> Picture:
    """The picture moved by two pixels and more, or its size changed."""
    x, y, w, h = figure.face_shown
    angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(2, 6)
    shift = (far * np.cos(angle), far * np.sin(angle))
    scale = 1 + rng.choice((-1.0, 1.0)) * rng.uniform(0, 0.15)
    return moved(figure.image, shift, scale, (x + w / 2, y + h / 2))


def _blurred(rng: np.random.Generator, image: Picture, weight: NDArray[np.float32]) -> Picture:
    """Inside or outside blurred."""
    soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(1.0, 2.2))
    return blend(image, soft, weight) if rng.random() < 0.5 else blend(soft, image, weight)


def _ringed(rng: np.random.Generator, image: Picture, mask: Mask) -> Picture:
    """A ring of gray, or of a tint, around the mask, one to four pixels wide."""
    wide = 2 * int(rng.integers(1, 5)) + 1
    ring = (cv2.dilate(mask.astype(np.uint8), np.ones((wide, wide), np.uint8)) > 0) & ~mask
    tone = np.full(3, 128) if rng.random() < 0.6 else rng.uniform(40, 220, 3)
    over = np.broadcast_to(tone.astype(np.uint8), image.shape)
    return blend(image, over, feather(ring, rng.uniform(0, 0.8)) * rng.uniform(0.5, 1.0))
