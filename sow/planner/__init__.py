"""Planning (Sec. IV-A): from requests to plans, by whatever planner the configuration names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sow.errors import UserError
from sow.planner.base import Planner
from sow.planner.intensify import Intensify
from sow.planner.position import Position
from sow.types import Canvas, Plan, Request

__all__ = ["Intensify", "Planner", "Position", "make_plans"]


def make_plans(
    requests: Sequence[Request], planner: Planner, position: Position, intensify: Intensify, canvas: Canvas
) -> list[Plan]:
    """One plan a request: the planner's, with position and intensify applied.

    Raises UserError for a request without a condition and for boxes that leave the canvas.
    """
    for request in requests:
        if not request.conditions:
            raise UserError(f"request {request.id} has no visual condition: give at least one (condition)")
    plans = planner.plan(requests, canvas)
    out = []
    for request, plan in zip(requests, plans, strict=True):
        plan = intensify.apply(request, position.apply(request, plan, planner, canvas))
        _check(request, plan, canvas)
        made_for = {"canvas": [canvas.width, canvas.height], "user_prompt": request.prompt}
        out.append(replace(plan, details={**plan.details, **made_for}))
    return out


def _check(request: Request, plan: Plan, canvas: Canvas) -> None:
    if len(plan.boxes) != len(request.conditions):
        raise UserError(
            f"the plan of request {request.id} has {len(plan.boxes)} boxes for {len(request.conditions)} "
            "conditions (planner)"
        )
    for kind, boxes in (("box", plan.boxes), ("related region", plan.related)):
        for box in boxes:
            if not box.inside(canvas.width, canvas.height):
                raise UserError(
                    f"{kind} {box.as_list()} of request {request.id} leaves the {canvas.width} x "
                    f"{canvas.height} canvas (planner, position)"
                )
