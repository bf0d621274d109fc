"""SOW and COW's arithmetic on a bare machine: no Hydra, no planner, nothing but the networks' own packages.

The numbers are the paper's (sow/method/paper.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sow.attention.gate import AlwaysOpen, RegionGate
from sow.method import noise
from sow.method.paper import one_way
from sow.models import checkpoint as understood
from sow.models.backbone import Backbone
from sow.models.stable_diffusion import load_stable_diffusion
from sow.models.tiny import SCHEDULER, byte_tokenizer
from sow.pipeline.pipeline import Pipeline
from sow.types import Box, Plan, Request, VisualCondition

WEIGHTS = Path(__file__).resolve().parents[1] / "sow" / "people" / "weights"
PROMPT = "a person in a forest"


def open_gate(gate: RegionGate | AlwaysOpen) -> AlwaysOpen:
    """A gate that is open in every layer however few its points, read as `gate` is."""
    return AlwaysOpen(
        factor_of="one",
        tau=gate.tau,
        queries=gate.queries,
        score=gate.score,
        scope=gate.scope,
        min_points=0,
        fraction=gate.fraction,
    )


class FixedPlans(Pipeline):
    """A pipeline whose plans are fixed: the condition in the upper middle, the body below it."""

    def plan(self, requests: Sequence[Request]) -> list[Plan]:
        w, h = self.canvas.width, self.canvas.height
        side = self.canvas.condition_max
        box = Box((w - side) // 2, h // 8, side, side).snapped(self.canvas.factor)
        body = Box(w // 8, h // 8, w - w // 4, h - h // 8)
        return [Plan((box,), (body,), f"{r.prompt}, in a suit", "fixed") for r in requests]


def pipeline(backbone: Backbone, *, batch_size: int = 4, **changes: Any) -> FixedPlans:
    """SOW on a loaded model at its own canvas; `changes` replace components by name."""
    method = one_way(backbone, **changes)
    return FixedPlans(method, planner=None, position=None, intensify=None, batch_size=batch_size)


def checkpoint(folder: Path, device: str, dtype: str) -> Backbone:
    """A folder in Stable Diffusion's format, whole; raises UserError for what is not understood in it."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    of_diffusers.disable_progress_bar()
    of_transformers.disable_progress_bar()

    def scheduler(config: dict[str, Any]) -> dict[str, Any]:
        understood.check_scheduler(config, f"{folder}/{understood.SCHEDULER_FILE}")
        return config

    return load_stable_diffusion(str(folder), scheduler, device, dtype, key="--weights")


def stable_diffusion(device: str, dtype: str, small: bool = False) -> Backbone:
    """Networks of Stable Diffusion 2.1-base's sizes (or an eighth of them), built on the device with random
    weights.

    Their pictures mean nothing; the arithmetic is that of the real checkpoint.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    share = 8 if small else 1
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=64 // (4 if small else 1),
            block_out_channels=tuple(n // share for n in (320, 640, 1280, 1280)),
            norm_num_groups=32 // share,
            cross_attention_dim=1024 // share,
            attention_head_dim=[5, 10, 20, 20],
            use_linear_projection=True,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=tuple(n // share for n in (128, 256, 512, 512)),
            norm_num_groups=32 // share,
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408 if not small else 514,
                hidden_size=1024 // share,
                intermediate_size=4096 // share,
                num_hidden_layers=23 // share,
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


def official_cow(backbone: Backbone, syncs: int = 290, encodings: int = 170) -> None:
    """The arithmetic of one image of COW's published code (spec of its 37 calls), without its pictures.

    100 sample-evaluations at the canvas's latents and 14 at a quarter of them: inversion of the canvas to x5
    and of the condition to x7 with guidance, ten cycles of two steps with four branches, five steps of
    preservation; besides, the prompts are encoded again before every call and latents are copied to the host
    and back.
    """
    side = int(backbone.unet.config.sample_size)
    device, dtype = backbone.device, backbone.dtype
    plan = [(5, 2, side), (7, 2, side // 2), (20, 4, side), (5, 2, side)]  # calls, rows, latents
    calls = sum(count for count, _, _ in plan)
    embeds = backbone.encode_prompt(PROMPT)
    done_syncs, done_encodings, made = 0, 1, 0
    for count, rows, size in plan:
        x = torch.zeros((rows, backbone.channels, size, size), dtype=dtype, device=device)
        for _ in range(count):
            made += 1
            while done_encodings < encodings * made // calls:
                embeds = backbone.encode_prompt(PROMPT)
                done_encodings += 1
            x = backbone.predict(x, 501, torch.cat([embeds] * rows))
            while done_syncs < syncs * made // calls:
                x = x.cpu().to(device)
                done_syncs += 1
    backbone.decode(x[:1])
