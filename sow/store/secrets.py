"""One redactor: whatever is printed, logged, stored or sent loses the secrets that this process knows.

Known are the values of the environment's variables that are named like keys, those that a configuration
names, credentials in URLs and in headers. A server may echo a key cut short, so that a long piece of one
counts as the key.
"""

from __future__ import annotations

import base64
import logging
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

HIDDEN = "***"
PIECE = 12  # letters of a key's beginning or end that give it away
SHORTEST = 8  # shorter values are words as well
_NAMED_LIKE_A_KEY = re.compile(
    r"(?:^|_)(?:API_?KEY|ACCESS_?KEY|SECRET_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASS|CREDENTIALS?)(?:_ID)?$",
    re.I,
)
_IN_TEXT = (
    (  # a password may hold a slash, which no URL allows; a port is none
        re.compile(r"(?P<kept>\b[a-z][a-z0-9+.-]*://)[^/\s:@\"'<>]*:(?!\d+/)[^\s\"'<>]*@", re.I),
        r"\g<kept>" + HIDDEN + "@",
    ),
    (re.compile(r"(?P<kept>\b[a-z][a-z0-9+.-]*://)[^/\s\"'<>]*@", re.I), r"\g<kept>" + HIDDEN + "@"),
    (
        re.compile(
            r"(?P<kept>[?&;](?:api[-_]?key|key|(?:access[-_]?|auth[-_]?)?token|password|passwd|secret|sig|signature)=)[^&;\s\"'<>]+",
            re.I,
        ),
        r"\g<kept>" + HIDDEN,
    ),
    (
        re.compile(
            r"(?P<kept>\bauthorization[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic)\s+)?)[^\s\"',]{6,}", re.I
        ),
        r"\g<kept>" + HIDDEN,
    ),
    (re.compile(r"(?P<kept>\bBearer\s+)(?=\S*\d)[\w.~+/=-]{16,}", re.I), r"\g<kept>" + HIDDEN),
)
_named: set[str] = set()  # variables that a configuration names
_in_urls: set[str] = set()  # passwords of URLs that a configuration holds


def hide_variable(name: str) -> None:
    """Count the value of an environment variable as a secret, whatever the variable is called."""
    _named.add(name)


def hide_credentials(text: str) -> None:
    """Count the passwords of the URLs in a text as secrets, also alone and as a header holds them."""
    for user, password in re.findall(r"://([^/\s:@]*):([^/\s]*)@", text):
        plain = unquote(password)
        header = base64.b64encode(f"{unquote(user)}:{plain}".encode()).decode()
        _in_urls.update(value for value in (plain, header) if len(value) >= SHORTEST)


def redact(value: Any) -> Any:
    """A text, or plain containers of texts, without secrets; anything else as it is."""
    if isinstance(value, str):
        return _redact_text(value)
    if isinstance(value, Mapping):
        return {key: redact(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(redact(part) for part in value)
    return value


def redact_file(file: Path) -> None:
    """Rewrite a text file that holds a secret without it."""
    from sow.store.files import atomic_write

    text = file.read_text(encoding="utf-8")
    if (clean := _redact_text(text)) != text:
        with atomic_write(file) as partial:
            partial.write_text(clean, encoding="utf-8")


def redact_logs() -> None:
    """Log records made from now on in this process lose the secrets; a no-op when called again."""
    make = logging.getLogRecordFactory()
    if hasattr(make, "redacts"):
        return

    def redacted(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = make(*arguments, **named)
        text = record.getMessage()
        if (clean := _redact_text(text)) != text:
            record.msg, record.args = clean, ()
        return record

    redacted.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(redacted)


def _redact_text(text: str) -> str:
    secrets = [s for s in _secrets(tuple(sorted(_values()))) if s[:PIECE] in text or s[-PIECE:] in text]
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    for secret in secrets:
        for length in range(len(secret) - 1, PIECE - 1, -1):
            text = text.replace(secret[:length], HIDDEN).replace(secret[-length:], HIDDEN)
    for pattern, replacement in _IN_TEXT:
        text = pattern.sub(replacement, text)
    return text


def _values() -> set[str]:
    values = set(_in_urls)
    for name, value in os.environ.items():
        value = value.strip()
        if len(value) >= SHORTEST and (name in _named or (_NAMED_LIKE_A_KEY.search(name) and _a_key(value))):
            values.add(value)
    return values


def _a_key(value: str) -> bool:
    """Whether a value may be a secret: no path, no sentence."""
    return not value.startswith(("/", "~", ".")) and not re.search(r"\s", value)


@lru_cache(maxsize=4)
def _secrets(values: tuple[str, ...]) -> tuple[str, ...]:
    """The values and their forms in URLs, the longest first, so that no part of one is left."""
    forms = {form for value in values for form in (value, quote(value, safe=""))}
    return tuple(sorted(forms, key=len, reverse=True))
