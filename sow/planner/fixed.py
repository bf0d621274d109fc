"""The same plan for every request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from sow.planner.base import (
    check_relative,
    legal_related,
    moved,
    or_surround,
    parse_boxes,
    relative,
    scale_boxes,
    user_box,
)
from sow.planner.position import pin
from sow.types import Bound, Box, Canvas, Plan, Request, component


@component("planner")
class Fixed:
    """Given boxes, as they are: aspect and size limits are not enforced (COW resizes the condition to its
    box). A user's own VisualCondition.box goes first.

    `boxes` and `related` are given on a `reference` x `reference` canvas and scaled by the ratio of the
    canvas's shorter side, or in canvas pixels when `reference` is None. `related` None takes `around` ([x, y,
    w, h] in units of the box) for each box. c' = c.
    """

    boxes: Any
    related: Any
    around: list[float]
    reference: Annotated[int | None, Bound(ge=1)]

    def __post_init__(self) -> None:
        parse_boxes(self.boxes, "planner.boxes")
        if self.related is not None:
            parse_boxes(self.related, "planner.related")
        check_relative(self.around, "planner.around")

    def plan(self, requests: Sequence[Request], canvas: Canvas) -> list[Plan]:
        """One plan a request; raises UserError for a box off the canvas or a count that does not match."""
        plans = []
        for request in requests:
            own = [user_box(c, canvas) for c in request.conditions]
            if own and all(own):
                boxes = tuple(b for b in own if b is not None)
            else:
                given = pin(self.boxes, self.reference, request, canvas, "planner.boxes")
                boxes = tuple(mine or box for mine, box in zip(own, given, strict=True))
            plans.append(Plan(boxes, self._related(request, boxes, canvas), request.prompt, "fixed"))
        return plans

    def relate(self, request: Request, boxes: Sequence[Box], canvas: Canvas) -> tuple[Box, ...]:
        """The configured region, carried along with the first box, or what lies `around` each box."""
        return self._related(request, boxes, canvas)

    def _related(self, request: Request, boxes: Sequence[Box], canvas: Canvas) -> tuple[Box, ...]:
        if self.related is not None:
            source = scale_boxes(parse_boxes(self.boxes, "planner.boxes"), self.reference, canvas)[0]
            given = scale_boxes(parse_boxes(self.related, "planner.related"), self.reference, canvas)
            regions = [moved(r, source.snapped(canvas.factor), boxes[0]) for r in given]
        else:
            regions = [relative(b, self.around) for b in boxes]
        return or_surround(legal_related(regions, boxes, canvas), boxes, canvas)
