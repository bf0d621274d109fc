"""Plain deterministic trajectories of a frozen model: inversion, partial runs, runs that join at different
states.

Notation
    x_k     state, x_K the noise end, x_0 clean; step k maps x_{k+1} -> x_k with one UNet call at t_k
    K       number of steps; noise level of a state as a fraction: k / K
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sow.errors import UserError
from sow.method import noise
from sow.method.denoiser import Denoiser
from sow.method.guidance import ClassifierFree
from sow.method.process import Process, process_of
from sow.models.backbone import Backbone


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Deterministic sampling (eta 0) on a frozen model; at most `batch` latents share a UNet call."""

    backbone: Backbone
    schedule: Process
    batch: int

    @classmethod
    def of(cls, backbone: Backbone, steps: int, batch: int) -> Trajectory:
        """The trajectory of `steps` steps K; raises UserError when the model's schedule has no such K."""
        if batch < 1:
            raise UserError(f"need at least one latent per UNet call, got {batch} (study.batch)")
        return cls(backbone, process_of(backbone, steps), batch)

    @property
    def steps(self) -> int:
        """K."""
        return self.schedule.steps

    def epsilon(
        self, x: Tensor, k: int, prompts: Sequence[str] | None, scale: float, negative: str = ""
    ) -> Tensor:
        """Guided noise prediction of step k for x (B, C, h, w);
        no prompts mean the empty one for all rows."""
        return self.predict(x, k, prompts, scale, negative)[0]

    def predict(
        self, x: Tensor, k: int, prompts: Sequence[str] | None, scale: float, negative: str = ""
    ) -> tuple[Tensor, Tensor | None]:
        """e of step k, and x_0 of a model that does not predict e."""
        asked = self._asked(x, prompts, scale, negative)
        e, x0 = zip(*(denoiser.predict(part, k) for denoiser, part in asked), strict=True)
        return torch.cat(e), None if x0[0] is None else torch.cat(x0)

    def _asked(
        self, x: Tensor, prompts: Sequence[str] | None, scale: float, negative: str = ""
    ) -> Iterator[tuple[Denoiser, Tensor]]:
        """Parts of x that share a call, each with its denoiser."""
        rule = ClassifierFree(scale, negative)
        words = [""] * len(x) if prompts is None else list(prompts)
        rows = max(1, self.batch // len(rule.prompts("")))
        for part, own in zip(x.split(rows), _split(words, rows), strict=True):
            yield Denoiser(self.backbone, self.schedule, rule, tuple(own)), part

    def invert(
        self, x: Tensor, stop: int | None = None, prompts: Sequence[str] | None = None, scale: float = 1.0
    ) -> list[Tensor]:
        """Inversion of x_0 (B, C, h, w), step by step: the states x_0 .. x_stop (K when None)."""
        states = [x]
        for k in range(self.steps if stop is None else stop):
            x = torch.cat([d.invert(part, k) for d, part in self._asked(x, prompts, scale)])
            states.append(x)
        return states

    def walk(
        self,
        x: Tensor,
        start: int,
        stop: int = 0,
        prompts: Sequence[str] | None = None,
        scale: float = 1.0,
        negative: str = "",
    ) -> Iterator[tuple[int, Tensor]]:
        """(k, x_k) for k = start - 1 .. stop, from x_start."""
        for k in range(start - 1, stop - 1, -1):
            e, x0 = self.predict(x, k, prompts, scale, negative)
            x, _ = self.schedule.step(x, e, k, 0.0, None, x0)
            yield k, x

    def denoise(
        self,
        x: Tensor,
        start: int,
        stop: int = 0,
        prompts: Sequence[str] | None = None,
        scale: float = 1.0,
        negative: str = "",
    ) -> Tensor:
        """x_stop from x_start (B, C, h, w)."""
        end = x
        for _, state in self.walk(x, start, stop, prompts, scale, negative):
            end = state
        return end

    def denoise_each(
        self, starts: Mapping[int, Tensor], stop: int = 0, steering: Any | None = None
    ) -> dict[int, Tensor]:
        """x_stop for every x_k of `starts`, without text: a state joins the batch when the walk reaches its
        k.

        `steering` (see `sow.dynamics.steering`) takes over the self-attention of every step.
        """
        first = min(starts)
        if first < stop:
            raise ValueError(f"cannot denoise x_{first} to x_{stop}")
        joined: list[int] = []
        x: Tensor | None = None
        with self._steered(steering):
            for k in range(max(starts), stop - 1, -1):
                if k in starts:
                    joined.append(k)
                    x = starts[k] if x is None else torch.cat([x, starts[k]])
                if k > stop:
                    assert x is not None
                    x = self.denoise(x, k, k - 1)
        assert x is not None
        parts = x.split([len(starts[k]) for k in joined])
        return dict(sorted(zip(joined, parts, strict=True)))

    def _steered(self, steering: Any | None) -> AbstractContextManager[Any]:
        if steering is None:
            return nullcontext()
        from sow.attention.processor import modulated

        return modulated(self.backbone.unet, steering)

    def draw(self, seeds: Sequence[int], size: tuple[int, int]) -> Tensor:
        """Standard normal latents (n, C, h, w), each from the generator of its seed."""
        shape = (1, self.backbone.channels, *size)
        device, dtype = self.backbone.device, self.backbone.dtype
        return torch.cat([noise.randn(shape, noise.generator(s), device, dtype) for s in seeds])

    def pixels(self, latents: Tensor) -> Any:
        """Pictures of latents as a float64 array (n, H, W, 3) in [0, 255], rounded to what a file holds."""
        import numpy as np

        parts = [self.backbone.decode(part) for part in latents.split(self.batch)]
        return np.round(torch.cat(parts).permute(0, 2, 3, 1).double().numpy() * 255)

    def pictures(self, latents: Tensor) -> list[Any]:
        """PIL images of latents (n, C, h, w)."""
        from PIL import Image

        return [Image.fromarray(p) for p in self.pixels(latents).astype("uint8")]


def _split(values: Sequence[str], size: int) -> list[Sequence[str]]:
    return [values[i : i + size] for i in range(0, len(values), size)]
