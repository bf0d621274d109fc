"""What components read besides their configuration: the files that they declare, by content.

A component that reads files has a method `files()` with their paths, each by the file's own name or beside
the name that it goes by; a folder stands for all that lies in it.
One that takes a model from the hub has `revisions()`: the commit of each on this disk.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sow.store.file_hashes import file_sha256
from sow.store.files import place_of

Named = str | Path | tuple[Path, str]


@runtime_checkable
class ReadsFiles(Protocol):
    """A component whose result depends on files."""

    def files(self) -> Iterable[Named]:
        """Paths of files and folders, in an order that says which is which; those that do not exist count as
        absent."""
        ...


def components(value: Any) -> Iterator[Any]:
    """A component and those in its fields, containers of them included."""
    return (component for _, component in _placed(value, ""))


def _placed(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Each component with its place: the fields, keys and numbers that lead to it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield place, value
        inner: Any = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
    elif isinstance(value, Mapping):
        inner = value.items()
    else:
        inner = enumerate(value) if isinstance(value, (list, tuple)) else ()
    for name, item in inner:
        yield from _placed(item, f"{place}.{name}")


def files_read(value: Any) -> list[Path]:
    """Every file that a component, or one in its fields, declares, sorted; those of a folder one by one."""
    named = (p for c in components(value) if isinstance(c, ReadsFiles) for p in c.files())
    return sorted({file.resolve() for path in named for file, _ in _named(path)})


def _named(path: Named) -> Iterator[tuple[Path, str]]:
    """A file, or those of a folder, each with its name from there:
    the place on this machine is not what is read."""
    if isinstance(path, tuple):
        if path[0].is_file():
            yield path
        return
    place = place_of(path, "a file that is read")
    for file in _below(place) if place.is_dir() else [place]:
        if file.is_file():
            yield file, file.relative_to(place.parent).as_posix()


def _below(place: Path) -> Iterator[Path]:
    """Files below a folder, through linked folders too, each folder once; what is hidden and a model's card
    decide no result."""
    seen = set()
    for folder, inner, names in os.walk(place, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield from (Path(folder, n) for n in sorted(names) if not n.startswith(".") and n != "README.md")


def contents(value: Any) -> dict[str, Any]:
    """Hashes of all that a component reads, by the place of the component that reads it: files in the order
    in which it names them, and revisions of models on the hub.

    Which of two files holds what is content too, though both be called alike.
    """
    found: dict[str, Any] = {}
    for place, component in _placed(value, ""):
        read: dict[str, Any] = {}
        if isinstance(component, ReadsFiles):
            read["files"] = [
                [[name, file_sha256(file)] for file, name in _named(path)] for path in component.files()
            ]
        if hasattr(component, "revisions"):
            read["revisions"] = component.revisions()
        if any(read.values()):
            found[place] = read
    return found


def hub_revision(repo: str, file: str, revision: str | None = None) -> dict[str, str]:
    """The commit of a hub repository's copy on this disk, known by one of its files; {} without a copy."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repo, file, revision=revision)
    except HFValidationError:  # the name of no repository: of a folder that is not there
        return {}
    return {repo: Path(found).parents[file.count("/")].name} if isinstance(found, str) else {}
