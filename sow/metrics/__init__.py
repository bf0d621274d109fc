"""Numbers about finished images: faces, text agreement, pixels, and the embedded world's own judge."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from sow.types import Sample

Value = float | int | bool | str | None


@runtime_checkable
class Metrics(Protocol):
    """One row of numbers a sample. Implementations explain their columns in `COLUMNS`."""

    def check(self) -> None:
        """Raises UserError before anything is generated when something the measurement needs is missing."""
        ...

    def measure(self, samples: Sequence[Sample]) -> list[dict[str, Value]]:
        """One row a sample, in order; None where a number does not exist (an undetected face)."""
        ...


def columns(metrics: Any) -> Mapping[str, str]:
    """What each column of `metrics` is and who judged it, in words for a table's caption."""
    found = getattr(metrics, "COLUMNS", {})
    return dict(found)


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that exist, None where none does."""
    known = [v for v in values if v is not None and not math.isnan(v)]
    return sum(known) / len(known) if known else None
