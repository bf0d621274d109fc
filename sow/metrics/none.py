"""No measurement."""

from __future__ import annotations

from collections.abc import Sequence

from sow.metrics import Value
from sow.types import Sample, component


@component("metrics")
class NoMetrics:
    """Measures nothing: an empty row a sample."""

    def check(self) -> None:
        """Needs nothing."""

    def measure(self, samples: Sequence[Sample]) -> list[dict[str, Value]]:
        """Empty rows."""
        return [{} for _ in samples]
