"""Paths as people write them, and atomic writes: a file or folder is replaced in one step, or stays as it
was."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sow.errors import UserError


def is_utf8(text: str) -> bool:
    """Whether a text has no half of a pair of UTF-16, which JSON and names of files can hold, and nothing can
    write."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def place_of(path: str | os.PathLike[str], key: str) -> Path:
    """The file or folder that a value of the configuration names, "~" being the home folder; raises
    UserError, naming the config key `key`, for the home of nobody and for what no system takes as a name."""
    text = os.fspath(path)
    if "\0" in text:
        raise UserError(f"{key}={text!r} holds a zero byte: write the path without it ({key})")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        name = text.partition("/")[0]
        raise UserError(
            f"{key}={text}: there is no home folder of {name}: write the folder out, or ./{text} where it is "
            f"called so ({key})"
        ) from error


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to; after the block it is `target`, after an exception nothing has
    changed.

    Folders on the way to `target` are made. Processes and threads that write the same file do not meet.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target` to write to; after the block it is `target`, after an exception nothing
    has changed.

    Killed between the two renames at the end, the new folder stays beside, whole, under its temporary name.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part, old = (target.with_name(f".{target.name}.{os.getpid()}.{kind}") for kind in ("part", "old"))
    part.mkdir()
    try:
        yield part
        if target.exists():
            os.rename(target, old)
        os.rename(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if not target.exists() and old.exists():
            os.rename(old, target)
        shutil.rmtree(old, ignore_errors=True)
