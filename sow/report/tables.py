"""Tables of a benchmark: every number with its interval, the paper's beside it,
and what it was measured on."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

from sow.config.schema import construct
from sow.errors import UserError
from sow.report.statistics import (
    POWER,
    Comparison,
    Estimate,
    Resampling,
    compare,
    detectable,
    estimate,
    group_means,
    holm,
)
from sow.types import Bound, component

BETTER = {"lower": "↓", "higher": "↑", "none": ""}


@component("study.columns")
class Column:
    """A metric of the records as a table shows it.

    `better` is lower, higher or none, `format` number, percent, seconds or count; `worth` is the difference
    that a table should be able to see, in the metric's own unit (shares in [0, 1]), None where nobody asks.
    """

    metric: str
    label: str
    better: Literal["lower", "higher", "none"]
    format: Literal["number", "percent", "seconds", "count"]
    worth: Annotated[float | None, Bound(gt=0)] = None

    @property
    def head(self) -> str:
        """The column's head, its arrow included."""
        return f"{self.label} {BETTER[self.better]}".strip()

    @property
    def share(self) -> bool:
        """Whether the metric counts images."""
        return self.format == "percent"

    def text(self, value: float | None, signed: bool = False) -> str:
        """A value for a reader, "-" for None and nan."""
        if value is None or math.isnan(value):
            return "-"
        factor = 100 if self.format == "percent" else 1
        digits = {"number": 3, "percent": 1, "seconds": 2, "count": 0}[self.format]
        return f"{value * factor:{'+' if signed else ''}.{digits}f}"


@dataclass(frozen=True)
class Cell:
    """A metric of a row: ours, against the reference row, and the paper's; `groups` the mean of each group,
    `detectable` the smallest difference that would have been seen with 90 % power after Holm."""

    ours: Estimate | None
    against: Comparison | None
    p_holm: float
    detectable: float
    paper: float | None
    groups: Mapping[Hashable, float] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Line:
    """A row of a table; `images` that it has, 0 if nothing was run."""

    name: str
    label: str
    marks: tuple[str, ...]
    cells: tuple[Cell, ...]
    note: str | None = None
    images: int = 0


@dataclass(frozen=True)
class Table:
    """A table that is ready to be written; `caption` says in sentences what it rests on."""

    name: str
    title: str
    marks: tuple[str, ...]
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    reference: str | None
    level: float
    images: int
    caption: tuple[str, ...] = field(default=())

    @property
    def counted(self) -> bool:
        """Whether rows that were run differ in their number of images, so that each shows its own."""
        return len({line.images for line in self.lines if line.images}) > 1


def parse_columns(columns: Iterable[Any], key: str = "study.columns") -> tuple[Column, ...]:
    """Columns from their YAML; raises UserError for a column that cannot be."""
    found = [value if isinstance(value, Mapping) else {"metric": value} for value in columns]
    if not found:
        raise UserError(f"a table needs at least one column, got none ({key})")
    return tuple(construct(Column, value, f"{key}.{i}") for i, value in enumerate(found))


Folder = tuple[
    Mapping[str, Any], Sequence[Mapping[str, Any]], list[dict[str, Any]], Mapping[Hashable, Hashable] | None
]


def from_folder(folder: Path) -> Table:
    """The table of a benchmark's run folder; raises UserError when it is none."""
    return make(*read_folder(folder))


def read_folder(folder: Path) -> Folder:
    """What a benchmark's run folder holds: table.json, rows.json, one record per row, group and seed with its
    seconds, and the prompt of each group where groups of one prompt are drawn together; raises UserError when
    it is none."""
    import pandas

    try:
        rows = json.loads((folder / "rows.json").read_text())
        spec = json.loads((folder / "table.json").read_text())
        records = pandas.read_parquet(folder / "records.parquet").astype(object)
        seconds = pandas.read_parquet(folder / "seconds.parquet")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is not a run folder of study=benchmark: {error}") from error
    plain = records.where(records.notna(), None).to_dict("records")
    for metric in ("seconds", "train_seconds", "unet_evaluations"):
        if metric not in seconds:
            continue
        shared = metric == "unet_evaluations"  # stored for the batch; the others are an image's already
        times = {
            (row, name): value / len(str(names).split(",")) if shared and value is not None else value
            for row, names, value in zip(seconds["row"], seconds["names"], seconds[metric], strict=True)
            for name in str(names).split(",")
        }
        for record in plain:
            record[metric] = times.get((record["row"], f"{record['group']}-{record['seed']}"))
    return spec, rows, plain, _units(folder) if spec.get("units") == "prompt" else None


def _units(folder: Path) -> dict[Hashable, Hashable]:
    """The prompt of each group, which several may share."""
    try:
        return {group["id"]: group["prompt"] for group in json.loads((folder / "groups.json").read_text())}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'groups.json'} cannot be read: {error!r}") from error


