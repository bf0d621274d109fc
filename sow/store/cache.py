"""Results by key: the last ones used in memory, and more of them in a folder."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

from sow.store.cache_folder import CacheFolder
from sow.store.digest import digest, tensors


class Results:
    """The last results used in memory, at most `limit` bytes of them, and more of them in `folder` if given.

    Nothing is kept until `configure` says how much may be. `identity` is part of the names in the folder.
    """

    def __init__(self) -> None:
        self.limit = 0
        self.folder: CacheFolder | None = None
        self.identity = b""
        self.size = 0
        self._entries: OrderedDict[bytes, tuple[Any, tuple[int, ...], int]] = OrderedDict()

    def configure(self, limit: int, folder: Path | None, folder_limit: int = 0) -> None:
        """How many bytes memory may hold, 0 = none, where results are kept on disk, None = nowhere, and how many bytes
        may lie there, 0 = no bound."""
        self.limit = limit
        wanted = None if folder is None else CacheFolder(Path(folder).expanduser(), folder_limit)
        if wanted != self.folder:
            self.folder = wanted
        self._shrink()

    def clear(self) -> None:
        """Forget what memory holds; the folder stays."""
        self._entries.clear()
        self.size = 0

    def get(self, key: bytes) -> Any | None:
        """The value of `key`; None when there is none, or when someone has written into its tensors since."""
        found = self._entries.get(key)
        if found is not None:
            value, versions, size = found
            if tuple(t._version for t in tensors(value)) == versions:
                self._entries.move_to_end(key)
                return value
            del self._entries[key]
            self.size -= size
        value = None
        if self.folder is not None:
            value = self.folder.read(self._name(key))
        if value is not None:
            self._keep(key, value)
        return value

    def put(self, key: bytes, value: Any) -> None:
        """Keep `value`, nested tuples and dictionaries of tensors."""
        self._keep(key, value)
        if self.folder is not None:
            self.folder.write(self._name(key), value)

    def _keep(self, key: bytes, value: Any) -> None:
        size = sum(t.untyped_storage().nbytes() for t in tensors(value))
        if size > self.limit:
            return
        if key in self._entries:
            self.size -= self._entries.pop(key)[2]
        self._entries[key] = (value, tuple(t._version for t in tensors(value)), size)
        self.size += size
        self._shrink()

    def _shrink(self) -> None:
        while self.size > self.limit and self._entries:
            _, (_, _, size) = self._entries.popitem(last=False)
            self.size -= size

    def _name(self, key: bytes) -> str:
        return digest(self.identity, key).hex()
