"""What the four numbers of a model's box mean: the answer asked for, or one of the other habits of vision
models."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sow.planner.replies import UNITS
from sow.types import Box, Canvas

Numbers = tuple[float, float, float, float]
Cost = Callable[[int, Numbers], float]

# Order of the numbers ("cxcywh": the centre and the size) and scale (None: pixels of the canvas); the one
# that is asked for comes first.
ORDERS = ("xywh", "xyxy", "yxyx", "cxcywh")
CONVENTIONS: dict[str, tuple[str, float | None]] = {
    order if scale is None else f"{order} of {scale}": (order, scale)
    for scale in (None, 1000, 100, 1)
    for order in ORDERS
}
# What families of vision models were trained to write, by the start of their names without marks. The
# addresses that a provider moves from one model to the next (qwen-vl-max) have none.
_HABITS = (
    (r"gemini", "yxyx of 1000"),
    (r"qwen3\d?vl", "xyxy of 1000"),
    (r"qwen25vl", "xyxy"),
    (r"qwen2vl", "xyxy of 1000"),
    (r"qwenvl(?!max|plus|ocr)", "xyxy of 1000"),
    (r"internvl", "xyxy of 1000"),
)
_NONSENSE = 1.5  # a cost that no sensible box has
_AS_GOOD = 0.25  # how much more than the best a convention that fits as well may cost
_SAME = 0.7  # intersection over union from which two readings are one box
_INSIDE = 0.02  # share off the canvas up to which a reading that nobody asked for is a reading
# Names of the four numbers, which say their order; none says their scale.
_KEYS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("x", "y", "width", "height"), "xywh"),
    (("x", "y", "w", "h"), "xywh"),
    (("left", "top", "width", "height"), "xywh"),
    (("xmin", "ymin", "xmax", "ymax"), "xyxy"),
    (("x_min", "y_min", "x_max", "y_max"), "xyxy"),
    (("x1", "y1", "x2", "y2"), "xyxy"),
    (("left", "top", "right", "bottom"), "xyxy"),
    (("cx", "cy", "width", "height"), "cxcywh"),
    (("cx", "cy", "w", "h"), "cxcywh"),
    (("center_x", "center_y", "width", "height"), "cxcywh"),
    (("x_center", "y_center", "width", "height"), "cxcywh"),
)
# Names of a list of four, and the order of the families that were trained to write them.
_LISTS = {"box_2d": "yxyx", "bbox_2d": "xyxy", "bbox": "", "box": "", "bounding_box": "", "region": ""}


class Ambiguous(ValueError):
    """Boxes that make as much sense in two conventions; the text is what the model is told when it is asked
    again."""


def numbers(item: Any) -> tuple[Numbers, str]:
    """The four numbers of one box, and what the names of its form say: an order, the name of a list that a
    family writes, or "" for a bare list.

    Raises ValueError for anything that is not four finite numbers, Ambiguous where it names a unit or format.
    """
    hint = ""
    if isinstance(item, Mapping):
        if (unit := next((key for key in UNITS if key in item), None)) is not None:
            raise Ambiguous(f"a box says {unit}={item[unit]!r}: write x, y, width and height in pixels alone")
        for keys, order in _KEYS:
            if all(k in item for k in keys):
                item, hint = [item[k] for k in keys], order
                break
        else:
            key = next((k for k in _LISTS if k in item), None)
            if key is None:
                raise ValueError(f"{dict(item)} is no box [x, y, width, height]")
            values, inner = numbers(item[key])
            return values, inner or (key if _LISTS[key] else "")
    listed = isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 4
    if not listed or any(isinstance(v, bool) for v in item):
        raise ValueError(f"{item!r} is no box [x, y, width, height]")
    try:
        x = tuple(float(v) for v in item)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{item!r} is no box [x, y, width, height]") from error
    if not all(math.isfinite(v) for v in x):
        raise ValueError(f"{item!r} is no box [x, y, width, height]")
    return (x[0], x[1], x[2], x[3]), hint


def habit(model: str) -> str | None:
    """The convention that a model's family writes unless told otherwise, None for families without one."""
    name = re.sub(r"[^a-z0-9]", "", model.lower().rpartition("/")[2].partition(":")[0])
    return next((kind for start, kind in _HABITS if re.match(start, name)), None)


