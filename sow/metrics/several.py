"""Several metrics at once: `metrics=all`, `metrics=photos`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sow.errors import UserError
from sow.metrics import Metrics, Value, columns
from sow.types import Sample, component


@component("metrics")
class Several:
    """The columns of every part, in order.

    A column that an earlier part already has is another instrument's number: it is called `<part>_<column>`,
    for example `faces_id_distance` beside the judge's `id_distance`.
    """

    parts: dict[str, Metrics]

    def __post_init__(self) -> None:
        if not self.parts:
            raise UserError("metrics.parts is empty: name metrics, or choose metrics=none (metrics.parts)")

    @property
    def COLUMNS(self) -> dict[str, str]:  # noqa: N802  (what the other metrics keep as a constant)
        """What each column is, under the name it has here."""
        out: dict[str, str] = {}
        for name, part in self.parts.items():
            out |= _named(out, name, columns(part))
        return out

    def check(self) -> None:
        """Raises UserError for the first part that lacks something."""
        for part in self.parts.values():
            part.check()

    def measure(self, samples: Sequence[Sample]) -> list[dict[str, Value]]:
        """One row a sample with the columns of all parts."""
        out: list[dict[str, Value]] = [{} for _ in samples]
        for name, part in self.parts.items():
            for row, more in zip(out, part.measure(samples), strict=True):
                row |= _named(row, name, more)
        return out


def _named(taken: Mapping[str, Any], part: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{part}_{k}" if k in taken else k: v for k, v in values.items()}