def make(
    spec: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    records: Sequence[Mapping[str, Any]],
    units: Mapping[Hashable, Hashable] | None = None,
) -> Table:
    """A table from its description (table.json), its rows (rows.json) and one record per row, group
    and seed; groups of one of `units` are drawn together."""
    units = units or {}
    how = Resampling(**spec["resampling"])
    columns, reference = parse_columns(spec["columns"]), spec["reference"]
    of_row: dict[str, list[Mapping[str, Any]]] = {row["name"]: [] for row in rows}
    for record in records:
        if record["row"] in of_row:
            of_row[record["row"]].append(record)
    cells: dict[str, list[Cell]] = {name: [] for name in of_row}
    for column in columns:
        metric = column.metric
        values = {name: [(r["group"], r.get(metric)) for r in found] for name, found in of_row.items()}
        values = {name: v for name, v in values.items() if group_means(v)}
        against = {
            name: compare(mine, values[reference], how, units)
            for name, mine in values.items()
            if reference in values and name != reference
        }
        corrected = holm({name: c.p for name, c in against.items()})
        for row in rows:
            name = row["name"]
            found = [(units.get(g, g), v) for g, v in values.get(name, ())]
            ours = estimate(found, how, column.share) if found else None
            seen = detectable(against[name].error, how, len(against)) if name in against else math.nan
            p, means = corrected.get(name, math.nan), group_means(values.get(name, ()))
            cells[name].append(Cell(ours, against.get(name), p, seen, row["paper"].get(metric), means))
    lines = []
    for row in rows:
        name, marks = row["name"], tuple(row["marks"])
        lines.append(Line(name, row["label"], marks, tuple(cells[name]), row.get("note"), len(of_row[name])))
    images = max((len(r) for r in of_row.values()), default=0)
    marks, title = tuple(spec["marks"]), spec["title"]
    table = Table(spec["name"], title, marks, columns, tuple(lines), reference, how.level, images)
    return _captioned(table, spec["caption"], together=bool(units))


def orders(table: Table) -> list[str]:
    """For each column, in how many pairs of rows ours and the paper's numbers stand in the same order.

    Rows with different numbers of images are compared over the groups that both have.
    """
    out = []
    for place, column in enumerate(table.columns):
        cells = [(line.images, line.cells[place]) for line in table.lines]
        both = [(n, c) for n, c in cells if c.ours is not None and c.paper is not None]
        pairs = []
        for (n, a), (m, b) in combinations(both, 2):
            assert a.ours and b.ours and a.paper is not None and b.paper is not None
            shared = [g for g in a.groups if g in b.groups] if n != m else []
            ours = a.ours.mean - b.ours.mean
            if shared:
                ours = sum(a.groups[g] - b.groups[g] for g in shared) / len(shared)
            if a.paper != b.paper:
                pairs.append(ours * (a.paper - b.paper) > 0)
        if pairs:
            out.append(f"{column.label} in {sum(pairs)} of {len(pairs)}")
    return out


def power(table: Table) -> list[str]:
    """For each compared column, the smallest difference that every row could have shown, and the number of
    groups that one `worth` seeing takes."""
    out = []
    for place, column in enumerate(table.columns):
        cells = [line.cells[place] for line in table.lines]
        seen = [(c.detectable, c.against.groups) for c in cells if c.against and c.detectable > 0]
        if not seen:
            continue
        largest = max(d for d, _ in seen)
        words = f"{column.label} {column.text(largest)}"
        if column.worth is not None:
            needed = max(math.ceil(n * (d / column.worth) ** 2) for d, n in seen)
            words += f" ({column.text(column.worth)} takes {needed} groups)"
        out.append(words)
    return out


def _captioned(table: Table, sentences: Sequence[str], together: bool) -> Table:
    """The table with what its numbers mean, after the sentences about what they were measured on."""
    level = f"{table.level * 100:g} %"
    words = [
        *sentences,
        f"In brackets: {level} intervals, Wilson's for shares, else bias-corrected bootstrap over groups"
        f"{', those of one prompt together' if together else ''}.",
    ]
    if any(c.against for line in table.lines for c in line.cells):
        label = next((_name(line, table) for line in table.lines if line.name == table.reference), "")
        words.append(
            f"Δ is the difference to the row “{label}”, paired by group, with its {level} bootstrap "
            "interval and the p-value of a paired test (sign flips; McNemar's for shares of one image per "
            "group), Holm-corrected over the rows."
        )
        if found := power(table):
            words.append(
                f"Smallest differences that these groups could have shown with {100 * POWER:g} % power after "
                f"Holm, in the row that shows least: {'; '.join(found)}."
            )
    if found := orders(table):
        words.append(f"Pairs of rows ordered as in the paper: {'; '.join(found)}.")
    words += [f"{_name(line, table)}: {line.note}" for line in table.lines if line.note]
    return replace(table, caption=tuple(words))


def _name(line: Line, table: Table) -> str:
    """How a sentence names a row."""
    marks = ", ".join(f"{head} {mark}" for head, mark in zip(table.marks, line.marks, strict=False))
    return line.label or marks or line.name
