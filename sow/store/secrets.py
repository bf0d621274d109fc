"""One redactor: whatever is printed, logged, stored or sent loses the secrets that this process knows.

Known are the values of the environment's variables that are named like keys, those that a configuration
reads or names, credentials in URLs, in headers and behind names like `client_secret=`. A server may echo a
key cut short, so that a long piece of one counts as the key.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote

HIDDEN = "***"
PIECE = 12  # letters of a key's beginning or end that give it away
SHORTEST = 8  # shorter values are words as well: hidden where they stand alone
SHORTEST_NAMED = 4  # of those that a configuration reads

# Parts of a name, between underscores, that make its value a secret; the last part may say that it is none.
_SECRET_PART = re.compile(
    r"(?:API|ACCESS|SECRET|PRIVATE|ACCOUNT)?KEY|\w*(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|PASSCODE)"
    r"|SECRETS|PASS|PWD|PAT|CREDENTIALS?|CREDS?|BEARER|JWT|COOKIE|WEBHOOK|DSN|PSK|SAS|SIG|SIGNATURE"
)
_OF_A_VARIABLE = re.compile(r"\w*KEY|AUTH|CONNECTIONSTRING")  # as the last part of a variable's name
_OF_A_QUERY = re.compile(r"AUTH|CODE|SID|SESSION|X_AMZ_\w+")  # as the whole name in a URL's query
_WEAK = ("KEY", "PASS", "PAT", "SIG", "SAS", "SIGNATURE", "COOKIE", "TOKEN")  # words of any text, when alone
_NO_SECRET = set(
    "FILE PATH DIR FOLDER NAME HINT TYPE LENGTH SIZE ENV TTL EXPIRY TIMEOUT COUNT LIMIT HOST SOCK".split()
)

_VALUE = r"[^&;#,\s\"'<>\\)}\]]"
_NO_PORT = r"(?!\d+(?:[/\s\"'<>,;?#)\]}]|$))"
_USER = rf"[^/\s:@\"'<>]{{0,200}}:{_NO_PORT}"
_AUTHORIZED = r"(?P<kept>\bauthorization[\"']?\s{0,3}[:=]\s{0,3}[\"']?"
# What a text must hold for a pattern to be tried, the pattern, and what takes its place.
_IN_TEXT: tuple[tuple[str, re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (
        "-----BEGIN",
        re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}-----|\Z)", re.S),
        HIDDEN,
    ),
    *(  # a password may hold what no URL allows, a slash, a quote, a space; a port is none
        (
            "@",
            re.compile(rf"(?P<kept>(?:\b[a-z][a-z0-9+.-]{{0,20}}:)?[/\\]{{2}}|\bhttps?:[/\\]){inner}@", re.I),
            r"\g<kept>" + HIDDEN + "@",
        )
        for inner in (
            _USER + r"[^\s\"'<>]{0,400}",
            _USER + r"[^\s<>@]{1,400}",
            _USER + r"[^\s<>@/][^\n<>@/]{0,60}",
            r"[^/\s\"'<>\\]{0,400}",
        )
    ),
    (
        "@",
        re.compile(
            rf"(?<![\w/:.@*%+-])(?!mailto:)[\w.%+-]{{1,80}}:{_NO_PORT}[^\s/@:\"'<>]{{6,200}}@(?=[\w-]+[.:/])"
        ),
        HIDDEN + "@",
    ),
    (
        "",
        re.compile(
            rf"(?P<kept>(?:[?&;#]|%3F|%26)(?P<name>[\w.-]{{1,80}})(?:=|%3D))(?P<value>{_VALUE}+)", re.I
        ),
        lambda found: _told(found, _query_names_a_secret(found["name"])),
    ),
    (
        "",
        re.compile(r"(?P<kept>\bcookie[\"']?\s{0,3}[:=]\s{0,3}[\"']?)[^\s\"'=]{1,80}=[^\n\"']+", re.I),
        r"\g<kept>" + HIDDEN,
    ),
    (
        "",
        re.compile(rf"{_AUTHORIZED}(?:digest|aws4[\w-]*|negotiate|hawk|oauth)\s+)[^\n]{{6,}}", re.I),
        r"\g<kept>" + HIDDEN,
    ),
    (
        "",
        re.compile(rf"{_AUTHORIZED}(?:[a-z][\w-]{{0,30}}\s+(?!\*))?)[^\s\"',]{{6,}}", re.I),
        r"\g<kept>" + HIDDEN,
    ),
    (
        "base_url",
        re.compile(
            r"(?P<kept>\bbase_url[\"']?\s{0,3}[:=]\s{0,3}[\"']?[^\s\"'?#]{1,400}[?#])(?!\*\*\*)[^\s\"']+"
        ),
        r"\g<kept>" + HIDDEN,
    ),
    (  # name=value, "name": "value" and x-name: value
        "",
        re.compile(
            r"(?P<kept>(?<![\w.-])(?P<name>[\w.-]{1,80})"
            rf"(?:[\"']\s{{0,3}}[:=]\s{{0,3}}[\"']?|\s?=\s?[\"']?|:\s?[\"']?))(?P<value>{_VALUE}{{6,}})"
        ),
        lambda found: _told(found, _assigned(found["name"], found["kept"])),
    ),
    (
        " ",
        re.compile(r"(?P<kept>\b(?:Bearer|Token)\s)(?=\S{0,400}\d)[\w.~+/=-]{16,}", re.I),
        r"\g<kept>" + HIDDEN,
    ),
    (  # keys that their makers have given a shape
        "",
        re.compile(
            r"\b(?:sk-(?=[\w-]{0,400}\d)[\w-]{16,}|hf_[A-Za-z0-9]{16,}|gh[pousr]_\w{16,}"
            r"|github_pat_\w{16,}|glpat-[\w-]{16,}|AIza[\w-]{30,}|xox[a-z]-[\w-]{10,}"
            r"|(?:AKIA|ASIA)[A-Z0-9]{16}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*)"
        ),
        HIDDEN,
    ),
)
_named: set[str] = set()  # variables that a configuration reads or names
_held: set[str] = set()  # passwords of a configuration's URLs, and values with what the environment gave


def hide_variable(name: str) -> None:
    """Count the value of an environment variable as a secret, whatever the variable is called."""
    _named.add(name)


def hide_value(value: Any) -> None:
    """Count a value of a configuration as a secret; a short one is a word as well, and is not."""
    if len(text := str(value)) >= SHORTEST_NAMED and not is_place(text):
        _held.add(text)


def hide_credentials(text: str) -> None:
    """Count the passwords of the URL that a text is, or holds, as secrets, also alone and as a header holds
    them; so are the values of its query that are named like keys."""
    for user, password in (
        *re.findall(r"://([^/\s:@]*):([^/\s]*)@", text),
        *re.findall(r"^\s*[a-z][a-z0-9+.-]*:[/\\]+([^/:@]*):(?!\d+(?:/|$))(.*)@", text, re.I | re.S),
    ):
        plain = unquote(password)
        header = base64.b64encode(f"{unquote(user)}:{plain}".encode()).decode()
        _held.update(value for value in (password, plain, header) if len(value) >= SHORTEST_NAMED)
    for name, value in parse_qsl(text.partition("?")[2]) if "://" in text else ():
        if _query_names_a_secret(name) and len(value) >= SHORTEST_NAMED:
            _held.add(value)


def redact(value: Any) -> Any:
    """A text, or plain containers of texts, without secrets; anything else as it is."""
    return _redact(value, _secrets(*_values()))


def redact_file(file: Path) -> None:
    """Rewrite a text file that holds a secret without it."""
    from sow.store.files import atomic_write

    text = file.read_text(encoding="utf-8")
    if (clean := redact(text)) != text:
        if file.suffix == ".yaml":  # a plain *** is no text there
            clean = re.sub(
                rf"^(\s*(?:- )?(?:[\w.]+: )?){re.escape(HIDDEN)}$", rf"\1'{HIDDEN}'", clean, flags=re.M
            )
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
        if (clean := redact(text)) != text:
            record.msg, record.args = clean, ()
        return record

    redacted.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(redacted)


def is_place(value: str) -> bool:
    """Whether a value is a path of this machine: its first folder is there."""
    path = Path(value)
    if path.is_absolute():
        return len(path.parts) == 1 or os.path.isdir(os.path.join(*path.parts[:2]))
    return value.startswith(("~/", "./", "../")) or value in ("~", ".", "..")


def _redact(value: Any, secrets: tuple[Secret, ...], named: str = "") -> Any:
    if isinstance(value, str):
        if len(value) >= 6 and named and _assigned(named, '"'):
            return HIDDEN
        if named == "base_url":  # whatever is asked of a server beside its address
            value = re.sub(r"(?<=[?#]).+", HIDDEN, value, count=1, flags=re.S)
        return _redact_text(value, secrets)
    if isinstance(value, Mapping):
        return {
            _redact(key, secrets): _redact(part, secrets, key if isinstance(key, str) else "")
            for key, part in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(_redact(part, secrets) for part in value)
    return value


def _redact_text(text: str, secrets: tuple[Secret, ...]) -> str:
    found = [s for s in secrets if s.start in text or s.end in text]
    for secret in found:
        text = secret.alone.sub(HIDDEN, text) if secret.alone else text.replace(secret.form, HIDDEN)
    for secret in found:
        for length in range(len(secret.form) - 1, PIECE - 1, -1) if secret.pieces else ():
            text = text.replace(secret.form[:length], HIDDEN).replace(secret.form[-length:], HIDDEN)
    for needs, pattern, replacement in _IN_TEXT if len(text) > SHORTEST else ():
        if needs in text:
            text = pattern.sub(replacement, text)
    return text


def _told(found: re.Match[str], secret: bool) -> str:
    return found["kept"] + HIDDEN if secret else found[0]


def _parts(name: str) -> list[str]:
    """A name's parts in capitals: of `X-Api-Key`, `openaiToken` and `model.OPENAI_API_KEY_2` alike."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.rpartition(".")[2])
    parts = [p.rstrip("0123456789") for p in re.split(r"[^A-Za-z0-9]+", name.upper())]
    return [p for p in parts if p]


