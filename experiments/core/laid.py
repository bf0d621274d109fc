"""A finished study laid on the axis of log SNR: its curve, and the window in which it sees things decided."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .finding import bracket

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sow.dynamics.axis import Axis
    from sow.report.statistics import Resampling

Window = Mapping[str, Mapping[str, float]]
FULL = ("full",)  # studies that have two sizes
KNOWN: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            "entropy_rate",
            "pixel_information",
            "u_turn",
            "non_locality",
            "sensitivity",
            "memorisation",
            "patching",
        ),
        FULL,
    ),
    **dict.fromkeys(("diffusion_in_diffusion", "semantic_formation", "text_sensitivity"), ()),
}
LABELS = {
    "entropy_rate": "information about attributes",
    "pixel_information": "information about pixels",
    "u_turn": "susceptibility of U-turns",
    "non_locality": "error of small windows",
    "sensitivity": "reach",
    "memorisation": "excess entropy",
    "patching": "moved by patches",
    "diffusion_in_diffusion": "contrast lost after merging",
    "semantic_formation": "change by a disturbance",
    "text_sensitivity": "change by text",
}
NONE = {"value": math.nan, "low": math.nan, "high": math.nan}


@dataclass(frozen=True)
class Slopes:
    """How the paper's curves are read: change points lie on 0, 1 / `grid`, ..., 1, `narrowest` apart at
    least, and count where they explain `explained` of the curve."""

    grid: int
    narrowest: float
    explained: float


@dataclass(frozen=True, eq=False)
class Laid:
    """The study `name`: `curve` (L,) at rising log SNR `levels` (L,); its window ends at `from` and `to`."""

    name: str
    levels: NDArray[Any]
    curve: NDArray[Any]
    window: Window

    @property
    def ends(self) -> tuple[float, float]:
        """The window's ends in log SNR; nan for none, or for ends in the wrong order."""
        first, last = (self.window[word]["value"] for word in ("from", "to"))
        return (first, last) if first < last else (math.nan, math.nan)

    def shared(self) -> float:
        """Share of the paper's 700 to 500 that lies in the window; nan without one."""
        from sow.dynamics.axis import paper_window

        (first, last), (noisy, clean) = self.ends, paper_window()
        return max(0.0, min(last, clean) - max(first, noisy)) / (clean - noisy) if first < last else math.nan

    def overlap(self, other: Laid) -> float:
        """Length of what two windows share over the length of what they cover together, 0 to 1; nan where
        one is missing."""
        (first, last), (begin, end) = self.ends, other.ends
        if not (first < last and begin < end):
            return math.nan
        shared = max(0.0, min(last, end) - max(first, begin))
        return shared / (last - first + end - begin - shared)

    def found(self) -> dict[str, Any]:
        """Its numbers."""
        return {**self.window, "of_paper": self.shared()}

    def rows(self) -> list[dict[str, Any]]:
        """Its curve, a row per level."""
        pairs = zip(self.levels.tolist(), self.curve.tolist(), strict=True)
        return [{"curve": self.name, "log_snr": level, "value": value} for level, value in pairs]

    def line(self, axis: Axis) -> dict[str, Any]:
        """Its row of the table."""
        first, last = self.ends
        steps = f"{axis.timestep(first)} to {axis.timestep(last)}" if first < last else "-"
        return {
            "study": self.name.replace("_", " "),
            "from log SNR": bracket(self.window["from"]),
            "to": bracket(self.window["to"]),
            "timesteps": steps,
            "of 700 to 500": f"{self.shared():.0%}" if first < last else "-",
        }


def agreement(lines: Sequence[Laid]) -> list[dict[str, Any]]:
    """A row per study, a column per study: how far their windows agree (`Laid.overlap`)."""
    titles = [one.name.replace("_", " ") for one in lines]
    return [
        {"study": title, **{other: one.overlap(two) for other, two in zip(titles, lines, strict=True)}}
        for title, one in zip(titles, lines, strict=True)
    ]


def laid(name: str, folder: Path, axis: Axis, how: Slopes, resampling: Resampling) -> Laid:
    """The study in a run folder: the window that it found itself, of the paper's own by the slope of its
    curve."""
    import numpy as np
    import pandas as pd

    table = pd.read_parquet(folder / f"{name}.parquet")
    if not KNOWN[name]:
        return of_paper(name, table, axis, how, resampling)
    window = json.loads((folder / "headline.json").read_text())["window"]
    if name == "non_locality":
        part = table[table.radius == table.radius.min()].groupby("log_snr")[["gap", "energy"]].sum()
        mean = part.gap / part.energy
    elif name == "patching":
        part = table[table.region == table.region.iloc[0]]
        levels = [axis.level((a + b) / 2) for a, b in zip(part.first_timestep, part.last_timestep)]
        mean = part.moved.groupby(levels).mean()
    else:
        columns = {"u_turn": "chi", "memorisation": "excess", "sensitivity": "value"}
        if name == "sensitivity":
            table = table[table.curve == "reach"]
        mean = table.groupby("log_snr")[columns.get(name, "rate")].mean()
    known = {word: {k: math.nan if v is None else v for k, v in end.items()} for word, end in window.items()}
    return Laid(name, np.asarray(mean.index, float), np.asarray(mean, float), known)


def of_paper(name: str, table: Any, axis: Axis, how: Slopes, resampling: Resampling) -> Laid:
    """A curve of the paper's over k / K, at the levels of the model's states."""
    import numpy as np

    from sow.dynamics.measured import curve_of
    from sow.dynamics.regimes import regimes
    from sow.errors import UserError

    curve = curve_of(name, table)
    levels = np.array([axis.state(10 * u) for u in curve.noise])[::-1]
    mean = curve.mean()[::-1]
    try:
        found = regimes([curve], how.grid, how.narrowest, resampling)
    except UserError:  # a flat curve
        return Laid(name, levels, mean, {"from": NONE, "to": NONE})
    if not found.explained[name] >= how.explained:
        return Laid(name, levels, mean, {"from": NONE, "to": NONE})
    ends = {"from": (found.b, found.b_interval), "to": (found.a, found.a_interval)}
    window = {
        word: {"value": axis.state(10 * u), "low": axis.state(10 * high), "high": axis.state(10 * low)}
        for word, (u, (low, high)) in ends.items()
    }
    return Laid(name, levels, mean, window)
