"""Pictures of the training: samples of the averaged model beside renders for the same captions."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusionPipeline
from numpy.typing import NDArray

from sow.method import noise
from sow.people.captions.attributes import Attributes
from sow.people.captions.captions import caption
from sow.people.drawing.render import render
from sow.people.training.autoencoder import to_images
from sow.people.training.figures import HELD_OUT_SEEDS

CAPTION_SEEDS = HELD_OUT_SEEDS + 50_000_000  # held-out captions, apart from the held-out figures


def held_out_captions(count: int, start: int = 0) -> list[tuple[Attributes, str, int]]:
    """Attributes, caption and render seed of figures that no training shard holds."""
    rows = []
    for k in range(start, start + count):
        seed = CAPTION_SEEDS + k
        attributes = render(seed, 64).attributes
        rows.append((attributes, caption(attributes, np.random.default_rng([seed, 9])), seed))
    return rows


@torch.no_grad()
def sample(
    pipeline: StableDiffusionPipeline,
    prompts: list[str],
    seeds: list[int],
    *,
    steps: int = 10,
    guidance: float = 7.5,
    side: int = 16,
    batch: int = 16,
) -> NDArray[np.uint8]:
    """Images (N, 8 side, 8 side, 3) uint8 by DDIM, or Euler's steps of a flow, with classifier-free guidance; one seed
    per image."""
    images = []
    for k in range(0, len(prompts), batch):
        scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
        if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
            scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps).tolist())
        else:
            scheduler.set_timesteps(steps)
        part = prompts[k : k + batch]
        both, _ = pipeline.encode_prompt(part, "cpu", 1, False)
        empty, _ = pipeline.encode_prompt([""] * len(part), "cpu", 1, False)
        shape = (1, pipeline.unet.config.in_channels, side, side)
        draws = [noise.randn(shape, noise.generator(s), "cpu", torch.float32) for s in seeds[k : k + batch]]
        x = torch.cat(draws)
        for t in scheduler.timesteps:
            text = pipeline.unet(x, t, both).sample
            plain = pipeline.unet(x, t, empty).sample
            x = scheduler.step(plain + guidance * (text - plain), t, x).prev_sample
        images.append(to_images(pipeline.vae.decode(x / pipeline.vae.config.scaling_factor).sample))
    return np.concatenate(images)


def people_grid(
    pipeline: StableDiffusionPipeline, path: Path, *, count: int = 24, steps: int = 10, guidance: float = 7.5
) -> list[str]:
    """Save a picture of pairs, the render left and a sample right, four pairs a row (of 24 that nobody picked); returns the captions in that order."""
    rows = held_out_captions(count)
    captions = [text for _, text, _ in rows]
    samples = sample(pipeline, captions, [seed for *_, seed in rows], steps=steps, guidance=guidance)
    side = samples.shape[1]
    renders = [render(seed, side).image for *_, seed in rows]
    pairs = [
        np.concatenate([a, b, np.full((side, 6, 3), 255, np.uint8)], axis=1)
        for a, b in zip(renders, samples, strict=True)
    ]
    lines = [np.concatenate(pairs[k : k + 4], axis=1) for k in range(0, count - count % 4, 4)]
    gap = np.full((6, lines[0].shape[1], 3), 255, np.uint8)
    picture = np.concatenate([part for line in lines for part in (line, gap)])
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), picture[..., ::-1]):
        raise OSError(f"could not write {path}")
    return captions
