"""Composites as the embedded model would draw them: noised in part and sampled again.

Renders are too clean to teach what a generated picture looks like: lids that do not meet, glasses beside the eyes,
smears. None of these is a second face. Pictures of one face and of two go the same way, so that the number of faces and
not the look of the model tells them apart.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from sow.people.captions.captions import caption
from sow.people.judge.composites import Figure, Picture, doubled, misdrawn
from sow.people.training.autoencoder import to_images
from sow.people.training.export import load_pipeline
from sow.people.training.latents import encode_shard

WEIGHTS = Path(__file__).parents[1] / "weights"
# Training timesteps from which a picture is sampled again; above, any second face is drawn away.
LEVELS = (100, 450)
GUIDANCE = (1.0, 4.0, 7.5)
STEPS = 4


@lru_cache(maxsize=1)
def pipeline() -> StableDiffusionPipeline:
    """The embedded model."""
    return load_pipeline(WEIGHTS)


@torch.no_grad()
def redrawn(rng: np.random.Generator, figures: list[Figure]) -> list[Figure]:
    """The figures noised to one level of LEVELS and sampled back in STEPS DDIM steps, prompted with their attributes."""
    model = pipeline()
    prompts = [caption(f.attributes, rng) for f in figures]
    scale = float(model.vae.config.scaling_factor)
    x = torch.from_numpy(encode_shard(model.vae, np.stack([f.image for f in figures]))).float() * scale
    scheduler = DDIMScheduler.from_config(model.scheduler.config)
    last = int(rng.integers(*LEVELS))
    levels = np.linspace(last, 0, STEPS, endpoint=False).round().astype(int)
    noise = torch.from_numpy(rng.standard_normal(tuple(x.shape), dtype=np.float32))
    x = scheduler.add_noise(x, noise, torch.tensor([last] * len(x)))
    guidance = float(rng.choice(GUIDANCE))
    text, _ = model.encode_prompt(prompts, "cpu", 1, False)
    empty, _ = model.encode_prompt([""] * len(prompts), "cpu", 1, False)
    for level, following in zip(levels, [*levels[1:], 0], strict=True):
        t = torch.tensor(int(level))
        with_text = model.unet(x, t, text).sample
        if guidance == 1:
            predicted = with_text
        else:
            plain = model.unet(x, t, empty).sample
            predicted = plain + guidance * (with_text - plain)
        here, there = (scheduler.alphas_cumprod[int(k)] for k in (level, following))
        clean = (x - (1 - here).sqrt() * predicted) / here.sqrt()
        x = there.sqrt() * clean + (1 - there).sqrt() * predicted if following else clean
    images = to_images(model.vae.decode(x / scale).sample)
    return [
        replace(f, image=image, background=None, whole=-1, misdrawn=True)
        for f, image in zip(figures, images, strict=True)
    ]


def generated_look(rng: np.random.Generator, people: list[Figure]) -> list[Figure]:
    """The scenes of one person each redrawn, two of three given a second face before; the undecided are left out.

    The model repairs some second faces, and which it left the pixels say: where the composite differs from the picture
    under it, the redrawn one is nearer to the composite (two faces) or to the other (one).
    """
    made = []
    for k, figure in enumerate(people):
        if k % 3:
            figure = doubled(rng, figure, people[int(rng.integers(len(people)))])
        elif rng.random() < 0.5:
            figure = misdrawn(rng, figure)
        made.append(figure)
    out = []
    for before, with_second, after in zip(people, made, redrawn(rng, made), strict=True):
        if with_second.doubled:
            left = remaining(before.image, with_second.image, after.image)
            if 0.4 < left < 0.6:
                continue
            after = replace(after, doubled=left >= 0.6)
        out.append(after)
    return out


def remaining(before: Picture, added: Picture, after: Picture) -> float:
    """How much of what `added` puts on `before` is left in `after`, from 0 (none) to 1; pictures (H, W, 3) uint8."""
    x, y, z = (p.astype(np.float32) for p in (before, added, after))
    weight = np.abs(y - x)
    gone, left = (float((weight * np.abs(z - p)).sum()) for p in (y, x))
    return left / max(gone + left, 1e-6)
