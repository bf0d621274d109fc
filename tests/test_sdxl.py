"""Stable Diffusion XL and the older formats: folders of small random weights,
held against diffusers' own pipelines."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from small_baselines import NEGATIVE, plan, request
from test_baselines_learned import adapter_words, save_adapter
from test_sampler import moved
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sow import build, compose
from sow.baselines.sampler import BaselineSampler
from sow.errors import UserError
from sow.method import noise
from sow.method.denoiser import Model
from sow.models.backbone_xl import XLBackbone
from sow.models.tiny import SCHEDULER, byte_tokenizer
from sow.pipeline.factory import pipeline
from sow.pipeline.pipeline import Pipeline

WORDS = ["metrics=none", "tracker=none", "planner=fixed", "intensify=none", "model=local", "model.device=cpu"]
SIDE = 64


def autoencoder(scaling: float) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 8, 8, 8),
        norm_num_groups=4,
        sample_size=SIDE,
        scaling_factor=scaling,
    )


def text_config(width: int, projection: int = 24, layers: int = 2) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=514,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=projection,
        bos_token_id=512,
        eos_token_id=513,
    )


def unet(**more) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        **{
            "sample_size": SIDE // 8,
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": 2,
            "norm_num_groups": 8,
            **more,
        }
    )


def save_scheduler(folder: Path, **more) -> None:
    (folder / "scheduler").mkdir(parents=True)
    config = {**SCHEDULER, "_class_name": "PNDMScheduler", "skip_prk_steps": True, **more}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints in the formats of Stable Diffusion 1.5, 2.1 (predicting v) and XL."""
    base = tmp_path_factory.mktemp("checkpoints")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, own in {
            "sd15": {"cross_attention_dim": 16},
            "sd21": {"cross_attention_dim": 24, "use_linear_projection": True, "upcast_attention": True},
        }.items():
            unet(**own).save_pretrained(base / name / "unet")
            CLIPTextModel(text_config(own["cross_attention_dim"])).save_pretrained(
                base / name / "text_encoder"
            )
            autoencoder(0.18215).save_pretrained(base / name / "vae")
        unet(
            cross_attention_dim=40,
            transformer_layers_per_block=(1, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=6 * 4 + 56,
        ).save_pretrained(base / "sdxl" / "unet")
        CLIPTextModel(text_config(16)).save_pretrained(base / "sdxl" / "text_encoder")
        # A pooled embedding wider than a row of token states: it fills two rows.
        second = CLIPTextModelWithProjection(text_config(24, projection=56))
        second.save_pretrained(base / "sdxl" / "text_encoder_2")
        autoencoder(0.13025).save_pretrained(base / "sdxl" / "vae")
    for name in ("sd15", "sd21", "sdxl"):
        byte_tokenizer().save_pretrained(base / name / "tokenizer")
        save_scheduler(base / name, prediction_type="v_prediction" if name == "sd21" else "epsilon")
    byte_tokenizer().save_pretrained(base / "sdxl" / "tokenizer_2")
    return {name: base / name for name in ("sd15", "sd21", "sdxl")}


def sampler(folder: Path, *words: str):
    return build(compose([*WORDS, f"model.path={folder}", *words]))


def chain(folder: Path, *words: str) -> Pipeline:
    """Plain sampling from noise with our loop."""
    config = compose([*WORDS, f"model.path={folder}", *words])
    options = SimpleNamespace(eta=0.0, prompt="user", vae="mode")
    model = Model.of(build(config).backbone, 4)
    canvas = config.model.canvas_of(model.backbone, config.width, config.height)
    return pipeline(config, BaselineSampler(model, canvas, config.seed_init, config.guidance, options))


def theirs(
    folder: Path, x: torch.Tensor, prompt: str, negative: str | None, adapter: Path | None = None
) -> torch.Tensor:
    """The same sampling by diffusers, everything loaded by itself; with an adapter,
    it sees the request's condition."""
    kind = StableDiffusionXLPipeline if folder.name == "sdxl" else StableDiffusionPipeline
    part = lambda cls, name: cls.from_pretrained(folder, subfolder=name)  # noqa: E731
    parts = {
        "vae": part(AutoencoderKL, "vae"),
        "text_encoder": part(CLIPTextModel, "text_encoder"),
        "tokenizer": byte_tokenizer(),
        "unet": part(UNet2DConditionModel, "unet"),
        "scheduler": part(DDIMScheduler, "scheduler"),
    }
    if folder.name == "sdxl":
        second = part(CLIPTextModelWithProjection, "text_encoder_2")
        parts |= {"text_encoder_2": second, "tokenizer_2": byte_tokenizer()}
    else:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = kind(**parts)
    pipe.set_progress_bar_config(disable=True)
    size = {"height": x.shape[-2] * 8, "width": x.shape[-1] * 8}
    more = {}
    if adapter:
        names = {"weight_name": "plus-face.safetensors", "image_encoder_folder": "models/image_encoder"}
        pipe.load_ip_adapter(str(adapter), subfolder="models", **names)
        pipe.set_ip_adapter_scale(0.6)
        more["ip_adapter_image"] = request().conditions[0].on_gray()
    return pipe(
        prompt,
        negative_prompt=negative,
        **size,
        num_inference_steps=4,
        guidance_scale=7.5,
        latents=x.clone(),
        output_type="latent",
        **more,
    ).images


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl"])
@pytest.mark.parametrize("negative", [NEGATIVE, None])
def test_every_format_samples_as_diffusers_does(folders, name, negative):
    words = [f"guidance.negative_prompt='{negative or ''}'"]
    made = chain(folders[name], "width=80", *words)
    x = noise.randn((1, 4, 8, 10), noise.generator(request().seed), "cpu", torch.float32)
    ours = made.generate([request()], plans=[plan()])[0].latents
    torch.testing.assert_close(
        ours, theirs(folders[name], x, request().prompt, negative), rtol=1e-4, atol=1e-4
    )


def test_xl_is_told_the_size_of_what_it_sees(folders):
    backbone = sampler(folders["sdxl"]).backbone
    assert isinstance(backbone, XLBackbone) and backbone.rows == 2
    embeds = backbone.embed(["a person", "a cat", ""])
    assert embeds.shape == (3, 79, 40)
    made = backbone.unet_inputs(torch.zeros(3, 4, 6, 5), embeds)
    assert made["encoder_hidden_states"].shape == (3, 77, 40)
    assert made["added_cond_kwargs"]["text_embeds"].shape == (3, 56)
    assert made["added_cond_kwargs"]["time_ids"].tolist() == [[48, 40, 0, 0, 48, 40]] * 3
    assert not embeds[2].any() and embeds[1].any(-1).all()


def test_xls_empty_prompt_is_encoded_where_the_model_says_so(folders, tmp_path):
    folder = tmp_path / "sdxl"
    shutil.copytree(folders["sdxl"], folder)
    (folder / "model_index.json").write_text(json.dumps({"force_zeros_for_empty_prompt": False}))
    assert sampler(folder).backbone.embed([""]).any()


def test_xls_autoencoder_stays_in_float32(folders):
    made = sampler(folders["sdxl"], "model.dtype=float16").backbone
    assert made.unet.dtype == torch.float16 and made.vae.dtype == torch.float32
    latents = made.encode(torch.zeros(1, 3, 64, 64))
    assert latents.dtype == torch.float16
    assert made.decode(latents).isfinite().all()
    assert sampler(folders["sd21"], "model.dtype=float16").backbone.vae.dtype == torch.float16


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl"])
@pytest.mark.parametrize(
    "method",
    ["sow", "cow", "sd_inpaint", "blended_latent", "repaint", "lanpaint", "densediffusion", "masactrl"],
)
def test_every_method_runs_on_every_format(folders, name, method):
    words = ["calibration.cycles=1"]
    if method in ("sd_inpaint", "blended_latent", "repaint", "lanpaint", "masactrl"):
        words = ["method.num_inference_steps=2"]
    if method == "cow":
        words = ["cycle.cycles=1"]
    sample = sampler(folders[name], f"method={method}", *words).generate([request()], plans=[plan()])[0]
    assert sample.latents.isfinite().all() and sample.image.size == (SIDE, SIDE)


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl"])
@pytest.mark.parametrize("method", ["textual_inversion", "dreambooth"])
def test_every_format_learns_a_condition(folders, tmp_path, name, method):
    words = [
        "method.num_inference_steps=1",
        "method.steps=2",
        "method.train_batch=1",
        f"method.cache={tmp_path}",
    ]
    if method == "dreambooth":
        words += ["method.class_images=1", "method.class_steps=1"]
    sample = sampler(folders[name], f"method={method}", *words).generate([request()], plans=[plan()])[0]
    assert sample.latents.isfinite().all() and sample.seconds["train"] > 0


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl"])
def test_every_format_takes_a_controlnet(folders, tmp_path, name):
    unet = UNet2DConditionModel.from_pretrained(folders[name], subfolder="unet")
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 8, 8))
    for p in net.controlnet_down_blocks.parameters():
        torch.nn.init.constant_(p, 0.05)
    net.save_pretrained(tmp_path)
    words = [
        "method=controlnet_canny",
        f"method.path={tmp_path}",
        "method.num_inference_steps=1",
        "method.eta=0",
    ]
    made = sampler(folders[name], *words)
    steered, plain = (
        made_of.generate([request()], plans=[plan()])[0].latents
        for made_of in (made, made.variant(options=replace(made.method.options, scale=0.0)))
    )
    assert steered.isfinite().all() and moved(steered, plain) > 1e-4


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl"])
def test_every_format_takes_an_ip_adapter(folders, tmp_path, name):
    folder = tmp_path / "adapter"
    save_adapter(folder, UNet2DConditionModel.from_pretrained(folders[name], subfolder="unet"))
    words = ["method=ip_adapter", "method.num_inference_steps=4", *adapter_words(folder)]
    ours, plain = (
        sampler(folders[name], *words, f"method.scale={scale}")
        .generate([request()], plans=[plan()])[0]
        .latents
        for scale in (0.6, 0.0)
    )
    assert ours.isfinite().all() and moved(ours, plain) > 1e-3
    x = noise.randn((1, 4, 8, 8), noise.generator(request().seed), "cpu", torch.float32)
    reference = theirs(folders[name], x, request().prompt, NEGATIVE, folder)
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)


