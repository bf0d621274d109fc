"""What a study of the process found: its figure, tables and headline numbers,
and how they reach their readers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from rich.table import Table

from sow import report
from sow.report import blocks, figures

from .recompose import with_words
from .samples import flat

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sow.config.compose import Config
    from sow.runs.records import RunFolder

    from ..core.study import StudyContext

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Finding:
    """The result of the study `name`.

    `headline`  numbers by name, nested containers allowed: headline.json
    `markdown`  what the documentation says of it
    `figure`    saved as NAME.png and NAME.pdf; `pictures`: more of them, by what follows NAME_
    `tables`    tidy tables by file name
    `short`     the rows of the table in the terminal, all of the same columns
    `history`   curves for the tracker: one row per step; None takes `short`
    """

    name: str
    headline: Row
    markdown: str
    figure: Figure
    tables: Mapping[str, Sequence[Row]]
    short: Sequence[Row]
    history: Sequence[Row] | None = None
    pictures: Mapping[str, Figure] = field(default_factory=dict)

    def deliver(self, context: StudyContext, publish: bool) -> None:
        """Write, track, print; `publish` also puts figure and text on their page of docs/."""
        folder, markdown = context.folder, "\n\n".join(filter(None, (self.markdown, reduced(context.config))))
        with context.timed("write"):
            figure = figures.save(folder, self.name, self.figure)
            others = {n: figures.save(folder, f"{self.name}_{n}", f) for n, f in self.pictures.items()}
            for name, rows in self.tables.items():
                save_tidy(folder, name, rows)
            folder.save_json("headline.json", self.headline)
            folder.save_bytes(f"{self.name}.md", markdown.encode())
        with context.timed("tracker"):
            tracked = context.tracked
            tracked.history(self.short if self.history is None else self.history)
            tracked.images({self.name: figure, **others})
            for name, rows in self.tables.items():
                tracked.table(name, rows)
            tracked.summary(flat(self.headline))
        context.console.print(terminal_table(self.short))
        context.console.print(f"figure: {figure}")
        if publish:
            blocks.publish(self.name, markdown, figure, made=context.made())


def reduced(config: Config) -> str:
    """What a study has less of than with `study.full=true`, in a sentence; nothing where there is no such
    key, or nothing is less."""
    if getattr(config.study, "full", True):
        return ""
    whole = with_words(config, ["study.full=true"]).study
    pairs = {f.name: (getattr(config.study, f.name), getattr(whole, f.name)) for f in fields(whole)}
    less = [
        f"{name} {small} of {large}"
        for name, (small, large) in pairs.items()
        if small != large and name not in ("full", "publish")
    ]
    return f"Less than with `study.full=true`: {', '.join(less)}." if less else ""


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
    """A value for a page: three significant digits, "-" for nan and None."""
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.{digits}g}"
    return report.text(value)


def bracket(value: Mapping[str, float], digits: int = 2) -> str:
    """A number with its 95 % interval: "-0.93 [-1.00, -0.81]"; no brackets for an unknown interval."""
    if math.isnan(value["value"]):
        return "-"
    middle = f"{value['value']:.{digits}f}"
    if math.isnan(value["low"]):
        return middle
    return f"{middle} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"
