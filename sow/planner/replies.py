"""The answers that the three stages of Sec. IV-A ask for, and how a model's text becomes one."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import BaseModel, ValidationError, create_model

_OPENING = re.compile(r"[\[{]")


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


class NamedBox(BaseModel):
    """A box whose numbers cannot be mistaken for another order."""

    x: float
    y: float
    width: float
    height: float


def named(answer: type[BaseModel]) -> type[BaseModel]:
    """The answer with every box as an object, for a model whose numbers could be read in two ways."""
    lists: dict[str, Any] = {
        name: (list[NamedBox], ...) for name in ("boxes", "regions") if name in answer.model_fields
    }
    return create_model(answer.__name__, __base__=answer, **lists)


class BadReply(ValueError):
    """A reply that is no answer; the text is what the model is told when it is asked again."""


_OTHER_NAMES = {
    "boxes": ("box", "bounding_boxes", "bboxes", "bounding_box", "bbox"),
    "regions": ("region", "related_regions", "related", "related_region"),
    "intensified_prompt": ("prompt", "intensified", "enhanced_prompt"),
}


def parse(text: str, answer: type[BaseModel]) -> dict[str, Any]:
    """The fields of `answer` from a reply, boxes still as the model wrote them; raises BadReply.

    Thoughts in `<think>`, code fences and words around the JSON, near-synonyms of a field, a bare list of
    boxes and a single flat box are understood; of several objects the last one that is an answer counts, and
    a bare list, which may as well be a box that the words speak of, only where there is none.
    """
    objects, problem = _objects(text)
    for found in sorted(reversed(objects), key=lambda one: not isinstance(one, dict)):
        try:
            return _answer(found, answer)
        except BadReply as error:
            problem = problem or str(error)  # that of the last one
    raise BadReply(problem or "the reply is no valid JSON")


def _answer(found: Any, answer: type[BaseModel]) -> dict[str, Any]:
    fields = answer.model_fields
    lists: list[str] = [name for name in ("boxes", "regions") if name in fields]
    if isinstance(found, list) and len(lists) == 1 and _holds_boxes(found):
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


def _objects(text: str) -> tuple[list[Any], str]:
    """Every JSON object and list in a reply, outermost ones in order, and what is wrong with it where one
    breaks off."""
    text = re.sub(r"<think>.*?</think>", " ", text, flags=re.DOTALL).rpartition("</think>")[2]
    if "<think>" in text:
        return [], "the reply ends in its thoughts, before any answer"
    decoder, problem, place = json.JSONDecoder(), "", 0
    found: list[Any] = []
    while match := _OPENING.search(text, place):
        place = match.start()
        try:
            value, place = decoder.raw_decode(text, place)
        except RecursionError:
            return [], "the reply is nested too deeply"
        except ValueError as error:
            place += 1
            # What is inside an object that broke off is no answer; a brace in prose ends before the next
            # object.
            if text[match.start()] == "{" and "}" not in text[place:]:
                return found, f"the reply is no valid JSON ({error})" if not found else ""
            problem = problem or f"the reply is no valid JSON ({error})"
            continue
        found.append(value)
    return found, "" if found else problem


def _holds_boxes(values: list[Any]) -> bool:
    return bool(values) and (_is_flat(values) or all(isinstance(v, list | dict) for v in values))


def _is_flat(values: list[Any]) -> bool:
    return len(values) == 4 and all(isinstance(v, int | float) for v in values)


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
    return [value] if _is_flat(value) else value
