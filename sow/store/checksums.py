"""Files compared with the SHA-256 that lies beside them in `CHECKSUMS`, in the format of sha256sum."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from sow.errors import UserError
from sow.store.fingerprint import sha256_of_file

LIST = "CHECKSUMS"

_known: dict[
    tuple[str, int, int], str
] = {}  # (path, modification time, size) -> SHA-256, for the life of the process


def write_checksums(folder: Path, names: Collection[str] | None = None) -> None:
    """List the files of `folder`: those at the relative paths `names`, all but the list and the model card
    if None."""
    if names is None:
        files = (p for p in folder.rglob("*") if p.is_file() and p.name not in (LIST, "README.md"))
        names = [p.relative_to(folder).as_posix() for p in files]
    (folder / LIST).write_text("".join(f"{_sha256(folder / name)}  {name}\n" for name in sorted(names)))


def check_files(folder: Path, key: str) -> None:
    """Raise UserError, naming `key`, for a file of `folder` that is not what its list says; nothing without
    a list.

    A file is read once for each of its modification times.
    """
    try:
        lines = (folder / LIST).read_text().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        wanted, _, name = line.partition("  ")
        file = folder / name
        try:
            found = _sha256(file)
        except OSError as error:
            raise UserError(
                f"cannot read {file}, which {LIST} lists: {error.strerror}; install the files again ({key})"
            ) from error
        if found != wanted:
            raise UserError(
                f"{file} is damaged or was changed: its SHA-256 is {found[:12]}.., {LIST} says "
                f"{wanted[:12]}..; install "
                f"the files again, or delete {LIST} if the change is meant ({key})"
            )


def _sha256(file: Path) -> str:
    state = file.stat()
    key = (str(file.resolve()), state.st_mtime_ns, state.st_size)
    if key not in _known:
        _known[key] = sha256_of_file(file)
    return _known[key]
