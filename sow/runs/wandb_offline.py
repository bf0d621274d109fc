"""Reading W&B's offline files back: what a run told, without a server."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLOCK = 32768  # bytes; a block of the log
HEADER = 7  # bytes, of the file and of each piece of a record


@dataclass(frozen=True)
class OfflineRun:
    """One W&B run as its `.wandb` file holds it.

    `history` one mapping a logged row; `exit_code` None while the run is not finished; `files` the local
    paths of what its tables and other artifacts show, by their names there.
    """

    file: Path
    id: str
    project: str
    group: str
    job_type: str
    name: str
    tags: tuple[str, ...]
    config: dict[str, Any]
    history: tuple[dict[str, Any], ...]
    summary: dict[str, Any]
    exit_code: int | None
    files: dict[str, Path]


def runs_below(folder: Path) -> list[OfflineRun]:
    """Every W&B run below `folder`, in order of its file's name."""
    return [read_run(file) for file in sorted(folder.rglob("*.wandb"))]


def read_run(file: Path) -> OfflineRun:
    """The run in one `.wandb` file, as far as it is written;
    raises ValueError when it does not even say which run it is."""
    from wandb.proto import wandb_internal_pb2

    run: Any = None
    config: dict[str, Any] = {}
    history: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    files: dict[str, Path] = {}
    exit_code = None
    for message in messages(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(message)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            config |= items(run.config.update)
        elif kind == "config":
            config |= items(record.config.update)
        elif kind == "history":
            history.append(items(record.history.item))
        elif kind == "summary":
            summary |= items(record.summary.update)
        elif kind == "artifact":
            files |= {entry.path: Path(entry.local_path) for entry in record.artifact.manifest.contents}
        elif kind == "exit":
            exit_code = int(record.exit.exit_code)
    if run is None:
        raise ValueError(f"{file} holds no run")
    return OfflineRun(
        file=file,
        id=run.run_id,
        project=run.project,
        group=run.run_group,
        job_type=run.job_type,
        name=run.display_name,
        tags=tuple(run.tags),
        config=config,
        history=tuple(history),
        summary=summary,
        exit_code=exit_code,
        files=files,
    )


def items(updates: Any) -> dict[str, Any]:
    """Keys and values of a record; nested keys joined by dots."""
    return {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in updates}


def messages(log: bytes) -> Iterator[bytes]:
    """The whole messages of a LevelDB log behind W&B's header:
    blocks of 32 KiB of (checksum, length, kind, bytes)."""
    position, message = HEADER, b""
    while position + HEADER <= len(log):
        left = BLOCK - position % BLOCK
        if left < HEADER:  # the rest of a block too short for a header is padding
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", log, position)
        if position + HEADER + length > len(log):
            return  # still being written
        message += log[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            yield message
            message = b""