def recognise(
    items: Sequence[Any],
    canvas: Canvas,
    cost: Cost,
    before: str | None = None,
    *,
    boxes_as: str | None = None,
    family: str | None = None,
) -> tuple[str, list[Box]]:
    """The convention of all items together, and the boxes in canvas pixels.

    `cost(i, (x, y, w, h))` says how little sense box i makes, 0 for none. `boxes_as` is the convention the
    user knows; `before` the one that an earlier answer of the same plan settled; `family` the habit of the
    model's family, which writes either that or what was asked for. Names of four numbers settle their order,
    the scale is settled by one of these or by the canvas, on which a single reading fits. Raises Ambiguous
    where two conventions fit and nothing settles which, ValueError when an item is no box or no convention
    makes sense.
    """
    read = [numbers(item) for item in items]
    hints = {hint for _, hint in read}
    hint = hints.pop() if len(hints) == 1 else ""
    order = hint if hint in ORDERS else ""
    readings = _readings(read, canvas, cost, order, _in_order(boxes_as, order))
    if not readings:
        raise ValueError(
            f"{[list(values) for values, _ in read]} make no sense on {canvas.width} x {canvas.height} pixels"
        )
    best = min(total for total, _ in readings.values())
    fits = {name: boxes for name, (total, boxes) in readings.items() if total <= best + _AS_GOOD}
    if (known := _in_order(before, order)) in readings:
        return known, readings[known][1]
    asked = order or "xywh"
    if family is not None:
        if family in readings and _LISTS.get(hint) == CONVENTIONS[family][0]:
            return family, readings[family][1]  # the family's own name for its habit
        own = {name: boxes for name, boxes in fits.items() if name in (asked, _LISTS.get(hint), family)}
        fits = own or fits
    first, *others = sorted(fits, key=lambda name: (name not in (asked, family), readings[name][0]))
    for other in others:
        if any(a.iou(b) < _SAME for a, b in zip(fits[first], fits[other], strict=True)):
            raise Ambiguous(
                f"{[list(values) for values, _ in read]} can be read as {first} and as {other}: write "
                "each box as an object "
                f'{{"x": .., "y": .., "width": .., "height": ..}} in pixels of the {canvas.width} x '
                f"{canvas.height} canvas"
            )
    return first, fits[first]


def _in_order(convention: str | None, order: str) -> str | None:
    """The convention with another order of its numbers, where one is given."""
    if convention is None or not order:
        return convention
    scale = CONVENTIONS[convention][1]
    return next(name for name, kind in CONVENTIONS.items() if kind == (order, scale))


def _readings(
    read: Sequence[tuple[Numbers, str]], canvas: Canvas, cost: Cost, order: str, boxes_as: str | None
) -> dict[str, tuple[float, list[Box]]]:
    """For each convention, of this order or of any, in which all boxes make some sense, what they cost and
    the boxes."""
    small = all(0 <= v <= 1 for values, _ in read for v in values)
    out: dict[str, tuple[float, list[Box]]] = {}
    for name, (its_order, scale) in CONVENTIONS.items():
        if boxes_as is not None and name != boxes_as:
            continue
        if boxes_as is None and (small != (scale == 1) or its_order != (order or its_order)):
            continue
        if any(hint in ORDERS and hint != its_order for _, hint in read):
            continue
        boxes = [b for values, _ in read if (b := _pixels(values, its_order, scale, canvas)) is not None]
        if len(boxes) < len(read):
            continue
        unasked = boxes_as is None and (scale == 100 or its_order == "cxcywh")
        if unasked and any(outside(b, canvas) > _INSIDE for b in boxes):
            continue
        total = sum(cost(i, b) for i, b in enumerate(boxes)) / len(boxes)
        if total < _NONSENSE:
            out[name] = total, [_box(b) for b in boxes]
    return out


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
        stretched = min(1.0, 3 * max(0.0, aspect - 0.08))  # the model was told the aspect
        return abs(math.log(side / wanted)) + stretched + 0.3 * outside(values, canvas)

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
    x, y, w, h = {
        "xywh": (a, b, c, d),
        "xyxy": (a, b, c - a, d - b),
        "yxyx": (b, a, d - b, c - a),
        "cxcywh": (a - c / 2, b - d / 2, c, d),
    }[order]
    if w <= 0 or h <= 0:
        return None
    sx, sy = (1.0, 1.0) if scale is None else (canvas.width / scale, canvas.height / scale)
    return x * sx, y * sy, w * sx, h * sy


def _box(values: Numbers) -> Box:
    x, y, w, h = (round(v) for v in values)
    return Box(x, y, max(1, w), max(1, h))
