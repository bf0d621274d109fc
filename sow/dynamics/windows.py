"""Text in a window (App.

B, Fig. 1): unconditional sampling in which a few steps, from x_start on, see the prompt.

Notation
    start    k of the state where the window opens; the steps start-1 .. start-length are guided by the text
    x_K      the noise a run starts from; runs of one x_K share their unconditional steps
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sow.dynamics.trajectory import Trajectory
from sow.errors import UserError


def window_starts(steps: int, length: int, every: int) -> list[int]:
    """Where windows open: K, K - every, ..., as long as a whole window fits.

    Raises UserError when none does.
    """
    if not 1 <= length <= steps or every < 1:
        raise UserError(
            f"need 1 <= length <= {steps} steps and every >= 1, got length={length}, every={every} "
            "(study.length, study.every)"
        )
    return list(range(steps, length - 1, -every))


def text_windows(
    trajectory: Trajectory,
    x: Tensor,
    prompts: Sequence[str],
    starts: Sequence[int],
    length: int,
    scale: float,
) -> tuple[dict[int, Tensor], Tensor]:
    """({start: x_0 with the window there}, x_0 without text) of x_K (B, C, h, w), one prompt per row.

    `scale` guides inside a window, against the empty prompt; outside there is no text at all.
    """
    wanted = set(starts)
    opened = {trajectory.steps: x} if trajectory.steps in wanted else {}
    plain = x
    for k, plain in trajectory.walk(x, trajectory.steps):
        if k in wanted:
            opened[k] = plain
    out: dict[int, Tensor] = {}
    by_stop: dict[int, tuple[int, Tensor]] = {}
    for start, state in opened.items():
        stop = start - length
        by_stop[stop] = (start, trajectory.denoise(state, start, stop, prompts, scale))
    finished = trajectory.denoise_each({stop: state for stop, (_, state) in by_stop.items()})
    for stop, (start, _) in by_stop.items():
        out[start] = finished[stop]
    return dict(sorted(out.items(), reverse=True)), plain
