"""The default planner: no network and no language model;
the embedded world's judge recognises, words place."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sow.errors import UserError
from sow.planner.base import (
    Fraction,
    Margin,
    Place,
    TokenLimit,
    check_relative,
    legal,
    legal_related,
    moved,
    or_surround,
    relative,
)
from sow.planner.fusing import fuse
from sow.planner.tokens import vocabulary_file
from sow.planner.words import propose
from sow.types import Box, Canvas, Plan, Request, VisualCondition, component

if TYPE_CHECKING:
    from sow.people.judge import Reading

_log = logging.getLogger(__name__)
_CLOTHES_BELOW = 0.45  # a face lower than this share of its picture leaves room for clothes to be seen


@component("planner")
class Offline:
    """Recognition by the judge, places by the prompt's own words, the body from the embedded world's
    proportions.

    Attributes below `min_confidence` stay out of c', which has at most `max_tokens` tokens of the model in
    the folder `tokenizer` (None: CLIP's). `center` (fractions of the canvas), `scale` (0 smallest, 1 largest
    condition) and `margin` place what the words do not; `body` is the related region [x, y, w, h] in units of
    the condition's mask.
    """

    min_confidence: Fraction
    max_tokens: TokenLimit
    tokenizer: str | None
    center: Place
    scale: Fraction
    margin: Margin
    body: list[float]

    def __post_init__(self) -> None:
        check_relative(self.body, "planner.body")

    def files(self) -> list[Path]:
        """The vocabulary that counts tokens."""
        return [vocabulary_file(self.tokenizer)]

    def plan(self, requests: Sequence[Request], canvas: Canvas) -> list[Plan]:
        """One plan a request; without the judge's weights c' = c, with a warning and a note in the plan."""
        readings = _read([c for r in requests for c in r.conditions])
        known = iter(readings if readings is not None else [None] * sum(len(r.conditions) for r in requests))
        return [self._one(r, [next(known) for _ in r.conditions], canvas) for r in requests]

    def relate(self, request: Request, boxes: Sequence[Box], canvas: Canvas) -> tuple[Box, ...]:
        """The body below each condition, on the canvas."""
        regions = []
        for condition, box in zip(request.conditions, boxes, strict=True):
            face = None if condition.mask is not None else _face(condition)
            anchor = condition.subject_in(box)
            if face is not None:
                anchor = moved(face, Box(0, 0, *condition.image.size), box)
            regions.append(relative(anchor, self.body))
        return or_surround(legal_related(regions, boxes, canvas), boxes, canvas)

    def _one(self, request: Request, readings: Sequence[Reading | None], canvas: Canvas) -> Plan:
        proposed, words = propose(request, canvas, self.center, self.scale, self.margin)
        boxes = legal(proposed, request.conditions, canvas)
        sure = [
            self._sure(reading, condition)
            for reading, condition in zip(readings, request.conditions, strict=True)
        ]
        prompt, fused = fuse(request.prompt, sure, self.max_tokens, self.tokenizer)
        details: dict[str, Any] = {
            "recognised": sure,
            "fused": fused,
            "words": [{"x": w.x, "y": w.y, "scale": w.scale} for w in words],
        }
        if any(reading is None for reading in readings):
            details["recognition"] = "unavailable: the judge's weights are missing"
        return Plan(boxes, self.relate(request, boxes, canvas), prompt, "offline", details)

    def _sure(self, reading: Reading | None, condition: VisualCondition) -> dict[str, str]:
        """What the judge is sure of and the condition can show; nothing where it sees no face."""
        if reading is None or reading.face_box is None:
            return {}
        seen = {"age", "expression", "hair", "hair_color", "glasses", "hat", "skin", "eyes"}
        if reading.face_box.h < _CLOTHES_BELOW * condition.image.height:
            seen |= {"clothing", "clothing_color"}
        return {
            name: value
            for name, value in reading.attributes.items()
            if name in seen and reading.confidence.get(name, 0.0) >= self.min_confidence
        }


def _read(conditions: Sequence[VisualCondition]) -> list[Reading] | None:
    """The judge's readings, None without its weights."""
    from sow.people.judge import load_judge

    try:
        judge = load_judge()
    except UserError as error:
        _log.warning("no recognition, prompts stay as they are: %s", error)
        return None
    return judge.read([c.image for c in conditions])


def _face(condition: VisualCondition) -> Box | None:
    readings = _read([condition])
    return readings[0].face_box if readings else None
