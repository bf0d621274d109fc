"""What the studies of the measures share: a denoiser on the axis of log SNR, images to ask it about, places
on a curve."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sow.dynamics.axis import Axis, paper_window
from sow.dynamics.measures import change_points, levels
from sow.dynamics.measures.levels import Condition
from sow.errors import UserError
from sow.method import noise
from sow.method.diffusion import ddim_step
from sow.method.process import Process, process_of

if TYPE_CHECKING:
    from sow.dynamics.measures.patching import Tape
    from sow.models.backbone import Backbone
    from sow.report.statistics import Resampling

    from .study import StudyContext

Curves = Mapping[str, levels.Array]  # name -> (units, L)
Value = TypeVar("Value")
ENDS = (0.1, 0.9)  # of a rate's integral: what lies between is its window
TICKS = (0, 0.1, 0.3, 0.5, 0.7, 1)  # of the training timesteps; more would overlap


@dataclass(frozen=True, eq=False)
class Laboratory:
    """A frozen model without guidance, asked at `timesteps`, noisiest first; at most `batch` latents share a
    call.

    `schedule` has the K steps that samples are drawn with; `size` (h, w) of the latents.
    """

    backbone: Backbone
    schedule: Process
    timesteps: tuple[float, ...]
    size: tuple[int, int]
    batch: int

    @classmethod
    def of(cls, context: StudyContext, count: int, steps: int, batch: int) -> Laboratory:
        """The configuration's model at `count` timesteps, evenly spaced in log SNR over the whole
        schedule."""
        sampler = context.sampler()
        size = sampler.canvas.latent_size
        schedule = process_of(sampler.backbone, steps, size)
        axis = Axis(schedule)
        wanted = np.linspace(axis.known.min(), axis.known.max(), count)
        timesteps = tuple(dict.fromkeys(axis.timestep(v) for v in wanted))
        if len(timesteps) < count:
            raise UserError(
                f"the schedule has no {count} distinct levels, take {len(timesteps)} (study.levels)"
            )
        return cls(sampler.backbone, schedule, timesteps, size, batch)

    @cached_property
    def axis(self) -> Axis:
        """Where the model's timesteps lie."""
        return Axis(self.schedule)

    @cached_property
    def levels(self) -> list[float]:
        """Log SNR at `timesteps`, rising."""
        return [self.axis.level(t) for t in self.timesteps]

    def timestep(self, level: float) -> float:
        """The timestep of one of `levels`."""
        return self.timesteps[change_points.nearest_index(self.levels, level)]

    def denoise(self, x: Tensor, level: float, prompts: Condition) -> Tensor:
        """The prediction of x_0 at one of `levels`, under one prompt per row, the empty one for None;
        gradients pass."""
        words = [""] * len(x) if prompts is None else list(prompts)
        t = self.timestep(level)
        parts = zip(x.split(self.batch), range(0, len(x), self.batch), strict=True)
        return torch.cat([self._predicted(part, t, words[at : at + len(part)])[1] for part, at in parts])

    def _predicted(self, x: Tensor, t: float, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(epsilon, x_0) at timestep t; gradients pass."""
        return self.axis.predicted(self.backbone, x, t, self.backbone.embed(prompts))

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """Standard normal latents, each row from the generator of its seed."""
        shape = (len(seeds), self.backbone.channels, *self.size)
        like = torch.zeros(shape, device=self.backbone.device, dtype=self.backbone.dtype)
        return levels.draw_like(like, [noise.generator(seed) for seed in seeds])

    def samples(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """The model's own images, x_0 (B, C, h, w): K deterministic steps from each seed's noise, without
        guidance."""
        return self.walk(self.noise(seeds), prompts)

    def walk(self, x: Tensor, prompts: Sequence[str], tape: Tape | None = None) -> Tensor:
        """x_0 from x_K by the schedule's K deterministic steps; `tape.step` is the index k of the step that
        runs."""
        return self._walk(x, list(reversed(self.schedule.timesteps)), prompts, None, tape)

    def resample(self, x: Tensor, level: float, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """x_0 drawn given states `x` at one of `levels`: the steps of the schedule below it, at eta 1."""
        t = self.timestep(level)
        below = [s for s in reversed(self.schedule.timesteps) if s < t]
        return self._walk(x, [t, *below], prompts, [noise.generator(seed) for seed in seeds])

    @torch.no_grad()
    def _walk(
        self,
        x: Tensor,
        timesteps: Sequence[float],
        prompts: Sequence[str],
        generators: Sequence[torch.Generator] | None,
        tape: Tape | None = None,
    ) -> Tensor:
        """From a state at the first of `timesteps` to x_0; eta 1 with `generators`, else 0."""
        alphas = [*(self.axis.alpha(t) for t in timesteps), self.axis.final_alpha]
        for i, t in enumerate(timesteps):
            if tape is not None:
                tape.step = len(timesteps) - 1 - i
            words = [list(prompts[at : at + self.batch]) for at in range(0, len(x), self.batch)]
            parts = [self._predicted(p, t, w) for p, w in zip(x.split(self.batch), words, strict=True)]
            e, x0 = (torch.cat(both) for both in zip(*parts, strict=True))
            n = None if generators is None else levels.draw_like(x, generators)
            x, _ = ddim_step(x, e, alphas[i], alphas[i + 1], 0.0 if n is None else 1.0, n, x0)
        return x


def counted(things: Iterable[Value], words: str) -> Iterator[Value]:
    """The things under a progress bar on a terminal."""
    from sow.report.terminal import bar

    cells = list(things)
    with bar(len(cells), words) as move:
        for thing in cells:
            yield thing
            move(words, 1)


def placed(
    places: Mapping[str, change_points.Place], axis: Sequence[float], curves: Curves, how: Resampling
) -> dict[str, dict[str, Any]]:
    """{curve: {place: {value, low, high}}}: log SNR of each place on each mean curve, with intervals over
    units."""
    return {
        name: {word: change_points.located(place, axis, values, how) for word, place in places.items()}
        for name, values in curves.items()
    }


def window(
    ends: Callable[[Any], tuple[float, float]], units: int, how: Resampling
) -> dict[str, dict[str, float]]:
    """Where a measure says that things are decided, `from` and `to` in log SNR with intervals over units:
    `ends` of the units at an index."""
    from sow.dynamics.curves import interval

    each = (partial(lambda index, i: ends(index)[i], i=i) for i in (0, 1))
    return {word: interval(end, units, how) for word, end in zip(("from", "to"), each, strict=True)}


def gathered(levels: Sequence[float], curves: Curves, index: Any) -> tuple[float, float]:
    """By where a tenth and nine tenths of a rate have come together, medians over curves; of the units
    `index`."""
    shares = [[change_points.gathered(levels, v[index].mean(0), s) for v in curves.values()] for s in ENDS]
    return float(np.nanmedian(shares[0])), float(np.nanmedian(shares[1]))


def tidy(lab: Laboratory, curves: Curves, column: str) -> list[dict[str, Any]]:
    """A row per curve, unit and level."""
    return [
        {"curve": name, "unit": unit, "timestep": t, "log_snr": level, column: float(values[unit][i])}
        for name, values in curves.items()
        for unit in range(len(values))
        for i, (t, level) in enumerate(zip(lab.timesteps, lab.levels, strict=True))
    ]


def means(lab: Laboratory, curves: Curves) -> list[dict[str, Any]]:
    """A line per level: timestep, log SNR, and the mean of each curve."""
    return [
        {
            "timestep": t,
            "log_snr": level,
            **{name: float(np.nanmean(values[:, i])) for name, values in curves.items()},
        }
        for i, (t, level) in enumerate(zip(lab.timesteps, lab.levels, strict=True))
    ]


def axes(axis: Any, of: Axis) -> None:
    """Log SNR above and timesteps below, noise on the left; the paper's 700 -> 500 shaded."""
    first, last = of.timesteps[0], of.timesteps[-1]
    ticks = [min(max(round(share * of.total), first), last) for share in TICKS]
    axis.set_xlim(of.known.min(), of.known.max())
    axis.set_xticks([of.level(t) for t in ticks], [str(t) for t in ticks])
    axis.set_xlabel("timestep t")
    above = axis.secondary_xaxis("top")
    above.set_xlabel("log SNR")
    axis.axvspan(*paper_window(), color="black", alpha=0.07, linewidth=0)


def each(count: int, options: Sequence[str]) -> list[str]:
    """`count` of the options in turn."""
    return [options[i % len(options)] for i in range(count)]


def evenly(size: tuple[int, int], count: int) -> list[tuple[int, int]]:
    """About `count` places (row, column) of a grid `size` (h, w), evenly spread, none at the border."""
    side = max(1, round(count**0.5))
    rows, columns = (np.linspace(0, n - 1, side + 2).round().astype(int)[1:-1].tolist() for n in size)
    return list(dict.fromkeys((row, column) for row in rows for column in columns))


class Cells:
    """Values of one run by name, found again when the same run is started after a kill; `force` makes them
    anew."""

    def __init__(self, context: StudyContext) -> None:
        from sow.runs import records

        self.run, self.force = records.run_key(context.config), context.config.force

    def __call__(self, name: str, make: Callable[[], Value]) -> Value:
        """The value of `name`: kept, or made and kept."""
        from sow.store.fingerprint import fingerprint
        from sow.store.store import shared

        key = fingerprint([self.run, name])
        if self.force:
            shared().forget(key)
        return shared().value(key, make)
