"""What a benchmark is asked for: its rows, its groups, its columns."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from sow.errors import UserError
from sow.types import Bound, component

from ..core.fields import LIMIT, Count, Inside, Resamples
from .rows import Row, parse_rows

EVALUATIONS = "unet_evaluations"  # of an image: what quality at equal compute is drawn against


@component("study")
class Settings:
    """One table: `rows` on the groups of a `split`, `seeds` images each.

    `name`      of the table, and of its place in docs/; `title` what a reader sees
    `settings`  the settings that count, null = all; `limit` as many groups in all, the settings in turn, null
                = all
    `only`      names of the rows to run, null = all
    `shard`     "2/8" runs the third of eight parts and makes the table only when all parts are there; null =
                all of it
    `marks`     heads of the leading columns; `columns` what is reported: metric, label, better, format
    `pareto`    columns that a figure shows against the UNet's evaluations, [] = no figure
    `reference` the row that the others are tested against; `source` what the paper's numbers are
    `level`     of the intervals; `resamples` of bootstrap and permutation tests, `resample_seed` their draws
    `publish`   the table between its marks in docs/
    """

    name: str
    title: str
    source: str
    split: Literal["validation", "test", "all"]
    settings: list[str] | None
    limit: Annotated[int | None, Bound(ge=1, le=LIMIT)]
    seeds: Count
    only: list[str] | None
    shard: str | None
    marks: list[str]
    columns: list[Any]
    pareto: list[str]
    rows: dict[str, Any]
    reference: str | None
    level: Inside
    resamples: Resamples
    resample_seed: int
    publish: bool

    def __post_init__(self) -> None:
        names = [row.name for row in self.parsed]
        for name in (*(self.only or ()), *([self.reference] if self.reference else ())):
            if name not in names:
                raise UserError(
                    f"{name} is an unknown row: choose among {', '.join(names)} (study.only, study.reference)"
                )
        self.part  # noqa: B018  a bad shard fails before anything is imported
        from sow.report.tables import parse_columns

        known = [column.metric for column in parse_columns(self.columns)]
        for name in self.pareto:
            if name not in known or EVALUATIONS not in known:
                raise UserError(
                    f"{name} against compute needs {name} and {EVALUATIONS} as columns of the table: it has "
                    f"{', '.join(known)} (study.pareto)"
                )

    @property
    def parsed(self) -> list[Row]:
        """All rows."""
        return parse_rows(self.rows)

    @property
    def shown(self) -> list[Row]:
        """The rows of the table that is made."""
        return [row for row in self.parsed if self.only is None or row.name in self.only]

    @property
    def part(self) -> tuple[int, int]:
        """(index, count) of the shard."""
        if self.shard is None:
            return 0, 1
        found = re.fullmatch(r"(\d+)/(\d+)", self.shard)
        if not found or not int(found[1]) < int(found[2]):
            raise UserError(f"a shard is k/n with 0 <= k < n, as in 0/8, got {self.shard!r} (study.shard)")
        return int(found[1]), int(found[2])
