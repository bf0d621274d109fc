"""What every baseline shares: DDIM over all steps on SOW's plans, boxes, canvas and guidance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from sow.method.base import Method
from sow.method.denoiser import Denoiser, Model
from sow.method.guidance import ClassifierFree, Regional
from sow.method.seed_init import Batch, SeedInit
from sow.models.backbone import Backbone
from sow.pipeline.factory import need_plain
from sow.types import Canvas, Plan, Request, Step, StepContext


@dataclass(frozen=True, eq=False)
class Prepared(Batch):
    """A batch that a chain can start on.

    `latents` (B, C, h, w) those of the pictures, None where the method needs none; `known` is M on the
    model's device; `denoiser` predicts for the prompts; `kept` takes what a method works out once per batch.
    """

    latents: Tensor | None
    known: Tensor
    denoiser: Denoiser
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def encoded(self) -> Tensor:
        """`latents` of a method that needs them."""
        assert self.latents is not None
        return self.latents


@dataclass(frozen=True, eq=False)
class BaselineSampler(Method):
    """A method of one denoising chain from x_K ~ N(0, 1) to x_0; of SOW's components it uses background and
    guidance.

    A method overrides `denoise` (the chain) or less: `inputs` (what the network sees), `after` (a step).
    `options` is its `sow.baselines.config.Baseline`.
    """

    model: Model
    canvas: Canvas
    seed_init: SeedInit
    guidance: ClassifierFree | Regional
    options: Any

    def __post_init__(self) -> None:
        need_plain(self.backbone)

    @classmethod
    def loaded(cls, options: Any, backbone: Backbone) -> tuple[Backbone, dict[str, Any]]:
        """The model as the method takes it, and the fields that the method loads; raises UserError for what
        it lacks."""
        return backbone, {}

    @property
    def needs_latents(self) -> bool:
        """Whether the chain needs the latents of the pasted picture."""
        return True

    @property
    def first_state(self) -> int:
        """The state that the chain starts from: x_K."""
        return self.schedule.steps

    def denoising_steps(self, sizes: int = 1) -> int:
        return self.first_state

    def run(self, batch: Batch) -> Iterator[Step]:
        yield from self.denoise(self.prepare(batch))

    def prompts(self, requests: Sequence[Request], plans: Sequence[Plan]) -> list[str]:
        """The prompt of each request: c, or the planner's c'."""
        user = self.options.prompt == "user"
        return [r.prompt if user else p.prompt for r, p in zip(requests, plans, strict=True)]

    def prepare(self, batch: Batch) -> Prepared:
        """Encode a batch, and read its prompts."""
        prompts = self.prompts(batch.requests, batch.plans)

        def inputs(denoiser: Denoiser, rows: Tensor, k: int) -> tuple[Tensor, dict[str, Any]]:
            return self.inputs(prepared, denoiser, rows, k)

        denoiser = self.model.denoiser(self.guidance.in_preservation(), prompts)
        prepared = Prepared(
            **{f.name: getattr(batch, f.name) for f in fields(Batch)},
            latents=self.encode(batch.pictures, batch.generators) if self.needs_latents else None,
            known=batch.M.to(self.backbone.device),
            denoiser=replace(denoiser, inputs=inputs),
        )
        return prepared

    def encode(self, pictures: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Latents of pictures (B, 3, H, W) in [-1, 1], the posterior's mode or a draw from it."""
        if self.options.vae == "mode":
            return self.model.encode(pictures)
        size = [n // self.canvas.factor for n in pictures.shape[-2:]]
        return self.model.encode(pictures, self.model.draw(size, generators))

    def denoise(self, batch: Prepared) -> Iterator[Step]:
        """The chain of DDIM steps; `after` may put something back after each."""
        x = self.start(batch)
        yield Step(x, "start", StepContext("sample", None, self.first_state))
        for k in range(self.first_state - 1, -1, -1):
            e, x0 = self.predict(batch, x, k)
            x, x0 = self.ddim(batch, x, e, k, x0)
            x = self.after(batch, x, k)
            yield Step(x, "denoise", StepContext("sample", None, k, self.schedule.timesteps[k]), {}, x0)

    def start(self, batch: Prepared) -> Tensor:
        """x_K ~ N(0, 1), (B, C, h, w)."""
        return self.model.draw(self.canvas.latent_size, batch.generators)

    def draw(self, batch: Batch, like: Tensor) -> Tensor:
        """Standard normal latents of the size of `like`."""
        return self.model.draw(like.shape[-2:], batch.generators)

    def epsilon(self, batch: Prepared, x: Tensor, k: int) -> Tensor:
        """Guided noise prediction of step k for x (B, C, h, w)."""
        return self.predict(batch, x, k)[0]

    def predict(self, batch: Prepared, x: Tensor, k: int) -> tuple[Tensor, Tensor | None]:
        """e of step k, and x_0 of a model that does not predict e."""
        return batch.denoiser.predict(x, k, batch.known)

    def inputs(
        self, batch: Prepared, denoiser: Denoiser, rows: Tensor, k: int
    ) -> tuple[Tensor, dict[str, Any]]:
        """What the network sees of the latents `rows` (branches x B, C, h, w) at step k, and is given
        besides."""
        return rows, {}

    def after(self, batch: Prepared, x: Tensor, k: int) -> Tensor:
        """What becomes of x_k after its step; nothing here."""
        return x

    def ddim(
        self, batch: Prepared, x: Tensor, e: Tensor, k: int, x0: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x_{k+1} -> x_k and the predicted x_0."""
        eta = self.options.eta
        return self.schedule.step(x, e, k, eta, self.draw(batch, x) if eta > 0 else None, x0)
