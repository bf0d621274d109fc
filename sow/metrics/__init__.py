"""Numbers about finished images: faces, text agreement, and the embedded world's own judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from sow.types import Sample

Value = float | int | bool | str | None


@runtime_checkable
class Metrics(Protocol):
    """One row of numbers a sample."""

    def check(self) -> None:
        """Raises UserError before anything is generated when something the measurement needs is missing."""
        ...

    def measure(self, samples: Sequence[Sample]) -> list[dict[str, Value]]:
        """One row a sample, in order; None where a number does not exist (an undetected face)."""
        ...
