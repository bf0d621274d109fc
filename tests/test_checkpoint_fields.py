"""A checkpoint's own mathematics is honoured or refused by file, key and value; a new instance is one more
row."""

from __future__ import annotations

import inspect
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from checkpoints import save_tiny
from diffusers import DDIMScheduler

from sow import compose
from sow.errors import UserError
from sow.method import noise
from sow.method.diffusion import Schedule, ddim_step
from sow.models import checkpoint, fields
from sow.models.pretrained import Pretrained
from sow.models.tiny import SCHEDULER

WORDS = ["metrics=none", "tracker=none", "planner=fixed", "intensify=none", "model=local", "model.device=cpu"]
V = {"prediction_type": "v_prediction"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a checkpoint on disk."""
    return save_tiny(tmp_path_factory.mktemp("checkpoint"), _class_name="PNDMScheduler")


@pytest.fixture(scope="module")
def model(folder: Path) -> Pretrained:
    """The component that loads a folder; `replace(model, path=...)` checks another."""
    return compose([*WORDS, f"model.path={folder}"]).model


def edited(folder: Path, place: Path, file: str, **changes: Any) -> Path:
    """A copy of the checkpoint with changes in one of its JSON files."""
    shutil.copytree(folder, place)
    config = json.loads((place / file).read_text())
    (place / file).write_text(json.dumps({**config, **changes}))
    return place


HONOURED: list[dict[str, Any]] = [
    {},
    {"timestep_spacing": "trailing"},
    {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True, **V},
    {"timestep_spacing": "leading", "rescale_betas_zero_snr": True, **V},
    {"timestep_spacing": "trailing", "prediction_type": "sample"},
    {"steps_offset": 0},
    {"steps_offset": 3, "set_alpha_to_one": True},
    {"set_alpha_to_one": True},
    {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"num_train_timesteps": 500},
    {"num_train_timesteps": 60, "trained_betas": [0.001 + 0.0004 * i for i in range(60)]},
    V,
    {"prediction_type": "sample"},
    {"_class_name": "PNDMScheduler", "skip_prk_steps": True},
    {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": False, "interpolation_type": "linear"},
    {"_class_name": "DDPMScheduler", "variance_type": "fixed_small"},
    {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 2, "algorithm_type": "dpmsolver++"},
]


@pytest.mark.parametrize("steps", [10, 20, 50])
@pytest.mark.parametrize("changes", HONOURED, ids=lambda c: " ".join(f"{k}={v}"[:40] for k, v in c.items()))
def test_timesteps_and_steps_are_those_of_diffusers(changes, steps):
    config = {**SCHEDULER, **changes}
    reference = DDIMScheduler.from_config(config)
    reference.set_timesteps(steps)
    schedule = Schedule.from_config(config, steps)
    assert list(schedule.timesteps) == reference.timesteps.tolist()[::-1]
    torch.testing.assert_close(schedule.alphas_cumprod, reference.alphas_cumprod, rtol=0, atol=0)
    for k in (0, 1, steps - 1):
        output, x = (
            noise.randn((1, 4, 6, 5), noise.generator(seed), "cpu", torch.float64) for seed in (1, 2)
        )
        e, own = schedule.predicted(output, x, k)
        ours, x0 = ddim_step(x, e, schedule.level(k + 1), schedule.level(k), x0=own)
        theirs = reference.step(output, schedule.timesteps[k], x)
        torch.testing.assert_close(ours, theirs.prev_sample, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(x0, theirs.pred_original_sample, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("steps", [1, 7, 10, 30, 61, 103])
@pytest.mark.parametrize("spacing", checkpoint.SPACINGS)
def test_every_spacing_gives_that_many_rising_timesteps(spacing, steps):
    config = {**SCHEDULER, "timestep_spacing": spacing}
    reference = DDIMScheduler.from_config(config)
    reference.set_timesteps(steps)
    timesteps = Schedule.from_config(config, steps).timesteps
    # Rounding gives diffusers a step at -1 for some trailing numbers of steps.
    assert list(timesteps) == [t for t in reference.timesteps.tolist()[::-1] if t >= 0]
    assert len(timesteps) == steps and list(timesteps) == sorted(set(timesteps))


def test_the_timesteps_of_ten_steps():
    for spacing, expected in {
        "leading": [1, 101, 201, 301, 401, 501, 601, 701, 801, 901],
        "trailing": [99, 199, 299, 399, 499, 599, 699, 799, 899, 999],
        "linspace": [0, 111, 222, 333, 444, 555, 666, 777, 888, 999],
    }.items():
        schedule = Schedule.from_config({**SCHEDULER, "timestep_spacing": spacing}, 10)
        assert list(schedule.timesteps) == expected


@pytest.mark.parametrize("name", checkpoint.CLASSES)
def test_what_a_file_leaves_out_is_its_own_class_default(name):
    own = {
        key: p.default
        for key, p in inspect.signature(getattr(diffusers, name).__init__).parameters.items()
        if key in checkpoint.training_schedule({**SCHEDULER})
    }
    found = {**checkpoint._DDIM, **checkpoint.CLASSES[name]}
    assert {key: found[key] for key in own} == own
    if "clip_sample" not in own:
        assert found["clip_sample"] is False


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"_class_name": "EDMEulerScheduler"}, "_class_name.*EDMEulerScheduler"),
    ({"_class_name": "EDMDPMSolverMultistepScheduler"}, "EDMDPMSolverMultistepScheduler"),
    ({"_class_name": "FlowMatchHeunDiscreteScheduler", "shift": 3.0}, "FlowMatchHeunDiscreteScheduler"),
    ({"_class_name": "LCMScheduler", "original_inference_steps": 50}, "LCMScheduler"),
    ({"_class_name": "TCDScheduler"}, "TCDScheduler"),
    ({"_class_name": "CMStochasticIterativeScheduler"}, "CMStochasticIterativeScheduler"),
    ({"_class_name": 7}, "_class_name=7"),
    ({"_class_name": ["DDIMScheduler"]}, "_class_name=.*DDIMScheduler"),
    ({"_class_name": {"a": 1}}, "_class_name="),
    ({"_class_name": None}, "_class_name=null"),
    ({"beta_schedule": ["linear"]}, "beta_schedule="),
    ({"beta_start": [0.1]}, "beta_start="),
    ({"num_train_timesteps": "1000"}, "num_train_timesteps=.1000"),
    ({"num_train_timesteps": 1e400}, "num_train_timesteps=Infinity"),
    ({"beta_end": float("nan")}, "beta_end=NaN"),
    ({"use_karras_sigmas": {}}, "use_karras_sigmas="),
    ({"guidance_rescale": 0.7}, "guidance_rescale=0.7"),
    ({"prediction_type": "flow_prediction"}, "prediction_type.*flow_prediction.*model.prediction_type"),
    ({"prediction_type": None}, "prediction_type=null"),
    ({"timestep_spacing": "karras"}, "timestep_spacing.*karras.*model.timestep_spacing"),
    ({"timestep_scaling": 10.0}, "timestep_scaling=10.0"),
    ({"use_karras_sigmas": True}, "use_karras_sigmas=true"),
    ({"use_exponential_sigmas": True}, "use_exponential_sigmas=true"),
    ({"use_flow_sigmas": True, "flow_shift": 3.0}, "use_flow_sigmas=true"),
    ({"use_dynamic_shifting": True}, "use_dynamic_shifting=true"),
    ({"final_sigmas_type": "sigma_min"}, "final_sigmas_type"),
    ({"interpolation_type": "log_linear"}, "interpolation_type"),
    ({"sigma_max": 80.0}, "sigma_max=80.0"),
    ({"variance_type": "learned_range"}, "variance_type"),
    ({"beta_schedule": "sigmoid"}, "beta_schedule.*sigmoid"),
    ({"beta_schedule": "scaled_cosine"}, "beta_schedule"),
    ({"beta_start": "0.001"}, "beta_start"),
    ({"beta_end": float("nan")}, "beta_end=NaN"),
    ({"beta_end": 1.5}, "beta_end=1.5"),
    ({"trained_betas": [0.1, 0.2]}, "trained_betas"),
    ({"num_train_timesteps": 0}, "num_train_timesteps=0"),
    ({"steps_offset": -1}, "steps_offset=-1"),
    ({"set_alpha_to_one": "no"}, "set_alpha_to_one"),
    ({"clip_sample": True}, "clip_sample=true"),
    ({"thresholding": True}, "thresholding=true"),
    ({"snr_shift": 6.0}, "snr_shift=6.0"),
    ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr=true.*model.prediction_type=v_prediction"),
]


@pytest.mark.parametrize("changes, words", REFUSED, ids=lambda value: str(value)[:60])
def test_a_scheduler_that_is_not_understood_is_refused_by_name(folder, model, tmp_path, changes, words):
    with pytest.raises(UserError, match=f"scheduler_config.json.*{words}"):
        Schedule.from_config({**SCHEDULER, **changes}, 10)
    broken = edited(folder, tmp_path / "model", checkpoint.SCHEDULER_FILE, **changes)
    with pytest.raises(UserError, match=f"{broken}/scheduler/scheduler_config.json.*{words}"):
        replace(model, path=str(broken))


def test_a_silent_file_is_refused_for_what_its_class_takes():
    with pytest.raises(
        UserError, match="clip_sample=true: it is what DDIMScheduler takes where the file is silent"
    ):
        Schedule.from_config({"_class_name": "DDIMScheduler"}, 10)
    assert Schedule.from_config({"_class_name": "PNDMScheduler"}, 10).timesteps[0] == 0


PARTS: list[tuple[str, dict[str, Any], str]] = [
    ("unet/config.json", {"time_cond_proj_dim": 256}, "time_cond_proj_dim=256"),
    ("unet/config.json", {"class_embed_type": "projection"}, "class_embed_type"),
    ("unet/config.json", {"num_class_embeds": 1000}, "num_class_embeds=1000"),
    ("unet/config.json", {"encoder_hid_dim_type": "ip_image_proj"}, "encoder_hid_dim_type"),
    ("unet/config.json", {"addition_embed_type": "image"}, "addition_embed_type"),
    ("unet/config.json", {"attention_type": "gated"}, "attention_type"),
    ("unet/config.json", {"_class_name": "UNetSpatioTemporalConditionModel"}, "_class_name"),
    ("vae/config.json", {"_class_name": "AutoencoderTiny"}, "_class_name"),
    ("vae/config.json", {"latents_mean": [0.1, 0.2, 0.3, 0.4]}, "latents_std=null"),
    ("vae/config.json", {"latents_mean": [0.1], "latents_std": [1.0]}, "latents_mean"),
    ("vae/config.json", {"latents_mean": [0.0] * 4, "latents_std": [1.0, 0.0, 1.0, 1.0]}, "latents_std"),
    ("vae/config.json", {"scaling_factor": 0}, "scaling_factor=0"),
    ("vae/config.json", {"scaling_factor": None}, "scaling_factor=null"),
    ("vae/config.json", {"shift_factor": "a lot"}, "shift_factor"),
    ("text_encoder/config.json", {"model_type": "t5"}, "model_type"),
    ("text_encoder/config.json", {"model_type": ["clip"]}, "model_type"),
    ("text_encoder/config.json", {"foo": 1}, "foo=1"),
    ("text_encoder/config.json", {"use_causal_mask": "x"}, "use_causal_mask"),
    ("text_encoder/config.json", {"rope_theta": 10000.0}, "rope_theta=10000.0"),
    ("text_encoder/config.json", {"quantization_config": {"bits": 4}}, "quantization_config"),
    ("text_encoder/config.json", {"is_decoder": True}, "is_decoder=true"),
    ("text_encoder/config.json", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
    ("text_encoder/config.json", {"model_type": "clip", "text_config": {"foo": 1}}, "foo=1"),
    ("unet/config.json", {"_class_name": ["UNet2DConditionModel"]}, "_class_name"),
    ("vae/config.json", {"scaling_factor": [0.18]}, "scaling_factor"),
    ("vae/config.json", {"latents_mean": 0.0, "latents_std": 1.0}, "latents_mean"),
    ("unet/config.json", {"sample_size": "64"}, 'sample_size="64"'),
    ("unet/config.json", {"sample_size": [64, 64, 64]}, "sample_size"),
    ("unet/config.json", {"sample_size": {"height": 64}}, "sample_size"),
    ("unet/config.json", {"sample_size": True}, "sample_size=true"),
    ("unet/config.json", {"in_channels": None}, "in_channels=null"),
    ("unet/config.json", {"out_channels": 4.0}, "out_channels=4.0"),
    ("unet/config.json", {"block_out_channels": "32"}, "block_out_channels"),
    ("unet/config.json", {"block_out_channels": [32, "64"]}, "block_out_channels"),
    ("unet/config.json", {"down_block_types": None}, "down_block_types=null"),
    ("unet/config.json", {"down_block_types": [1, 2]}, "down_block_types"),
    ("unet/config.json", {"up_block_types": ["UpBlock2D"]}, "up_block_types.*one for each of the"),
    ("unet/config.json", {"layers_per_block": []}, "layers_per_block"),
    ("unet/config.json", {"cross_attention_dim": "768"}, "cross_attention_dim"),
    ("unet/config.json", {"attention_head_dim": [8, None]}, "attention_head_dim"),
    ("unet/config.json", {"norm_eps": "1e-5"}, "norm_eps"),
    ("unet/config.json", {"norm_eps": 1e400}, "norm_eps=Infinity"),
    ("unet/config.json", {"flip_sin_to_cos": 1}, "flip_sin_to_cos=1"),
    ("unet/config.json", {"use_linear_projection": "no"}, "use_linear_projection"),
    ("unet/config.json", {"mid_block_type": ["UNetMidBlock2DCrossAttn"]}, "mid_block_type"),
    ("unet/config.json", {"act_fn": None}, "act_fn=null"),
    ("unet/config.json", {"freq_shift": float("nan")}, "freq_shift=NaN"),
    ("vae/config.json", {"block_out_channels": 32}, "block_out_channels=32"),
    ("vae/config.json", {"block_out_channels": None}, "block_out_channels=null"),
    ("vae/config.json", {"block_out_channels": {}}, "block_out_channels"),
    ("vae/config.json", {"latent_channels": "4"}, "latent_channels"),
    ("vae/config.json", {"latent_channels": [4]}, "latent_channels"),
    ("vae/config.json", {"scaling_factor": "0.18215"}, "scaling_factor"),
    ("vae/config.json", {"scaling_factor": True}, "scaling_factor=true"),
    ("vae/config.json", {"shift_factor": [0.1]}, "shift_factor"),
    ("vae/config.json", {"force_upcast": "false"}, "force_upcast"),
    ("vae/config.json", {"use_quant_conv": None}, "use_quant_conv=null"),
    ("vae/config.json", {"norm_num_groups": -32}, "norm_num_groups=-32"),
    ("vae/config.json", {"in_channels": 0}, "in_channels=0"),
    ("text_encoder/config.json", {"hidden_size": "16"}, "hidden_size"),
    ("text_encoder/config.json", {"hidden_size": None}, "hidden_size=null"),
    ("text_encoder/config.json", {"vocab_size": [514]}, "vocab_size"),
    ("text_encoder/config.json", {"num_hidden_layers": 2.5}, "num_hidden_layers=2.5"),
    ("text_encoder/config.json", {"max_position_embeddings": True}, "max_position_embeddings=true"),
    ("text_encoder/config.json", {"layer_norm_eps": {}}, "layer_norm_eps"),
    ("text_encoder/config.json", {"hidden_act": None}, "hidden_act=null"),
    ("text_encoder/config.json", {"eos_token_id": "end"}, "eos_token_id"),
    ("text_encoder/config.json", {"model_type": "clip", "text_config": {"hidden_size": []}}, "hidden_size"),
    ("scheduler/scheduler_config.json", {"trained_betas": "linear"}, "trained_betas"),
    ("scheduler/scheduler_config.json", {"steps_offset": None}, "steps_offset=null"),
    ("scheduler/scheduler_config.json", {"beta_start": True}, "beta_start=true"),
    ("scheduler/scheduler_config.json", {"rescale_betas_zero_snr": "no"}, "rescale_betas_zero_snr"),
    ("scheduler/scheduler_config.json", {"prediction_type": 3}, "prediction_type=3"),
]


@pytest.mark.parametrize("file, changes, words", PARTS, ids=lambda value: str(value)[:60])
def test_a_part_that_is_not_understood_is_refused_before_torch(folder, model, tmp_path, file, changes, words):
    broken = edited(folder, tmp_path / "model", file, **changes)
    with pytest.raises(UserError, match=f"{broken}/{file}.*{words}"):
        replace(model, path=str(broken))


@pytest.mark.parametrize(
    "file, changes, words",
    [
        ("unet/config.json", {"guidance_embeds": True}, "guidance_embeds=true"),
        ("vae/config.json", {"latents_shift": 0.5}, "latents_shift=0.5"),
        ("vae/config.json", {"quantization_config": {"bits": 8}}, "quantization_config"),
        ("unet/config.json", {"guidance_scale": 3.5}, "guidance_scale=3.5"),
    ],
)
def test_a_field_that_the_class_does_not_have_is_refused(folder, model, tmp_path, file, changes, words):
    broken = edited(folder, tmp_path / "model", file, **changes)
    with pytest.raises(UserError, match=f"{broken}/{file}.*{words}"):
        replace(model, path=str(broken)).load()


@pytest.mark.parametrize(
    "cls, known",
    [
        (diffusers.UNet2DConditionModel, fields.UNET),
        (diffusers.AutoencoderKL, fields.VAE),
        (diffusers.ControlNetModel, fields.CONTROLNET),
    ],
)
def test_every_field_of_a_class_has_its_types(cls, known):
    """And what the class takes where a file is silent is of them."""
    own = {n: p.default for n, p in inspect.signature(cls.__init__).parameters.items() if n != "self"}
    assert own.keys() - {"latents_mean", "latents_std"} == known.keys()  # `check_vae` has those
    fields.check_fields(own, known, "file")


# What files of published models say. A row: the class's fields, and those of a file.

PUBLISHED: list[tuple[fields.Fields, dict[str, Any]]] = [
    (fields.UNET, {"sample_size": 96, "attention_head_dim": [5, 10, 20, 20], "dual_cross_attention": False}),
    (fields.UNET, {"sample_size": [64, 96], "num_class_embeds": None, "upcast_attention": True}),
    (fields.UNET, {"transformer_layers_per_block": [1, 2, 10], "upcast_attention": None}),
    (fields.UNET, {"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": 2816}),
    (fields.UNET, {"only_cross_attention": [True, True, True, False], "norm_eps": 1e-05}),
    (fields.UNET, {"mid_block_type": None, "downsample_padding": 0, "mid_block_scale_factor": 1}),
    (fields.VAE, {"scaling_factor": 0.13025, "sample_size": 1024, "force_upcast": True}),
    (fields.VAE, {"scaling_factor": 1.5305, "shift_factor": 0.0609, "use_quant_conv": False}),
    (fields.CLIP_TEXT, {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "layer_norm_eps": 1e-05}),
    (fields.CLIP_VISION, {"image_size": 224, "patch_size": 14, "hidden_act": "gelu", "projection_dim": 1024}),
]


@pytest.mark.parametrize("known, values", PUBLISHED)
def test_what_published_files_say_is_taken(known, values):
    assert values.keys() <= known.keys()
    fields.check_fields(values, known, "file")


def test_the_fields_of_clips_own_class_are_known():
    """And those that files of earlier versions of transformers carry along."""
    from transformers import CLIPTextConfig

    checkpoint.check_text_encoder(CLIPTextConfig().to_dict())
    old = {"torch_dtype": "float32", "dropout": 0.0, "top_k": 50, "pruned_heads": {}, "use_bfloat16": False}
    checkpoint.check_text_encoder(CLIPTextConfig().to_dict() | old | {"is_decoder": False, "num_beams": 1})
    checkpoint.check_text_encoder({"model_type": "clip", "text_config": old, "vision_config": {"a": 1}})


BROKEN_FILES: dict[str, str | bytes | None] = {
    "deep": "[" * 100_000,
    "a list": "[]",
    "half": '{"a": ',
    "bytes": b"\xff\xfe",
    "empty": "",
    "a pipe": None,
}


@pytest.mark.parametrize(
    "part", ["scheduler/scheduler_config.json", "unet/config.json", "text_encoder/config.json"]
)
@pytest.mark.parametrize("what", BROKEN_FILES)
def test_a_configuration_that_cannot_be_read_is_one_line(folder, model, tmp_path, part, what):
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    file, text = place / part, BROKEN_FILES[what]
    file.unlink()
    if text is None:
        os.mkfifo(file)
    else:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=f"{file}.*model.path") as caught:
        replace(model, path=str(place))
    assert "\n" not in str(caught.value)


CONTROLNETS: list[tuple[dict[str, Any], str]] = [
    ({"_class_name": "ControlNetUnionModel"}, "_class_name"),
    ({"global_pool_conditions": True}, "global_pool_conditions=true"),
    ({"control_strength": 2.0}, "control_strength=2.0"),
    ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ({"foo": "x"}, "foo"),
]


@pytest.mark.parametrize("changes, words", CONTROLNETS, ids=lambda value: str(value)[:60])
def test_a_controlnet_that_is_not_understood_is_refused(tmp_path, changes, words):
    from types import SimpleNamespace

    import sow.people
    from sow.baselines import controlnet

    shipped = Path(sow.people.__file__).parent / "controlnet" / "config.json"
    (tmp_path / "config.json").write_text(json.dumps({**json.loads(shipped.read_text()), **changes}))
    unet = SimpleNamespace(config=SimpleNamespace(cross_attention_dim=1))
    backbone: Any = SimpleNamespace(unet=unet, dtype=torch.float32)
    options: Any = SimpleNamespace(path=str(tmp_path), hub={})
    with pytest.raises(UserError, match=f"{tmp_path}/config.json has {words}.*method.path"):
        controlnet.load(options, backbone)


def test_the_latents_mean_and_deviation_are_those_of_diffusers(folder, model, tmp_path):
    mean, std = [0.5, -0.25, 0.125, 1.0], [2.0, 0.5, 1.0, 4.0]
    own = edited(folder, tmp_path / "model", "vae/config.json", latents_mean=mean, latents_std=std)
    image = noise.randn((1, 3, 64, 64), noise.generator(0), "cpu", torch.float32).clamp(-1, 1)
    plain = model.load()
    raw, decoded = plain.encode(image) / plain.vae.config.scaling_factor, plain.decode(plain.encode(image))
    normal = replace(model, path=str(own)).load()
    m, s = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    latents = normal.encode(image)
    torch.testing.assert_close(latents, (raw - m) * normal.vae.config.scaling_factor / s)
    torch.testing.assert_close(normal.decode(latents), decoded, rtol=1e-4, atol=1e-5)


def test_a_fine_tune_that_is_labelled_wrongly_is_put_right(folder, model, tmp_path):
    told = replace(model, prediction_type="v_prediction", timestep_spacing="trailing").load()
    schedule = Schedule.from_config(told.scheduler_config, 10)
    assert schedule.prediction_type == "v_prediction" and schedule.timesteps[-1] == 999
    zero = edited(folder, tmp_path / "zero", checkpoint.SCHEDULER_FILE, rescale_betas_zero_snr=True)
    with pytest.raises(UserError, match="model.prediction_type=v_prediction"):
        replace(model, path=str(zero))
    replace(model, path=str(zero), prediction_type="v_prediction")


def test_a_chain_from_a_level_without_signal_is_that_of_diffusers(folder, model, tmp_path):
    from sow.method.denoiser import Model
    from sow.method.guidance import ClassifierFree

    fields = {**V, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    own = edited(folder, tmp_path / "zero", checkpoint.SCHEDULER_FILE, **fields)
    backbone = replace(model, path=str(own)).load()
    made = Model.of(backbone, 4)
    reference = DDIMScheduler.from_config({**SCHEDULER, **fields})
    reference.set_timesteps(4)
    assert made.schedule.level(4) == 0 and made.schedule.timesteps[-1] == 999
    denoiser = made.denoiser(ClassifierFree(3.0, "bad"), ["a cat"])
    embeds = backbone.embed(["bad", "a cat"])
    ours = theirs = noise.randn((1, 4, 8, 8), noise.generator(5), "cpu", torch.float32)
    for k in reversed(range(4)):
        ours, *_ = denoiser.step(ours, k)
        with torch.no_grad():
            u, c = backbone.unet(torch.cat([theirs] * 2), made.schedule.timesteps[k], embeds).sample.chunk(2)
        theirs = reference.step(u + 3.0 * (c - u), made.schedule.timesteps[k], theirs).prev_sample
    assert ours.isfinite().all()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="holds noise alone.*model.timestep_spacing=leading"):
        made.schedule.need_signal("method=lanpaint")
