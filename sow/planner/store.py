"""Plans in the store: asked for once, whoever asks."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sow.errors import UserError
from sow.store.files import atomic_write
from sow.store.store import Store

log = logging.getLogger(__name__)


class PlanStore(Store):
    """A store of plans that several processes and threads ask for at the same time;
    nothing in it is ever removed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, undigested=True)

    def get_or_ask(
        self, key: str, ask: Callable[[], dict[str, Any]], *, refresh: bool, wait: float
    ) -> dict[str, Any]:
        """The stored value of `key`, or the one that `ask` gives, which is then stored.

        Of several that want the same key at the same time one asks and the others take its value, or its
        UserError. `refresh` ignores values stored before this call. Raises UserError when the lock is not had
        in `wait` seconds.
        """
        called = time.time()
        if not refresh and (found := self._plan(key)) is not None:
            return found[0]
        with self._locked(key, wait):
            found = self._plan(key)
            if found is not None and (not refresh or found[1] >= called):
                return found[0]
            self._raise_if_failed(key, called)
            return self._ask(key, ask)

    def reserve(self, name: str, interval: float) -> float:
        """Seconds to wait before the next call of the limited resource `name`,
        one call per `interval` among all processes."""
        file = self._beside(f"{name}.next")
        with self._locked(name, None):
            try:
                free = float(file.read_text())
            except (OSError, ValueError):
                free = 0.0
            now = time.time()
            turn = max(now, min(free, now + 3600))
            _write(file, str(turn + interval))
        return turn - now

    def _plan(self, key: str) -> tuple[dict[str, Any], float] | None:
        found = self.entry(key)
        return found if found is not None and isinstance(found[0], dict) else None

    def _ask(self, key: str, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        failed = self._beside(f"{key}.failed")
        try:
            value = ask()
        except UserError as error:
            _write(failed, json.dumps({"at": time.time(), "error": str(error)}))
            raise
        value = json.loads(json.dumps(value))  # what later readers will see, to the letter
        self.put(key, value)
        with contextlib.suppress(OSError):
            failed.unlink(missing_ok=True)
        return value

    def _raise_if_failed(self, key: str, called: float) -> None:
        """The error of the process that this one waited for: it would fail in the same way."""
        try:
            failure = json.loads(self._beside(f"{key}.failed").read_text(encoding="utf-8"))
            at, error = float(failure["at"]), str(failure["error"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        if at >= called:
            raise UserError(error)

    @contextlib.contextmanager
    def _locked(self, key: str, wait: float | None) -> Iterator[None]:
        """Alone with this key, if the folder takes locks;
        raises UserError when the lock is not had in `wait` seconds."""
        file = self._beside(f"{key}.lock")
        lock = FileLock(str(file), timeout=-1 if wait is None else wait)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise UserError(
                f"another process has been asking for this plan for {wait:.0f} s: wait for it or end it "
                "(planner.budget)"
            ) from error
        except OSError as error:
            log.warning("%s cannot be locked, other processes may ask too: %s", file, error.strerror or error)
        try:
            yield
        finally:
            lock.release()

    def _beside(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / name if name.endswith(".next") else self.folder / name[:2] / name


def _write(file: Path, text: str) -> None:
    """What other processes may read; without it they only ask once more."""
    with contextlib.suppress(OSError), atomic_write(file) as part:
        part.write_text(text, encoding="utf-8")
