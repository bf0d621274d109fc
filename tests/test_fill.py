"""Learned inpainting through diffusers: each pipeline on a tiny random checkpoint, and what is refused."""

from __future__ import annotations

import json
import logging
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_inpaint as qwen_edit
from PIL import Image
from small_baselines import WORDS, pasted, plan, prepared, request, unknown
from small_fill import NAMES, saved

from sow import build, compose
from sow.baselines.fill import control_map
from sow.errors import UserError
from sow.method import noise


@pytest.fixture(autouse=True)
def small_squares(monkeypatch) -> None:
    """Qwen-Image-Edit at 64 x 64 pixels instead of about a million."""
    monkeypatch.setattr(qwen_edit, "calculate_dimensions", lambda area, ratio: (64, 64, None))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The command line's words for each pipeline, its checkpoint written once."""
    return cache(lambda name: saved(name, tmp_path_factory.mktemp(name)))


def sampler(words, *more):
    return build(compose([*WORDS, *words, "method.num_inference_steps=2", *more]))


@pytest.mark.parametrize("name", NAMES)
def test_a_pipeline_paints_around_the_condition(name, folders) -> None:
    made = sampler(folders(name))
    first, again = (made.generate([request()], plans=[plan()])[0] for _ in (0, 1))
    other = made.generate([request(1)], plans=[plan(1)])[0]
    assert first.image.size == (64, 64) and np.array_equal(np.array(first.image), np.array(again.image))
    assert not np.array_equal(np.array(first.image), np.array(other.image))
    assert not made.method.painted and first.latents.shape == (1, 4, 8, 8)
    rows = {"flux_fill": 2, "flux_kontext": 2, "qwen_edit": 4, "controlnet_inpaint": 4}
    assert sum(first.counts.values()) == rows[name]
    assert sum(row["event"] == "denoise" for row in first.trace) == made.denoising_steps()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_pipelines_own_call(name, folders) -> None:
    """The same words by hand: the canvas, a mask that is white where it is to paint, the generator."""
    made = sampler(folders(name))
    ours = made.generate([request()], plans=[plan()])[0].image
    batch = prepared(made)
    words = made.method.words(batch, 0)
    assert np.abs(np.array(words["image"]).astype(int) - np.array(pasted(made))).max() <= 1
    assert np.array_equal(np.array(words["mask_image"]), np.array(unknown()))
    assert words["prompt"] == request().prompt
    generator = noise.generator(0)
    made.method.encode(batch.pictures, [generator])  # the mode: nothing is drawn before the pipeline's draws
    wanted = made.method.pipe(**{**words, "generator": generator}).images[0].resize((64, 64))
    assert np.array_equal(np.array(ours), np.array(wanted))


def test_the_control_map_is_minus_one_where_it_is_to_paint() -> None:
    canvas = Image.fromarray(np.full((4, 4, 3), 255, np.uint8))
    held = Image.new("L", (4, 4), 0)
    held.paste(255, (0, 0, 2, 4))
    made = control_map(canvas, held)
    assert made.shape == (1, 3, 4, 4)
    assert torch.equal(made[..., :2], torch.ones(1, 3, 4, 2)) and torch.equal(
        made[..., 2:], -torch.ones(1, 3, 4, 2)
    )


def test_another_pipelines_folder_is_refused(folders) -> None:
    path = next(w for w in folders("flux_kontext") if w.startswith("method.path"))
    with pytest.raises(UserError, match=r"_class_name=FluxKontextInpaintPipeline.*method\.pipeline"):
        sampler(["method=flux_fill", path])


def test_weights_are_whole_or_refused(folders, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    words = saved("flux_fill", tmp_path)
    file = Path(tmp_path, "pipe", "transformer", "diffusion_pytorch_model.safetensors")
    state = load_file(file)
    state.pop(next(iter(state)))
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 missing.*method\.path"):
        sampler(words)
    index = Path(tmp_path, "pipe", "model_index.json")
    named = json.loads(index.read_text())
    index.write_text(json.dumps({**named, "vae": ["somebody", "Else"]}))
    with pytest.raises(UserError, match=r"vae from somebody\.Else"):
        sampler(words)


def test_the_licence_is_said_before_a_download(monkeypatch, caplog) -> None:
    from diffusers import FluxFillPipeline

    def nothing(*_, **__):
        raise OSError("no network here")

    monkeypatch.setattr(FluxFillPipeline, "load_config", nothing)
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match="accepted its page"):
        sampler(["method=flux_fill"])
    assert "FLUX.1-dev Non-Commercial Licence; its page must be accepted once" in caplog.text


@pytest.mark.parametrize(
    "words",
    [
        ["method=flux_fill", "method.controlnet=some/net"],
        ["method=controlnet_inpaint", "method.controlnet=null"],
    ],
)
def test_a_controlnet_belongs_to_one_pipeline(words) -> None:
    with pytest.raises(UserError, match=r"method\.controlnet"):
        compose([*WORDS, *words])
