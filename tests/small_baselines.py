"""Baselines on the tiny model, and their inputs, for their tests."""

from __future__ import annotations

import copy

import torch
from diffusers import (
    DDIMScheduler,
    StableDiffusionInpaintPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from test_sampler import picture

from sow import build, compose
from sow.config.compose import Config
from sow.method import noise
from sow.method.seed_init import Batch, place
from sow.models.tiny import SCHEDULER
from sow.types import Box, Plan, Request, VisualCondition

WORDS = [
    "model=tiny",
    "model.device=cpu",
    "width=64",
    "height=64",
    "planner=fixed",
    "intensify=none",
    "metrics=none",
]


CHAINS = ["sd_inpaint", "blended_latent", "repaint", "lanpaint"]


MUTUAL = ["masactrl", "mca_ctrl", "sdedit"]  # which end in latents of their own


FEW = {  # few steps of each
    "sd_inpaint": [],
    "blended_latent": [],
    "repaint": ["method.jump_length=2", "method.resamples=2"],
    "lanpaint": ["method.inner_steps=2"],
    "sdedit": [],
    "densediffusion": ["calibration.cycles=2"],
    "masactrl": [],
    "mca_ctrl": ["method.inject_until=0.6"],
}


NEGATIVE = "a bad quality and low-resolution image, extra fingers, deformed hands"


def half(size: int = 32) -> Image.Image:
    """A mask that keeps the left half: one that is no whole box."""
    mask = Image.new("L", (size, size), 0)
    mask.paste(255, (0, 0, size // 2, size))
    return mask


def request(i: int = 0) -> Request:
    return Request((VisualCondition(picture(i, 32), half()),), f"a person {i} in a forest", seed=i, id=str(i))


def plan(i: int = 0) -> Plan:
    return Plan((Box(8 + 8 * i, 16, 32, 32),), (Box(8, 48, 48, 16),), f"an old person {i}", "test")


def config(method: str, *words: str) -> Config:
    short = [] if method in ("sow", "densediffusion") else ["method.num_inference_steps=5"]
    return compose([*WORDS, f"method={method}", *short, *words])


def sampler(method: str, *words: str):
    return build(config(method, *words))


def prepared(made):
    """A batch of one that a chain can start on."""
    return made.method.prepare(Batch.of([request()], [plan()], made.canvas, made.method.seed_init))


def latents(made, i: int = 0) -> torch.Tensor:
    return made.generate([request(i)], plans=[plan(i)])[0].latents


def pasted(made, i: int = 0) -> Image.Image:
    """The condition on its background, as the chain's first picture."""
    pixels, _ = place(made.method.seed_init, request(i), plan(i), made.canvas, 0, noise.generator(0))
    return Image.fromarray(((pixels + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


def unknown(i: int = 0) -> Image.Image:
    """White where the canvas is to be painted."""
    mask = Image.new("L", (64, 64), 255)
    box = plan(i).boxes[0]
    mask.paste(0, (box.x, box.y), half())
    return mask


def with_nine_channels(backbone):
    """The same model with a UNet that sees mask and masked latents too."""
    made = copy.copy(backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        known = {k: v for k, v in backbone.unet.config.items() if not k.startswith("_")}
        made.unet = UNet2DConditionModel(**{**known, "in_channels": 2 * backbone.channels + 1}).eval()
    return made


def pipeline(backbone) -> StableDiffusionInpaintPipeline:
    pipe = StableDiffusionInpaintPipeline(
        vae=backbone.vae,
        text_encoder=backbone.text_encoder,
        tokenizer=backbone.tokenizer,
        unet=backbone.unet,
        scheduler=DDIMScheduler.from_config(SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
