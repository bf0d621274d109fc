"""Where the conditions go: as planned, at random (Table II, no AP), or pinned; the related region follows."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Protocol

from sow.errors import UserError
from sow.planner.base import (
    Planner,
    fit_size,
    legal,
    on_canvas,
    parse_boxes,
    scale_boxes,
    snap_limits,
    user_box,
)
from sow.store.fingerprint import sha256
from sow.types import Bound, Box, Canvas, Plan, Request, component


class Position(Protocol):
    """Chooses box_v of a plan, and box_r with it."""

    def apply(self, request: Request, plan: Plan, planner: Planner, canvas: Canvas) -> Plan:
        """The plan with the boxes to use."""
        ...


@component("position")
class Planned:
    """Adaptive position: the planner's own boxes (Sec. IV-A, stage 2)."""

    def apply(self, request: Request, plan: Plan, planner: Planner, canvas: Canvas) -> Plan:
        """The plan unchanged."""
        return plan


@component("position")
class Random:
    """A random box within the size limits of Sec. V for each condition; the user's own boxes stay.

    The draws depend on the request's seed alone. `attempts` bounds the search for disjoint boxes.
    """

    attempts: Annotated[int, Bound(ge=1)]

    def apply(self, request: Request, plan: Plan, planner: Planner, canvas: Canvas) -> Plan:
        """The plan with random boxes and the region that the planner relates to them."""
        boxes = self._draw(request, canvas)
        details = {**plan.details, "position": "random", "planned_boxes": [b.as_list() for b in plan.boxes]}
        return replace(plan, boxes=boxes, related=planner.relate(request, boxes, canvas), details=details)

    def _draw(self, request: Request, canvas: Canvas) -> tuple[Box, ...]:
        from sow.method import noise

        # A seed of its own, so that the box is independent of the image's noise.
        generator = noise.generator(int(sha256(f"position {request.seed}")[:14], 16))
        low, high = snap_limits(canvas)
        f = canvas.factor
        boxes: list[Box] = []
        for _ in range(self.attempts):
            boxes = []
            for condition in request.conditions:
                side = noise.integers(low // f, high // f, generator) * f
                w, h = fit_size(side, side, condition.image.width / condition.image.height, canvas)
                x = noise.integers(0, (canvas.width - w) // f, generator) * f
                y = noise.integers(0, (canvas.height - h) // f, generator) * f
                boxes.append(user_box(condition, canvas) or Box(x, y, w, h))
            if not any(a.intersection(b) for i, a in enumerate(boxes) for b in boxes[:i]):
                break
        return legal(boxes, request.conditions, canvas)


@component("position")
class Pinned:
    """The same boxes for every request, whatever the planner and the user's own boxes say.

    They are given on a `reference` x `reference` canvas and scaled, or in canvas pixels when `reference` is
    None.
    """

    boxes: Any
    reference: Annotated[int | None, Bound(ge=1)]

    def __post_init__(self) -> None:
        parse_boxes(self.boxes, "position.boxes")

    def apply(self, request: Request, plan: Plan, planner: Planner, canvas: Canvas) -> Plan:
        """The plan with the pinned boxes and the region that the planner relates to them;
        UserError off the canvas."""
        boxes = pin(self.boxes, self.reference, request, canvas, "position.boxes")
        details = {**plan.details, "position": "pinned", "planned_boxes": [b.as_list() for b in plan.boxes]}
        return replace(plan, boxes=boxes, related=planner.relate(request, boxes, canvas), details=details)


def pin(value: Any, reference: int | None, request: Request, canvas: Canvas, key: str) -> tuple[Box, ...]:
    """Configured boxes on this canvas, one a condition, sides on the grid; raises UserError naming `key`."""
    boxes = scale_boxes(parse_boxes(value, key), reference, canvas)
    if len(boxes) != len(request.conditions):
        raise UserError(
            f"{len(boxes)} boxes for {len(request.conditions)} visual conditions: give one each ({key})"
        )
    return tuple(on_canvas(b, canvas, key) for b in boxes)
