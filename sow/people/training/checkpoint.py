"""Training state on disk: one file a stage, replaced atomically, so that a killed run goes on where it was."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from sow.people.training.pace import Average, Pace
from sow.store.files import atomic_write


class Tracker(Protocol):
    """Where losses go besides the CSV file; the run's tracker, or nothing."""

    def __call__(self, values: dict[str, float], step: int) -> None: ...


def no_tracker(values: dict[str, float], step: int) -> None:
    """Track nowhere."""


def save_state(path: Path, state: dict[str, Any]) -> None:
    """The state in place of the old one, or the old one still."""
    with atomic_write(path) as part:
        torch.save(state, part)


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
    state = torch.load(path, map_location="cpu", weights_only=True)
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
    _sums: dict[str, float] = field(default_factory=dict)
    _count: int = 0

    def add(self, **values: float) -> None:
        """Count one step's values towards the next row."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1

    def write(self, step: int, **extra: float) -> dict[str, float]:
        """Append the means since the last row and return them."""
        means = {name: total / max(self._count, 1) for name, total in self._sums.items()} | extra
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
