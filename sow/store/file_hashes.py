"""Hashes of files: large ones are read once for each of their states, whichever process asks."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from sow.errors import UserError
from sow.store.fingerprint import fingerprint, sha256_of_file
from sow.store.store import shared

LARGE = 1 << 20  # bytes from which a hash is worth keeping between processes


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, kept by its size and times; raises UserError where it cannot be read.

    The time of the last change of its state counts too: a file that was put back with its old modification
    time is read again.
    """
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):  # which would be waited for, or never end
            raise UserError(f"cannot read {path}: it is no regular file")
        return _sha256(str(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


@lru_cache(maxsize=65536)
def _sha256(path: str, size: int, modified: int, changed: int) -> str:
    if size < LARGE:
        return sha256_of_file(Path(path))
    key = fingerprint(["file", str(Path(path).resolve()), size, modified, changed])
    return shared().value(key, lambda: sha256_of_file(Path(path)))


def fingerprint_files(paths: Iterable[Path]) -> str:
    """One hash of the names and bytes of files; raises UserError where one cannot be read."""
    return fingerprint([[path.name, file_sha256(path)] for path in sorted(paths)])
