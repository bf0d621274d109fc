"""Run folders: the truth on disk. A folder with a manifest is complete; nothing is ever seen half-written."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sow.config.places import INSTALLED
from sow.errors import UserError
from sow.store.files import atomic_write

if TYPE_CHECKING:
    from PIL import Image

    from sow.config.compose import Config

MANIFEST = "manifest.json"
PACKAGE = Path(__file__).resolve().parents[1]
REPOSITORY = PACKAGE.parent
NOT_THE_RUN = ("tracker", "force", "paths", "cache")  # where a run is written and told, not what it is
LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "facenet-pytorch",
    "open_clip_torch",
    "numpy",
    "pillow",
    "hydra-core",
)
FILE_KEYS = {"image", "mask", "path", "weights", "pretrained", "cache_dir", "root"}


@dataclass(frozen=True)
class RunFolder:
    """One run's folder; every file appears whole or not at all."""

    path: Path

    def save_bytes(self, name: str, data: bytes) -> Path:
        """Write `data` to a temporary name, then rename."""
        target = self.path / name
        with atomic_write(target) as part, open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return target

    def save_image(self, name: str, image: Image.Image) -> Path:
        """A PIL image as PNG."""
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return self.save_bytes(name, buffer.getvalue())

    def save_json(self, name: str, value: Any) -> Path:
        """Plain containers; numbers that JSON lacks (nan, infinities) become null."""
        text = json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False)
        return self.save_bytes(name, (text + "\n").encode())

    def save_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Rows as parquet; columns are the union of the rows' keys, in order of appearance."""
        import pyarrow
        from pyarrow import parquet

        names = list(dict.fromkeys(key for row in rows for key in row))
        table = pyarrow.table({name: [row.get(name) for row in rows] for name in names})
        buffer = io.BytesIO()
        parquet.write_table(table, buffer)
        return self.save_bytes(name, buffer.getvalue())

    @property
    def complete(self) -> bool:
        """Whether the manifest, the last file, is there."""
        return (self.path / MANIFEST).is_file()

    def manifest(self) -> dict[str, Any]:
        """The manifest of a complete run."""
        return json.loads((self.path / MANIFEST).read_text())


def jsonable(value: Any) -> Any:
    """Plain containers of what JSON can hold."""
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(v) for v in value]
    if hasattr(value, "tolist"):  # numpy and torch
        return jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


# What a run is: a key of its configuration, its inputs and its code.


def config_hash(config: Config) -> str:
    """SHA-256 of the resolved configuration without what does not change a result."""
    kept = {k: v for k, v in config.resolved.items() if k not in NOT_THE_RUN}
    return _digest(json.dumps(jsonable(kept), sort_keys=True).encode())


def run_key(config: Config) -> str:
    """SHA-256 of the configuration, the bytes of every input and weight file, and the package's files."""
    cache = HashCache(config.paths.outputs / ".index" / "weights.json")
    parts = {
        "config": config_hash(config),
        "hub": hub_revisions(config),
        "inputs": {str(p): cache.digest(p) for p in input_files(config)},
        "code": [(str(p.relative_to(REPOSITORY)), cache.digest(p)) for p in code_files()],
    }
    cache.save()
    return _digest(json.dumps(parts, sort_keys=True).encode())


def input_files(config: Config) -> list[Path]:
    """Every file that the configuration names: images, masks, plans, weights; folders stand for all that lies in them."""
    return sorted({p for name in config.resolved if name not in NOT_THE_RUN for p in files_of(config, name)})


def files_of(config: Config, name: str) -> set[Path]:
    """The files that one group of the configuration names, all those of a folder."""
    component: Any = getattr(config, name)  # it may know better which files it reads
    names = component.files() if hasattr(component, "files") else _named_paths(config.resolved[name])
    paths = (Path(n).expanduser() for n in names)
    return {f.resolve() for p in paths for f in (p.rglob("*") if p.is_dir() else [p]) if f.is_file()}


