"""Rows of a table: which words each adds to the command line, and what the paper reports for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sow.errors import UserError

if TYPE_CHECKING:
    from sow.config.compose import Config

NAME = re.compile(r"[A-Za-z0-9_.+-]+")
KEYS = {"label", "overrides", "paper", "marks", "note", "limit"}


@dataclass(frozen=True)
class Row:
    """One row of a table.

    `name`       names its folder of images; letters, digits and _ . + -
    `label`      what a reader sees, "" where `marks` say it
    `overrides`  words of the command line that make it; None = the paper's number alone, nothing is run
    `paper`      the paper's numbers by metric, shares in [0, 1]
    `marks`      cells of the table's leading columns
    `note`       a remark below the table
    `limit`      as many groups of the table's for this row, its first in each setting; None = all
    """

    name: str
    label: str
    overrides: tuple[str, ...] | None
    paper: Mapping[str, float]
    marks: tuple[str, ...] = ()
    note: str | None = None
    limit: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for rows.json."""
        return {
            "name": self.name,
            "label": self.label or ("" if self.marks else self.name.replace("_", " ")),
            "overrides": None if self.overrides is None else list(self.overrides),
            "paper": dict(self.paper),
            "marks": list(self.marks),
            "note": self.note,
            "limit": self.limit,
        }


def parse_rows(rows: Mapping[str, Any]) -> list[Row]:
    """Rows from their YAML, in its order; without any, one: the configuration as it stands.

    Raises UserError for a name or key that cannot be.
    """
    if not rows:
        return [Row("run", "this configuration", (), {})]
    return [_parse(str(name), value or {}) for name, value in rows.items()]


def _parse(name: str, value: Any) -> Row:
    key = f"study.rows.{name}"
    if not NAME.fullmatch(name):
        raise UserError(f"the row name {name!r} names files: use letters, digits and _ . + - (study.rows)")
    if not isinstance(value, Mapping):
        raise UserError(f"{key}={value!r} is no row: give it {', '.join(sorted(KEYS))} ({key})")
    if extra := sorted(set(value) - KEYS):
        raise UserError(
            f"{key}.{extra[0]} is no part of a row: choose among {', '.join(sorted(KEYS))} ({key})"
        )
    words = value.get("overrides", [])
    if words is not None and (not isinstance(words, list) or not all(isinstance(w, str) for w in words)):
        raise UserError(f"{key}.overrides={words!r} is no list of words of a command line ({key}.overrides)")
    # null takes back a number that another table's file gave
    paper = {m: n for m, n in (value.get("paper") or {}).items() if n is not None}
    for metric, number in paper.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise UserError(f"{key}.paper.{metric}={number!r} is no number ({key}.paper)")
    limit = value.get("limit")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise UserError(
            f"{key}.limit={limit!r} is no number of groups: give 1 or more, or null for all ({key}.limit)"
        )
    return Row(
        name=name,
        label=str(value.get("label") or ""),
        overrides=None if words is None else tuple(words),
        paper={str(m): float(n) for m, n in paper.items()},
        marks=tuple(str(m) for m in value.get("marks") or ()),
        note=value.get("note"),
        limit=limit,
    )


def compose_row(config: Config, row: Row, task: str) -> Config:
    """The configuration of a row for the requests of one task: the command line's words, then the row's."""
    from sow.config.compose import compose

    assert row.overrides is not None
    words = [*config.words, *row.overrides, f"task={task}"]
    words = [w for w in words if not w.startswith(("paths.", "force=", "study.publish="))]
    try:
        return compose([*words, f"paths.outputs={config.paths.outputs}"], own=config.words)
    except UserError as error:
        raise UserError(f"row {row.name}: {error}") from error
