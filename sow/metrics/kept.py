"""What is measured once and kept: a small store on disk, shared by all processes, never the truth.

It lies in `outputs/.cache`, or where the environment variable SOW_CACHE says; `SOW_CACHE=off` keeps nothing. Deleting
it costs time only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

VARIABLE = "SOW_CACHE"
_PATIENCE = 60.0  # seconds to wait for another process's lock
_AT_ONCE = 500  # keys a query, below SQLite's limit of variables
_log = logging.getLogger(__name__)


def folder() -> Path | None:
    """The folder of everything kept, None where nothing is to be kept."""
    place = os.environ.get(VARIABLE, "outputs/.cache")
    return None if place in ("", "off") else Path(place).expanduser()


def image_key(image: Image.Image) -> str:
    """SHA-256 of an image's mode, size and pixels."""
    head = f"{image.mode} {image.width} {image.height} ".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()


def version_of(*files: Path) -> str:
    """SHA-256 of the bytes of code and weight files: what is kept under another version is never used."""
    return _version(tuple((str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in files))


@lru_cache(maxsize=32)
def _version(files: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, *_ in files:
        with open(name, "rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


@dataclass(frozen=True)
class Store:
    """Values of one `kind` (JSON: floats survive exactly) by key; a key holds the input's hash, `version` the rest."""

    kind: str
    version: str

    def through(self, keys: Sequence[str], compute: Callable[[list[int]], Sequence[Any]]) -> list[Any]:
        """One value a key, in order: those kept, and `compute(places)` for the places of the others, then kept.

        A key that occurs twice is computed once. All new values are written in one transaction.
        """
        known = self.get(keys)
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        places = sorted(place for key, place in first.items() if key not in known)
        if places:
            # Through JSON also when fresh, so that a value never depends on where it came from.
            new = [json.loads(json.dumps(value)) for value in compute(places)]
            fresh = {keys[place]: value for place, value in zip(places, new, strict=True)}
            self.put(fresh)
            known |= fresh
        return [known[key] for key in keys]

    def get(self, keys: Sequence[str]) -> dict[str, Any]:
        """The values that are kept, by key."""
        names = {self._name(key): key for key in keys}
        found = _with_base(lambda base: _select(base, list(names)), {})
        return {names[name]: json.loads(value) for name, value in found.items()}

    def put(self, values: dict[str, Any]) -> None:
        """Keep the values; another process's value for the same key is replaced by an equal one."""
        rows = [(self._name(key), json.dumps(value)) for key, value in values.items()]
        _with_base(lambda base: base.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?)", rows), None)

    def _name(self, key: str) -> str:
        return hashlib.sha256(f"{self.kind}|{self.version}|{key}".encode()).hexdigest()


def _select(base: sqlite3.Connection, names: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for start in range(0, len(names), _AT_ONCE):
        some = names[start : start + _AT_ONCE]
        marks = ",".join("?" * len(some))
        found |= dict(base.execute(f"SELECT key, value FROM kept WHERE key IN ({marks})", some))
    return found


def _with_base(action: Callable[[sqlite3.Connection], Any], otherwise: Any) -> Any:
    """`action` in one transaction; `otherwise` where nothing is kept, or the base is damaged or out of reach."""
    place = folder()
    if place is None:
        return otherwise
    file = place / "kept.sqlite"
    try:
        place.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(file, timeout=_PATIENCE)) as base, base:
            base.execute("CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
            return action(base)
    except (sqlite3.Error, OSError) as error:
        _log.warning("the cache %s cannot be used (%s): delete it, or set %s=off", file, error, VARIABLE)
        return otherwise
