"""Rows of a table: which words each adds to the command line, and what the paper reports for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, field
from typing import TYPE_CHECKING, Annotated, Any

from sow.config.schema import construct
from sow.errors import UserError
from sow.types import Bound, component

from ..core.fields import LIMIT
from ..core.recompose import with_words

if TYPE_CHECKING:
    from sow.config.compose import Config

NAME = re.compile(r"[A-Za-z0-9_.+-]+")


@component("study.rows")
class Row:
    """One row of a table.

    `name`       names its folder of images; letters, digits and _ . + -
    `label`      what a reader sees, "" if `marks` say it
    `overrides`  words of the command line that make it; None = the paper's number alone, nothing is run
    `paper`      the paper's numbers by metric, shares in [0, 1]; None takes back what another table's file
                 gave
    `marks`      cells of the table's leading columns
    `note`       a remark below the table
    `limit`      as many groups of the table's for this row, its first in each setting; None = all
    """

    name: str
    label: str = ""
    overrides: tuple[str, ...] | None = ()
    paper: Mapping[str, float | None] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    note: str | None = None
    limit: Annotated[int | None, Bound(ge=1, le=LIMIT)] = None

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise UserError(
                f"the row name {self.name!r} names files: use letters, digits and _ . + - (study.rows)"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for rows.json."""
        label = self.label or ("" if self.marks else self.name.replace("_", " "))
        paper = {metric: number for metric, number in self.paper.items() if number is not None}
        return {**asdict(self), "label": label, "paper": paper}


def parse_rows(rows: Mapping[str, Any]) -> list[Row]:
    """Rows from their YAML, in its order; without any, one: the configuration as it stands.

    Raises UserError for a name, key or value that cannot be.
    """
    if not rows:
        return [Row("run", "this configuration")]
    for name, value in rows.items():
        if not isinstance(value, Mapping | None):
            raise UserError(
                f"study.rows.{name}={value!r} is not a row: give it overrides (study.rows.{name})"
            )
    return [
        construct(Row, {**(value or {}), "name": str(name)}, f"study.rows.{name}")
        for name, value in rows.items()
    ]


def compose_row(config: Config, row: Row, task: str) -> Config:
    """The configuration of a row for the requests of one task: the command line's words, then the row's."""
    assert row.overrides is not None
    try:
        return with_words(config, [*row.overrides, f"task={task}"])
    except UserError as error:
        raise UserError(f"row {row.name}: {error}") from error
