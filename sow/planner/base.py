"""What every planner shares: the protocol, and the geometry that makes any proposal a legal plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Protocol, runtime_checkable

from sow.errors import UserError
from sow.types import Bound, Box, Canvas, Plan, Request, VisualCondition

# A box relative to another one: [x, y, width, height] in units of the other's width and height, from its
# upper left.
Relative = Sequence[float]
Fraction = Annotated[float, Bound(ge=0, le=1)]
Place = Annotated[tuple[float, float], Bound(ge=0, le=1)]  # x, y as fractions of the canvas
Margin = Annotated[float, Bound(ge=0, lt=0.5)]  # fraction of the canvas
TokenLimit = Annotated[int, Bound(ge=3)]  # the text encoder marks start and end
_SURROUND = (-0.25, -0.25, 1.5, 1.5)  # a quarter of the box on each side


@runtime_checkable
class Planner(Protocol):
    """Decides box_v, box_r and c' (Sec. IV-A)."""

    def plan(self, requests: Sequence[Request], canvas: Canvas) -> list[Plan]:
        """One plan a request, in order; boxes legal on the canvas."""
        ...

    def relate(self, request: Request, boxes: Sequence[Box], canvas: Canvas) -> tuple[Box, ...]:
        """The condition-related region for boxes that someone else chose (stage 3 alone)."""
        ...


def snap_limits(canvas: Canvas) -> tuple[int, int]:
    """Smallest and largest side of a condition on the grid of the VAE, in pixels."""
    low = math.ceil(canvas.condition_min / canvas.factor) * canvas.factor
    high = canvas.condition_max // canvas.factor * canvas.factor
    side = min(canvas.width, canvas.height) // canvas.factor * canvas.factor
    high = max(min(high, side), canvas.factor)
    return min(max(low, canvas.factor), high), high


def fit_size(width: float, height: float, aspect: float, canvas: Canvas) -> tuple[int, int]:
    """Size on the grid with the area of width x height, the condition's aspect (w/h) and sides within the
    limits.

    An aspect too long for both limits keeps the longer side at the upper one.
    """
    low, high = snap_limits(canvas)
    w = math.sqrt(max(width, 1.0) * max(height, 1.0) * aspect)
    h = w / aspect
    w, h = _times(w, h, max(1.0, low / min(w, h)))
    w, h = _times(w, h, min(1.0, high / max(w, h)))
    return _to_grid(w, canvas.factor, high), _to_grid(h, canvas.factor, high)


