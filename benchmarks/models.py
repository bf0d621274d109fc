"""What is measured: the embedded model, or Stable Diffusion 2.1-base at full size with random weights."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from sow import build, compose
from sow.method import noise
from sow.method.denoiser import Model
from sow.models.backbone import Backbone, make_canvas
from sow.models.tiny import SCHEDULER, byte_tokenizer
from sow.types import Request, VisualCondition

WORDS = ["planner=fixed", "intensify=none", "metrics=none", "tracker=none", "cache.memory_mb=0"]


def sampler(model: str, device: str, dtype: str) -> Any:
    """SOW with the paper's numbers and a fixed plan, nothing cached, on `model`:
    people, tiny or sd21_base."""
    if model != "sd21_base":
        return build(compose([*WORDS, f"model={model}", f"model.device={device}", f"model.dtype={dtype}"]))
    made = build(compose([*WORDS, "model=tiny", "calibration=paper"]))
    canvas = make_canvas(512, 512, 8, made_limits())
    own = Model.of(stable_diffusion(device, dtype), made.model.schedule.steps)
    return made.variant(model=own, canvas=canvas)


def made_limits() -> list[int]:
    """The condition's limits of the paper's calibration."""
    return list(compose(["model=sd21_base", "metrics=none"]).calibration.condition_size)


def stable_diffusion(device: str, dtype: str) -> Backbone:
    """Networks of Stable Diffusion 2.1-base's sizes, built on the device; their pictures mean nothing."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=64,
            cross_attention_dim=1024,
            attention_head_dim=[5, 10, 20, 20],
            use_linear_projection=True,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=1024,
                intermediate_size=4096,
                num_hidden_layers=23,
                num_attention_heads=16,
                hidden_act="gelu",
                bos_token_id=512,
                eos_token_id=513,
            )
        )
    return Backbone(vae, text_encoder, byte_tokenizer(), unet, dict(SCHEDULER), device, dtype)


def requests(count: int) -> list[Request]:
    """Requests whose pictures, prompts and seeds all differ."""
    return [
        Request((VisualCondition(picture(i)),), f"a photo of person {i} in a forest", seed=i, id=str(i))
        for i in range(count)
    ]


def picture(seed: int, side: int = 256) -> Image.Image:
    """A smooth random picture."""
    small = noise.randn((1, 3, 8, 8), noise.generator(seed), "cpu", torch.float32)
    values = torch.nn.functional.interpolate(small, size=(side, side), mode="bicubic")[0]
    return Image.fromarray(((values.clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0).numpy())
