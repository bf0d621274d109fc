"""The one store: values by the fingerprint of what decides them, in memory and in a folder, never the truth.

A value is what JSON holds, tuples and tensors, nested. Plain values are JSON files, those with tensors
safetensors files; each carries the fingerprint of its content, which is checked when it is read. What is
damaged is made again, with a warning of one line; a folder that is full, read-only or broken keeps nothing
and ends no run. Only files that a store has written are counted and removed, whatever else lies in its
folder.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from sow.store.files import atomic_write, place_of
from sow.store.fingerprint import fingerprint, is_tensor, tensors

log = logging.getLogger(__name__)

VARIABLE = "SOW_CACHE"  # the folder of `shared`; "off" keeps nothing
SHARED_LIMIT = 2 << 30  # bytes of it
SPARE = 0.1  # of the limit is made free when it is reached, so that the next files need no search
SHARE = 0.05  # of the limit may be written by a process before it looks at what the others wrote
LOCK = ".sow.lock"
HEADER = 1 << 24  # bytes of the longest header of a file of tensors
ABANDONED = 3600.0  # seconds since the last byte of a temporary file whose process must be gone
TENSOR, TUPLE = "__tensor__", "__tuple__"
WRITTEN = re.compile(r"([0-9a-f]{2})/\1[0-9a-f]{62}\.(json|safetensors)")  # a file, by its key
UNFINISHED = re.compile(r"([0-9a-f]{2})/\.\1[0-9a-f]{62}\.(json|safetensors)\.\d+-\d+\.part")
Value = TypeVar("Value")


class Damaged(ValueError):
    """A file of the store that is not what was written."""


class Store:
    """Values by key: the last ones used in memory, at most `memory` bytes of tensors, and all of them in
    `folder`.

    `limit` bytes are what the files may take together, 0 = no bound; those not used for longest are removed.
    Several processes may write, read and remove at once; others may be up to a twentieth of the limit further
    than this one knows. `undigested` takes JSON files without a fingerprint, as earlier versions wrote them.
    """

    def __init__(
        self, folder: Path | None, limit: int = 0, memory: int = 0, *, undigested: bool = False
    ) -> None:
        self.undigested = undigested
        self.folder: Path | None = None
        self.limit = self.memory = 0
        self.size = 0  # bytes in memory
        self._entries: OrderedDict[str, tuple[Any, tuple[int, ...], int]] = OrderedDict()
        self.configure(folder, limit, memory)

    def configure(self, folder: Path | None, limit: int, memory: int) -> None:
        """Another place and other bounds; what memory holds stays, as far as it may."""
        place = None if folder is None else place_of(folder, "cache.folder")
        if (place, limit) != (self.folder, self.limit):
            self.folder, self.limit = place, limit
            self._room = 0.0  # bytes until the next look at the folder
            self._warned = False
        self.memory = memory
        self._shrink()

    def get(self, key: str) -> Any | None:
        """The value of `key`, tensors on the device they came from;
        None where there is none, or none unharmed."""
        found = self._recall(key)
        if found is None and (entry := self.entry(key)) is not None:
            found = entry[0]
            self._remember(key, found)
        return found

    def put(self, key: str, value: Any) -> None:
        """Keep `value`; what alone exceeds a limit is not kept there."""
        self._remember(key, value)
        size = sum(t.nelement() * t.element_size() for t in tensors(value))
        if self.folder is None or (self.limit and size > self.limit * (1 - SPARE)):
            return
        try:
            self._room -= self._write(key, value)
            if self.limit and self._room < 0:
                self._clear_up()
        except OSError as error:
            if not self._warned:
                log.warning("nothing can be kept in %s: %s", self.folder, error.strerror or error)
            self._warned = True

    def value(self, key: str, make: Callable[[], Value]) -> Value:
        """The value of `key`: found, or made and kept."""
        found = self.get(key)
        if found is None:
            found = make()
            self.put(key, found)
        return found

    def values(self, keys: Sequence[str], make: Callable[[list[int]], Sequence[Any]]) -> list[Any]:
        """One value per key, in order: those kept, and `make(places)` for the places of the
        others, each key once."""
        known = {key: found for key in dict.fromkeys(keys) if (found := self.get(key)) is not None}
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        places = sorted(place for key, place in first.items() if key not in known)
        for place, value in zip(places, make(places) if places else [], strict=True):
            known[keys[place]] = value
            self.put(keys[place], value)
        return [known[key] for key in keys]

    def __contains__(self, key: str) -> bool:
        """Whether a file of this key is there; it is not read."""
        return any(file.is_file() for file in self._files(key))

    def forget(self, key: str) -> None:
        """Remove what is kept as `key`."""
        if key in self._entries:
            self.size -= self._entries.pop(key)[2]
        for file in self._files(key):
            with contextlib.suppress(OSError):
                file.unlink()

    def clear(self) -> None:
        """Forget what memory holds; the folder stays."""
        self._entries.clear()
        self.size = 0

    # In memory.

    def _recall(self, key: str) -> Any | None:
        found = self._entries.get(key)
        if found is None:
            return None
        value, versions, size = found
        if tuple(t._version for t in tensors(value)) == versions:
            self._entries.move_to_end(key)
            return value
        del self._entries[key]  # someone has written into its tensors
        self.size -= size
        return None

    def _remember(self, key: str, value: Any) -> None:
        size = sum(t.untyped_storage().nbytes() for t in tensors(value))
        if not self.memory or size > self.memory:
            return
        if key in self._entries:
            self.size -= self._entries.pop(key)[2]
        self._entries[key] = (value, tuple(t._version for t in tensors(value)), size)
        self.size += size
        self._shrink()

    def _shrink(self) -> None:
        while self._entries and self.size > self.memory:
            self.size -= self._entries.popitem(last=False)[1][2]

    # In the folder.

    def entry(self, key: str) -> tuple[Any, float] | None:
        """The value kept in the folder and when it was stored,
        in seconds since the epoch; None as for `get`."""
        for file in self._files(key):
            try:
                found = _read(file, self.undigested)
                if self.limit:
                    os.utime(file)
                return found
            except (FileNotFoundError, NotADirectoryError):  # never written, or removed a moment ago
                continue
            except Exception as error:  # whatever a damaged file makes of its reader
                log.warning("%s is not used and is made again: %s", file, str(error) or type(error).__name__)
        return None

    def _files(self, key: str) -> tuple[Path, ...]:
        if self.folder is None:
            return ()
        return tuple(self.folder / key[:2] / f"{key}{kind}" for kind in (".json", ".safetensors"))

    def _write(self, key: str, value: Any) -> int:
        """Write the file; its size."""
        plain, safetensors = self._files(key)
        flat: dict[str, Any] = {}
        content = {"key": key, "stored": time.time(), "value": _pack(value, flat)}
        digest = fingerprint([content, flat])
        if not flat:
            with atomic_write(plain) as part:
                text = json.dumps({"sha256": digest, **content}, indent=1, ensure_ascii=False)
                part.write_text(text, encoding="utf-8")
                return part.stat().st_size
        from safetensors.torch import save_file

        with atomic_write(safetensors) as part:
            try:
                save_file(flat, part, {"sha256": digest, "content": json.dumps(content)})
            except OSError:
                raise
            except Exception as error:  # safetensors' own, for a full disk among others
                raise OSError(f"cannot write {part}: {error}") from error
            return part.stat().st_size

    def _clear_up(self) -> None:
        from filelock import FileLock, Timeout

        assert self.folder is not None
        try:
            with FileLock(str(self.folder / LOCK), timeout=0):
                total = self._remove_oldest(self.folder)
        except Timeout:  # another process is at it
            total = self.limit
        self._room = min(self.limit - total, SHARE * self.limit)

    def _remove_oldest(self, folder: Path) -> int:
        """Remove files until `SPARE` of the limit is free, if they exceed it; the bytes that stay."""
        found, total = [], 0
        for file in folder.glob("*/*"):
            name = file.relative_to(folder).as_posix()
            try:
                state = file.lstat()
                if UNFINISHED.fullmatch(name):  # being written, or left by a killed process
                    if time.time() - state.st_mtime > ABANDONED:
                        file.unlink()
                elif WRITTEN.fullmatch(name):
                    found.append((state.st_mtime_ns, state.st_size, file))
                    total += state.st_size
            except OSError:
                continue
        if total <= self.limit:
            return total
        for _, size, file in sorted(found):
            if total <= (1 - SPARE) * self.limit:
                break
            with contextlib.suppress(OSError):
                if _is_of_a_store(file):
                    file.unlink()
                total -= size
        return total


def _is_of_a_store(file: Path) -> bool:
    """Whether a file begins as those do that `Store._write` writes; raises OSError."""
    if file.is_symlink() or not file.is_file():
        return False
    with open(file, "rb") as opened:
        start = opened.read(8)
        if file.suffix == ".json":
            return (start + opened.read(8)).startswith(b'{\n "sha256": "')
        length = int.from_bytes(start, "little")
        header = opened.read(length) if length <= HEADER else b""
    return header.startswith(b'{"__metadata__":{') and b'"sha256":"' in header and b'"content":"' in header


def _read(file: Path, undigested: bool) -> tuple[Any, float]:
    """The value in a file and when it was stored; raises Damaged, or whatever its reader does."""
    flat: dict[str, Any] = {}
    if file.suffix == ".json":
        found = json.loads(file.read_text(encoding="utf-8"))
        content = {name: value for name, value in found.items() if name != "sha256"}
        digest = found.get("sha256")
    else:
        # Opened once: safetensors opens by name again, and a store is cleared meanwhile. torch comes after,
        # so that a file that is not there imports nothing.
        data = file.read_bytes()
        from safetensors.torch import load

        flat = load(data)
        about = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        content, digest = json.loads(about["content"]), about["sha256"]
    if digest != fingerprint([content, flat]) and not (digest is None and undigested):
        raise Damaged("its content is not what was written")
    if content.get("key", file.stem) != file.stem:  # files of earlier versions have none
        raise Damaged("it was written under another name")
    return _unpack(content["value"], flat), float(content["stored"])


def _pack(value: Any, flat: dict[str, Any]) -> Any:
    """The value for JSON; its tensors go into `flat`, on the CPU and of their own memory."""
    if isinstance(value, Mapping):
        return {k: _pack(v, flat) for k, v in value.items()}
    if isinstance(value, tuple):
        return {TUPLE: [_pack(v, flat) for v in value]}
    if isinstance(value, list):
        return [_pack(v, flat) for v in value]
    if not is_tensor(value):
        return value
    name = str(len(flat))
    flat[name] = value.detach().cpu().contiguous().clone()
    return {TENSOR: name, "device": str(value.device)}


def _unpack(value: Any, flat: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_unpack(v, flat) for v in value]
    if not isinstance(value, dict):
        return value
    if TUPLE in value:
        return tuple(_unpack(v, flat) for v in value[TUPLE])
    if TENSOR in value:
        return flat[value[TENSOR]].to(value["device"])
    return {k: _unpack(v, flat) for k, v in value.items()}


def shared_folder() -> Path | None:
    """The folder of all that is kept for every run,
    `outputs/.cache` or what SOW_CACHE says; None where nothing is."""
    place = os.environ.get(VARIABLE, "outputs/.cache")
    return None if place in ("", "off") else place_of(place, VARIABLE)


def shared() -> Store:
    """The store that all processes share: readings of pictures, hashes of large files.

    Deleting it costs time only.
    """
    place = shared_folder()
    return _shared(None if place is None else place.absolute() / "store")


@lru_cache(maxsize=8)
def _shared(folder: Path | None) -> Store:
    return Store(folder, SHARED_LIMIT)
