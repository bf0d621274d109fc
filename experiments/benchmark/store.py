"""What a benchmark has finished: one folder a batch, found by what its images depend on, whole or not there.

A batch is some groups' requests under one method. Its key is a hash of the method's configuration, the bytes
of the weights and of the conditions, prompts, seeds, and the code that makes and measures images; so tables
share batches, and a killed run goes on where it was. `records.jsonl` is written last; every line carries the
checksum of its record, and every record that of its image. Times lie beside it and are no part of what is
compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sow.errors import UserError
from sow.runs import records
from sow.runs.records import RunFolder, jsonable
from sow.store import inputs
from sow.store.code import code_digests
from sow.store.fingerprint import fingerprint, sha256
from sow.store.secrets import redact

if TYPE_CHECKING:
    from sow.config.compose import Config
    from sow.data import Group
    from sow.types import Request

RECORDS, SECONDS = "records.jsonl", "seconds.json"
# Groups of the configuration that reach an image only through its request, which has a digest of its own.
IN_THE_REQUEST = ("study", "condition", "data", "prompt", "seed")


@dataclass(frozen=True)
class Store:
    """Finished batches below `root`."""

    root: Path

    def folder(self, key: str) -> Path:
        return self.root / key[:2] / key

    def read(self, key: str, names: Sequence[str]) -> list[dict[str, Any]] | None:
        """The records of a batch whose images are called `names`,
        None unless all of it is there and unharmed."""
        folder = self.folder(key)
        try:
            lines = (folder / RECORDS).read_bytes().decode().splitlines()
            found = [_record(line) for line in lines]
            whole = [r["name"] for r in found] == list(names) and all(
                sha256((folder / f"{r['name']}.png").read_bytes()) == r["image"] for r in found
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
        """Keep a batch: `rows` each with the `name` of its image, `images` PIL by name;
        returns the records as read."""
        folder = RunFolder(self.folder(key))
        sweep(folder.path)
        for name, image in images.items():
            folder.save_image(f"{name}.png", image)
        kept = [
            redact(jsonable({**row, "image": sha256((folder.path / f"{row['name']}.png").read_bytes())}))
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
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            target.hardlink_to(source)
            return
        shutil.copyfile(source, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error} (paths.outputs)") from error


def method_key(config: Config) -> str:
    """Fingerprint of all that makes and measures an image apart from its request."""
    chosen = records.chosen_components(config, IN_THE_REQUEST)
    return fingerprint(
        {
            "config": jsonable(records.deciding_values(config, IN_THE_REQUEST)),
            "reads": inputs.contents(chosen),
            "timed": config.cache.memory_mb == 0,  # a batch that found results ready is no measure of time
            "code": code_digests(*records.component_types(chosen)),
        }
    )


def batch_key(method: str, requests: Sequence[Request]) -> str:
    """Fingerprint of a method's key and the requests that share a UNet call, in order:
    every pixel, word and number."""
    return fingerprint([method, list(requests)])


def image_name(group: Group, seed: int) -> str:
    """`<group id>-<seed>`, the name of an image in the store and in a run folder."""
    return f"{group.id}-{seed}"


def _line(record: Mapping[str, Any]) -> str:
    body = json.dumps(record, ensure_ascii=False, allow_nan=False)
    return json.dumps({**record, "checksum": sha256(body.encode())}, ensure_ascii=False)


def _record(line: str) -> dict[str, Any]:
    """The record of a line; raises ValueError when it is not what was written."""
    record = dict(json.loads(line))
    del record["checksum"]
    if _line(record) != line:
        raise ValueError("a line differs from its checksum")
    return record
