"""What a benchmark has finished: one folder a batch, found by what its images depend on, whole or not there.

A batch is some groups' requests under one method. Its key is a hash of the method's configuration, the bytes of the
weights and of the conditions, prompts, seeds, and the code that makes and measures images; so tables share batches, and
a killed run goes on where it was. `records.jsonl` is written last; every line carries the checksum of its record, and
every record that of its image. Times lie beside it and are no part of what is compared.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sow.runs import records
from sow.runs.records import RunFolder, jsonable

if TYPE_CHECKING:
    from sow.config.compose import Config
    from sow.data import Group
    from sow.types import Request

RECORDS, SECONDS = "records.jsonl", "seconds.json"
# Groups of the configuration that reach an image only through its request, which has a digest of its own.
IN_THE_REQUEST = ("study", "condition", "data", "prompt", "seed")
# Code that shows, sends or trains, and cannot change an image or a number.
NOT_THE_IMAGE = (
    "sow/report/",
    "sow/runs/tracking.py",
    "sow/runs/records.py",
    "sow/data/",
    "sow/people/training/",
    "sow/people/controlnet/",  # an input of the method that reads it
)


@dataclass(frozen=True)
class Store:
    """Finished batches below `root`."""

    root: Path

    def folder(self, key: str) -> Path:
        return self.root / key[:2] / key

    def read(self, key: str, names: Sequence[str]) -> list[dict[str, Any]] | None:
        """The records of a batch whose images are called `names`, None unless all of it is there and unharmed."""
        folder = self.folder(key)
        try:
            lines = (folder / RECORDS).read_bytes().decode().splitlines()
            found = [_record(line) for line in lines]
            whole = [r["name"] for r in found] == list(names) and all(
                _digest((folder / f"{r['name']}.png").read_bytes()) == r["image"] for r in found
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if whole else None

    def write(
        self,
        key: str,
        rows: Sequence[Mapping[str, Any]],
        images: Mapping[str, Any],
        seconds: Mapping[str, Any],
    ) -> list[dict[str, Any]]:
        """Keep a batch: `rows` each with the `name` of its image, `images` PIL by name; returns the records as read."""
        folder = RunFolder(self.folder(key))
        sweep(folder.path)
        for name, image in images.items():
            folder.save_image(f"{name}.png", image)
        kept = [
            jsonable({**row, "image": _digest((folder.path / f"{row['name']}.png").read_bytes())})
            for row in rows
        ]
        folder.save_json(SECONDS, seconds)
        text = "".join(_line(record) + "\n" for record in kept)
        folder.save_bytes(RECORDS, text.encode())
        return kept

    def seconds(self, key: str) -> dict[str, Any]:
        """Times of a batch; {} where they were lost, which loses no result."""
        try:
            return dict(json.loads((self.folder(key) / SECONDS).read_text()))
        except (OSError, ValueError):
            return {}

    def image(self, key: str, name: str) -> Path:
        """An image's file."""
        return self.folder(key) / f"{name}.png"


def sweep(folder: Path) -> None:
    """Remove what killed processes of this machine left half-written."""
    for part in folder.glob(".*.part"):
        pid = part.name.split(".")[-2].partition("-")[0]
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            part.unlink(missing_ok=True)
        except (OSError, ValueError):
            continue


def link(source: Path, target: Path) -> None:
    """The file again under another name, without its bytes where the disk can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def method_key(config: Config, cache: records.HashCache) -> str:
    """SHA-256 of all that makes and measures an image apart from its request."""
    skip = (*records.NOT_THE_RUN, *IN_THE_REQUEST)
    kept = {k: v for k, v in config.resolved.items() if k not in skip}
    files = [p for name in kept for p in records.files_of(config, name)]
    parts = {
        "config": jsonable(kept),
        "hub": records.hub_revisions(config),
        "inputs": {str(p): cache.digest(p) for p in sorted(set(files))},
        "timed": config.cache.memory_mb == 0,  # a batch that found results ready is no measure of time
        "code": {str(n): cache.digest(p) for n, p in code_files().items()},
    }
    return _digest(json.dumps(parts, sort_keys=True).encode())


def code_files() -> dict[str, Path]:
    """Files by name that can change an image or what is measured of it, shipped weights included."""
    named = {p.relative_to(records.REPOSITORY).as_posix(): p for p in records.code_files()}
    return {n: p for n, p in named.items() if n.startswith("sow/") and not n.startswith(NOT_THE_IMAGE)}


def request_digest(request: Request) -> str:
    """SHA-256 of a request: prompt, task, seed, and each condition's pixels, mask, box and truth."""
    parts: list[Any] = [request.id, request.prompt, request.task, request.seed]
    for condition in request.conditions:
        for picture in (condition.image, condition.mask):
            parts.append(
                None if picture is None else [picture.mode, picture.size, _digest(picture.tobytes())]
            )
        parts.append([condition.box.as_list() if condition.box else None, condition.name])
        parts.append(jsonable(condition.truth))
    return _digest(json.dumps(parts, sort_keys=True).encode())


def batch_key(method: str, requests: Sequence[Request]) -> str:
    """SHA-256 of a method's key and the requests that share a UNet call, in order."""
    return _digest(json.dumps([method, [request_digest(r) for r in requests]]).encode())


def image_name(group: Group, seed: int) -> str:
    """`<group id>-<seed>`, the name of an image in the store and in a run folder."""
    return f"{group.id}-{seed}"


def _line(record: Mapping[str, Any]) -> str:
    body = json.dumps(record, ensure_ascii=False, allow_nan=False)
    return json.dumps({**record, "checksum": _digest(body.encode())}, ensure_ascii=False)


def _record(line: str) -> dict[str, Any]:
    """The record of a line; raises ValueError when it is not what was written."""
    record = dict(json.loads(line))
    del record["checksum"]
    if _line(record) != line:
        raise ValueError("a line differs from its checksum")
    return record


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
