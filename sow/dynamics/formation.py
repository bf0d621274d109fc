"""Semantic formation (App.

B, Fig. 2 and 3): an inverted picture disturbed at x_start by a canvas of noise around it.

The picture's x_start is laid on noise, the whole canvas is denoised for a few steps, the picture is cut out
again and denoised to its end. What the noise changed says how settled the picture was at x_start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from sow.dynamics.trajectory import Trajectory
from sow.method.seed_init import to_tensor

Level = Literal["unit", "state"]


def disturbed(
    trajectory: Trajectory,
    states: Sequence[Tensor],
    starts: Sequence[int],
    length: int,
    background: Tensor,
    level: Level,
) -> dict[int, Tensor]:
    """{start: x_0 (B, C, h, w)} after a disturbance of `length` steps from x_start on.

    `states` x_0 .. x_K of the pictures, each (B, C, h, w); `background` (B, C, H, W) standard normal, the
    same noise for every start. `level` "unit" takes it as it is, "state" scales it to the noise of x_start.
    The picture lies in the middle of the canvas.
    """
    height, width = states[0].shape[-2:]
    top, left = (background.shape[-2] - height) // 2, (background.shape[-1] - width) // 2
    inside = (..., slice(top, top + height), slice(left, left + width))
    cut: dict[int, Tensor] = {}
    for start in starts:
        canvas = background.clone()
        if level == "state":
            canvas = trajectory.schedule.noised(torch.zeros_like(canvas), start, canvas)
        canvas[inside] = states[start]
        canvas = trajectory.denoise(canvas, start, start - length)
        cut[start] = canvas[inside]
    finished = trajectory.denoise_each({start - length: x for start, x in cut.items()})
    return {start: finished[start - length] for start in starts}


def disturbed_pictures(
    trajectory: Trajectory,
    originals: Sequence[Image.Image],
    starts: Sequence[int],
    length: int,
    background: Tensor,
    level: Level,
) -> tuple[list[Image.Image], dict[int, list[Image.Image]]]:
    """Pictures inverted and denoised undisturbed, and the disturbed ones by start; see `disturbed`."""
    states = trajectory.invert(trajectory.backbone.encode(torch.stack([to_tensor(p) for p in originals])))
    plain = trajectory.pictures(trajectory.denoise(states[-1], trajectory.steps))
    found = disturbed(trajectory, states, starts, length, background, level)
    return plain, {start: trajectory.pictures(x) for start, x in found.items()}
