"""Inpainting around the condition: Stable Diffusion's own, and Blended Latent Diffusion.

Notation
    z_0, z   latents of the picture with the condition pasted, and of the canvas on its way
    M        1 where the condition lies (known), 0 where the canvas is generated
"""

from __future__ import annotations

import copy
import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sow.baselines.sampler import BaselineSampler, Prepared
from sow.errors import UserError
from sow.method.denoiser import Denoiser
from sow.method.diffusion import replace
from sow.method.seed_init import Batch, pixel_mask, to_tensor
from sow.pipeline.pipeline import pictures
from sow.types import Plan, Request, Sample


def held_pixels(method: BaselineSampler, request: Request, plan: Plan) -> Image.Image:
    """The pixels of the canvas that a request's conditions hold: an 8-bit picture, 255 where they do."""
    held = Image.new("L", (method.canvas.width, method.canvas.height), 0)
    for condition, box in zip(request.conditions, plan.boxes, strict=True):
        held.paste(255, (box.x, box.y), pixel_mask(condition, box, method.seed_init.mask))
    return held


@dataclass(frozen=True, eq=False)
class InpaintSampler(BaselineSampler):
    """Stable Diffusion inpainting (Rombach et al. 2022, Sec. 4.5; the paper's Table I).

    A UNet of 2 C + 1 channels sees (z, 1 - M, latents of the picture with the unknown part gray). A plain
    UNet sees z, and after each step the known latents are put back at their noise level, with the noise the
    chain started from.
    """

    def __post_init__(self) -> None:
        unet = self.backbone.unet.config
        if unet.in_channels not in (unet.out_channels, 2 * unet.out_channels + 1):
            raise UserError(
                f"the UNet takes {unet.in_channels} channels; inpainting knows {unet.out_channels} (plain) "
                f"and {2 * unet.out_channels + 1} (inpainting checkpoints) (model)"
            )

    @property
    def needs_latents(self) -> bool:
        return not self._sees_mask

    @property
    def _sees_mask(self) -> bool:
        unet = self.backbone.unet.config
        return unet.in_channels != unet.out_channels

    def start(self, batch: Prepared) -> Tensor:
        batch.kept["noise"] = super().start(batch)
        return batch.kept["noise"]

    def after(self, batch: Prepared, x: Tensor, k: int) -> Tensor:
        if self._sees_mask:
            return x
        return replace(x, self.schedule.noised(batch.encoded, k, batch.kept["noise"]), batch.known)

    def inputs(
        self, batch: Prepared, denoiser: Denoiser, rows: Tensor, k: int
    ) -> tuple[Tensor, dict[str, Any]]:
        if not self._sees_mask:
            return rows, {}
        if "masked" not in batch.kept:
            batch.kept["masked"] = self._masked(batch)
        masked = torch.cat([batch.kept["masked"]] * (len(rows) // len(batch.known)))
        return torch.cat([rows, masked], dim=1), {}

    def _masked(self, batch: Prepared) -> Tensor:
        """(1 - M, latents of the masked picture), (B, 1 + C, h, w): the unknown pixels are 0, mid-gray."""
        held = torch.stack([self.held(r, p) for r, p in zip(batch.requests, batch.plans, strict=True)])
        latents = self.encode(batch.pictures * held, batch.generators)
        return torch.cat([(~batch.known).to(latents.dtype), latents], dim=1)

    def held(self, request: Request, plan: Plan) -> Tensor:
        """The conditions' pixels on the canvas, (1, H, W) of 0 and 1."""
        return (to_tensor(held_pixels(self, request, plan))[:1] > 0).float()


@dataclass(frozen=True, eq=False)
class BlendedLatentSampler(BaselineSampler):
    """Blended Latent Diffusion (Avrahami et al. 2023): Algorithm 1, and the background reconstruction of Sec.
    4.2.

    After each step z := M noise(z_0, k) + (1 - M) z with fresh noise per step (line "z_bg ~ noise(z_init,
    t)").
    """

    def after(self, batch: Prepared, x: Tensor, k: int) -> Tensor:
        draw = self.draw(batch, x) if k > 0 else x
        return replace(x, self.schedule.noised(batch.encoded, k, draw), batch.known)

    def finished(self, sample: Sample) -> Sample:
        return self._reconstructed(sample) if self.options.decoder_steps else sample

    def _reconstructed(self, sample: Sample) -> Sample:
        """Fine-tune the decoder to one picture (Sec. 4.2): argmin |D(z) (1-M) - x^ (1-M)|^2 + lambda |D(z) M
        - x M|^2, with x^ the plain decoding, so that known pixels come back and the others stay.

        At least float32, whatever the model's precision: Adam's eps and small updates vanish in float16."""
        started = time.perf_counter()
        batch = Batch.of([sample.request], [sample.plan], self.canvas, self.seed_init)
        backbone = copy.copy(self.backbone)
        wide = torch.promote_types(self.backbone.vae.dtype, torch.float32)
        # nn.Module.to: diffusers' own `to` warns about casts.
        backbone.vae = torch.nn.Module.to(copy.deepcopy(self.backbone.vae), dtype=wide)
        vae = backbone.vae.requires_grad_(False)
        parts = [vae.decoder, *([vae.post_quant_conv] if vae.post_quant_conv is not None else [])]
        weights = [p.requires_grad_(True) for part in parts for p in part.parameters()]
        optimizer = torch.optim.Adam(weights, lr=self.options.decoder_rate)
        scaled = backbone.unscaled(sample.latents)
        with torch.no_grad():
            plain = vae.decode(scaled, return_dict=False)[0]
        truth = batch.pictures.to(plain)
        factor = self.canvas.factor
        M = batch.M.repeat_interleave(factor, 2).repeat_interleave(factor, 3).to(plain)
        with torch.enable_grad():
            for _ in range(self.options.decoder_steps):
                made = vae.decode(scaled, return_dict=False)[0]
                loss = ((made - plain) * (1 - M)).square().mean()
                loss = loss + self.options.decoder_weight * ((made - truth) * M).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        vae.requires_grad_(False)
        seconds = {**sample.seconds, "reconstruct": time.perf_counter() - started}
        return dataclasses.replace(sample, image=pictures(backbone, sample.latents)[0], seconds=seconds)
