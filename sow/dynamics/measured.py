"""The three curves that regimes are read from, measured small,
or read from the tables of finished studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sow.dynamics.formation import disturbed_pictures
from sow.dynamics.likeness import mse
from sow.dynamics.merging import measure, merged_runs
from sow.dynamics.regimes import Curve
from sow.dynamics.trajectory import Trajectory
from sow.dynamics.windows import text_windows
from sow.errors import UserError
from sow.method.seed_init import to_tensor

if TYPE_CHECKING:
    from PIL import Image

# study -> what makes a unit, what the curve is, and its sign: +1 where it rises with noise
TABLES: Mapping[str, tuple[tuple[str, ...], str, int]] = {
    "diffusion_in_diffusion": (("layout",), "contrast_kept", -1),
    "semantic_formation": (("seed", "size"), "excess", 1),
    "text_sensitivity": (("prompt", "seed"), "effect", 1),
}


def read(folders: Sequence[str]) -> dict[str, Curve]:
    """Curves by the study's name, of every table found in `folders`;
    raises UserError for a folder without one."""
    import pandas as pd

    out = {}
    for folder in map(Path, folders):
        names = [name for name in TABLES if (folder / f"{name}.parquet").is_file()]
        if not names:
            raise UserError(
                f"{folder} holds no table of {', '.join(TABLES)}: give run folders of these (study.runs)"
            )
        for name in names:
            out[name] = curve_of(name, pd.read_parquet(folder / f"{name}.parquet"))
    return out


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


def merging(trajectory: Trajectory, pictures: Sequence[Image.Image], layouts: Sequence[str]) -> Curve:
    """Fig. 4: how much contrast of two halves, merged at x_k, is lost; the layouts are the units."""
    sources = np.stack([np.asarray(p, np.float64) for p in pictures])
    states = trajectory.invert(trajectory.backbone.encode(torch.stack([to_tensor(p) for p in pictures])))
    found = sorted(merged_runs(trajectory, states, layouts).items())
    kept = [
        [measure(by_layout[i], layout, sources)[0]["contrast_kept"] for _, by_layout in found]
        for i, layout in enumerate(layouts)
    ]
    noise = np.array([k / trajectory.steps for k, _ in found])
    return Curve("diffusion_in_diffusion", noise, -np.array(kept, float))


def formation(
    trajectory: Trajectory,
    pictures: Sequence[Image.Image],
    background: Any,
    starts: Sequence[int],
    length: int,
) -> Curve:
    """App.

    B, Fig. 2: mean squared error that a disturbance of an inverted picture adds to the undisturbed one's.
    """
    plain, images = disturbed_pictures(trajectory, pictures, starts, length, background, "unit")
    values = [
        [mse(original, images[s][i]) - mse(original, plain[i]) for s in starts]
        for i, original in enumerate(pictures)
    ]
    return Curve("semantic_formation", middles(starts, length, trajectory.steps), np.array(values, float))


def text(
    trajectory: Trajectory,
    noise: Any,
    prompts: Sequence[str],
    starts: Sequence[int],
    length: int,
    scale: float,
) -> Curve:
    """App.

    B, Fig. 1: what a window of text changes of the image without text, root mean square in gray levels.
    """
    windows, plain = text_windows(trajectory, noise, prompts, starts, length, scale)
    without = trajectory.pixels(plain)
    effects = [np.sqrt(((trajectory.pixels(windows[s]) - without) ** 2).mean((1, 2, 3))) for s in starts]
    return Curve("text_sensitivity", middles(starts, length, trajectory.steps), np.stack(effects, axis=1))


def middles(starts: Sequence[int], length: int, steps: int) -> Any:
    """Noise level at the middle of each window."""
    return (np.asarray(starts, float) - length / 2) / steps
