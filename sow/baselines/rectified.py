"""FlowEdit (Kulikov et al., ICCV 2025, arXiv 2412.08629) and RF-Inversion (Rout et al., ICLR 2025, arXiv
2410.10792): edits of a picture by a rectified flow, here of the canvas with the conditions pasted.

Notation
    t, s       levels of step k, t = sigma_{k+1} and s = sigma_k; 0 clean .. 1 noise
    x0         latents of the canvas (B, C, h, w); N standard normal latents
    V(z, c)    the velocity, noise - clean, under the prompt c, at the level of z

FlowEdit, Algorithm 1 with one average per step, from z = x0 on, N new in each of the n_max last steps:
    z_src = (1 - t) x0 + t N
    z_tar = z + z_src - x0
    z <- z + (s - t) (V(z_tar, target) - V(z_src, source)),
and in the last n_min of them the flow is sampled as usual, from the z_tar of the first.

RF-Inversion. Algorithm 1, from y = x0 to the noise end, one N per picture:
    y <- y + (t - s) (V + gamma ((N - y) / (1 - s) - V)), V = V(y, source).
Algorithm 2, back from that y:
    x <- x + (s - t) (V + eta ((x - x0) / t - V)), V = V(x, target), eta 0 outside its first steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from sow.baselines.config import Baseline, Count, Share, Weight
from sow.baselines.sampler import BaselineSampler, Prepared
from sow.errors import UserError
from sow.method.denoiser import Denoiser
from sow.method.flow import RectifiedFlow
from sow.method.guidance import ClassifierFree
from sow.types import Bound, Step, StepContext, component


@component("method")
class FlowBaseline(Baseline):
    """What both share: `source_prompt` what the canvas is said to show, `source_guidance` and
    `target_guidance` the scales of classifier-free guidance, with the run's negative prompt, 1 = none."""

    source_prompt: str
    source_guidance: Weight
    target_guidance: Weight
    flow: ClassVar[bool | None] = True

    def __post_init__(self) -> None:
        if self.eta:
            raise UserError(f"this method's steps are deterministic, got {self.eta} (method.eta)")


@component("method")
class FlowEdit(FlowBaseline):
    """`n_max` last steps edit, 0 = the canvas stays; the last `n_min` of them sample as usual: n_min = n_max
    = all steps is plain sampling from noise."""

    n_max: Count
    n_min: Count
    engine: ClassVar[str] = f"{__name__}.FlowEditSampler"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_min > self.n_max:
            raise UserError(
                f"need n_min <= n_max, got {self.n_min} and {self.n_max} (method.n_min, method.n_max)"
            )


@component("method")
class RFInversion(FlowBaseline):
    """`gamma` pulls the inversion to a normal draw, 0 = plain reverse Euler; `strength` eta pulls the
    sampling to the canvas, 0 = plain sampling of the inverted canvas, in the share `until` of the steps."""

    gamma: Share
    strength: Annotated[float, Bound(ge=0, le=1)]
    until: Share
    engine: ClassVar[str] = f"{__name__}.RFInversionSampler"


