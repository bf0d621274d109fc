"""Run folders: the truth on disk. A folder with a manifest is complete; nothing is ever seen half-written."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import math
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sow.config.places import INSTALLED
from sow.config.repeat import CHUNK
from sow.errors import UserError
from sow.store import inputs
from sow.store.code import code_digests
from sow.store.files import atomic_write
from sow.store.fingerprint import fingerprint, sha256, sha256_of_file
from sow.store.secrets import redact

if TYPE_CHECKING:
    from PIL import Image

    from sow.config.compose import Config

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
RESULTS = ("image.png", "metrics.json", "headline.json", "table.json")  # what a run is for
LATEST = "latest"  # the link to the run that was completed, or found complete, last
PACKAGE = Path(__file__).resolve().parents[1]
REPOSITORY = PACKAGE.parent
NOT_THE_RUN = ("tracker", "force", "paths", "cache")  # where a run is written and told, not what it is
TEXTS = (".md", ".csv", ".tex", ".yaml")  # which lose secrets as they are written; JSON does value by value
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


@dataclass(frozen=True)
class RunFolder:
    """One run's folder; every file appears whole or not at all.

    `about` is what its images say of themselves: `words` of the command line and the run's `key`, in the text
    chunk "sow" of a PNG, from which `sow --from image.png` repeats the run. `saved` has the SHA-256 of what
    was written, by which a finished run is known to be whole.
    """

    path: Path
    about: Mapping[str, Any] = field(default_factory=dict)
    saved: dict[str, str] = field(default_factory=dict, compare=False)

    def save_bytes(self, name: str, data: bytes) -> Path:
        """Write `data` to a temporary name, then rename; raises UserError where the disk does not take it."""
        target = self.path / name
        if target.suffix in TEXTS:
            data = redact(data.decode()).encode()
        try:
            with atomic_write(target) as part, open(part, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"cannot write {target}: {error.strerror or error} (paths.outputs)") from error
        self.saved[name] = sha256(data)
        return target

    def save_image(self, name: str, image: Image.Image) -> Path:
        """A PIL image as PNG."""
        from PIL.PngImagePlugin import PngInfo

        buffer, told = io.BytesIO(), PngInfo()
        if self.about:
            told.add_text(CHUNK, json.dumps(jsonable(redact(self.about)), ensure_ascii=True))
        image.save(buffer, "PNG", pnginfo=told)
        return self.save_bytes(name, buffer.getvalue())

    def save_json(self, name: str, value: Any) -> Path:
        """Plain containers; numbers that JSON lacks (nan, infinities) become null."""
        text = json.dumps(redact(jsonable(value)), indent=2, ensure_ascii=False, allow_nan=False)
        return self.save_bytes(name, (text + "\n").encode())

    def save_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Rows as parquet; columns are the union of the rows' keys, in order of appearance.

        A column whose values have no one type, or numbers beyond 64 bits, becomes text.
        """
        import pyarrow
        from pyarrow import parquet

        rows = redact(list(rows))
        names = list(dict.fromkeys(key for row in rows for key in row))
        table = pyarrow.table({name: _column([row.get(name) for row in rows]) for name in names})
        buffer = io.BytesIO()
        parquet.write_table(table, buffer)
        return self.save_bytes(name, buffer.getvalue())

    @property
    def complete(self) -> bool:
        """Whether the manifest, the last file, is there."""
        return (self.path / MANIFEST).is_file()

    def manifest(self) -> dict[str, Any]:
        """The manifest of a complete run; raises UserError as `read_manifest` does."""
        return read_manifest(self.path / MANIFEST)


def _column(values: list[Any]) -> Any:
    import pyarrow

    try:
        return pyarrow.array(values)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError):
        words = (v if isinstance(v, (str, type(None))) else json.dumps(jsonable(v)) for v in values)
        return pyarrow.array(list(words))


def read_manifest(file: Path) -> dict[str, Any]:
    """A run's manifest; raises UserError for a file that cannot be read or is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}, it is damaged"
        raise UserError(f"cannot read {file}: {reason} (remove that run's folder)") from error
    parts = [found, *(found.get(k, {}) for k in ("config", "choices"))] if isinstance(found, dict) else [None]
    if not all(isinstance(part, dict) for part in parts):
        raise UserError(f"{file} is no manifest of a run: it is damaged (remove that run's folder)")
    return found


def manifests_below(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The complete runs below a folder and their manifests, sorted by path;
    damaged ones are left out with a warning."""
    for file in sorted(root.rglob(MANIFEST)):
        try:
            yield file.parent, read_manifest(file)
        except UserError as error:
            log.warning("%s", error)


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
    """Fingerprint of the resolved configuration without what does not change a result."""
    return fingerprint(jsonable(deciding_values(config)))


def deciding_values(config: Config, without: Sequence[str] = ()) -> dict[str, Any]:
    """The resolved values that decide a result: all but NOT_THE_RUN, those of `without`, and of a component
    the fields in its `PASSING`."""
    found = {}
    for name, value in config.values.items():
        if name not in NOT_THE_RUN and name not in without:
            passing = getattr(getattr(config, name), "PASSING", ())
            found[name] = {k: v for k, v in value.items() if k not in passing} if passing else value
    return found