def place(center: tuple[float, float], size: tuple[int, int], canvas: Canvas) -> Box:
    """The box of `size` whose centre is nearest to `center` (pixels), on the grid and inside the canvas."""
    f = canvas.factor
    x = round((center[0] - size[0] / 2) / f) * f
    y = round((center[1] - size[1] / 2) / f) * f
    x = min(max(x, 0), (canvas.width - size[0]) // f * f)
    y = min(max(y, 0), (canvas.height - size[1]) // f * f)
    return Box(max(x, 0), max(y, 0), *size)


def user_box(condition: VisualCondition, canvas: Canvas) -> Box | None:
    """The user's own box, its sides on the grid; raises UserError when it does not lie on the canvas."""
    if condition.box is None:
        return None
    return on_canvas(condition.box, canvas, "condition.box")


def on_canvas(box: Box, canvas: Canvas, key: str) -> Box:
    """The box with its sides on the grid, inside the canvas; raises UserError when it was not.

    Its corner stays where it was put: whether a corner snaps is seed initialisation's choice (COW pastes at
    any pixel).
    """
    if not box.inside(canvas.width, canvas.height):
        raise UserError(
            f"box {box.as_list()} leaves the {canvas.width} x {canvas.height} canvas: "
            f"give [x, y, width, height] inside it ({key})"
        )
    f, snapped = canvas.factor, box.snapped(canvas.factor)
    width = min(snapped.w, (canvas.width - box.x) // f * f)
    height = min(snapped.h, (canvas.height - box.y) // f * f)
    if width <= 0 or height <= 0:
        raise UserError(
            f"box {box.as_list()} is smaller than {f} px at the canvas's edge: make it larger ({key})"
        )
    return Box(box.x, box.y, width, height)


def legal(boxes: Sequence[Box], conditions: Sequence[VisualCondition], canvas: Canvas) -> tuple[Box, ...]:
    """Legal boxes nearest to the proposed ones: the user's boxes kept, aspect kept, sides within the limits
    of Sec. V, clamped into the canvas, snapped to the VAE's grid, and disjoint.

    Raises UserError for a count that does not match, a user's box off the canvas, or conditions that cannot
    all fit.
    """
    if len(boxes) != len(conditions):
        raise UserError(
            f"need one box for each of the {len(conditions)} conditions, got {len(boxes)} (planner)"
        )
    fixed = [user_box(c, canvas) for c in conditions]
    sizes, centers = [], []
    for box, condition in zip(boxes, conditions, strict=True):
        width, height = condition.image.size
        sizes.append(fit_size(box.w, box.h, width / height, canvas))
        centers.append(box.center)
    for shrink in (1.0, 0.92, 0.85, 0.78, 0.7, 0.0):
        smaller = [_shrunk(s, shrink, canvas) for s in sizes]
        placed = _disjoint(centers, smaller, fixed, canvas)
        if placed is not None:
            return placed
    if not any(fixed):
        packed = _packed(conditions, canvas)
        if packed is not None:
            return packed
    low, _ = snap_limits(canvas)
    raise UserError(
        f"{len(conditions)} conditions of at least {low} px do not fit on the {canvas.width} x "
        f"{canvas.height} canvas without overlap: give fewer conditions, smaller user boxes or a larger "
        "canvas (condition, width, height)"
    )


def legal_related(related: Sequence[Box], boxes: Sequence[Box], canvas: Canvas) -> tuple[Box, ...]:
    """Related regions clipped to the canvas and the grid, each stretched until it touches a condition.

    Regions that add nothing to the conditions are dropped; empty when nothing is left.
    """
    out: list[Box] = []
    for proposed in related:
        region = _outward(proposed, canvas)
        if region is None:
            continue
        if boxes and not any(touches(region, b) for b in boxes):
            region = _stretched(region, min(boxes, key=partial(_gap, region)))
        covered = any(b.intersection(region) == region.area for b in boxes)
        if not covered and region not in out:
            out.append(region)
    return tuple(out)


def or_surround(related: Sequence[Box], boxes: Sequence[Box], canvas: Canvas) -> tuple[Box, ...]:
    """The related regions, or what lies around each box where a planner found none (a box that
    hides its own body)."""
    if related:
        return tuple(related)
    return legal_related([relative(b, _SURROUND) for b in boxes], boxes, canvas)


def touches(a: Box, b: Box) -> bool:
    """Whether two boxes overlap or share a part of an edge."""
    width = min(a.right, b.right) - max(a.x, b.x)
    height = min(a.bottom, b.bottom) - max(a.y, b.y)
    return width >= 0 and height >= 0 and width + height > 0


def relative(anchor: Box, values: Relative) -> Box:
    """The box at `values` relative to `anchor`; it may leave the canvas."""
    x, y, w, h = values
    return Box(
        round(anchor.x + x * anchor.w),
        round(anchor.y + y * anchor.h),
        max(1, round(w * anchor.w)),
        max(1, round(h * anchor.h)),
    )


def moved(region: Box, source: Box, target: Box) -> Box:
    """`region` carried along by the map that takes box `source` to box `target`."""
    sx, sy = target.w / source.w, target.h / source.h
    return Box(
        round(target.x + (region.x - source.x) * sx),
        round(target.y + (region.y - source.y) * sy),
        max(1, round(region.w * sx)),
        max(1, round(region.h * sy)),
    )


def check_relative(values: Sequence[float], key: str) -> None:
    """Raises UserError unless `values` is [x, y, width, height] with a positive size."""
    if len(values) != 4 or not all(map(math.isfinite, values)) or values[2] <= 0 or values[3] <= 0:
        raise UserError(f"need [x, y, width, height] with a positive size, got {list(values)} ({key})")


def parse_boxes(value: object, key: str) -> tuple[Box, ...]:
    """Boxes of a config value: one flat [x, y, w, h] or a list of them;
    raises UserError for anything else."""
    try:
        items = list(value)  # type: ignore[call-overload]
        if items and all(isinstance(v, int | float) for v in items):
            items = [items]
        return tuple(Box.of(item) for item in items)
    except (TypeError, ValueError, UserError) as error:
        raise UserError(f"need boxes as [x, y, width, height] numbers, got {value!r} ({key})") from error


def scale_boxes(boxes: Sequence[Box], reference: int | None, canvas: Canvas) -> tuple[Box, ...]:
    """Boxes given on a `reference` x `reference` canvas in the pixels of this one;
    None: they are in its pixels."""
    if reference is None:
        return tuple(boxes)
    ratio = min(canvas.width, canvas.height) / reference
    return tuple(b.scaled(ratio) for b in boxes)


def _times(w: float, h: float, ratio: float) -> tuple[float, float]:
    return w * ratio, h * ratio


def _to_grid(side: float, factor: int, high: int) -> int:
    return min(max(factor, math.floor(side / factor + 0.5) * factor), high)


def _shrunk(size: tuple[int, int], ratio: float, canvas: Canvas) -> tuple[int, int]:
    if ratio >= 1:
        return size
    low, high = snap_limits(canvas)
    ratio = min(1.0, max(ratio, low / min(size)))  # no side below the limit that was not below it before
    return _to_grid(size[0] * ratio, canvas.factor, high), _to_grid(size[1] * ratio, canvas.factor, high)


def _disjoint(
    centers: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[int, int]],
    fixed: Sequence[Box | None],
    canvas: Canvas,
) -> tuple[Box, ...] | None:
    """Each box at the free place nearest to its centre, the user's boxes first;
    None when one finds no place."""
    placed: dict[int, Box] = {i: box for i, box in enumerate(fixed) if box is not None}
    for i, (center, size) in enumerate(zip(centers, sizes, strict=True)):
        if i in placed:
            continue
        box = _nearest_free(center, size, list(placed.values()), canvas)
        if box is None:
            return None
        placed[i] = box
    return tuple(placed[i] for i in range(len(centers)))


def _nearest_free(
    center: tuple[float, float], size: tuple[int, int], taken: Sequence[Box], canvas: Canvas
) -> Box | None:
    first = place(center, size, canvas)
    if not any(first.intersection(t) for t in taken):
        return first
    f = canvas.factor
    free = [
        box
        for y in range(0, canvas.height - size[1] + 1, f)
        for x in range(0, canvas.width - size[0] + 1, f)
        if not any((box := Box(x, y, *size)).intersection(t) for t in taken)
    ]
    return min(free, key=lambda b: (math.dist(b.center, center), b), default=None)


def _packed(conditions: Sequence[VisualCondition], canvas: Canvas) -> tuple[Box, ...] | None:
    """All conditions at the smallest size on a grid of cells, in reading order;
    None when that is too large."""
    n = len(conditions)
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    cell = (canvas.width / columns, canvas.height / rows)
    low, _ = snap_limits(canvas)
    out: list[Box] = []
    for i, condition in enumerate(conditions):
        size = fit_size(low, low, condition.image.width / condition.image.height, canvas)
        center = ((i % columns + 0.5) * cell[0], (i // columns + 0.5) * cell[1])
        box = _nearest_free(center, size, out, canvas)
        if box is None:
            return None
        out.append(box)
    return tuple(out)


def _outward(region: Box, canvas: Canvas) -> Box | None:
    f = canvas.factor
    x, y = max(0, region.x // f * f), max(0, region.y // f * f)
    right = min(canvas.width, -(-region.right // f) * f)
    bottom = min(canvas.height, -(-region.bottom // f) * f)
    return Box(x, y, right - x, bottom - y) if right > x and bottom > y else None


def _gap(a: Box, b: Box) -> float:
    dx = max(a.x - b.right, b.x - a.right, 0)
    dy = max(a.y - b.bottom, b.y - a.bottom, 0)
    return math.hypot(dx, dy)


def _stretched(region: Box, box: Box) -> Box:
    """The region with the sides that face `box` moved until the two share an edge."""
    x, y, right, bottom = region.x, region.y, region.right, region.bottom
    if (right <= box.x or x >= box.right) and (bottom <= box.y or y >= box.bottom):
        middle = box.x + box.w // 2  # beyond a corner: reach under the box, since corners alone do not touch
        x, right = min(x, middle), max(right, middle)
    if right <= box.x or x >= box.right:
        x, right = min(x, box.right), max(right, box.x)
    if bottom <= box.y or y >= box.bottom:
        y, bottom = min(y, box.bottom), max(bottom, box.y)
    return Box(x, y, right - x, bottom - y)