def hub_revisions(config: Config) -> dict[str, str]:
    """Commits of the hub's models on this disk that the configuration may load."""
    model = config.resolved["model"]
    if model.get("repo_id") is None or model.get("path") is not None:
        return {}
    from huggingface_hub import try_to_load_from_cache

    found = {}
    for name in (model["repo_id"], *model.get("mirrors", ())):
        cached = try_to_load_from_cache(name, "unet/config.json", revision=model.get("revision"))
        if isinstance(cached, str):
            found[name] = Path(cached).parents[1].name
    return found


def _named_paths(node: Any, key: str = "") -> Iterator[str]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _named_paths(value, str(name))
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _named_paths(value, key)
    elif isinstance(node, str) and key in FILE_KEYS:
        yield node


def code_files() -> list[Path]:
    """The files of sow/ and experiments/, shipped weights included."""
    rooms = (PACKAGE, REPOSITORY / "experiments")
    return sorted(
        p for room in rooms for p in room.rglob("*") if p.is_file() and "__pycache__" not in p.parts
    )


class HashCache:
    """SHA-256 of files; those of large files are remembered by path, size and modification time."""

    LARGE = 1 << 20

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, str] = {}
        self.new: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError):
            self.known = dict(json.loads(path.read_text()))

    def digest(self, file: Path) -> str:
        """Hex SHA-256 of the file's bytes; raises UserError when it cannot be read."""
        try:
            stat = file.stat()
            if stat.st_size < self.LARGE:
                return _digest(file.read_bytes())
            key = f"{file}|{stat.st_size}|{stat.st_mtime_ns}"
            if key not in self.known:
                with open(file, "rb") as opened:
                    self.known[key] = self.new[key] = hashlib.file_digest(opened, "sha256").hexdigest()
            return self.known[key]
        except OSError as error:
            raise UserError(f"cannot read {file}: {error.strerror or error}") from error

    def save(self) -> None:
        """Keep what was newly hashed; another process's entries may be lost, never a file's truth."""
        if self.new:
            RunFolder(self.path.parent).save_json(self.path.name, self.known)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# Complete runs by key.


def find(outputs: Path, key: str) -> Path | None:
    """The folder of the complete run with this key, None when there is none (any more)."""
    try:
        folder = outputs / (outputs / ".index" / key).read_text().strip()
    except OSError:
        return None
    try:
        return folder if RunFolder(folder).manifest().get("key") == key else None
    except (OSError, ValueError):
        return None


def complete(folder: RunFolder, outputs: Path, key: str, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, then the index entry: after this the run is done."""
    folder.save_json(MANIFEST, {**manifest, "key": key})
    where = os.path.relpath(folder.path.resolve(), outputs.resolve())
    RunFolder(outputs / ".index").save_bytes(key, f"{where}\n".encode())


def link_earlier(folder: Path, earlier: Path) -> None:
    """Leave a link named `earlier` in this run's folder; a text file where links are not to be had."""
    link = folder / "earlier"
    target = os.path.relpath(earlier.resolve(), folder.resolve())
    try:
        link.symlink_to(target, target_is_directory=True)
    except OSError:
        RunFolder(folder).save_bytes("earlier.txt", f"{target}\n".encode())


# What surrounds a run.


@functools.cache
def surroundings() -> dict[str, Any]:
    """Versions and machine, for the manifest; looked up once a process."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "versions": {"python": platform.python_version(), **versions},
        "platform": platform.platform(),
    }


@functools.cache
def git_revision() -> dict[str, Any] | None:
    """The commit of this checkout and whether files differ from it; None outside a checkout.

    Looked up once a process: the code that it runs is the one that it began with.
    """
    if INSTALLED:  # a repository around it is somebody else's
        return None
    commit, status = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    return None if commit is None else {"commit": commit, "dirty": bool(status)}


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], cwd=REPOSITORY, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def discard_untouched(folder: Path) -> None:
    """Remove the folder of a job that failed before it wrote anything: Hydra's files alone tell nothing."""
    if all(p.name == ".hydra" or p.suffix == ".log" for p in folder.iterdir()):
        shutil.rmtree(folder, ignore_errors=True)
