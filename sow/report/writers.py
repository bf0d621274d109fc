"""A table as Markdown, CSV, LaTeX and for the terminal, and on its page of the documentation."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table as Terminal

from sow.report import blocks
from sow.report.tables import Cell, Column, Line, Table

if TYPE_CHECKING:
    from sow.runs.records import RunFolder

LATEX = {
    "\\": r"\textbackslash{}",
    "%": r"\%",
    "_": r"\_",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "~": r"\textasciitilde{}",
    "{": r"\{",
    "}": r"\}",
    "^": r"\textasciicircum{}",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "→": r"$\to$",
    "✓": r"$\checkmark$",
    "✗": r"$\times$",
    "Δ": r"$\Delta$",
    "γ": r"$\gamma$",
    "−": "$-$",
    "⁻": "$^-$",
    "⁺": "$^+$",
    "“": "``",
    "”": "''",
}


def markdown(table: Table) -> str:
    """A GitHub table: for each metric ours, the difference to the reference, and the paper's."""
    heads, lines = grid(table)
    left = _left(table)
    align = [":---"] * left + ["---:"] * (len(heads) - left)
    out = [f"**{table.title}**", "", _md(heads), _md(align)]
    out += [_md(line) for line in lines]
    return "\n".join([*out, "", " ".join(table.caption)]) + "\n"


def terminal(table: Table) -> Terminal:
    """A rich table, a column per metric: ours, its interval, the difference to the reference, the paper's."""
    caption = " ".join(table.caption)
    out = Terminal(title=table.title, caption=caption, caption_justify="left", show_lines=True)
    for head in _heads(table):
        out.add_column(head)
    for column in table.columns:
        out.add_column(f"{column.head}{_unit(column)}", justify="right")
    for line in table.lines:
        cells = []
        for column, cell in zip(table.columns, line.cells, strict=True):
            ours = [_ours(cell, column, line, table, "\n"), _against(cell, column, "\n", "Δ ")]
            paper = f"paper {column.text(cell.paper)}"
            cells.append("\n".join([*(words for words in ours if words != "-"), paper]))
        out.add_row(*_marks(line, table), *cells)
    return out


def latex(table: Table) -> str:
    """A `table` float with booktabs rules."""
    heads, lines = grid(table)
    left = _left(table)
    body = [r"\toprule", _tex(heads), r"\midrule", *(_tex(line) for line in lines), r"\bottomrule"]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs,amssymb}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(table.title)} {escape(' '.join(table.caption))}}}",
            rf"\label{{tab:{table.name}}}",
            rf"\begin{{tabular}}{{{'l' * left + 'r' * (len(heads) - left)}}}",
            *body,
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def comma_separated(table: Table) -> str:
    """A line per row, numbers unrounded, shares in [0, 1]; empty for what does not exist."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    parts = "mean low high groups images difference difference_low difference_high".split()
    parts += "p p_holm detectable paper".split()
    columns = [f"{c.metric}_{p}" for c in table.columns for p in parts]
    writer.writerow(["row", "label", *table.marks, *columns])
    for line in table.lines:
        values = ["" if _none(v) else repr(v) for cell in line.cells for v in _numbers(cell)]
        writer.writerow([line.name, line.label, *_padded(line, table), *values])
    return out.getvalue()


def grid(table: Table) -> tuple[list[str], list[list[str]]]:
    """Heads and cells as text, as Markdown and LaTeX show them."""
    compared = [any(line.cells[i].against for line in table.lines) for i in range(len(table.columns))]
    heads = _heads(table)
    for column, against in zip(table.columns, compared, strict=True):
        heads += [f"{column.head}{_unit(column)}", *(["Δ (p)"] if against else []), "paper"]
    lines = []
    for line in table.lines:
        cells = _marks(line, table)
        for column, cell, against in zip(table.columns, line.cells, compared, strict=True):
            cells.append(_ours(cell, column, line, table, " "))
            cells += [_against(cell, column, " ")] if against else []
            cells.append(column.text(cell.paper))
        lines.append(cells)
    return heads, lines


def save(folder: RunFolder, table: Table, name: str) -> None:
    """`name`.md, `name`.csv and `name`.tex in the run folder."""
    for kind, write in (("md", markdown), ("csv", comma_separated), ("tex", latex)):
        folder.save_bytes(f"{name}.{kind}", write(table).encode())


def publish(table: Table, root: Path = blocks.REPOSITORY, made: blocks.Made | None = None) -> None:
    """The Markdown table between the marks of its name; raises UserError when no page has them."""
    blocks.publish(table.name, markdown(table), root=root, made=made)


def escape(text: str) -> str:
    """Text as LaTeX takes it."""
    return "".join(LATEX.get(letter, letter) for letter in text)


def _ours(cell: Cell, column: Column, line: Line, table: Table, gap: str) -> str:
    e = cell.ours
    if e is None or math.isnan(e.mean):
        return "-"
    words = f"{column.text(e.mean)}{gap}[{column.text(e.low)}, {column.text(e.high)}]"
    shown = line.images if table.counted else table.images  # what the reader takes a cell to rest on
    return words if e.images == shown else f"{words}{gap}(n={e.images})"


def _unit(column: Column) -> str:
    return {"percent": ", %", "seconds": ", s"}.get(column.format, "")


def _against(cell: Cell, column: Column, gap: str, sign: str = "") -> str:
    c = cell.against
    if c is None or math.isnan(c.difference):
        return "-"
    difference = column.text(c.difference, signed=True)
    low, high = column.text(c.low, signed=True), column.text(c.high, signed=True)
    p = "<.001" if cell.p_holm < 0.001 else f"={cell.p_holm:.3f}".replace("=0.", "=.")
    return f"{sign}{difference}{gap}[{low}, {high}]{gap}(p{p})"


def _numbers(cell: Cell) -> list[float | int | None]:
    e, c = cell.ours, cell.against
    ours = [e.mean, e.low, e.high, e.groups, e.images] if e else [None] * 5
    against = [c.difference, c.low, c.high, c.p, cell.p_holm, cell.detectable] if c else [None] * 6
    return [*ours, *against, cell.paper]


def _heads(table: Table) -> list[str]:
    """Heads of what names a row."""
    return [*table.marks, *["row"] * _labelled(table), *["n"] * table.counted]


def _left(table: Table) -> int:
    """How many columns stand to the left."""
    return len(table.marks) + _labelled(table)


def _marks(line: Line, table: Table) -> list[str]:
    """What names a row, and its number of images if rows differ in it."""
    count = str(line.images) if line.images else "-"
    return [*_padded(line, table), *[line.label] * _labelled(table), *[count] * table.counted]


def _none(value: float | int | None) -> bool:
    return value is None or math.isnan(value)


def _labelled(table: Table) -> bool:
    return not table.marks or any(line.label for line in table.lines)


def _padded(line: Line, table: Table) -> list[str]:
    return [*line.marks, *[""] * (len(table.marks) - len(line.marks))][: len(table.marks)]


def _md(cells: list[str]) -> str:
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def _tex(cells: list[str]) -> str:
    return " & ".join(escape(c) for c in cells) + r" \\"
