"""Plans on disk: asked for once, whoever asks, and never seen half-written."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sow.errors import UserError
from sow.store.files import atomic_write


@dataclass(frozen=True)
class PlanStore:
    """A folder of JSON files by key, shared by processes and threads through file locks."""

    folder: Path

    def get_or_ask(
        self, key: str, ask: Callable[[], dict[str, Any]], *, refresh: bool, wait: float
    ) -> dict[str, Any]:
        """The stored value of `key`, or the one that `ask` gives, which is then stored.

        Of several that want the same key at the same time one asks and the others take its value, or its UserError.
        `refresh` ignores values stored before this call. Raises UserError when the lock is not had in `wait` seconds.
        """
        called = time.time()
        if not refresh and (found := self._read(key)) is not None:
            return found["value"]
        self._file(key).parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(str(self._file(key, ".lock")), timeout=wait):
                found = self._read(key)
                if found is not None and (not refresh or found["stored"] >= called):
                    return found["value"]
                self._raise_if_failed(key, called)
                return self._ask(key, ask)
        except Timeout as error:
            raise UserError(
                f"another process has been asking for this plan for {wait:.0f} s: wait for it or end it (planner.budget)"
            ) from error

    def reserve(self, name: str, interval: float) -> float:
        """Seconds to wait before the next call of the limited resource `name`, one call an `interval` among all
        processes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{name}.next"
        with FileLock(str(file.with_suffix(".lock"))):
            try:
                free = float(file.read_text())
            except (OSError, ValueError):
                free = 0.0
            now = time.time()
            turn = max(now, min(free, now + 3600))
            _write(file, str(turn + interval))
        return turn - now

    def _ask(self, key: str, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        failed = self._file(key, ".failed")
        try:
            value = ask()
        except UserError as error:
            _write(failed, json.dumps({"at": time.time(), "error": str(error)}))
            raise
        text = json.dumps({"stored": time.time(), "value": value}, indent=1, ensure_ascii=False)
        _write(self._file(key), text)
        failed.unlink(missing_ok=True)
        return json.loads(text)["value"]  # what later readers will see, to the letter

    def _raise_if_failed(self, key: str, called: float) -> None:
        """The error of the process that this one waited for: it would fail in the same way."""
        try:
            failure = json.loads(self._file(key, ".failed").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if failure["at"] >= called:
            raise UserError(failure["error"])

    def _read(self, key: str) -> dict[str, Any] | None:
        try:
            found = json.loads(self._file(key).read_text(encoding="utf-8"))
            return found if isinstance(found["value"], dict) and found["stored"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # not there, or damaged: asked for again

    def _file(self, key: str, suffix: str = ".json") -> Path:
        return self.folder / key[:2] / f"{key}{suffix}"


def key_of(parts: Mapping[str, Any]) -> str:
    """SHA-256 of what decides a plan."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _write(file: Path, text: str) -> None:
    with atomic_write(file) as part:
        part.write_text(text, encoding="utf-8")
