"""What a configuration may make of Python's logging: its handlers, the job's own file, and what works."""

from __future__ import annotations

import codecs
import copy
import logging
import logging.config
import os
import re
from collections.abc import Mapping
from typing import Any

from sow.errors import UserError, unknown

LOG_KEYS = (
    *("version", "formatters", "filters", "handlers", "loggers", "root"),
    *("disable_existing_loggers", "incremental"),
)
HANDLERS = ("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler")
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
LOG_FILE = "${hydra.runtime.output_dir}/${hydra.job.name}.log"


def check_value(key: str, name: str, value: Any) -> None:
    """What `logging.config` would import, call or open."""
    wrong = (
        name in ("()", "factory", ".", "listener", "queue", "validate")
        or (name == "class" and value not in HANDLERS)
        or (name == "filename" and value != LOG_FILE)
        or (isinstance(value, str) and re.match(r"\s*(ext|cfg)\s*:", value) and value not in STREAMS)
    )
    if wrong:
        raise UserError(
            f"{key}={value!r} is not what a log may use: handlers are {', '.join(HANDLERS)}, streams "
            f"{', '.join(STREAMS)}, the file {LOG_FILE} ({key})"
        )


def check_log(section: str, log: Any) -> None:
    """Raise UserError for a log that `logging.config` cannot make, or whose lines it cannot write."""
    _check_log_names(section, log)
    _try_log(section, log)


def _check_log_names(section: str, log: Any) -> None:
    """A log's parts are mappings of mappings, and its level, handlers, formatters and filters exist, so that
    `logging.config` can use them."""
    for name, value in log.items():
        if name not in LOG_KEYS:
            raise unknown(f"{section}.{name}", [f"{section}.{k}" for k in LOG_KEYS])
        if name in ("disable_existing_loggers", "incremental") and not isinstance(value, bool):
            raise UserError(f"{section}.{name}={value!r} is neither true nor false ({section}.{name})")
    if log.get("version", 1) != 1:
        raise UserError(f"{section}.version={log['version']} is not 1 ({section}.version)")
    parts = {name: log.get(name) for name in LOG_KEYS[1:6]}
    for kind in ("formatters", "filters", "handlers", "loggers"):
        found = parts[kind]
        parts |= {f"{kind}.{k}": v for k, v in found.items()} if isinstance(found, Mapping) else {}
    for place, part in parts.items():
        if not isinstance(part, Mapping) and not (part is None and "." not in place):
            raise UserError(f"{section}.{place}={part!r} is no mapping ({section}.{place})")
        for name, value in (part or {}).items() if place not in LOG_KEYS[1:5] else ():
            key = f"{section}.{place}.{name}"
            if name == "level":
                known: Any = list(logging.getLevelNamesMapping())
                values = [] if type(value) is int else [value]
            elif name in ("handlers", "filters", "formatter"):
                known = list(parts[name.rstrip("s") + "s"] or {})
                values = value if isinstance(value, list) else [value]
                if isinstance(value, list) == (name == "formatter"):
                    raise UserError(
                        f"{key}={value!r} is {'a' if isinstance(value, list) else 'no'} list ({key})"
                    )
            else:
                continue
            if wrong := [v for v in values if v not in known]:
                raise UserError(f"{key} names {wrong[0]!r}: choose one of {', '.join(known)} ({key})")


def _try_log(section: str, log: Any) -> None:
    """Make a log's parts as `logging.config` will, without its file, and let them write a line to nowhere:
    what they do not take is said here."""
    maker = logging.config.DictConfigurator(copy.deepcopy(log))
    parts: Any = maker.config
    line = logging.LogRecord("sow", logging.INFO, __file__, 1, "a line", (), None)
    for kind, make in (
        ("formatters", maker.configure_formatter),
        ("filters", maker.configure_filter),
        ("handlers", maker.configure_handler),
    ):
        for name, values in (parts.get(kind) or {}).items():
            key = f"{section}.{kind}.{name}"
            try:
                if "filename" in values:
                    values["filename"] = os.devnull
                    if (mode := values.get("mode", "a")) not in ("a", "w"):
                        raise ValueError(f"mode={mode!r} is neither a nor w")
                    for find, given in (
                        (codecs.lookup, values.get("encoding")),
                        (codecs.lookup_error, values.get("errors")),
                    ):
                        if given is not None:
                            find(given)
                made: Any = make(values)
                parts[kind][name] = made
                if kind != "filters":
                    made.format(line)
                if kind == "handlers":
                    made.close()
            except (ValueError, TypeError, LookupError, AttributeError, OSError) as error:
                reason = " ".join(str(error.__cause__ or error).split())
                raise UserError(f"{key} cannot be made: {reason} ({key})") from error
