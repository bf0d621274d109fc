"""What components read besides their configuration: the files that they declare, by content.

A component that reads files has a method `files()` with their paths; a folder stands for all that lies in it.
One that takes a model from the hub has `revisions()`: the commit of each on this disk.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sow.store.file_hashes import file_sha256


@runtime_checkable
class ReadsFiles(Protocol):
    """A component whose result depends on files."""

    def files(self) -> Iterable[str | Path]:
        """Paths of files and folders; those that do not exist count as absent."""
        ...


def components(value: Any) -> Iterator[Any]:
    """A component and those in its fields, containers of them included."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from components(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield value
        for field in dataclasses.fields(value):
            yield from components(getattr(value, field.name))


def files_read(value: Any) -> list[Path]:
    """Every file that a component, or one in its fields, declares, sorted; those of a folder one by one."""
    named = (p for c in components(value) if isinstance(c, ReadsFiles) for p in c.files())
    return sorted({file.resolve() for path in named for file, _ in _named(path)})


def _named(path: str | Path) -> Iterator[tuple[Path, str]]:
    """A file, or those of a folder, each with its name from there:
    the place on this machine is not what is read."""
    place = Path(path).expanduser()
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
    """Hashes of all that a component reads: files by name, and revisions of models on the hub."""
    files: set[tuple[str, str]] = set()
    revisions: dict[str, str] = {}
    for component in components(value):
        if isinstance(component, ReadsFiles):
            files |= {(name, file_sha256(f)) for path in component.files() for f, name in _named(path)}
        if hasattr(component, "revisions"):
            revisions |= component.revisions()
    return {"files": sorted(files), "revisions": revisions}


def hub_revision(repo: str, file: str, revision: str | None = None) -> dict[str, str]:
    """The commit of a hub repository's copy on this disk, known by one of its files; {} without a copy."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, file, revision=revision)
    return {repo: Path(found).parents[file.count("/")].name} if isinstance(found, str) else {}
