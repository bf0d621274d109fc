"""`study=benchmark`: rows x groups x seeds, as the tables of the paper have them; killed, it goes on where it
was.

A run folder holds

    rows.json          the rows in order: name, label, overrides, paper's numbers
    table.json         columns and circumstances
    groups.json        id, setting, split, prompt of each group; conditions/<group id>.png its visual
                       condition
    records.parquet    one record per row, group and seed: every metric; plans.json what was planned, by row
                       and image
    images/<row>/<group id>-<seed>.png
    seconds.parquet    times and UNet evaluations per batch, which no two runs share
    table.md, table.csv, table.tex
    errors.json        groups without an image, and why: such a run is not complete, and done again makes only
                       these
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sow.errors import UserError
from sow.types import component

from .rows import compose_row
from .settings import Settings

if TYPE_CHECKING:
    from sow.config.compose import Config

    from ..core.study import StudyContext


@component("study")
class Benchmark(Settings):
    """One table; see `Settings`."""

    def configurations(self, config: Config) -> list[Config]:
        """Those of the rows, which may choose other components than the run's."""
        rows = [row for row in self.shown if row.overrides is not None]
        return [compose_row(config, row, config.task.name) for row in rows]

    def run(self, context: StudyContext) -> None:
        """Make what is missing of this shard; when nothing is missing anywhere, the table."""
        from .table import collate
        from .work import Work

        context.metrics.check()
        with context.timed("compose"):
            work = Work(self, context)
            work.need_alike()
            batches = work.batches
        index, count = self.part
        if missing := work.missing([b for b in batches if b.number % count == index]):
            work.generate(missing)
        lost = work.missing([b for b in batches if b.number % count != index])
        if lost:
            context.console.print(
                f"shard {self.shard} is done; {len(lost)} of {len(batches)} batches are other shards': run "
                "them, then the same command without study.shard"
            )
        else:
            collate(self, work, context)
        if work.failures:
            first = work.failures[0]
            raise UserError(
                f"{len(work.failures)} images could not be made, first {first['group']}-{first['seed']} of "
                f"row {first['row']}: {first['error']} (errors.json has all); the same command tries them "
                "again"
            )
