"""Components from plain values: the dataclass named by `_target_` is the schema, its annotations the types."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sow.errors import UserError

ROOMS = ("sow.", "experiments.")
MISSING = "???"


def instantiate(node: Any, key: str) -> Any:
    """The component that `node`, a plain mapping with a `_target_`, describes; `key` is its place in the configuration.

    Raises UserError for a `_target_` outside this project, an unknown or missing key and a value of a wrong type.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{key}={node!r} is no component: choose an option of the group ({key})")
    cls = locate(str(node["_target_"]), f"{key}._target_")
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init and f.name != "_target_"}
    values: dict[str, Any] = {}
    for name, value in node.items():
        if name == "_target_":
            continue
        if name not in fields:
            raise unknown(f"{key}.{name}", [f"{key}.{n}" for n in fields])
        values[name] = check(value, hints[name], f"{key}.{name}")
    for name, field in fields.items():
        optional = (
            field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        )
        if name not in values and not optional:
            raise UserError(f"{key}.{name} has no value: give {key}.{name}=... ({key}.{name})")
    return cls(**values)


def locate(target: str, key: str) -> type[Any]:
    """The dataclass at the dotted path `target`; raises UserError when it is not one of this project's."""
    module, _, name = target.rpartition(".")
    if not target.startswith(ROOMS):
        raise UserError(
            f"{target!r} is outside this project: a _target_ starts with {' or '.join(ROOMS)} ({key})"
        )
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise UserError(f"{target!r} does not exist: {error} ({key})") from error
    if not dataclasses.is_dataclass(cls) or not isinstance(cls, type):
        raise UserError(f"{target!r} is no component ({key})")
    return cls


def check(value: Any, hint: Any, key: str) -> Any:
    """`value` as the annotation `hint` wants it; integers become floats and lists tuples, nothing else is converted."""
    if value == MISSING:
        raise UserError(f"{key} has no value: give {key}=... ({key})")
    result = _convert(value, hint, key)
    if result is _NO:
        raise UserError(f"{key}={value!r} is no {_words(hint)} ({key})")
    return result


def unknown(name: str, choices: Iterable[str]) -> UserError:
    """The error for a key that does not exist."""
    names = sorted(choices)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return UserError(
        f"{name} is no key of the configuration: {hint}choose one of {', '.join(names)} ({name})"
    )


_NO = object()


def _convert(value: Any, hint: Any, key: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any or hint is object:
        return value
    if origin is Literal:
        return value if any(type(value) is type(a) and value == a for a in args) else _NO
    if origin in (Union, types.UnionType):
        found = (r for r in (_convert(value, a, key) for a in args) if r is not _NO)
        return next(found, _NO)
    if hint is None or hint is type(None):
        return value if value is None else _NO
    if origin in (list, tuple, Sequence) or hint in (list, tuple):
        return _convert_sequence(value, tuple if origin is tuple or hint is tuple else list, args, key)
    if origin in (dict, Mapping) or hint in (dict, Mapping):
        return dict(value) if isinstance(value, Mapping) else _NO
    return _convert_plain(value, hint, key)


def _convert_sequence(value: Any, kind: type[Any], args: tuple[Any, ...], key: str) -> Any:
    if not isinstance(value, (list, tuple)):
        return _NO
    each: Sequence[Any] = [args[0] if args else Any] * len(value)
    if kind is tuple and args and Ellipsis not in args:
        if len(args) != len(value):
            return _NO
        each = args
    items = [_convert(v, h, key) for v, h in zip(value, each, strict=True)]
    return _NO if any(i is _NO for i in items) else kind(items)


def _convert_plain(value: Any, hint: Any, key: str) -> Any:
    if hint is bool:
        return value if isinstance(value, bool) else _NO
    if hint is int:
        return value if isinstance(value, int) and not isinstance(value, bool) else _NO
    if hint is float:
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else _NO
    if hint is str:  # a file or a prompt may be called 2024
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return str(value) if isinstance(value, str) or number else _NO
    if hint is Path:
        return Path(value) if isinstance(value, str) else _NO
    if isinstance(value, Mapping) and "_target_" in value:
        return instantiate(value, key)
    return _NO


def _words(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "choice among " + ", ".join(str(a) for a in args)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(a) for a in args)
    if hint is type(None):
        return "null"
    if origin in (list, tuple, Sequence):
        return f"list of {_words(args[0])}" if args else "list"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))
