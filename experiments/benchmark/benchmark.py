"""`study=benchmark`: rows x groups x seeds, as the tables of the paper have them; killed, it goes on where it was.

A run folder holds

    rows.json          the rows in order: name, label, overrides, paper's numbers; table.json: columns and circumstances
    groups.json        id, setting, split, prompt of each group; conditions/<group id>.png its visual condition
    records.parquet    one record a row, group and seed: every metric; plans.json what was planned, by the row's plans
    images/<row>/<group id>-<seed>.png
    seconds.parquet    times and UNet evaluations a batch, which no two runs share
    table.md, table.csv, table.tex
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sow.config.bounds import need_at_least
from sow.errors import UserError

from ..benchmark.rows import Row, compose_row, parse_rows

if TYPE_CHECKING:
    from sow.config.compose import Config

    from ..core.study import StudyContext

SPLITS = ("validation", "test", "all")


@dataclass(frozen=True)
class Benchmark:
    """One table: `rows` on the groups of a `split`, `seeds` images each.

    `name`      of the table, and of its place in docs/; `title` what a reader sees
    `settings`  the settings that count, null = all; `limit` as many groups in all, the settings in turn, null = all
    `only`      names of the rows to run, null = all
    `shard`     "2/8" runs the third of eight parts and makes the table only when all parts are there; null = all of it
    `marks`     heads of the leading columns; `columns` what is reported: metric, label, better, format
    `reference` the row that the others are tested against; `source` what the paper's numbers are
    `level`     of the intervals; `resamples` of bootstrap and permutation tests, `resample_seed` their draws
    `publish`   the table between its marks in docs/
    """

    name: str
    title: str
    source: str
    split: str
    settings: list[str] | None
    limit: int | None
    seeds: int
    only: list[str] | None
    shard: str | None
    marks: list[str]
    columns: list[Any]
    rows: dict[str, Any]
    reference: str | None
    level: float
    resamples: int
    resample_seed: int
    publish: bool

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise UserError(f"study.split={self.split} is not one of {', '.join(SPLITS)} (study.split)")
        need_at_least(self, "study", limit=1, seeds=1)
        names = [row.name for row in self.parsed]
        for name in (*(self.only or ()), *([self.reference] if self.reference else ())):
            if name not in names:
                raise UserError(
                    f"{name} is no row: choose among {', '.join(names)} (study.only, study.reference)"
                )
        self.part  # noqa: B018  a bad shard fails before anything is imported
        from sow.report.statistics import Resampling
        from sow.report.tables import parse_columns

        parse_columns(self.columns)
        Resampling(self.level, self.resamples, self.resample_seed)

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

    def configurations(self, config: Config) -> list[Config]:
        """Those of the rows, which may choose other components than the run's."""
        rows = [row for row in self.shown if row.overrides is not None]
        return [compose_row(config, row, config.task.name) for row in rows]

    def run(self, context: StudyContext) -> None:
        """Make what is missing of this shard; when nothing is missing anywhere, the table."""
        from ..benchmark.table import collate
        from ..benchmark.work import Work

        context.metrics.check()
        with context.timed("compose"):
            work = Work(self, context)
            batches = work.batches
        index, count = self.part
        missing = work.missing([b for b in batches if b.number % count == index])
        if missing:
            work.generate(missing)
        if lost := work.missing(batches):
            context.console.print(
                f"shard {self.shard} is done; {len(lost)} of {len(batches)} batches are other shards': run them, then the "
                "same command without study.shard"
            )
            return
        collate(self, work, context)
