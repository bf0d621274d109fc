"""What the four numbers of a model's box mean: the answer asked for, or one of the other habits of vision models."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sow.types import Box, Canvas

Numbers = tuple[float, float, float, float]
Cost = Callable[[int, Numbers], float]

# Order of the numbers, scale (None: pixels of the canvas), and how much worse than the asked one it must not be:
# the asked convention wins unless its boxes make clearly less sense.
_KINDS: dict[str, tuple[str, float | None, float]] = {
    "xywh": ("xywh", None, 0.0),
    "yxyx of 1000": ("yxyx", 1000, 0.18),
    "xywh of 1000": ("xywh", 1000, 0.22),
    "xyxy": ("xyxy", None, 0.20),
    "xyxy of 1000": ("xyxy", 1000, 0.24),
    "yxyx": ("yxyx", None, 0.26),
    "xywh of 1": ("xywh", 1, 0.0),
    "yxyx of 1": ("yxyx", 1, 0.10),
    "xyxy of 1": ("xyxy", 1, 0.12),
}
_SAME_AS_BEFORE = 0.3  # what an earlier stage's convention is ahead
_NAMED = 0.5  # what a convention that the reply names is ahead
_NONSENSE = 1.5  # a cost that no sensible box has
_KEYS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("x", "y", "width", "height"), "xywh"),
    (("x", "y", "w", "h"), "xywh"),
    (("left", "top", "width", "height"), "xywh"),
    (("xmin", "ymin", "xmax", "ymax"), "xyxy"),
    (("x_min", "y_min", "x_max", "y_max"), "xyxy"),
    (("x1", "y1", "x2", "y2"), "xyxy"),
    (("left", "top", "right", "bottom"), "xyxy"),
)
_LISTS = {
    "box_2d": "yxyx of 1000",
    "bbox_2d": "xyxy",
    "bbox": "",
    "box": "",
    "bounding_box": "",
    "region": "",
}


def numbers(item: Any) -> tuple[Numbers, str]:
    """The four numbers of one box, and the order or convention its form names ("" for a bare list).

    Raises ValueError for anything that is not four finite numbers.
    """
    hint = ""
    if isinstance(item, Mapping):
        for keys, order in _KEYS:
            if all(k in item for k in keys):
                item, hint = [item[k] for k in keys], order
                break
        else:
            key = next((k for k in _LISTS if k in item), None)
            if key is None:
                raise ValueError(f"{dict(item)} is no box [x, y, width, height]")
            values, inner = numbers(item[key])
            return values, inner or _LISTS[key]
    if not isinstance(item, Sequence) or isinstance(item, str) or len(item) != 4:
        raise ValueError(f"{item!r} is no box [x, y, width, height]")
    try:
        x = tuple(float(v) for v in item)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{item!r} is no box [x, y, width, height]") from error
    if not all(math.isfinite(v) for v in x):
        raise ValueError(f"{item!r} is no box [x, y, width, height]")
    return (x[0], x[1], x[2], x[3]), hint


def recognise(
    items: Sequence[Any], canvas: Canvas, cost: Cost, before: str | None = None
) -> tuple[str, list[Box]]:
    """The convention that makes most sense of all items together, and the boxes in canvas pixels.

    `cost(i, (x, y, w, h))` says how little sense box i makes, 0 for none; `before` is the convention that an earlier
    stage of the same plan used. Raises ValueError when an item is no box or no convention makes sense.
    """
    read = [numbers(item) for item in items]
    small = all(0 <= v <= 1 for values, _ in read for v in values)
    best: tuple[float, str, list[Numbers]] | None = None
    for name, (order, scale, prior) in _KINDS.items():
        if small != (scale == 1):
            continue
        if any(hint in ("xywh", "xyxy") and hint != order for _, hint in read):
            continue
        boxes = [_pixels(values, order, scale, canvas) for values, _ in read]
        if any(b is None for b in boxes):
            continue
        total = sum(cost(i, b) for i, b in enumerate(boxes) if b is not None) / len(boxes)
        if total >= _NONSENSE:
            continue
        total += prior - (_SAME_AS_BEFORE if name == before else 0)
        total -= _NAMED if all(hint == name for _, hint in read) and " " in name else 0
        if best is None or total < best[0]:
            best = (total, name, [b for b in boxes if b is not None])
    if best is None:
        raise ValueError(
            f"{[list(values) for values, _ in read]} make no sense on {canvas.width} x {canvas.height} pixels"
        )
    return best[1], [_box(b) for b in best[2]]


def outside(values: Numbers, canvas: Canvas) -> float:
    """Share of the box that lies off the canvas."""
    x, y, w, h = values
    width = min(x + w, canvas.width) - max(x, 0)
    height = min(y + h, canvas.height) - max(y, 0)
    return 1 - max(0.0, width) * max(0.0, height) / (w * h)


def condition_cost(aspects: Sequence[float], canvas: Canvas) -> Cost:
    """How far a condition's box is from the limits of its size, its aspect and the canvas."""

    def cost(i: int, values: Numbers) -> float:
        _, _, w, h = values
        side = math.sqrt(w * h)
        wanted = min(max(side, canvas.condition_min), canvas.condition_max)
        aspect = abs(math.log(w / h / aspects[i]))
        return abs(math.log(side / wanted)) + 1.5 * max(0.0, aspect - 0.08) + 0.3 * outside(values, canvas)

    return cost


def region_cost(boxes: Sequence[Box], canvas: Canvas) -> Cost:
    """How far a related region is from the canvas and from the nearest condition."""

    def cost(i: int, values: Numbers) -> float:
        x, y, w, h = values
        gaps = [
            math.hypot(max(x - b.right, b.x - x - w, 0), max(y - b.bottom, b.y - y - h, 0)) for b in boxes
        ]
        return 0.6 * outside(values, canvas) + min(gaps, default=0.0) / min(canvas.width, canvas.height)

    return cost


def _pixels(values: Numbers, order: str, scale: float | None, canvas: Canvas) -> Numbers | None:
    a, b, c, d = values
    x, y, w, h = {"xywh": (a, b, c, d), "xyxy": (a, b, c - a, d - b), "yxyx": (b, a, d - b, c - a)}[order]
    if w <= 0 or h <= 0:
        return None
    sx, sy = (1.0, 1.0) if scale is None else (canvas.width / scale, canvas.height / scale)
    return x * sx, y * sy, w * sx, h * sy


def _box(values: Numbers) -> Box:
    x, y, w, h = (round(v) for v in values)
    return Box(x, y, max(1, w), max(1, h))
