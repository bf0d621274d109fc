"""Training state on disk: one file a stage, or parts of it, replaced at once, so that a killed run goes on where it was."""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from sow.errors import UserError
from sow.people.training.pace import Average, Pace
from sow.store.files import atomic_write


class Tracker(Protocol):
    """Where losses go besides the CSV file; the run's tracker, or nothing."""

    def __call__(self, values: dict[str, float], step: int) -> None: ...


def no_tracker(values: dict[str, float], step: int) -> None:
    """Track nowhere."""


def save_state(path: Path, state: dict[str, Any], part_mib: float | None = None) -> None:
    """The state in place of the old one, or the old one still.

    With `part_mib` no file is larger than that many MiB: `path` then names its parts, which lie beside it, and is
    replaced when all of them are there.
    """
    if part_mib is None:
        with atomic_write(path) as part:
            torch.save(state, part)
        return
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data, size = buffer.getbuffer(), int(part_mib * 2**20)
    digest = hashlib.sha256(data).hexdigest()[:12]
    names = [f"{path.name}.{digest}.{k:02d}" for k in range(-(-len(data) // size))]
    for k, name in enumerate(names):
        with atomic_write(path.with_name(name)) as part:
            part.write_bytes(data[k * size : (k + 1) * size])
    with atomic_write(path) as part:
        torch.save({"parts": names}, part)
    for old in path.parent.glob(f"{path.name}.*.[0-9][0-9]"):
        if old.name not in names:
            old.unlink()


def load_state(path: Path) -> dict[str, Any]:
    """What `save_state` wrote, on the CPU, whichever device it came from; raises UserError where a part is missing."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if "parts" not in state:
        return state
    missing = [name for name in state["parts"] if not path.with_name(name).is_file()]
    if missing:
        raise UserError(
            f"{path} lacks its part {missing[0]}: put it back, or remove {path.name} to begin anew"
        )
    data = b"".join(path.with_name(name).read_bytes() for name in state["parts"])
    whole: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return whole


def pack(
    model: torch.nn.Module,
    average: Average,
    optimizer: torch.optim.Optimizer,
    step: int,
    pace: Pace,
    seen: int,
) -> dict[str, Any]:
    """Everything a stage needs to go on; the draws of a step depend on (seed, step) alone, so no random state is kept."""
    return {
        "model": model.state_dict(),
        "average": average.shadow,
        "optimizer": optimizer.state_dict(),
        "step": step,
        "spent": pace.spent,
        "seen": seen,
    }


def unpack(
    path: Path,
    model: torch.nn.Module,
    average: Average,
    optimizer: torch.optim.Optimizer,
    pace: Pace,
) -> tuple[int, int]:
    """Restore a stage's state where `path` exists; returns (step, samples seen), (0, 0) for a fresh start."""
    if not path.exists():
        return 0, 0
    state = load_state(path)
    model.load_state_dict(state["model"])
    for mine, theirs in zip(average.shadow, state["average"], strict=True):
        mine.copy_(theirs)
    optimizer.load_state_dict(state["optimizer"])
    pace.spent = float(state["spent"])
    return int(state["step"]), int(state["seen"])


@dataclass
class LossFile:
    """A CSV file of averaged values, one row a report; rows of an earlier run stay."""

    path: Path
    tracker: Tracker = no_tracker
    _sums: dict[str, torch.Tensor | float] = field(default_factory=dict)
    _count: int = 0

    def add(self, **values: torch.Tensor | float) -> None:
        """Count one step's values towards the next row; scalars stay on their device until then."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1

    def write(self, step: int, **extra: float) -> dict[str, float]:
        """Append the means since the last row and return them."""
        means = {name: float(total) / max(self._count, 1) for name, total in self._sums.items()} | extra
        self._sums, self._count = {}, 0
        fresh = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(["step", *means])
            writer.writerow([step, *(f"{v:.6g}" for v in means.values())])
        self.tracker(means, step)
        return means
