"""What the trained model can do, measured on figures and captions that no training shard holds."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
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
    from sow.people.judge import Judge, Reading

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
    judged: list[dict[str, str]], rows: list[tuple[Attributes, str, int]]
) -> dict[str, Statistics]:
    """Share of pictures whose judged attribute is what the caption states, by attribute; unsaid ones are not counted.

    A caption without eyewear counts as "glasses: none" only where the attributes say so.
    """
    hits: dict[str, list[bool]] = {name: [] for name in JUDGED}
    for (attributes, text, _), seen in zip(rows, judged, strict=True):
        said = parse(text)
        for name in JUDGED:
            if name in said and name in attributes.shown():
                hits[name].append(seen.get(name) == said[name])
    return {name: share(values) for name, values in hits.items()}


def face_rate(rows: list[tuple[Attributes, str, int]], images: NDArray[np.uint8]) -> Statistics:
    """Share of pictures in which MTCNN finds a face: photo-style figures whose caption names neither sunglasses nor a style."""
    chosen = []
    for k, (attributes, text, _) in enumerate(rows):
        plain = parse(text).get("style", "photo") == "photo" and attributes.style == "photo"
        if plain and attributes.presence == "person" and attributes.glasses != "sunglasses":
            chosen.append(k)
    return _found(images[chosen]) if chosen else share([])


def one_face(rows: list[tuple[Attributes, str, int]], readings: list[Reading]) -> Statistics:
    """Share of the pictures of a person in which the judge sees exactly one face, whole or in part."""
    return share([r.faces == 1 for (a, *_), r in zip(rows, readings, strict=True) if a.presence == "person"])


def decoded_faces(pipeline: StableDiffusionPipeline, count: int) -> dict[str, Statistics]:
    """MTCNN's face rate on held-out photo-style scenes of people without sunglasses, as rendered and encoded and decoded."""
    drawn = [render(HELD_OUT_SEEDS + k, 128) for k in range(count)]
    chosen = [
        p.image
        for p in drawn
        if p.attributes.style == "photo"
        and p.attributes.presence == "person"
        and p.attributes.glasses != "sunglasses"
    ]
    images = np.stack(chosen)
    return {"renders": _found(images), "decoded": _found(reconstruct(pipeline.vae, images))}


def _found(images: NDArray[np.uint8]) -> Statistics:
    from sow.metrics.faces import detect_faces

    return share([box is not None for box in detect_faces([Image.fromarray(image) for image in images])])


def sample_quality(
    pipeline: StableDiffusionPipeline,
    judge: Judge,
    count: int,
    guidance: tuple[float, ...],
    steps: tuple[int, ...],
) -> dict[str, Any]:
    """Text agreement by the judge and MTCNN's face rate of samples for held-out captions, at each number of steps and
    guidance scale."""

    def measured(images: NDArray[np.uint8]) -> dict[str, Any]:
        readings = judge.read(list(images))
        return {
            "text": text_agreement([r.attributes for r in readings], rows),
            "faces": face_rate(rows, images),
            "one_face": one_face(rows, readings),
        }

    rows = held_out_captions(count)
    prompts, seeds = [text for _, text, _ in rows], [seed for *_, seed in rows]
    renders = np.stack([render(seed, 128).image for seed in seeds])
    result: dict[str, Any] = {"renders": measured(renders)}
    for number, scale in product(steps, guidance):
        images = sample(pipeline, prompts, seeds, steps=number, guidance=scale)
        result[f"{number} steps, guidance {scale:g}"] = measured(images)
    return result


def evaluate(pipeline: StableDiffusionPipeline, recipe: EvaluationRecipe) -> dict[str, Any]:
    """All measurements as a plain dictionary of means, standard errors and numbers of pictures; those of the samples
    alone where the unet is another than the model's."""
    from sow.people.judge import load_judge

    judge = load_judge()  # first: without its weights nothing is measured for minutes in vain
    samples = sample_quality(pipeline, judge, recipe.captions, recipe.guidance, recipe.steps)
    if recipe.unet is not None:
        return {"samples": samples}
    return {
        "autoencoder_psnr": autoencoder_quality(pipeline, recipe.figures),
        "mtcnn": decoded_faces(pipeline, recipe.figures),
        "inversion_psnr": inversion_quality(pipeline, recipe.inversions, recipe.inversion_steps),
        "samples": samples,
    }


def markdown(numbers: Mapping[str, Any]) -> str:
    """The measurements as tables: the autoencoder's, where it was measured, and those of samples beside renders."""
    lines = [] if "autoencoder_psnr" not in numbers else [*_autoencoder(numbers), ""]
    columns = list(numbers["samples"])
    lines += ["| held-out captions | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    samples = [numbers["samples"][c] for c in columns]
    for name in JUDGED:
        cells = (_value(s["text"][name], percent=True) for s in samples)
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    for key, name in (("faces", "MTCNN finds a face"), ("one_face", "exactly one face")):
        lines.append(f"| {name} | " + " | ".join(_value(s[key], percent=True) for s in samples) + " |")
    return "\n".join(lines) + "\n"


def _autoencoder(numbers: Mapping[str, Any]) -> list[str]:
    lines = ["| autoencoder | value |", "| --- | ---: |"]
    named = {"scene": "whole scenes", "closeup": "close-ups at 64 px", "gray": "faces on mid-gray at 64 px"}
    for key, name in named.items():
        lines.append(f"| PSNR, {name} | {_value(numbers['autoencoder_psnr'][key])} dB |")
    for key, values in numbers["inversion_psnr"].items():
        against = f" (against the decoded picture {values['against_decoded']:.1f})"
        lines.append(f"| DDIM inversion and back, {key} | {_value(values)} dB{against} |")
    for key, name in (("renders", "renders"), ("decoded", "the same, encoded and decoded")):
        lines.append(f"| MTCNN finds a face, {name} | {_value(numbers['mtcnn'][key], percent=True)} |")
    return lines


def _value(values: Statistics, percent: bool = False) -> str:
    if values["mean"] is None:
        return ""
    scale, unit = (100, " %") if percent else (1, "")
    error = f" ± {scale * values['standard_error']:.1f}" if np.isfinite(values["standard_error"]) else ""
    return f"{scale * values['mean']:.1f}{unit}{error} (n = {values['n']})"
