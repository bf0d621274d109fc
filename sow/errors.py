"""The one exception that a user is meant to read,
and what pydantic finds wrong with a component in its words."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from pydantic import ValidationError

MISSING = "???"  # OmegaConf's word for a value that must be given


class UserError(Exception):
    """Bad input, said on one line that names the value, the config key and the cure;
    `run.py` prints it and exits with 1."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))


def unknown(name: str, choices: Iterable[str]) -> UserError:
    """The error for a key that does not exist."""
    names = sorted(choices)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    cure = f"choose one of {', '.join(names)}" if names else "there is none, leave it out"
    return UserError(f"{name} is unknown: {hint}{cure} ({name})")


def explain_invalid(error: ValidationError, cls: type[Any], values: Mapping[str, Any], key: str) -> UserError:
    """The first thing that pydantic found wrong with `values`,
    as one line with the value, its key and the cure."""
    problems = error.errors(include_url=False)
    urgent = ("unexpected_keyword_argument", "extra_forbidden", "bound")  # a typo explains what is missing
    first = min(problems, key=lambda p: urgent.index(p["type"]) if p["type"] in urgent else len(urgent))
    place, hints = list(first["loc"]), get_type_hints(cls, include_extras=True)
    name = str(place.pop(0))
    where = f"{key}.{name}" if key else name
    while place and (inner := _component(hints.get(name))) is not None:
        given = values.get(name)
        values = given if isinstance(given, Mapping) else {}
        hints, name = get_type_hints(inner, include_extras=True), str(place.pop(0))
        where = f"{where}.{name}"
    if name not in hints:
        parent = where.removesuffix(name)
        return unknown(where, [f"{parent}{n}" for n in hints if not n.startswith("_")])
    value = values.get(name, MISSING)
    if first["type"] in ("missing", "missing_argument") or value == MISSING:
        return UserError(f"{where} has no value: give {where}=... ({where})")
    if first["type"] == "bound":
        return UserError(f"need {first['ctx']['bound'].words(name)}, got {value} ({where})")
    if first["type"] == "too_short":
        return UserError(f"{where} is empty: give at least one ({where})")
    if first["type"] == "finite_number":
        return UserError(f"{where}={value} is not finite: give a number ({where})")
    choices = _choices(hints[name])
    if choices:
        return UserError(f"{where}={value!r}: choose one of {', '.join(map(str, choices))} ({where})")
    return UserError(f"{where}={value!r} is not {_words(hints[name])} ({where})")


def _component(hint: Any) -> type[Any] | None:
    """The dataclass that an annotation names, alone or beside None."""
    found = (a for a in (hint, *get_args(hint)) if isinstance(a, type) and dataclasses.is_dataclass(a))
    return next(found, None)


def _choices(hint: Any) -> tuple[Any, ...]:
    """The words of a Literal, of each element of a list of them, or beside None."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    found = [_choices(a) for a in get_args(hint) if a is not type(None) and a is not Ellipsis]
    return found[0] if len(found) == 1 else ()


def _words(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _words(args[0])
    if origin is Literal:
        return "one of " + ", ".join(str(a) for a in args)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(a) for a in args)
    if hint is type(None):
        return "null"
    if origin in (list, tuple, Sequence):
        inner = [_words(a) for a in args if a is not Ellipsis]
        fixed = f"{len(args)}, each " if origin is tuple and Ellipsis not in args else ""
        return f"a list of {fixed}{inner[0]}" if inner else "a list"
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


class Refusal(BaseException):
    """A `UserError` out of one of Hydra's callbacks, which makes warnings of other exceptions."""

    def __init__(self, error: UserError) -> None:
        super().__init__(str(error))
        self.error = error
