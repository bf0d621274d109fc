"""Results kept on a disk: whole files by name, the ones not used for longest removed when there are too many bytes of them."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sow.store.digest import moved, tensors
from sow.store.files import atomic_write

log = logging.getLogger(__name__)

SPARE = 0.1  # of the limit is made free when it is reached, so that the next files need no search
SHARE = 0.05  # of the limit may be written by a process before it looks at what the others wrote
LOCK = ".lock"
ABANDONED = 3600.0  # seconds since the last byte of a temporary file whose process must be gone


@dataclass
class CacheFolder:
    """A folder of results that several processes write to and clear up.

    `limit` bytes are what all files together may take, 0 = no bound: nothing is ever removed. Other processes may be up to
    a twentieth of it further than this one knows. A file is used when it is written and when it is read; that time is its
    modification time. One process clears up at a time; temporary files of living writers are not its concern.
    """

    path: Path
    limit: int
    _room: float = field(default=0.0, init=False, compare=False)  # bytes until the next look at the folder

    def read(self, name: str) -> Any | None:
        """The value kept as `name`, on the device it came from; None where there is none that can be read."""
        import torch

        file = self._file(name)
        try:
            saved = torch.load(file, map_location="cpu", weights_only=True)
            value = moved(saved["value"], torch.device(saved["device"]))
        except FileNotFoundError:  # never written, or removed a moment ago
            return None
        except Exception as error:
            log.warning("%s cannot be read and is computed again: %s", file, error)
            return None
        with contextlib.suppress(OSError):
            os.utime(file)
        return value

    def write(self, name: str, value: Any) -> None:
        """Keep nested tuples and dictionaries of tensors as `name`; what alone exceeds the limit is not kept."""
        import torch

        size = sum(t.nelement() * t.element_size() for t in tensors(value))
        if self.limit and size > self.limit * (1 - SPARE):
            return
        device = next((str(t.device) for t in tensors(value)), "cpu")
        file = self._file(name)
        with atomic_write(file) as part:
            torch.save({"value": moved(value, torch.device("cpu")), "device": device}, part)
            size = part.stat().st_size
        if self.limit:
            self._room -= size
            if self._room < 0:
                self._clear_up()

    def _file(self, name: str) -> Path:
        return self.path / name[:2] / f"{name}.pt"

    def _clear_up(self) -> None:
        from filelock import FileLock, Timeout

        try:
            with FileLock(str(self.path / LOCK), timeout=0):
                total = self._remove_oldest()
        except Timeout:  # another process is at it
            total = self.limit
        self._room = min(self.limit - total, SHARE * self.limit)

    def _remove_oldest(self) -> int:
        """Remove files until `SPARE` of the limit is free, if they exceed it; the bytes that stay."""
        found, total = [], 0
        for file in self.path.glob("*/*"):
            try:
                state = file.stat()
                if file.name.startswith("."):  # being written, or left by a killed process
                    if time.time() - state.st_mtime > ABANDONED:
                        file.unlink()
                    continue
            except OSError:
                continue
            found.append((state.st_mtime_ns, state.st_size, file))
            total += state.st_size
        if total <= self.limit:
            return total
        for _, size, file in sorted(found):
            if total <= (1 - SPARE) * self.limit:
                break
            with contextlib.suppress(OSError):
                file.unlink()
                total -= size
        return total
