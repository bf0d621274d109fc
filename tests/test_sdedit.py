"""SDEdit is diffusers' image-to-image pipeline on the pasted picture."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline
from small_baselines import NEGATIVE, latents, pasted, prepared, sampler

from sow.baselines.sampler import BaselineSampler, Prepared
from sow.baselines.sdedit import SDEditSampler


@pytest.mark.parametrize(("strength", "eta"), [(0.6, 0.0), (1.0, 0.0), (0.25, 1.0)])
def test_sdedit_is_diffusers_image_to_image(strength: float, eta: float, monkeypatch) -> None:
    steps = 8
    made = sampler(
        "sdedit", f"method.strength={strength}", f"method.eta={eta}", f"method.num_inference_steps={steps}"
    )
    backbone = made.backbone
    batch = prepared(made)
    drawn: list[torch.Tensor] = []  # ours, in the order that diffusers asks for them

    def draw(self: SDEditSampler, batch: Prepared, like: torch.Tensor) -> torch.Tensor:
        drawn.append(BaselineSampler.draw(self, batch, like))
        return drawn[-1]

    monkeypatch.setattr(SDEditSampler, "draw", draw)
    wanted = latents(made)
    pipeline = StableDiffusionImg2ImgPipeline(
        backbone.vae,
        backbone.text_encoder,
        backbone.tokenizer,
        backbone.unet,
        DDIMScheduler.from_config(backbone.scheduler_config),
        None,
        None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    queue = iter(drawn)
    for module in (
        "pipelines.stable_diffusion.pipeline_stable_diffusion_img2img",
        "schedulers.scheduling_ddim",
    ):
        monkeypatch.setattr(f"diffusers.{module}.randn_tensor", lambda *_, **__: next(queue))
    monkeypatch.setattr(
        "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img.retrieve_latents",
        lambda encoded, **_: encoded.latent_dist.mode(),
    )
    guidance = made.method.guidance
    found = pipeline(
        batch.requests[0].prompt,
        pasted(made),
        strength=strength,
        num_inference_steps=steps,
        guidance_scale=guidance.scale,
        negative_prompt=NEGATIVE if guidance.negative_prompt else "",
        eta=eta,
        output_type="latent",
    ).images
    torch.testing.assert_close(wanted, found, rtol=1e-4, atol=1e-4)
    assert made.method.denoising_steps() == int(strength * steps)


def test_its_strength_leaves_as_much_of_the_picture_as_it_says() -> None:
    weak, strong = (sampler("sdedit", f"method.strength={s}") for s in (0.2, 1.0))
    start = prepared(weak)
    near, far = (torch.nn.functional.mse_loss(latents(m), start.encoded).item() for m in (weak, strong))
    assert near < far
