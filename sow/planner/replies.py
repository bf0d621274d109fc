"""The answers that the three stages of Sec. IV-A ask for, and how a model's text becomes one."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

Answer = TypeVar("Answer", bound=BaseModel)


class Described(BaseModel):
    """One visual condition in words."""

    subject: str
    features: list[str]


class Recognition(BaseModel):
    """Stage 1: what the pictures show, and the intensified prompt c'."""

    conditions: list[Described]
    intensified_prompt: str


class Position(BaseModel):
    """Stage 2: one box [x, y, width, height] a condition."""

    boxes: list[list[float]]
    reason: str


class Region(BaseModel):
    """Stage 3: the condition-related regions [x, y, width, height]."""

    regions: list[list[float]]
    reason: str


class Single(BaseModel):
    """All three stages in one answer."""

    conditions: list[Described]
    intensified_prompt: str
    boxes: list[list[float]]
    regions: list[list[float]]
    reason: str


class BadReply(ValueError):
    """A reply that is no answer; the text is what the model is told when it is asked again."""


_OTHER_NAMES = {
    "boxes": ("box", "bounding_boxes", "bboxes", "bounding_box", "bbox"),
    "regions": ("region", "related_regions", "related", "related_region"),
    "intensified_prompt": ("prompt", "intensified", "enhanced_prompt"),
}


def parse(text: str, answer: type[Answer]) -> dict[str, Any]:
    """The fields of `answer` from a reply, boxes still as the model wrote them; raises BadReply.

    Code fences and words around the JSON, near-synonyms of a field, a bare list of boxes and a single flat box are
    understood.
    """
    found = _json(text)
    fields = answer.model_fields
    lists: list[str] = [name for name in ("boxes", "regions") if name in fields]
    if isinstance(found, list) and len(lists) == 1:
        found = {lists[0]: found}
    if not isinstance(found, dict):
        raise BadReply(f"the reply is no JSON object with the fields {', '.join(fields)}")
    values = {name: _field(found, name) for name in fields}
    values["reason"] = str(values.get("reason") or "")
    missing = [name for name in fields if values[name] is None]
    if missing:
        raise BadReply(f"the reply lacks {', '.join(missing)}")
    boxes = {name: _list(values[name]) for name in lists}
    try:
        checked = answer.model_validate({**values, **{name: [] for name in lists}})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise BadReply(f"{where}: {first['msg']}") from error
    return {**checked.model_dump(), **boxes}


def strict_schema(answer: type[BaseModel]) -> dict[str, Any]:
    """JSON schema without references, every field required and no other allowed."""
    schema = answer.model_json_schema()
    definitions = schema.pop("$defs", {})

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(v) for v in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return walk(definitions[node["$ref"].rpartition("/")[2]])
        out = {k: walk(v) for k, v in node.items() if k not in ("title", "description")}
        if out.get("type") == "object":
            out |= {"additionalProperties": False, "required": list(out.get("properties", {}))}
        return out

    return walk(schema)


def _json(text: str) -> Any:
    fenced = re.search(r"```(?:json)?\s*(.*?)```", text, re.DOTALL)
    bracket = next((c for c in text if c in "{["), "{")
    inner = _slice(text, bracket, "}" if bracket == "{" else "]")
    for candidate in (text, fenced.group(1) if fenced else None, inner):
        if candidate is None:
            continue
        try:
            return json.loads(candidate)
        except ValueError as error:
            problem = error
    raise BadReply(f"the reply is no valid JSON ({problem})")


def _slice(text: str, opening: str, closing: str) -> str | None:
    start, end = text.find(opening), text.rfind(closing)
    return text[start : end + 1] if 0 <= start < end else None


def _field(found: dict[str, Any], name: str) -> Any:
    for key in (name, *_OTHER_NAMES.get(name, ())):
        if found.get(key) is not None:
            return found[key]
    return None


def _list(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list):
        raise BadReply(f"{value!r} is no list of boxes")
    flat = len(value) == 4 and all(isinstance(v, int | float) for v in value)
    return [value] if flat else value
