"""A stored plan again."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from sow.errors import UserError
from sow.planner.base import legal_related, moved, on_canvas, or_surround
from sow.planner.replies import once
from sow.store.files import is_utf8, place_of
from sow.types import Box, Canvas, Plan, Request, component

_log = logging.getLogger(__name__)
DEEPEST = 50  # lists and objects in each other, of a plan's details; a record holds them


@component("planner")
class Replay:
    """Plans read from disk: `path` is a plan.json, a folder that holds one, or a folder of `<request
    id>.json` or `<request id>/plan.json`.

    A file holds one plan, or a list of plans with an "id" each.
    """

    path: str

    def files(self) -> list[tuple[Path, str]]:
        """The file, or those of the folder that may hold a plan, by their names there."""
        place = place_of(self.path, "planner.path")
        if place.is_file():
            return [(place, place.name)]
        found = sorted([*place.glob("*.json"), *place.glob("*/plan.json")])
        return [(file, file.relative_to(place).as_posix()) for file in found]

    def plan(self, requests: Sequence[Request], canvas: Canvas) -> list[Plan]:
        """The stored plan of each request; raises UserError where there is none or it does
        not fit the request."""
        return [self._one(request, canvas) for request in requests]

    def relate(self, request: Request, boxes: Sequence[Box], canvas: Canvas) -> tuple[Box, ...]:
        """The stored region, carried along with the first condition from its stored box to the new one."""
        plan = self._one(request, canvas)
        regions = [moved(region, plan.boxes[0], boxes[0]) for region in plan.related]
        return or_surround(legal_related(regions, boxes, canvas), boxes, canvas)

    def _one(self, request: Request, canvas: Canvas) -> Plan:
        file = _find(place_of(self.path, "planner.path"), request.id)
        plan = _read(str(file), file.stat().st_mtime_ns, request.id)
        if len(plan.boxes) != len(request.conditions):
            raise UserError(
                f"{file} plans {len(plan.boxes)} conditions but the request has {len(request.conditions)} "
                "(planner.path)"
            )
        self._check(plan, request, canvas, file)
        boxes = _on_canvas(plan, canvas, file)
        details = {**plan.details, "replayed_from": str(file), "planned_by": plan.source}
        return replace(plan, boxes=boxes, source="replay", details=details)

    def _check(self, plan: Plan, request: Request, canvas: Canvas, file: Path) -> None:
        """What a plan says of its own canvas and prompt; one written by hand need not say it."""
        made, here = plan.details.get("canvas"), [canvas.width, canvas.height]
        if made is not None and made != here:
            raise UserError(
                f"{file} was made for a canvas of {made}, this one is {here}: plan again, or write the boxes "
                "of this canvas and leave details out (planner.path)"
            )
        prompt = plan.details.get("user_prompt")
        if prompt not in (None, request.prompt):
            _log.warning("%s was made for the prompt %r (planner.path)", file, prompt)


def _on_canvas(plan: Plan, canvas: Canvas, file: Path) -> tuple[Box, ...]:
    """The plan's boxes on the grid; raises UserError, naming the file and the box, for one that leaves the
    canvas and for a related region of which nothing is on it."""
    boxes = []
    for name, found in (("boxes", plan.boxes), ("related", plan.related)):
        for i, box in enumerate(found):
            try:
                box.clipped(canvas.width, canvas.height)
                if name == "boxes":
                    boxes.append(on_canvas(box, canvas, "planner.path"))
            except UserError as error:
                problem = str(error).removesuffix(" (planner.path)")
                raise UserError(f"{file}, {name}[{i}]: {problem} (planner.path)") from error
    return tuple(boxes)


def _find(path: Path, request_id: str) -> Path:
    if path.is_file():
        return path
    for file in (path / f"{request_id}.json", path / request_id / "plan.json", path / "plan.json"):
        if file.is_file():
            return file
    raise UserError(
        f"no plan for request {request_id} at {path}: give a plan.json or a run folder (planner.path)"
    )


@lru_cache(maxsize=64)
def _read(file: str, modified: int, request_id: str) -> Plan:
    try:
        stored = json.loads(Path(file).read_text(encoding="utf-8-sig"), object_pairs_hook=once)
        if isinstance(stored, list):
            matching = [p for p in stored if len(stored) == 1 or str(p.get("id")) == request_id]
            if not matching:
                raise UserError(f"{file} holds no plan for request {request_id} (planner.path)")
            if any(other != matching[0] for other in matching[1:]):
                raise UserError(
                    f"{file} holds {len(matching)} plans for request {request_id}: leave one (planner.path)"
                )
            stored = matching[0]
    except (
        ValueError,  # no JSON, no UTF-8
        AttributeError,
        OSError,
        RecursionError,  # lists in lists without end
    ) as error:
        raise UserError(f"{file} is no stored plan: {type(error).__name__} {error} (planner.path)") from error
    try:
        plan = Plan.from_dict(stored)
        for name, text in (("prompt", plan.prompt), ("source", plan.source)):
            if not is_utf8(text):
                raise UserError(f"{name} is no text in UTF-8, got {text!a:.100}")
        if _deeper(plan.details, DEEPEST):
            raise UserError(f"details are nested more than {DEEPEST} deep")
        return plan
    except UserError as error:
        raise UserError(f"{file} is no stored plan: {error}: correct the file (planner.path)") from error


def _deeper(value: Any, most: int) -> bool:
    """Whether lists and objects are nested more than `most` deep."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return bool(inner) and (most == 0 or any(_deeper(v, most - 1) for v in inner))
