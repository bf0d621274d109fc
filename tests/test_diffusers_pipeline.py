"""The pipeline for diffusers: loaded as diffusers loads it, and the pixels of `run.py`."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import save_tiny_pipeline
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import save_file

from sow import SOWPipeline, UserError, build, compose
from sow.apps.diffusers_pipeline import save_custom_pipeline
from sow.attention.modulation import NoModulation
from sow.method import noise, paper
from sow.types import Request

PROMPT = "a person in a forest"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Any:
    made = SOWPipeline.from_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def cutout() -> Image.Image:
    """A picture with an alpha channel."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (48, 40, 4), dtype=np.uint8)
    pixels[..., 3] = 255 * (np.hypot(*np.mgrid[-24:24, -20:20]) < 18)
    return Image.fromarray(pixels)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_its_numbers_are_the_paper_s() -> None:
    """Numbers live in conf/; what stands in code is held to it."""
    config = compose(
        ["calibration=paper", "model=sd21_base", "condition.image=x.png", "metrics=none", "tracker=none"]
    )
    for name, component in paper.components().items():
        composed = getattr(config, name)
        assert type(composed) is type(component), name
        for field in fields(component):
            assert getattr(component, field.name) == getattr(composed, field.name), (name, field.name)
    assert {f: getattr(config.planner, f) for f in paper.PLANNER} == paper.PLANNER
    assert config.num_inference_steps == paper.STEPS
    assert tuple(config.model.condition_size) == paper.CONDITION_SIZE


def test_the_pixels_are_those_of_the_command_line(
    pipe: Any, folder: Path, cutout: Image.Image, tmp_path: Path
) -> None:
    cutout.save(tmp_path / "cat.png")
    words = [
        "model=local",
        f"model.path={folder}",
        "model.device=cpu",
        f"condition.image={tmp_path / 'cat.png'}",
    ]
    words += ["condition.mask=none", "metrics=none", "tracker=none"]
    config = compose(words)
    theirs = build(config).generate([Request(config.condition.load(7), PROMPT, seed=7)])[0]
    ours = pipe(PROMPT, cutout, generator=seeded(7)).images[0]
    assert np.array_equal(np.asarray(ours), np.asarray(theirs.image))
    placed = compose([*words, "condition.box=[16,8,48,48]", "modulation=none", "guidance.scale=3"])
    theirs = build(placed).generate([Request(placed.condition.load(7), PROMPT, seed=7)])[0]
    ours = pipe(
        PROMPT,
        cutout,
        box=[16, 8, 48, 48],
        guidance_scale=3,
        components={"modulation": NoModulation()},
        generator=seeded(7),
    ).images[0]
    assert np.array_equal(np.asarray(ours), np.asarray(theirs.image))


def test_a_lora_that_diffusers_loads_is_that_of_the_command_line(
    folder: Path, cutout: Image.Image, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    cutout.save(tmp_path / "cat.png")
    file = tmp_path / "style.safetensors"
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1"
    draw = noise.generator(0)
    state = {
        f"unet.{layer}.{name}.lora_{factor}.weight": noise.randn(shape, draw, "cpu", torch.float32) / 4
        for name in ("to_q", "to_k", "to_v")
        for factor, shape in (("A", (2, 32)), ("B", (32, 2)))
    }
    save_file(state, file)
    words = ["model=local", f"model.path={folder}", "model.device=cpu", f"model.lora=[{file}]"]
    words += [
        f"condition.image={tmp_path / 'cat.png'}",
        "condition.mask=none",
        "metrics=none",
        "tracker=none",
    ]
    config = compose(words)
    theirs = build(config).generate([Request(config.condition.load(7), PROMPT, seed=7)])[0].latents
    own = SOWPipeline.from_pretrained(folder)
    own.set_progress_bar_config(disable=True)
    plain = own(PROMPT, cutout, generator=seeded(7), output_type="latent").images
    own.load_lora_weights(file)
    ours = own(PROMPT, cutout, generator=seeded(7), output_type="latent").images
    assert (ours - theirs).norm() < 0.01 * (ours - plain).norm()  # by the rounding of W + B A alone


def test_what_it_returns_and_shows(pipe: Any, cutout: Image.Image) -> None:
    seen: list[tuple[int, int, tuple[int, ...]]] = []

    def callback(pipeline: Any, step: int, timestep: int, given: Any) -> dict[str, Any]:
        assert pipeline is pipe
        seen.append((step, timestep, tuple(given["latents"].shape)))
        return given

    mask = Image.new("L", cutout.size, 255)
    common = {"prompt": PROMPT, "image": cutout, "mask_image": mask, "num_images_per_prompt": 2}
    pictures = pipe(**common, generator=seeded(1), callback_on_step_end=callback).images
    assert [p.size for p in pictures] == [(128, 128)] * 2 and len(seen) > 40
    assert [k for k, *_ in seen[: len(seen) // 2]] == list(range(len(seen) // 2))
    arrays = pipe(**common, generator=seeded(1), output_type="np", return_dict=False)[0]
    assert np.array_equal((arrays[1] * 255).round().astype(np.uint8), np.asarray(pictures[1]))
    assert pipe(**common, generator=seeded(1), output_type="pt").images.shape == (2, 3, 128, 128)
    latents = pipe(**common, generator=seeded(1), output_type="latent").images
    assert latents.shape[0] == 2 and not torch.equal(latents[0], latents[1])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"output_type": "jpg"}, "output_type"),
        ({"prompt": ["a", "b"]}, "one prompt a call"),
        ({"mask_image": []}, "0 masks for 1 images"),
        ({"box": [[0, 0, 9, 9], [0, 0, 9, 9]]}, "2 boxes for 1 images"),
        ({"components": {"gates": None}}, "'gates' is no component: choose among"),
        ({"box": [120, 0, 48, 48]}, "canvas"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt"),
        ({"height": 100}, "multiple of"),
        ({"callback_on_step_end": lambda *_: {"latents": torch.zeros(1)}}, "latents cannot be changed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_cannot_be_is_refused(
    pipe: Any, cutout: Image.Image, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        pipe(**{"prompt": PROMPT, "image": cutout, "generator": seeded(0), **more})


def test_a_folder_serves_diffusers_own_loader(
    folder: Path, cutout: Image.Image, pipe: Any, tmp_path: Path
) -> None:
    save_custom_pipeline(tmp_path / "one_way")
    made = DiffusionPipeline.from_pretrained(
        folder, custom_pipeline=str(tmp_path / "one_way"), trust_remote_code=True
    )
    made.set_progress_bar_config(disable=True)
    ours, theirs = (p(PROMPT, cutout, generator=seeded(2)).images[0] for p in (pipe, made))
    assert isinstance(made, SOWPipeline) and np.array_equal(np.asarray(ours), np.asarray(theirs))
    made.save_pretrained(tmp_path / "saved")  # what push_to_hub would send
    again = SOWPipeline.from_pretrained(tmp_path / "saved")
    again.set_progress_bar_config(disable=True)
    assert np.array_equal(np.asarray(again(PROMPT, cutout, generator=seeded(2)).images[0]), np.asarray(ours))


def test_another_schedule_is_refused_by_name(folder: Path, cutout: Image.Image) -> None:
    from diffusers import EDMEulerScheduler

    made = SOWPipeline.from_pretrained(folder, scheduler=EDMEulerScheduler())
    with pytest.raises(UserError, match="EDMEulerScheduler"):
        made(PROMPT, cutout)


def test_no_hydra_is_imported() -> None:
    code = (
        "import sys; from sow import SOWPipeline; print({'hydra', 'omegaconf', 'wandb'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