@lru_cache(maxsize=4096)
def _names_a_secret(name: str) -> bool:
    parts = _parts(name)
    if not parts or parts[-1] in _NO_SECRET:
        return False
    return any(_SECRET_PART.fullmatch(part) for part in parts)


@lru_cache(maxsize=4096)
def _variable_names_a_secret(name: str) -> bool:
    parts = _parts(name)
    last = "".join(parts[-2:]) if parts[-1:] == ["STRING"] else parts[-1] if parts else ""
    return _names_a_secret(name) or bool(_OF_A_VARIABLE.fullmatch(last))


def _query_names_a_secret(name: str) -> bool:
    return _names_a_secret(name) or bool(_OF_A_QUERY.fullmatch(re.sub(r"\W", "_", name).upper()))


def _assigned(name: str, sign: str) -> bool:
    """Whether what stands behind a name in any text is a secret: names of one weak word are not, and before a
    colon without quotes only those of several words are."""
    parts = _parts(name)
    if not _names_a_secret(name) or (len(parts) == 1 and parts[0] in _WEAK):
        return False
    return len(parts) > 1 or "=" in sign or '"' in sign or "'" in sign


class Secret:
    """One form of a secret: whole, by its pieces, or, a short one, where it stands alone."""

    def __init__(self, form: str, whole: bool) -> None:
        self.form = form
        short = len(form) < SHORTEST
        self.alone = re.compile(rf"(?<!\w){re.escape(form)}(?!\w)") if short else None
        self.pieces = not whole and not short and len(form) > PIECE
        self.start, self.end = (form[:PIECE], form[-PIECE:]) if self.pieces else (form, form)


