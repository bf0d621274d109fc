"""The axis of a model: log SNR and the timesteps of its training, whichever process it was trained with.

Notation
    x         sqrt(alpha) x_0 + sqrt(1 - alpha) n, the state as all measures hold it (`measures.levels`)
    sigma     share of noise in a flow's state, x_f = (1 - sigma) x_0 + sigma n = c x,
              c^2 = (1 - sigma)^2 + sigma^2, alpha = (1 - sigma)^2 / c^2
    t         timestep that the network is told; of a flow sigma times their number
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sow.dynamics.measures import levels
from sow.method.diffusion import Schedule
from sow.method.flow import RectifiedFlow
from sow.method.process import Process, log_snr
from sow.models.backbone import Backbone
from sow.models.tiny import SCHEDULER

PAPER = (700, 500)  # timesteps of Stable Diffusion between which the paper's cycles go
ENDS = 0.02  # of a flow's timesteps, left out at both ends: a sampler passes them in its first and last step


@dataclass(frozen=True, eq=False)
class Axis:
    """Where the timesteps of `process` lie."""

    process: Process

    @cached_property
    def timesteps(self) -> list[int]:
        """The timesteps with a level, rising: those of the training that hold some signal; of a flow all but
        `ENDS`."""
        if isinstance(self.process, Schedule):
            return torch.nonzero(self.process.alphas_cumprod > 0)[:, 0].tolist()
        return list(range(round(ENDS * self.total), round((1 - ENDS) * self.total) + 1))

    @cached_property
    def known(self) -> levels.Array:
        """Log SNR of `timesteps`, falling."""
        return levels.level_of([float(self.alpha(t)) for t in self.timesteps])

    @property
    def total(self) -> int:
        """How many timesteps the training has."""
        if isinstance(self.process, Schedule):
            return len(self.process.alphas_cumprod)
        return round(self.process.timesteps[-1] / self.process.sigmas[-1])

    @property
    def final_alpha(self) -> Tensor:
        """alpha of x_0."""
        return self.process.final_alpha if isinstance(self.process, Schedule) else torch.ones(())

    def alpha(self, t: float) -> Tensor:
        """alpha at a timestep, a scalar."""
        if isinstance(self.process, Schedule):
            return self.process.alphas_cumprod[int(t)]
        sigma = torch.tensor(t / self.total, dtype=torch.float64)
        return (1 - sigma) ** 2 / ((1 - sigma) ** 2 + sigma**2)

    def level(self, t: float) -> float:
        """Log SNR at a timestep."""
        return float(levels.level_of(float(self.alpha(t))))

    def timestep(self, level: float) -> int:
        """The timestep nearest to a log SNR."""
        return self.timesteps[int(np.abs(self.known - level).argmin())]

    def state(self, k: float) -> float:
        """Log SNR of x_k, between two states on a straight line; the axis's clean end for those beyond it."""
        each = [log_snr(sigma) for sigma in self.process.sigmas]
        bounded = np.clip(each, self.known.min(), self.known.max())
        return float(np.interp(k, range(len(bounded)), bounded))

    def predicted(self, backbone: Backbone, x: Tensor, t: float, embeds: Tensor) -> tuple[Tensor, Tensor]:
        """(n, x_0) of states x (B, C, h, w) at timestep t; gradients pass."""
        if isinstance(self.process, RectifiedFlow):
            sigma = t / self.total
            seen = ((1 - sigma) ** 2 + sigma**2) ** 0.5 * x
            v = backbone.call(seen, t, embeds)
            return seen + (1 - sigma) * v, seen - sigma * v
        assert isinstance(self.process, Schedule)
        output = backbone.call(x, t, embeds)
        e, x0 = replace(self.process, timesteps=(int(t),)).predicted(output, x, 0)
        alpha = self.alpha(t).to(x)
        return e, (x - (1 - alpha) ** 0.5 * e) / alpha**0.5 if x0 is None else x0


def paper_window() -> tuple[float, float]:
    """Log SNR of Stable Diffusion at `PAPER`, rising."""
    axis = Axis(Schedule.from_config(SCHEDULER, 10))
    return axis.level(PAPER[0]), axis.level(PAPER[1])