@dataclass(frozen=True, eq=False)
class FlowSampler(BaselineSampler):
    """Velocities of both prompts on the process of a rectified flow."""

    def __post_init__(self) -> None:
        super().__post_init__()
        guided = not self.options.source_guidance == self.options.target_guidance == 1
        if self.backbone.embedded_guidance is not None and guided:
            raise UserError(
                "this network takes its guidance as an input, so that source and target cannot have their "
                "own: set method.source_guidance=1 and method.target_guidance=1, or take model=people_flow, "
                "sd35_medium or another flow without it (method, model)"
            )

    @property
    def process(self) -> RectifiedFlow:
        assert isinstance(self.schedule, RectifiedFlow)  # the options refuse other models
        return self.schedule

    def levels(self, k: int) -> tuple[float, float]:
        """(t, s) of step k."""
        return self.process.sigmas[k + 1], self.process.sigmas[k]

    def denoisers(self, batch: Prepared) -> tuple[Denoiser, Denoiser]:
        """Those of the source's prompt and of the target's."""
        negative = self.guidance.in_preservation().prompts("")[0]
        source = ClassifierFree(self.options.source_guidance, negative)
        target = ClassifierFree(self.options.target_guidance, negative)
        prompts = self.prompts(batch.requests, batch.plans)
        return (
            self.model.denoiser(source, [self.options.source_prompt] * len(prompts)),
            self.model.denoiser(target, prompts),
        )

    def inverted(self, source: Denoiser, x: Tensor, k: int) -> Step:
        """x_k -> x_{k+1} by reverse Euler, told the level s of x_k."""
        t, s = self.levels(k)
        x = x + (t - s) * source.output(x, k, timestep=self.process.timestep(s))
        return Step(x, "denoise", StepContext("invert_canvas", None, k, self.schedule.timesteps[k]))

    def sampled(self, x: Tensor, k: int, clean: Tensor) -> Step:
        """What step k of the sampling left."""
        return Step(x, "denoise", StepContext("sample", None, k, self.schedule.timesteps[k]), {}, clean)


@dataclass(frozen=True, eq=False)
class FlowEditSampler(FlowSampler):
    """FlowEdit: no inversion, a path from the canvas to the edit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first_state > self.schedule.steps:
            raise UserError(
                f"n_max={self.first_state} is more than the {self.schedule.steps} steps there are: lower it, "
                "or raise num_inference_steps (method.n_max, method.num_inference_steps)"
            )

    @property
    def first_state(self) -> int:
        return self.options.n_max

    def denoise(self, batch: Prepared) -> Iterator[Step]:
        source, target = self.denoisers(batch)
        x0 = z = batch.encoded
        yield Step(z, "start", StepContext("sample", None, self.first_state))
        for k in range(self.first_state - 1, -1, -1):
            t, s = self.levels(k)
            if k >= self.options.n_min - 1:
                moved = (1 - t) * x0 + t * self.draw(batch, x0) - x0  # z_src - x0
            if k >= self.options.n_min:
                v = target.output(z + moved, k) - source.output(x0 + moved, k)
                z = z + (s - t) * v
                yield self.sampled(z, k, z)
                continue
            if k == self.options.n_min - 1:
                z = z + moved
            v = target.output(z, k)
            z, clean = z + (s - t) * v, z - t * v
            yield self.sampled(z, k, clean)


@dataclass(frozen=True, eq=False)
class RFInversionSampler(FlowSampler):
    """RF-Inversion: the controlled inversion of the canvas, and the controlled way back."""

    def denoising_steps(self, sizes: int = 1) -> int:
        return 2 * self.schedule.steps  # the inversion's too

    def denoise(self, batch: Prepared) -> Iterator[Step]:
        source, target = self.denoisers(batch)
        x0 = y = batch.encoded
        noise = self.draw(batch, x0)
        for k in range(self.schedule.steps):
            t, s = self.levels(k)
            v = source.output(y, k, timestep=self.process.timestep(s))
            y = y + (t - s) * (v + self.options.gamma * ((noise - y) / (1 - s) - v))
            yield Step(y, "denoise", StepContext("invert_canvas", None, k, self.schedule.timesteps[k]))
        x = y
        yield Step(x, "start", StepContext("sample", None, self.schedule.steps))
        for k in range(self.schedule.steps - 1, -1, -1):
            t, s = self.levels(k)
            controlled = self.schedule.steps - 1 - k < round(self.options.until * self.schedule.steps)
            eta = self.options.strength if controlled else 0.0
            v = target.output(x, k)
            v = v + eta * ((x - x0) / t - v)
            x, clean = x + (s - t) * v, x - t * v
            yield self.sampled(x, k, clean)
