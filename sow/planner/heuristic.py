"""Plans for photographs without a language model: the face that MTCNN finds, and the body below it."""

from __future__ import annotations

from collections.abc import Sequence

from sow.planner.base import (
    Fraction,
    Margin,
    Place,
    check_relative,
    legal,
    legal_related,
    moved,
    or_surround,
    relative,
)
from sow.planner.words import propose
from sow.types import Box, Canvas, Plan, Request, component


@component("planner")
class Heuristic:
    """With a face the related region is `body` ([x, y, w, h] in units of the face's box); without one (cats,
    cars) it is `around` in units of the mask's box, and the condition goes to the middle of the height.

    `center` (fractions of the canvas), `scale` (0 smallest, 1 largest condition) and `margin` place what the
    prompt's own words do not. c' = c.
    """

    center: Place
    scale: Fraction
    margin: Margin
    body: list[float]
    around: list[float]

    def __post_init__(self) -> None:
        check_relative(self.body, "planner.body")
        check_relative(self.around, "planner.around")

    def plan(self, requests: Sequence[Request], canvas: Canvas) -> list[Plan]:
        """One plan a request."""
        faces = _faces(requests)
        plans = []
        for request, found in zip(requests, faces, strict=True):
            center = self.center if any(found) else (self.center[0], 0.5)
            proposed, words = propose(request, canvas, center, self.scale, self.margin)
            boxes = legal(proposed, request.conditions, canvas)
            details = {
                "faces": [None if f is None else f.as_list() for f in found],
                "words": [{"x": w.x, "y": w.y, "scale": w.scale} for w in words],
            }
            related = self._related(request, boxes, found, canvas)
            plans.append(Plan(boxes, related, request.prompt, "heuristic", details))
        return plans

    def relate(self, request: Request, boxes: Sequence[Box], canvas: Canvas) -> tuple[Box, ...]:
        """Body or surroundings of the conditions in these boxes."""
        return self._related(request, boxes, _faces([request])[0], canvas)

    def _related(
        self, request: Request, boxes: Sequence[Box], faces: Sequence[Box | None], canvas: Canvas
    ) -> tuple[Box, ...]:
        regions = []
        for condition, box, face in zip(request.conditions, boxes, faces, strict=True):
            if face is None:
                regions.append(relative(condition.subject_in(box), self.around))
            else:
                whole = Box(0, 0, *condition.image.size)
                regions.append(relative(moved(face, whole, box), self.body))
        return or_surround(legal_related(regions, boxes, canvas), boxes, canvas)


def _faces(requests: Sequence[Request]) -> list[list[Box | None]]:
    """The largest face of every condition, in the pixels of its image."""
    from sow.metrics.faces import detect_faces

    found = iter(detect_faces([c.image for r in requests for c in r.conditions]))
    return [[next(found) for _ in r.conditions] for r in requests]