def test_sow_on_xl_is_the_same_in_a_batch(folders):
    made = sampler(folders["sdxl"], "model.dtype=float64", "calibration.cycles=1", "gate.tau=0")
    both = made.generate([request(0), request(1)], plans=[plan(0), plan(1)])
    for i in (0, 1):
        alone = made.generate([request(i)], plans=[plan(i)])[0]
        assert moved(both[i].latents, alone.latents) < 1e-6
    assert any(row.get(key) for row in both[0].trace for key in row if key.startswith("gate/"))


def test_the_canvas_of_xl_scales_conditions_and_boxes():
    config = compose(
        [*[w for w in WORDS if not w.startswith("model")], "model=sdxl", "condition.image=a.png"]
    )
    assert config.choices["calibration"] == "paper" and config.model.variant == "fp16"
    like_xl = SimpleNamespace(unet=SimpleNamespace(config={"sample_size": 128}), factor=8)
    canvas = config.model.canvas_of(like_xl, None, None)
    assert (canvas.width, canvas.height, canvas.condition_min, canvas.condition_max) == (1024, 1024, 360, 512)
    boxes = config.planner.plan([request()], canvas)[0].boxes
    assert boxes[0].as_list() == [256, 0, 512, 512]


@pytest.mark.parametrize("part", ["text_encoder_2", "tokenizer_2", "vae"])
def test_a_missing_part_of_xl_is_named(folders, tmp_path, part):
    folder = tmp_path / "sdxl"
    shutil.copytree(folders["sdxl"], folder)
    shutil.rmtree(folder / part)
    with pytest.raises(UserError, match=f"lacks {part}.*model.path") as caught:
        sampler(folder)
    assert "\n" not in str(caught.value)


def test_broken_weights_of_xl_and_other_models_fail_on_one_line(folders, tmp_path):
    folder = tmp_path / "sdxl"
    shutil.copytree(folders["sdxl"], folder)
    next((folder / "text_encoder_2").glob("*.safetensors")).unlink()
    with pytest.raises(UserError, match="cannot load the model in.*model.path") as caught:
        sampler(folder)
    assert "\n" not in str(caught.value)
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "addition_embed_type": "text_image"}))
    with pytest.raises(UserError, match="text_image.*model.path"):
        sampler(folder)
