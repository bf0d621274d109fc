"""What the trained model can do, measured on figures and captions that no training shard holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image

from sow.method.diffusion import Schedule, ddim_step, invert_step
from sow.people.captions.attributes import Attributes
from sow.people.captions.captions import caption, parse
from sow.people.drawing.render import render
from sow.people.training.autoencoder import psnr, reconstruct, to_images, to_tensor
from sow.people.training.figures import HELD_OUT_SEEDS, held_out_images
from sow.people.training.grids import held_out_captions, sample
from sow.people.training.recipes import EvaluationRecipe

if TYPE_CHECKING:
    from sow.people.judge import Judge

Statistics = dict[str, Any]
JUDGED = (
    "clothing",
    "clothing_color",
    "scene",
    "hair",
    "hair_color",
    "expression",
    "glasses",
    "hat",
    "style",
    "presence",
    "age",
)


def statistics(values: NDArray[np.float64]) -> Statistics:
    """Mean, standard error and number of values."""
    n = len(values)
    error = float(values.std(ddof=1) / n**0.5) if n > 1 else float("nan")
    return {"mean": round(float(values.mean()), 3), "standard_error": round(error, 3), "n": n}


def autoencoder_quality(pipeline: StableDiffusionPipeline, count: int) -> dict[str, Statistics]:
    """PSNR (dB) of the decoded latent means: held-out scenes, and close-ups in colour and on mid-gray at 64 px."""
    result = {}
    for framing, side, n in (("scene", 128, count), ("closeup", 64, count // 5), ("gray", 64, count // 5)):
        images = held_out_images(n, side, framing)
        result[framing] = statistics(psnr(images, reconstruct(pipeline.vae, images)))
    return result


@torch.no_grad()
def round_trip(
    pipeline: StableDiffusionPipeline, images: NDArray[np.uint8], prompts: list[str], steps: int
) -> NDArray[np.uint8]:
    """Invert images (N, H, W, 3) uint8 by DDIM at guidance 1 and sample them back, both in `steps` steps."""
    schedule = Schedule.from_config(dict(pipeline.scheduler.config), steps)
    text, _ = pipeline.encode_prompt(prompts, "cpu", 1, False)
    scale = pipeline.vae.config.scaling_factor
    x = pipeline.vae.encode(to_tensor(images)).latent_dist.mean * scale
    for k in range(steps):
        e = pipeline.unet(x, schedule.timesteps[k], text).sample
        x = invert_step(x, e, schedule.level(k), schedule.level(k + 1))
    for k in reversed(range(steps)):
        e = pipeline.unet(x, schedule.timesteps[k], text).sample
        x, _ = ddim_step(x, e, schedule.level(k + 1), schedule.level(k))
    return to_images(pipeline.vae.decode(x / scale).sample)


def inversion_quality(pipeline: StableDiffusionPipeline, count: int, steps: int) -> dict[str, Statistics]:
    """PSNR (dB) of inversion and back: whole scenes, and condition crops (on mid-gray) at 48, 56 and 64 px alone."""
    result = {}
    for framing, side in (("scene", 128), ("gray", 48), ("gray", 56), ("gray", 64)):
        pictures = [render(HELD_OUT_SEEDS + k, side, framing=framing) for k in range(count)]
        rng = np.random.default_rng(0)
        prompts = [caption(p.attributes, rng, framing=framing) for p in pictures]
        images = np.stack([p.image for p in pictures])
        back = round_trip(pipeline, images, prompts, steps)
        name = "scene" if framing == "scene" else f"condition {side} px"
        result[name] = statistics(psnr(images, back))
        result[name]["against_decoded"] = statistics(psnr(reconstruct(pipeline.vae, images), back))["mean"]
    return result


def share(hits: list[bool]) -> Statistics:
    """A share of hits with its standard error and number."""
    return (
        statistics(np.array(hits, dtype=np.float64))
        if hits
        else {"mean": None, "standard_error": None, "n": 0}
    )


def text_agreement(
    read: Callable[[list[NDArray[np.uint8]]], list[dict[str, str]]],
    rows: list[tuple[Attributes, str, int]],
    images: NDArray[np.uint8],
) -> dict[str, Statistics]:
    """Share of pictures whose judged attribute is what the caption states, by attribute; unsaid ones are not counted.

    A caption without eyewear counts as "glasses: none" only where the attributes say so.
    """
    judged = read(list(images))
    hits: dict[str, list[bool]] = {name: [] for name in JUDGED}
    for (attributes, text, _), seen in zip(rows, judged, strict=True):
        said = parse(text)
        for name in JUDGED:
            if name in said and name in attributes.shown():
                hits[name].append(seen.get(name) == said[name])
    return {name: share(values) for name, values in hits.items()}


def face_rate(rows: list[tuple[Attributes, str, int]], images: NDArray[np.uint8]) -> Statistics:
    """Share of pictures in which MTCNN finds a face: photo-style figures whose caption names neither sunglasses nor a style."""
    from sow.metrics.faces import detect_faces

    chosen = []
    for k, (attributes, text, _) in enumerate(rows):
        plain = parse(text).get("style", "photo") == "photo" and attributes.style == "photo"
        if plain and attributes.presence == "person" and attributes.glasses != "sunglasses":
            chosen.append(k)
    found = detect_faces([Image.fromarray(images[k]) for k in chosen])
    return share([box is not None for box in found])


def sample_quality(
    pipeline: StableDiffusionPipeline, judge: Judge, count: int, guidance: float, steps: tuple[int, ...]
) -> dict[str, Any]:
    """Text agreement by the judge and MTCNN's face rate of samples for held-out captions, at each number of DDIM steps."""

    def read(images: list[NDArray[np.uint8]]) -> list[dict[str, str]]:
        return [reading.attributes for reading in judge.read(images)]

    rows = held_out_captions(count)
    prompts, seeds = [text for _, text, _ in rows], [seed for *_, seed in rows]
    renders = np.stack([render(seed, 128).image for seed in seeds])
    result: dict[str, Any] = {
        "renders": {"text": text_agreement(read, rows, renders), "faces": face_rate(rows, renders)}
    }
    for number in steps:
        images = sample(pipeline, prompts, seeds, steps=number, guidance=guidance)
        result[f"{number} steps"] = {
            "text": text_agreement(read, rows, images),
            "faces": face_rate(rows, images),
        }
    return result


def evaluate(pipeline: StableDiffusionPipeline, recipe: EvaluationRecipe) -> dict[str, Any]:
    """All measurements as a plain dictionary of means, standard errors and numbers of pictures."""
    from sow.people.judge import load_judge

    judge = load_judge()  # first: without its weights nothing is measured for minutes in vain
    return {
        "autoencoder_psnr": autoencoder_quality(pipeline, recipe.figures),
        "inversion_psnr": inversion_quality(pipeline, recipe.inversions, recipe.inversion_steps),
        "samples": sample_quality(pipeline, judge, recipe.captions, recipe.guidance, recipe.steps),
    }
