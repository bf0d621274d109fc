"""Components from plain values: the class named by `_target_` is the schema,
its annotations the types and bounds."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from sow.config import places
from sow.errors import UserError, explain_invalid


def instantiate(node: Any, key: str) -> Any:
    """The component that `node`, a plain mapping with a `_target_`, describes; `key` is its place in the
    configuration.

    Mappings with a `_target_` inside it become components as well. Raises UserError for a `_target_` that is
    none, an unknown or missing key and a value of a wrong type or out of bounds.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{key}={node!r} is no component: choose an option of the group ({key})")
    values = {name: _parts(value, f"{key}.{name}") for name, value in node.items() if name != "_target_"}
    return construct(locate(str(node["_target_"]), f"{key}._target_"), values, key)


def construct(cls: Any, values: Mapping[str, Any], key: str) -> Any:
    """The component `cls` of these values, errors named by their place below `key` ("" for the top); raises
    UserError."""
    from pydantic import ValidationError

    try:
        return _validator(cls).validate_python(dict(values))
    except ValidationError as error:
        raise explain_invalid(error, cls, values, key) from None


@functools.cache
def _validator(cls: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def locate(target: str, key: str) -> type[Any]:
    """The component at the dotted path `target`; raises UserError when it is not one that conf/ names."""
    from sow.config.trust import components

    if target not in components():
        raise UserError(
            f"{target!r} is not a component of this project: choose an option of the group ({key})"
        )
    module, _, name = target.rpartition(".")
    found: type[Any] = getattr(places.module(module), name)
    return found


def _parts(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            return instantiate(value, key)
        return {name: _parts(part, f"{key}.{name}") for name, part in value.items()}
    if isinstance(value, list):
        return [_parts(part, f"{key}.{i}") for i, part in enumerate(value)]
    return value
