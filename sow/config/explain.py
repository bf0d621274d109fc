"""One line for an error of Hydra or OmegaConf: the value, its key and the cure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any

import yaml
from hydra.errors import OverrideParseException
from omegaconf import OmegaConf

from sow.config.places import CONF
from sow.errors import unknown

VERBS = ("doctor", "demo", "pipeline")
Compose = Callable[[Sequence[str]], Any]


def explain(error: Exception, words: Sequence[str], compose: Compose = lambda words: None) -> str:
    """The line; `compose` gives the configuration of words, None where there is none,
    to name the keys it has."""
    text = str(error) or str(error.__cause__ or type(error).__name__)
    full_key = _full_key(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    if isinstance(error, (RecursionError, AttributeError)) and full_key is None:
        return f"the configuration cannot be composed: a file includes itself, or makes a part null ({text})"
    option = re.search(r"Could not find '(.+)/([^/']+)'", text)
    if option:
        group, value = option.groups()
        listed = text.partition("Available options")[2].partition("Config search path")[0].partition(":")[2]
        names = ", ".join(listed.split())
        return f"{group}={value} is no option: choose one of {names} ({group})"
    key = re.search(r"Could not (?:override|delete from config\.?) '([^']+)'", text)
    if key:
        given = key[1].partition("=")[0]
        inner = str(getattr(error.__cause__, "full_key", None) or "")
        name = (
            inner if inner.startswith(f"{given}.") else given
        )  # a mapping was given, one of its keys is wrong
        if options := _options_with(name):
            group, field = name.rsplit(".", 1)
            which = f"{group}={options[0]}" if len(options) == 1 else f"{group}= one of {', '.join(options)}"
            return f"{field} is not of the {group} that is chosen: add {which} ({name})"
        if "." not in name and (places := _places(name, given, words, compose)):
            return f"{name} is unknown: did you mean {' or '.join(places)}? ({name})"
        return str(unknown(name, _siblings(name, given, words, compose)))
    several = re.search(r"Ambiguous value for argument '(.+?)=(.*)'\n", text)
    if several:
        name, value = several.groups()
        return (
            f"{name}={value} has a comma: quote the value for the shell and for Hydra, \"{name}='...'\", "
            f"give a list as {name}=[...], or sweep with -m ({name})"
        )
    swept = re.search(r"Sweep parameters '([^=]+)=(.*)' requires --multirun", text)
    if swept:
        return f"{swept[1]}={swept[2]} is a sweep: add -m, or give one value ({swept[1]})"
    line = " ".join(re.sub(r"(See https|full_key:|object_type=|Set the env).*", "", text).split())
    merged = re.match(r"Error merging override (.+)", text)
    if merged:
        name, cause = merged[1].partition("=")[0].lstrip("+~"), str(error.__cause__ or "").partition("\n")[0]
        return f"{merged[1]} does not fit what is there{f': {cause}' if cause else ''} ({name})"
    appended = re.search(r"An item is already at '([^']+)'", text)
    if appended:
        return f"{appended[1]} is there already: leave the + out ({appended[1]})"
    keys = [full_key, *(word.lstrip("+~").partition("=")[0].partition("@")[0] for word in words)]
    name = next((name for name in keys if name and re.search(rf"\b{re.escape(name)}\b", text)), full_key)
    return f"{line} ({name})" if name and not line.endswith(f"({name})") else line


def _full_key(error: BaseException | None) -> str | None:
    """The key that OmegaConf names, of the error or of what it came from."""
    while error is not None:
        if key := getattr(error, "full_key", None):
            return str(key)
        error = error.__cause__
    return None


def _unreadable(error: OverrideParseException) -> str:
    """A word that Hydra's parser does not take."""
    key, equals, value = error.override.partition("=")
    if not equals and " " in key:
        return f"{key!r} has no key: is it the prompt? give it whole, in quotes, as prompt='...' (prompt)"
    if not equals and (close := difflib.get_close_matches(key, VERBS, n=1)):
        return f"{key} has no value, and is no command: did you mean {close[0]}? ({key})"
    if not equals:
        return f"{key} has no value: give {key}=... ({key})"
    name = key.lstrip("+~")
    reason = next(iter(str(error).splitlines()[1:]), "no value of Hydra's grammar").strip()
    return (
        f"{key}={value} cannot be read ({reason}): quote the value for the shell and for Hydra, "
        f"\"{key}='...'\" ({name})"
    )


def _options_with(name: str) -> list[str]:
    """Options of a shipped group whose files have the field that a key names."""
    group, _, field = name.rpartition(".")
    files = sorted((CONF / group).glob("*.yaml")) if group else []
    return [f.stem for f in files if field in (yaml.safe_load(f.read_text()) or {})]


def _places(name: str, given: str, words: Sequence[str], compose: Compose) -> list[str]:
    """The keys of that name inside the groups of the configuration of the other words."""
    node = compose([w for w in words if w.lstrip("+~").partition("=")[0].partition("@")[0] != given])
    groups = (
        [k for k in node if OmegaConf.is_dict(node[k]) and k not in ("hydra", "calibration")]
        if OmegaConf.is_dict(node)
        else []
    )
    return [f"{group}.{name}" for group in groups if name in node[group]]


def _siblings(name: str, given: str, words: Sequence[str], compose: Compose) -> list[str]:
    """Keys beside `name` in the configuration of the words other than that of `given`."""
    node = compose([w for w in words if w.lstrip("+~").partition("=")[0].partition("@")[0] != given])
    parent = ""
    for part in name.split(".")[:-1]:
        if not OmegaConf.is_dict(node) or part not in node:
            break
        node, parent = node[part], f"{parent}{part}."
    names = list(node) if OmegaConf.is_dict(node) else []
    return [f"{parent}{n}" for n in names if n not in ("_target_", "hydra", "experiment")]