def run_key(config: Config, *code: Any) -> str:
    """Fingerprint of the configuration, of all that its components read, and of the code that they and `code`
    reach.

    A study that composes further configurations names them in `configurations(config)`; what those read
    counts too.
    """
    others = config.study.configurations(config) if hasattr(config.study, "configurations") else ()
    chosen = [chosen_components(c) for c in (config, *others)]
    return fingerprint(
        {
            "config": config_hash(config),
            "reads": [inputs.contents(c) for c in chosen],
            "code": code_digests(*code, *(t for c in chosen for t in component_types(c))),
        }
    )


def chosen_components(config: Config, without: Sequence[str] = ()) -> dict[str, Any]:
    """The components of a configuration by group, those that make a run what it is."""
    names = (name for name in config.resolved if name not in (*NOT_THE_RUN, *without))
    return {name: getattr(config, name) for name in names if is_dataclass(getattr(config, name))}


def component_types(chosen: Mapping[str, Any]) -> list[type[Any]]:
    """The classes of components and of those in their fields, each once."""
    return list(dict.fromkeys(type(c) for c in inputs.components(chosen)))


# Complete runs by key.


def find(outputs: Path, key: str) -> Path | None:
    """The folder of the complete run with this key, None when there is none (any more)."""
    try:
        folder = outputs / (outputs / ".index" / key).read_text(encoding="utf-8").strip()
        manifest = RunFolder(folder).manifest()
    except (OSError, ValueError):
        return None
    except UserError as error:
        if os.path.exists(folder / MANIFEST):  # which no name is too long for
            log.warning("%s: it is made again", error)
        return None
    if manifest.get("key") != key:
        return None
    if hurt := damaged(folder, manifest):
        log.warning("%s is not whole any more (%s): it is made again", folder, hurt)
        return None
    return folder


def damaged(folder: Path, manifest: Mapping[str, Any]) -> str:
    """The first file of a complete run that is gone or not what the run wrote; "" where all are there.

    A manifest of before files were recorded with their SHA-256 names them only: of those, what a run is for
    must be there.
    """
    whole, listed = manifest.get("digests"), manifest.get("files")
    names = {name: None for name in RESULTS if isinstance(listed, list) and name in listed}
    for name, digest in (whole if isinstance(whole, dict) else names).items():
        try:
            if digest not in (None, sha256_of_file(folder / name)):
                return f"{name} has changed"
            if not (folder / name).is_file():
                return f"{name} is gone"
        except (OSError, ValueError):  # ValueError: no system has a file of such a name
            return f"{name} is gone"
    return ""


def complete(
    folder: RunFolder, outputs: Path, key: str, manifest: Mapping[str, Any], found_again: bool = True
) -> None:
    """Write the manifest, then the index entry, after which the run is done; without `found_again` the same
    run is made anew."""
    digests = {name: digest for name, digest in folder.saved.items() if name != MANIFEST}
    folder.save_json(MANIFEST, {**manifest, "digests": digests, "key": key})
    where = os.path.relpath(folder.path.resolve(), outputs.resolve())
    try:
        if found_again:
            RunFolder(outputs / ".index").save_bytes(key, f"{where}\n".encode())
    except UserError as error:  # the run is there; it will only not be found again
        log.warning("%s", error)
    point_latest(outputs, folder.path)


def point_latest(outputs: Path, folder: Path) -> None:
    """Make the link `latest` in `outputs` lead to a complete run; something else of that name stays."""
    link, part = outputs / LATEST, outputs / f".{LATEST}.{os.getpid()}"
    if os.path.lexists(link) and not _is_own_link(link, outputs):
        log.warning("%s is not this program's link: it stays, and leads to another run or none", link)
        return
    words = os.path.relpath(folder.resolve(), outputs.resolve())
    try:
        part.symlink_to(words, target_is_directory=True)
        part.replace(link)  # at once: jobs may end together
        RunFolder(outputs / ".index").save_bytes(LATEST, words.encode())
    except (OSError, UserError) as error:  # where links are not to be had
        log.info("cannot make the link %s: %s", link, error)
        part.unlink(missing_ok=True)


def _is_own_link(link: Path, outputs: Path) -> bool:
    """Whether `point_latest` made a link: it is the last that was made, or leads, by its way from there, to a
    complete run."""
    if not link.is_symlink() or os.path.isabs(words := os.readlink(link)):
        return False
    with contextlib.suppress(OSError, ValueError):
        if words == (outputs / ".index" / LATEST).read_text(encoding="utf-8"):
            return True
    try:
        return "key" in read_manifest(link / MANIFEST)
    except UserError:
        return False


def link_earlier(folder: Path, earlier: Path) -> None:
    """Leave a link named `earlier` in this run's folder, if it is another;
    a text file where links are not to be had."""
    if folder.resolve() == earlier.resolve():
        return
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
