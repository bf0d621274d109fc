"""What a configuration reads of the environment: the user's own, and written nowhere."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.resolvers import oc

from sow.store.secrets import HIDDEN, hide_credentials, hide_value, hide_variable, is_place, redact

_stand_in: ContextVar[str | None] = ContextVar("stand_in", default=None)
_read: set[str] = set()
_given: set[str] = set()  # texts of the values that follow what was read, however short


def _env(name: str, *default: Any) -> Any:
    """OmegaConf's `oc.env`, which remembers what was read."""
    _read.add(name)
    hide_variable(name)
    if (stand_in := _stand_in.get()) is not None:
        return stand_in
    value = oc.env(name, *default)
    _give(value)
    return value


OmegaConf.register_new_resolver("oc.env", _env, replace=True)


def know(node: Any) -> None:
    """Make the passwords in a configuration's URLs, and the variables that it takes keys from, known to the
    redactor."""
    for name, value in node.items() if isinstance(node, Mapping) else enumerate(node):
        if isinstance(value, (Mapping, list)):
            know(value)
        elif isinstance(value, str):
            hide_credentials(value)
            if str(name).endswith("_env"):
                hide_variable(value)


def without_environment(values: Any, resolve: Callable[[], Any]) -> Any:
    """Plain containers with "***" for what the environment gave, however short and in whatever type;
    `resolve` makes `values` anew."""
    if not _read:
        return values
    for stand_in in ("0", "1"):  # a value that follows what was read differs from one of them
        with _reading(stand_in):
            values = _where_equal(values, resolve())
    return values


def printed_without_environment(printed: Callable[[], str]) -> str:
    """A configuration as YAML with "***" for what the environment gave; `printed` makes the text anew."""
    text = printed()
    values = yaml.safe_load(text)
    hidden = without_environment(values, lambda: yaml.safe_load(printed()))
    if hidden == values:
        return text
    head = [line for line in text.splitlines(keepends=True) if line.startswith("# @package")]
    return "".join(head) + OmegaConf.to_yaml(OmegaConf.create(hidden))


def unhidden(text: str) -> str | None:
    """The variable that the name of a file or folder reads and cannot hide; None where it reads none, or a
    folder that is there."""
    for name in re.findall(r"oc\.env\s*:\s*[\"']?(\w*)", text):
        value = os.environ.get(name, "")
        if not (is_place(value) and os.path.isdir(os.path.expanduser(value))):
            return str(name)
    return None


def told(text: str) -> str:
    """An error's text without secrets, and without what the environment gave wherever that stands alone: a
    short value is a word as well, but in an error it is the one that is wrong."""
    for value in sorted(_given, key=len, reverse=True):
        if value in text:
            text = re.sub(rf"(?<![\w*]){re.escape(value)}(?![\w*])", HIDDEN, text)
    return str(redact(text))


def _give(value: Any) -> None:
    text = str(value)
    if text.strip() and value is not None and not is_place(text):
        _given.update((text, repr(text)[1:-1]))


@contextmanager
def _reading(stand_in: str) -> Iterator[None]:
    token = _stand_in.set(stand_in)
    try:
        yield
    finally:
        _stand_in.reset(token)


def _where_equal(values: Any, others: Any) -> Any:
    if isinstance(values, Mapping) and isinstance(others, Mapping) and values.keys() == others.keys():
        return {key: _where_equal(value, others[key]) for key, value in values.items()}
    if isinstance(values, list) and isinstance(others, list) and len(values) == len(others):
        return [_where_equal(a, b) for a, b in zip(values, others, strict=True)]
    if values == others or values != values:
        return values
    if isinstance(values, str):
        hide_value(values)
    _give(values)
    return HIDDEN
