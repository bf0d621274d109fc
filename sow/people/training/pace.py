"""How long a stage trains: a wall-clock budget, the learning rate that follows it,
and the weights' moving average."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import torch


def seconds_until(clock: str) -> float:
    """Seconds from now to the next time the local clock shows `clock` ("HH:MM"); up to 12 h back counts as
    passed (<= 0)."""
    now = datetime.now()
    hour, minute = (int(part) for part in clock.split(":"))
    wait = (now.replace(hour=hour, minute=minute, second=0, microsecond=0) - now).total_seconds()
    half_day = timedelta(hours=12).total_seconds()
    if wait < -half_day:
        return wait + 2 * half_day
    return wait - 2 * half_day if wait > half_day else wait


@dataclass
class Pace:
    """The share of a stage's budget that is spent, over restarts: `minutes` of training, or until the clock
    shows `until`.

    `spent` (seconds) is what a checkpoint carries over. The learning rate warms up over `warmup` steps and
    falls to zero along a half cosine over the last `decay` (a share of the budget), so a stage always ends
    decayed whatever the machine's speed.
    """

    minutes: float
    until: str | None = None
    warmup: int = 100
    decay: float = 1.0
    spent: float = 0.0
    _last: float = field(default_factory=time.monotonic)

    def tick(self) -> float:
        """Count the time since the last tick and return the spent share in [0, 1]."""
        now = time.monotonic()
        self.spent += now - self._last
        self._last = now
        left = self.minutes * 60 - self.spent if self.until is None else seconds_until(self.until)
        return 1.0 if left <= 0 else self.spent / (self.spent + left)

    def factor(self, step: int, share: float) -> float:
        """Multiplier of the peak learning rate at `step` with `share` of the budget spent."""
        fallen = max(0.0, (min(share, 1.0) - 1 + self.decay) / self.decay)
        return min(1.0, (step + 1) / self.warmup) * 0.5 * (1 + math.cos(math.pi * fallen))


class Average:
    """Exponential moving average of parameters, ramped: decay_t = min(decay, (1 + t) / (10 + t))."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], decay: float) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.shadow = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the present parameters."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self.parameters], weight)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the parameters and their average; a second call restores them."""
        for p, s in zip(self.parameters, self.shadow, strict=True):
            kept = p.detach().clone()
            p.copy_(s)
            s.copy_(kept)
