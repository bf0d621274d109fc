"""The three curves that regimes are read from, in the tables of finished studies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sow.dynamics.regimes import Curve

# study -> what makes a unit, what the curve is, and its sign: +1 where it rises with noise
TABLES: Mapping[str, tuple[tuple[str, ...], str, int]] = {
    "diffusion_in_diffusion": (("layout",), "contrast_kept", -1),
    "semantic_formation": (("seed", "size"), "excess", 1),
    "text_sensitivity": (("prompt", "seed"), "effect", 1),
}


def curve_of(name: str, table: Any) -> Curve:
    """The curve in the tidy table of the study `name`."""
    units, column, sign = TABLES[name]
    table = table.dropna(subset=["noise", column])
    if "row" in table:
        table = table[table.row == "unprocessed"]
    if "stop" in table and len(table):  # what acts over a window acts at its middle
        ratio = (table.noise / table.start).max()
        table = table.assign(noise=(table.start + table.stop) / 2 * ratio)
    wide = table.pivot_table(index=list(units), columns="noise", values=column)
    return Curve(name, wide.columns.to_numpy(float), sign * wide.to_numpy(float))
