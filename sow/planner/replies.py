"""The answers that the three stages of Sec. IV-A ask for, and how a model's text becomes one."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError, create_model

from sow.store.files import is_utf8

_OPENING = re.compile(r"[\[{]")
# Brackets, and texts in double quotes, in which brackets are letters.
_BRACKETS = re.compile(r'[\[\]{}]|"(?:[^"\\\n]|\\.)*"')
_IN_PROSE = re.compile(r"""\{[^{}\[\]"':]*\}""")  # {x}
_INTERVAL = re.compile(r"\[[^{}\[\]\"']*\)")  # [0, 512)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_TAG = r"(?:\w+:)?(?:think|thinking|thoughts?|reasoning|reflection|analysis|scratchpad)\b[^<>\[\]◁▷]*"
_OPENED = re.compile(rf"[<\[◁]\|?\s*{_TAG}[>\]▷]", re.IGNORECASE)
_CLOSED = re.compile(rf"[<\[◁]\|?\s*/\s*{_TAG}[>\]▷]", re.IGNORECASE)
_THOUGHTS = re.compile(rf"(?:{_OPENED.pattern}).*?(?:{_CLOSED.pattern})", re.IGNORECASE | re.DOTALL)
_NO_FIELD = ("reason",)  # beside every answer, and in notes that are none


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
_KEYS_OF_A_BOX = ("box", "bbox", "bounding_box", "region")  # in a list, of a box and not of an answer
# What says in which units or order the boxes are, which no field of an answer does.
UNITS = (
    *("unit", "units", "scale", "format", "box_format", "bbox_format", "normalized", "normalised"),
    *("relative", "percent", "percentage", "anchor", "origin", "coordinates", "coordinate_system"),
)


def parse(text: str, answer: type[BaseModel]) -> dict[str, Any]:
    """The fields of `answer` from a reply, boxes still as the model wrote them; raises BadReply.

    Thoughts in tags, code fences and words around the JSON, an object around the answer, near-synonyms of a
    field, a bare list of boxes and a single flat box are understood. The last answer counts; where what
    follows it could be a later one that is no strict JSON, breaks off or lacks a field, none does. A bare
    list of numbers, which may as well be a box that the words speak of, counts only where there is nothing
    else.
    """
    found = _found(_without_thoughts(text))
    last = next((one for one in reversed(found) if not one.aside(answer)), None)
    if last is None:
        last = _bare(found) or (found[-1] if found else _Found(None, "the reply is no valid JSON"))
    if last.problem:
        raise BadReply(last.problem)
    return _answer(_unwrapped(last.value, answer), answer)


def _answer(found: Any, answer: type[BaseModel]) -> dict[str, Any]:
    fields = answer.model_fields
    lists: list[str] = [name for name in ("boxes", "regions") if name in fields]
    if isinstance(found, list) and len(lists) == 1 and _holds_boxes(found):
        found = {lists[0]: found}
    if not isinstance(found, dict):
        raise BadReply(f"the reply is no JSON object with the fields {', '.join(fields)}")
    if lists and (unit := next((key for key in UNITS if key in found), None)) is not None:
        raise BadReply(f"the reply says {unit}={found[unit]!r}: write pixels of the canvas, without {unit}")
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
    if not is_utf8(json.dumps(checked.model_dump(), ensure_ascii=False)):
        raise BadReply("the reply is no text in UTF-8: it holds half of a letter")
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


@dataclass(frozen=True)
class _Found:
    """A JSON object or list in a reply, or `problem` where there is something like one that cannot be read;
    `fenced`: it fills a code fence."""

    value: Any
    problem: str = ""
    fenced: bool = False

    def aside(self, answer: type[BaseModel]) -> bool:
        """Whether it is no attempt at an answer: numbers that the words speak of, or a note that could hold
        no box and has none of the answer's fields."""
        if self.problem:
            return False
        if isinstance(self.value, list):
            return not self.fenced and not _has_objects(self.value)
        return not _is_answer(self.value, answer, (*_NO_FIELD, *UNITS)) and not _could_hold(self.value)


def _found(text: str) -> list[_Found]:
    """The outermost JSON objects and lists of a reply in order, those that are none included."""
    decoder, place = json.JSONDecoder(object_pairs_hook=once), 0
    found: list[_Found] = []
    while match := _OPENING.search(text, place):
        start = match.start()
        try:
            value, place = decoder.raw_decode(text, start)
            fenced = text[:start].rstrip().endswith(("```", "```json")) and text[place:].lstrip()[:3] == "```"
            found.append(_Found(value, fenced=fenced))
        except RecursionError:
            return [_Found(None, "the reply is nested too deeply")]
        except ValueError as error:
            interval = _INTERVAL.match(text, start)
            place = interval.end() if interval else _end(text, start)
            if not interval and (broken := _broken(text, start, place, str(error))) is not None:
                found.append(broken)
    return found


def _broken(text: str, start: int, end: int, problem: str) -> _Found | None:
    """What is no JSON between `start` and `end`: None for words in brackets, aside where it is closed and
    has numbers alone."""
    part = text[start:end]
    if _IN_PROSE.fullmatch(part) or (part[0] == "[" and part[-1] == "]" and len(_NUMBER.findall(part)) < 4):
        return None
    numbers_alone = part[0] == "[" and part[-1] == "]" and "{" not in part
    return _Found([] if numbers_alone else None, f"the reply is no valid JSON ({problem})")


def _bare(found: Sequence[_Found]) -> _Found | None:
    """The one list of boxes among what is aside, the last list where none holds boxes."""
    lists = [one for one in found if isinstance(one.value, list)]
    boxes = [one for one in lists if one.problem or _holds_boxes(one.value)]
    if any(one != boxes[0] for one in boxes):
        return _Found(None, f"the reply holds {len(boxes)} lists: give one JSON object")
    return boxes[-1] if boxes else lists[-1] if lists else None


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys do not contradict each other; raises ValueError."""
    values = dict(pairs)
    for name, value in pairs:
        if values[name] != value:
            raise ValueError(f"{name} is there twice")
    return values


def _end(text: str, start: int) -> int:
    """Where the brackets that open at `start` are closed, those in double quotes apart; the end of the text
    where they are not."""
    depth = 0
    for token in _BRACKETS.finditer(text, start):
        depth += 1 if token[0] in "[{" else -1 if token[0] in "]}" else 0
        if depth == 0:
            return token.end()
    return len(text)


def _without_thoughts(text: str) -> str:
    """The reply after its thoughts; raises BadReply where it ends in them."""
    text = _THOUGHTS.sub(" ", text)
    closed = list(_CLOSED.finditer(text))
    text = text[closed[-1].end() :] if closed else text
    if _OPENED.search(text):
        raise BadReply("the reply ends in its thoughts, before any answer")
    return text


def _unwrapped(found: Any, answer: type[BaseModel]) -> Any:
    """The answer that an object, list or text around it holds; raises BadReply where it holds several."""
    if isinstance(found, dict) and _is_answer(found, answer, _NO_FIELD):
        known = {key for name in answer.model_fields for key in (name, *_OTHER_NAMES.get(name, ()))}
        if any(_holds_answer(_read_text(part), answer) for key, part in found.items() if key not in known):
            raise BadReply("the reply holds an answer within an answer: give one object")
        return found
    parts = list(found.values()) if isinstance(found, dict) else found if isinstance(found, list) else []
    inner = [part for part in map(_read_text, parts) if _holds_answer(part, answer)]
    if len(inner) > 1:
        raise BadReply(f"the reply holds {len(inner)} answers: give one object")
    return _unwrapped(inner[0], answer) if inner else found


def _holds_answer(found: Any, answer: type[BaseModel]) -> bool:
    """Whether an answer is somewhere in what was found; a list of boxes by their names is none."""
    if isinstance(found, dict):
        if _is_answer(found, answer, (*_NO_FIELD, *_KEYS_OF_A_BOX)):
            return True
        return any(_holds_answer(_read_text(part), answer) for part in found.values())
    return isinstance(found, list) and any(_holds_answer(part, answer) for part in found)


def _is_answer(found: dict[str, Any], answer: type[BaseModel], without: Sequence[str]) -> bool:
    """Whether an object has one of the answer's fields, by whatever name but these."""
    names = (key for name in answer.model_fields for key in (name, *_OTHER_NAMES.get(name, ())))
    return any(key in found for key in names if key not in without)


def _could_hold(found: dict[str, Any]) -> bool:
    """Whether a box or an answer could be in an object without the answer's fields."""
    values = list(found.values())
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    texts = [v for v in values if isinstance(v, str)]
    nested = any(isinstance(v, list | dict) for v in values)
    return nested or len(numbers) > 3 or any(_OPENING.match(t.lstrip()) for t in texts)


def _read_text(part: Any) -> Any:
    """What a text is the JSON of; anything else as it is."""
    if isinstance(part, str) and _OPENING.match(part.lstrip()):
        try:
            return json.loads(part)
        except (ValueError, RecursionError):
            return part
    return part


def _has_objects(values: list[Any]) -> bool:
    return any(isinstance(v, dict) or (isinstance(v, list) and _has_objects(v)) for v in values)


def _holds_boxes(values: list[Any]) -> bool:
    return bool(values) and (_is_flat(values) or all(isinstance(v, list | dict) for v in values))


def _is_flat(values: list[Any]) -> bool:
    return len(values) == 4 and all(isinstance(v, int | float) for v in values)


def _field(found: dict[str, Any], name: str) -> Any:
    """The value of a field by its own name or by another; raises BadReply for others that disagree."""
    if found.get(name) is not None:
        return found[name]
    given = {key: found[key] for key in _OTHER_NAMES.get(name, ()) if found.get(key) is not None}
    values = list(given.values())
    if any(value != values[0] for value in values):
        raise BadReply(f"the reply says {' and '.join(given)}: give {name} alone")
    return values[0] if values else None


def _list(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list):
        raise BadReply(f"{value!r} is no list of boxes")
    return [value] if _is_flat(value) else value
