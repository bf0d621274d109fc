"""What a study of the process found: its figure, tables and headline numbers, and how they reach their readers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from sow import report
from sow.report import blocks

if TYPE_CHECKING:
    from sow.runs.records import RunFolder

    from ..core.study import StudyContext

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Finding:
    """The result of the study `name`.

    `headline`  numbers by name, nested containers allowed: headline.json
    `markdown`  what the documentation says of it
    `figure`    path of the PNG; its PDF lies beside it
    `tables`    tidy tables by file name
    `short`     the rows of the table in the terminal, all of the same columns
    `history`   curves for the tracker: one row a step, numbers only
    """

    name: str
    headline: Row
    markdown: str
    figure: Path
    tables: Mapping[str, Sequence[Row]]
    short: Sequence[Row]
    history: Sequence[Row] = ()
    pictures: Mapping[str, Path] = field(default_factory=dict)

    def deliver(self, context: StudyContext, publish: bool) -> None:
        """Write, track, print; `publish` also puts figure and text on their page of docs/."""
        for name, rows in self.tables.items():
            save_tidy(context.folder, name, rows)
        context.folder.save_json("headline.json", self.headline)
        context.folder.save_bytes(f"{self.name}.md", self.markdown.encode())
        with context.timed("tracker"):
            tracked = context.tracked
            tracked.history(self.history)
            tracked.images({self.name: self.figure, **self.pictures})
            for name, rows in self.tables.items():
                tracked.table(name, rows)
            tracked.summary(flat(self.headline))
        context.console.print(terminal_table(self.short))
        context.console.print(f"figure: {self.figure}")
        if publish:
            blocks.publish(self.name, self.markdown, self.figure)


def save_tidy(folder: RunFolder, name: str, rows: Sequence[Row]) -> None:
    """One table as parquet, and as csv for eyes and spreadsheets."""
    import pandas

    folder.save_table(f"{name}.parquet", rows)
    folder.save_bytes(f"{name}.csv", pandas.DataFrame(list(rows)).to_csv(index=False).encode())


def terminal_table(rows: Sequence[Row]) -> Table:
    """Rows of equal columns for a terminal."""
    out = Table(box=None, padding=(0, 2, 0, 0))
    for name in rows[0] if rows else ():
        out.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        out.add_row(*(report.text(value) for value in row.values()))
    return out


def markdown_table(rows: Sequence[Row]) -> str:
    """Rows of equal columns as a Markdown table."""
    if not rows:
        return ""
    names = list(rows[0])
    lines = ["| " + " | ".join(n.replace("_", " ") for n in names) + " |", "|" + " ---: |" * len(names)]
    lines += ["| " + " | ".join(number(row[n]) for n in names) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def number(value: Any, digits: int = 3) -> str:
    """A value for a page: three significant digits, "-" where there is none."""
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.{digits}g}"
    return report.text(value)


def bracket(value: Mapping[str, float], digits: int = 2) -> str:
    """A number with its 95 % interval: "-0.93 [-1.00, -0.81]"; no brackets where there is no interval."""
    if math.isnan(value["value"]):
        return "-"
    middle = f"{value['value']:.{digits}f}"
    if math.isnan(value["low"]):
        return middle
    return f"{middle} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def flat(values: Row, place: str = "") -> dict[str, Any]:
    """Nested headline numbers under dotted names, lists left out: what a tracker's summary shows."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{place}{key}"
        if isinstance(value, Mapping):
            out.update(flat(value, f"{name}."))
        elif isinstance(value, (str, bool, int, float)) and value == value:
            out[name] = value
    return out