def _values() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(values, values of which a piece is no secret)."""
    values, whole = set(_held), set[str]()
    for name, raw in os.environ.items():
        value = raw.strip()
        if is_place(value):
            continue
        by_name = _variable_names_a_secret(name)
        if name in _named:
            shortest = SHORTEST_NAMED
        elif by_name:  # a short one is hidden unless it is a word or a number
            shortest = 6 if re.search(r"\d", value) and re.search(r"\D", value) else SHORTEST
        else:
            continue
        for part in _pieces_of(value):
            if len(part) >= shortest:
                (whole if re.search(r"\s|://", part) else values).add(part)
    return tuple(sorted(values)), tuple(sorted(whole))


def _pieces_of(value: str) -> Iterator[str]:
    """A value, its lines, and the texts in one that is JSON under names of secrets."""
    yield value
    if "\n" in value:
        yield from (line.strip() for line in value.splitlines() if len(line.strip()) >= PIECE)
    if value.startswith("{"):
        try:
            told = json.loads(value)
        except (ValueError, RecursionError):
            return
        yield from (v for k, v in told.items() if isinstance(v, str) and _names_a_secret(str(k)))


@lru_cache(maxsize=4)
def _secrets(values: tuple[str, ...], whole: tuple[str, ...]) -> tuple[Secret, ...]:
    """The values in their forms in URLs, JSON and YAML, the longest first, so that no part of one is left."""
    made = {form: False for value in values for form in _forms(value)}
    made |= {form: True for value in whole for form in _forms(value)}
    return tuple(Secret(form, made[form]) for form in sorted(made, key=len, reverse=True))


def _forms(value: str) -> Iterable[str]:
    return {
        value,
        quote(value, safe=""),
        quote(value),
        quote_plus(value),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        value.replace("'", "''"),
        value.replace("'", "\\'"),
    }
