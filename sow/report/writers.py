"""A table as Markdown, CSV, LaTeX and for the terminal, and on its page of the documentation."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from rich.table import Table as Terminal

from sow.report import blocks
from sow.report.tables import Cell, Column, Line, Table

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
    left = len(table.marks) + (1 if _labelled(table) else 0)
    align = [":---"] * left + ["---:"] * (len(heads) - left)
    out = [f"**{table.title}**", "", _md(heads), _md(align)]
    out += [_md(line) for line in lines]
    return "\n".join([*out, "", " ".join(table.caption)]) + "\n"


def terminal(table: Table) -> Terminal:
    """A rich table, a column a metric: ours, its interval, the difference to the reference, the paper's."""
    out = Terminal(
        title=table.title, caption=" ".join(table.caption), caption_justify="left", show_lines=True
    )
    labelled = _labelled(table)
    for head in (*table.marks, *(["row"] if labelled else []), *(["n"] if table.counted else [])):
        out.add_column(head)
    for column in table.columns:
        out.add_column(f"{column.head}{_unit(column)}", justify="right")
    for line in table.lines:
        cells = [
            "\n".join(
                words
                for words in (_ours(cell, column, line, table, "\n"), _against(cell, column, "\n", "Δ "), "")
                if words not in ("", "-")
            )
            + f"\npaper {column.text(cell.paper)}"
            for column, cell in zip(table.columns, line.cells, strict=True)
        ]
        heads = [*_padded(line, table), *([line.label] if labelled else []), *_count(line, table)]
        out.add_row(*heads, *(c.strip() for c in cells))
    return out


def latex(table: Table) -> str:
    """A `table` float with booktabs rules."""
    heads, lines = grid(table)
    left = len(table.marks) + (1 if _labelled(table) else 0)
    columns = "l" * left + "r" * (len(heads) - left)
    body = [r"\toprule", _tex(heads), r"\midrule", *(_tex(line) for line in lines), r"\bottomrule"]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs,amssymb}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(table.title)} {escape(' '.join(table.caption))}}}",
            rf"\label{{tab:{table.name}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            *body,
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def comma_separated(table: Table) -> str:
    """One line a row, numbers unrounded, shares in [0, 1]; empty where there is none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    parts = "mean low high groups images difference difference_low difference_high p p_holm paper".split()
    writer.writerow(
        ["row", "label", *table.marks, *(f"{c.metric}_{p}" for c in table.columns for p in parts)]
    )
    for line in table.lines:
        values = [v for cell in line.cells for v in _numbers(cell)]
        writer.writerow(
            [line.name, line.label, *_padded(line, table), *("" if _none(v) else repr(v) for v in values)]
        )
    return out.getvalue()


def grid(table: Table) -> tuple[list[str], list[list[str]]]:
    """Heads and cells as text, as Markdown and LaTeX show them."""
    labelled = _labelled(table)
    compared = [any(line.cells[i].against for line in table.lines) for i in range(len(table.columns))]
    heads = [*table.marks, *(["row"] if labelled else []), *(["n"] if table.counted else [])]
    for i, column in enumerate(table.columns):
        heads += [f"{column.head}{_unit(column)}", *(["Δ (p)"] if compared[i] else []), "paper"]
    lines = []
    for line in table.lines:
        cells = [*_padded(line, table), *([line.label] if labelled else []), *_count(line, table)]
        for i, (column, cell) in enumerate(zip(table.columns, line.cells, strict=True)):
            cells.append(_ours(cell, column, line, table, " "))
            if compared[i]:
                cells.append(_against(cell, column, " "))
            cells.append(column.text(cell.paper))
        lines.append(cells)
    return heads, lines


def publish(table: Table, root: Path = blocks.REPOSITORY) -> None:
    """The Markdown table between the marks of its name, and its means where a page has marks of NAME-short.

    Raises UserError when no page has the marks of the name.
    """
    blocks.publish(table.name, markdown(table), root=root)
    if blocks.page_of(f"{table.name}-short", root):
        blocks.publish(f"{table.name}-short", short(table), root=root)


def short(table: Table) -> str:
    """A GitHub table of means alone, the paper's beside them where it has any, and what it was measured on."""
    labelled = _labelled(table)
    heads = [*table.marks, *(["row"] if labelled else []), *(["n"] if table.counted else [])]
    align = [":---"] * (len(heads) - table.counted) + ["---:"] * table.counted
    printed = [any(not _none(line.cells[i].paper) for line in table.lines) for i in range(len(table.columns))]
    for i, column in enumerate(table.columns):
        heads += [f"{column.head}{_unit(column)}", *(["paper"] if printed[i] else [])]
    align += ["---:"] * (len(heads) - len(align))
    out = [_md(heads), _md(align)]
    for line in table.lines:
        cells = [*_padded(line, table), *([line.label] if labelled else []), *_count(line, table)]
        for i, (column, cell) in enumerate(zip(table.columns, line.cells, strict=True)):
            cells.append(column.text(cell.ours.mean if cell.ours else None))
            cells += [column.text(cell.paper)] if printed[i] else []
        out.append(_md(cells))
    return "\n".join([*out, "", table.caption[0]]) + "\n"


def escape(text: str) -> str:
    """Text as LaTeX takes it."""
    return "".join(LATEX.get(letter, letter) for letter in text)


def _ours(cell: Cell, column: Column, line: Line, table: Table, gap: str) -> str:
    e = cell.ours
    if e is None or math.isnan(e.mean):
        return "-"
    words = f"{column.text(e.mean)}{gap}[{column.text(e.low)}, {column.text(e.high)}]"
    told = line.images if table.counted else table.images  # what the reader takes a cell to rest on
    return words if e.images == told else f"{words}{gap}(n={e.images})"


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
    against = [c.difference, c.low, c.high, c.p, cell.p_holm] if c else [None] * 5
    return [*ours, *against, cell.paper]


def _count(line: Line, table: Table) -> list[str]:
    return [str(line.images) if line.images else "-"] if table.counted else []


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
