"""What every baseline's sampler shares: DDIM over all steps on SOW's plans, boxes, canvas and guidance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sow.errors import UserError
from sow.method import diffusion, noise
from sow.method.diffusion import Schedule
from sow.method.guidance import Rule
from sow.method.seed_init import Seed, canvas_mask, pixel_mask, place
from sow.pipeline.factory import need_plain
from sow.pipeline.pipeline import Sampler
from sow.types import Plan, Request, Sample, Step, StepContext


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch, placed and encoded.

    `pictures` (B, 3, H, W) in [-1, 1], the conditions on the background; `latents` theirs, (B, C, h, w), None where
    the method needs none; `known`
    (B, 1, h, w) bool, True where a condition lies; `embeds` the prompts of every branch of `rule`.
    """

    requests: Sequence[Request]
    plans: Sequence[Plan]
    generators: Sequence[torch.Generator]
    seeds: Sequence[Seed]
    pictures: Tensor
    latents: Tensor | None
    known: Tensor
    rule: Rule
    embeds: Tensor
    kept: dict[str, Any] = field(default_factory=dict)  # what a method works out once a batch

    @property
    def encoded(self) -> Tensor:
        """`latents` of a method that needs them."""
        assert self.latents is not None
        return self.latents


@dataclass(frozen=True, eq=False)
class BaselineSampler(Sampler):
    """A method of one denoising chain from x_K ~ N(0, 1) to x_0; of SOW's components it uses the planner's, the
    background and the guidance.

    A method overrides `denoise` (the chain) or less: `epsilon` (the guided prediction of a step), `after`.
    """

    options: Any = None

    def __post_init__(self) -> None:
        steps = self.num_inference_steps
        try:
            schedule = Schedule.from_config(self.backbone.scheduler_config, steps)
        except UserError as error:
            raise UserError(str(error).replace("(num_inference", "(method.num_inference")) from error
        # t1, t2 and t3 belong to the cycles, which a baseline does not have.
        for name, value in {"schedule": schedule, "t1": 0, "t2": steps, "t3": ()}.items():
            object.__setattr__(self, name, value)
        self.check_model()

    def check_model(self) -> None:
        """Raise UserError where the loaded model cannot serve this method."""
        need_plain(self.backbone)

    @property
    def needs_latents(self) -> bool:
        """Whether the chain needs the latents of the pasted picture."""
        return True

    def denoising_steps(self, sizes: int = 1) -> int:
        """How many UNet calls one batch takes."""
        return self.num_inference_steps

    def generate(
        self,
        requests: Sequence[Request],
        *,
        plans: Sequence[Plan] | None = None,
        snapshots: bool = False,
        on_step: Callable[[Step], None] | None = None,
    ) -> list[Sample]:
        """One sample a request, in order, as SOW's; there are no cycles and so no snapshots."""
        samples = super().generate(requests, plans=plans, snapshots=False, on_step=on_step)
        return [self.pasted(s) for s in samples] if self.options.paste else samples

    def pasted(self, sample: Sample) -> Sample:
        """The sample with each condition's own pixels laid over it, inside the mask."""
        image = sample.image.copy()
        for condition, box in zip(sample.request.conditions, sample.plan.boxes, strict=True):
            mask = pixel_mask(condition, box, self.seed_init.mask)
            crop = condition.image.convert("RGB").resize((box.w, box.h))
            image.paste(crop, (box.x, box.y), mask)
        assert isinstance(image, Image.Image)
        return replace(sample, image=image)

    def _run(self, requests: Sequence[Request], plans: Sequence[Plan]) -> Iterator[Step]:
        yield from self.denoise(self.prepare(requests, plans))

    def prompts(self, requests: Sequence[Request], plans: Sequence[Plan]) -> list[str]:
        """The prompt of each request: c, or the planner's c'."""
        user = self.options.prompt == "user"
        return [r.prompt if user else p.prompt for r, p in zip(requests, plans, strict=True)]

    def prepare(self, requests: Sequence[Request], plans: Sequence[Plan]) -> Batch:
        """Place and encode one batch."""
        generators = [noise.generator(r.seed) for r in requests]
        placed = [
            place(self.seed_init, r, p, self.canvas, i, g)
            for i, (r, p, g) in enumerate(zip(requests, plans, generators, strict=True))
        ]
        seeds = [seed for _, own in placed for seed in own]
        pictures = torch.stack([picture for picture, _ in placed])
        known = canvas_mask(seeds, len(requests), self.canvas.latent_size).to(self.backbone.device)
        rule = self.guidance.in_preservation()
        embeds = self._embeds(rule, self.prompts(requests, plans))
        latents = self.encode(pictures, generators) if self.needs_latents else None
        return Batch(requests, plans, generators, seeds, pictures, latents, known, rule, embeds)

    def encode(self, pictures: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Latents of pictures (B, 3, H, W) in [-1, 1], the posterior's mode or a draw from it."""
        draws = None
        if self.options.vae == "sample":
            height, width = (n // self.canvas.factor for n in pictures.shape[-2:])
            channels = int(self.backbone.vae.config.latent_channels)
            draws = self._draw((1, channels, height, width), generators)
        return self.backbone.encode(pictures, draws)

    def denoise(self, batch: Batch) -> Iterator[Step]:
        """The chain of DDIM steps; `after` may put something back after each."""
        x = self.start(batch)
        yield Step(x, "start", StepContext("sample", None, self.num_inference_steps))
        for k in range(self.num_inference_steps - 1, -1, -1):
            context = StepContext("sample", None, k, self.schedule.timesteps[k])
            x, x0 = self.ddim(batch, x, self.epsilon(batch, x, k), k)
            x = self.after(batch, x, k)
            yield Step(x, "denoise", context, {}, x0)

    def start(self, batch: Batch) -> Tensor:
        """x_K ~ N(0, 1), (B, C, h, w)."""
        return self._draw((1, self.backbone.channels, *self.canvas.latent_size), batch.generators)

    def epsilon(self, batch: Batch, x: Tensor, k: int) -> Tensor:
        """Guided noise prediction of step k for x (B, C, h, w)."""
        branches = len(batch.embeds) // len(x)
        rows = torch.cat([x] * branches)
        more = self.extras(batch, rows, k)
        output = self.backbone.predict(
            self.seen(batch, rows), self.schedule.timesteps[k], batch.embeds, **more
        )
        return batch.rule.combine(self.schedule.epsilon(output, rows, k).chunk(branches), batch.known)

    def seen(self, batch: Batch, rows: Tensor) -> Tensor:
        """What the UNet sees of the latents `rows` (branches x B, C, h, w); the latents themselves here."""
        return rows

    def extras(self, batch: Batch, rows: Tensor, k: int) -> dict[str, Any]:
        """What else the UNet is given at step k; nothing here."""
        return {}

    def after(self, batch: Batch, x: Tensor, k: int) -> Tensor:
        """What becomes of x_k after its step; nothing here."""
        return x

    def ddim(self, batch: Batch, x: Tensor, e: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """x_{k+1} -> x_k and the predicted x_0."""
        eta = self.options.eta
        draw = self._draw((1, *x.shape[1:]), batch.generators) if eta > 0 else None
        return diffusion.ddim_step(x, e, self.schedule.level(k + 1), self.schedule.level(k), eta, draw)

    def noised(self, latents: Tensor, draw: Tensor, k: int) -> Tensor:
        """q(x_k | x_0) at the level where the sampler reads x_k; x_0 itself for k = 0."""
        if k == 0:
            return latents
        level = self.schedule.level(k)
        return level**0.5 * latents + (1 - level) ** 0.5 * draw
