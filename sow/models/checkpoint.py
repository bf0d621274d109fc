"""What a checkpoint's configuration files say of its mathematics: understood here, or refused by file, key
and value.

Nothing here imports torch or diffusers, so that a folder is checked before they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from sow.errors import UserError
from sow.models import fields
from sow.models.fields import check_fields, in_json, is_number, is_whole, refused

SCHEDULER_FILE = "scheduler/scheduler_config.json"
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "trailing", "linspace")

# The defaults of diffusers' DDIMScheduler; a file may leave out any of them.
_DDIM: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "clip_sample": True,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "prediction_type": "epsilon",
    "thresholding": False,
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False,
}
_UNCLIPPED = {"clip_sample": False}  # of the classes that never clip
_LINSPACE = {**_UNCLIPPED, "timestep_spacing": "linspace"}
_NARROW = {**_LINSPACE, "beta_start": 0.00085, "beta_end": 0.012}

# Solvers of the same discrete chain of betas, each with its defaults where they are not DDIM's. What was
# trained is the chain and the prediction; the solver is the sampler's choice, and SOW's is DDIM.
CLASSES: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {},
    "DDIMParallelScheduler": {},
    "DDPMScheduler": {},
    "DDPMParallelScheduler": {},
    "PNDMScheduler": {**_UNCLIPPED, "set_alpha_to_one": False},
    "EulerDiscreteScheduler": _LINSPACE,
    "EulerAncestralDiscreteScheduler": _LINSPACE,
    "LMSDiscreteScheduler": _LINSPACE,
    "HeunDiscreteScheduler": _NARROW,
    "KDPM2DiscreteScheduler": _NARROW,
    "KDPM2AncestralDiscreteScheduler": _NARROW,
    "DPMSolverMultistepScheduler": _LINSPACE,
    "DPMSolverSinglestepScheduler": _UNCLIPPED,
    "DEISMultistepScheduler": _LINSPACE,
    "UniPCMultistepScheduler": _LINSPACE,
}

# Rectified flows, with the defaults of diffusers' class.
FLOWS = ("FlowMatchEulerDiscreteScheduler",)
_FLOW: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "use_dynamic_shifting": False,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "time_shift_type": "exponential",
}
_FLOW_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "invert_sigmas": (False,),
    "shift_terminal": (None,),
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "stochastic_sampling": (False,),
}

# Read by other solvers only, or only together with an option that is refused.
_NOT_READ = frozenset(
    "solver_order solver_type solver_p algorithm_type lower_order_final euler_at_final "
    "lambda_min_clipped predict_x0 "
    "disable_corrector skip_prk_steps clip_sample_range sample_max_value dynamic_thresholding_ratio "
    "flow_shift "
    "time_shift_type".split()
)
# Fields that would change what is sampled, with the only values under which they do not.
_NEUTRAL: dict[str, Collection[Any]] = {
    "clip_sample": (False,),  # latents are not pixels, and a clipped step cannot be inverted
    "thresholding": (False,),
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
    "use_flow_sigmas": (False, None),
    "use_dynamic_shifting": (False, None),
    "interpolation_type": ("linear",),
    "timestep_type": ("discrete",),
    "final_sigmas_type": ("zero",),
    "sigma_min": (None,),
    "sigma_max": (None,),
    "shift_terminal": (None,),
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
}
# What files of CLIP's halves have besides their fields: of training, and of writing texts, which they do not
# do.
_NOT_OF_CLIP = frozenset(
    "model_type architectures attention_dropout dropout initializer_factor initializer_range dtype "
    "torch_dtype transformers_version chunk_size_feed_forward gradient_checkpointing id2label label2id "
    "problem_type finetuning_task task_specific_params tokenizer_class return_dict output_attentions "
    "output_hidden_states output_scores use_cache use_bfloat16 torchscript tf_legacy_loss "
    "tie_word_embeddings max_length min_length do_sample early_stopping num_beams num_beam_groups "
    "num_return_sequences diversity_penalty temperature top_k top_p typical_p repetition_penalty "
    "length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size remove_invalid_values".split()
)
_WHOLE_CLIP = (
    *("text_config", "vision_config", "text_config_dict", "vision_config_dict", "logit_scale_init_value"),
)
_CHOICES: dict[str, Collection[str]] = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": PREDICTIONS,
    "timestep_spacing": SPACINGS,
}


def training_schedule(config: Mapping[str, Any], file: str = SCHEDULER_FILE) -> dict[str, Any]:
    """The arguments of diffusers' DDIMScheduler that a scheduler_config.json means.

    A missing field has the default of the file's own class. Raises UserError for a class, field or value
    that is not understood, and for a prediction of epsilon where the last level holds no signal.
    """
    name = config.get("_class_name", "DDIMScheduler")
    if not isinstance(name, str) or name not in CLASSES:
        raise refused(
            file,
            "_class_name",
            name,
            f"a chain of betas sampled by one of {', '.join(CLASSES)} is understood",
        )
    for key, value in config.items():
        if key.startswith("_") or key in _DDIM or key in _NOT_READ:
            continue
        if key not in _NEUTRAL:
            raise refused(file, key, value, "no such field is understood")
    values = {**_DDIM, **CLASSES[name], **{k: v for k, v in config.items() if not k.startswith("_")}}
    for key, allowed in _NEUTRAL.items():
        if key in values and not any(values[key] is a or values[key] == a for a in allowed):
            words = f"only {' or '.join(in_json(a) for a in allowed)} is understood"
            if key not in config:
                words = f"it is what {name} takes where the file is silent, but {words}"
            raise refused(file, key, values[key], f"{words}; write it if nothing else was trained")
    for key, choices in _CHOICES.items():
        if values[key] not in choices:
            raise refused(file, key, values[key], f"one of {', '.join(choices)} is understood")
    _check_numbers(values, file)
    if values["rescale_betas_zero_snr"] and values["prediction_type"] == "epsilon":
        raise UserError(
            f"{file} has rescale_betas_zero_snr=true and prediction_type=epsilon: at the last level all "
            "is noise and "
            "epsilon says nothing; a fine-tune that is labelled wrongly takes "
            "model.prediction_type=v_prediction "
            "(model.prediction_type)"
        )
    return {key: values[key] for key in _DDIM}


def check_scheduler(config: Mapping[str, Any], file: str = SCHEDULER_FILE) -> None:
    """Raise UserError for a process that is not understood, a chain of betas or a flow."""
    (flow_schedule if config.get("_class_name") in FLOWS else training_schedule)(config, file)


def flow_schedule(config: Mapping[str, Any], file: str = SCHEDULER_FILE) -> dict[str, Any]:
    """The arguments of diffusers' FlowMatchEulerDiscreteScheduler that a scheduler_config.json means; raises
    UserError for a field or value that is not understood."""
    for key, value in config.items():
        if key.startswith("_"):
            continue
        if key in _FLOW_NEUTRAL:
            if value not in _FLOW_NEUTRAL[key]:
                raise refused(file, key, value, f"only {in_json(_FLOW_NEUTRAL[key][0])} is understood")
        elif key not in _FLOW:
            raise refused(file, key, value, "no such field of a flow is understood")
    values = {**_FLOW, **{k: v for k, v in config.items() if k in _FLOW}}
    if not is_whole(values["num_train_timesteps"]) or values["num_train_timesteps"] < 1:
        value = values["num_train_timesteps"]
        raise refused(file, "num_train_timesteps", value, "a whole number from 1 on is understood")
    if not isinstance(values["use_dynamic_shifting"], bool):
        value = values["use_dynamic_shifting"]
        raise refused(file, "use_dynamic_shifting", value, "true or false is understood")
    if values["time_shift_type"] not in ("exponential", "linear"):
        raise refused(
            file, "time_shift_type", values["time_shift_type"], "exponential or linear is understood"
        )
    for key in ("shift", "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len"):
        if not is_number(values[key]) or values[key] <= 0:
            raise refused(file, key, values[key], "a number above 0 is understood")
    return values


def _check_numbers(values: Mapping[str, Any], file: str) -> None:
    for key in ("set_alpha_to_one", "rescale_betas_zero_snr"):
        if not isinstance(values[key], bool):
            raise refused(file, key, values[key], "true or false is understood")
    total, offset, betas = values["num_train_timesteps"], values["steps_offset"], values["trained_betas"]
    if not is_whole(total) or total < 1:
        raise refused(file, "num_train_timesteps", total, "a whole number from 1 on is understood")
    if not is_whole(offset) or offset < 0:
        raise refused(file, "steps_offset", offset, "a whole number from 0 on is understood")
    if betas is not None:
        good = isinstance(betas, list | tuple) and all(is_number(b) and 0 < b < 1 for b in betas)
        if not good or len(betas) != total:
            raise refused(file, "trained_betas", betas, f"null or {total} numbers in (0, 1) are understood")
        return
    for key in ("beta_start", "beta_end"):
        if not is_number(values[key]) or not 0 < values[key] < 1:
            raise refused(file, key, values[key], "a number in (0, 1) is understood")


def check_vae(config: Mapping[str, Any], file: str = "vae/config.json", place: str = "model.path") -> None:
    """Raise UserError for an autoencoder whose latents are not understood: its class, and how they are
    normalised."""
    _check_class(config, "AutoencoderKL", file, place)
    check_fields(config, fields.VAE, file, place)
    channels = config.get("latent_channels", 4)
    mean, std = config.get("latents_mean"), config.get("latents_std")
    for key, values, other in (("latents_mean", mean, std), ("latents_std", std, mean)):
        if values is None:
            if other is not None:
                raise refused(file, key, None, "latents_mean and latents_std come together", place)
            continue
        good = isinstance(values, list | tuple) and len(values) == channels and all(map(is_number, values))
        if not good or (key == "latents_std" and min(values) <= 0):
            words = f"null or {channels} numbers, the deviations above 0, are understood"
            raise refused(file, key, values, words, place)
        if shift := config.get("shift_factor"):
            raise refused(file, "shift_factor", shift, f"it is not understood beside {key}", place)


def check_unet(config: Mapping[str, Any], file: str = "unet/config.json", place: str = "model.path") -> None:
    """Raise UserError for a UNet that wants more than latents, a timestep and a prompt."""
    _check_class(config, "UNet2DConditionModel", file, place)
    check_fields(config, fields.UNET, file, place)
    plain: dict[str, Collection[Any]] = {
        "time_cond_proj_dim": (None,),  # distilled guidance (latent consistency models)
        "addition_embed_type": (None, "text_time"),
        "encoder_hid_dim_type": (None, "text_proj"),
        "class_embed_type": (None,),
        "num_class_embeds": (None,),
        "attention_type": ("default",),
    }
    for key, allowed in plain.items():
        value = config.get(key, next(iter(allowed)))
        if value not in allowed:
            words = "a UNet of Stable Diffusion 1, 2 or XL takes latents, a timestep and a prompt"
            raise refused(file, key, value, words, place)


def check_text_encoder(
    config: Mapping[str, Any], file: str = "text_encoder/config.json", place: str = "model.path"
) -> None:
    """Raise UserError for a text encoder that is not CLIP's."""
    _check_clip("text", fields.CLIP_TEXT, config, file, place)


def check_image_encoder(config: Mapping[str, Any], file: str, place: str = "model.path") -> None:
    """Raise UserError for an image encoder that is not CLIP's."""
    _check_clip("vision", fields.CLIP_VISION, config, file, place)


def _check_clip(half: str, own: fields.Fields, config: Mapping[str, Any], file: str, place: str) -> None:
    """Raise UserError for a configuration that is not of the `half` of CLIP, "text" or "vision", whose fields
    are `own`."""
    kind = config.get("model_type", f"clip_{half}_model")
    if kind not in ("clip", f"clip_{half}_model"):
        raise refused(file, "model_type", kind, f"the {half} encoder of CLIP is understood", place)
    inner = config.get(f"{half}_config")
    if kind == "clip" and isinstance(inner, Mapping):  # of a whole CLIP
        inner = {**inner, "model_type": f"clip_{half}_model"}
        _check_clip(half, own, inner, f"{file} ({half}_config)", place)
        config = {k: v for k, v in config.items() if k not in _WHOLE_CLIP}
    check_known(config, own.keys() | _NOT_OF_CLIP, file, place)
    check_fields(config, own, file, place)


def check_controlnet(config: Mapping[str, Any], file: str, place: str = "method.path") -> None:
    """Raise UserError for a ControlNet that does more than add residuals to a UNet's."""
    _check_class(config, "ControlNetModel", file, place)
    check_fields(config, fields.CONTROLNET, file, place)
    if config.get("global_pool_conditions"):
        raise refused(file, "global_pool_conditions", True, "only false is understood", place)


# The check of each class of diffusers and transformers that has one.
CHECKS: dict[str, Callable[[Mapping[str, Any], str, str], None]] = {
    "AutoencoderKL": check_vae,
    "CLIPTextModel": check_text_encoder,
    "CLIPTextModelWithProjection": check_text_encoder,
    "CLIPVisionModelWithProjection": check_image_encoder,
    "ControlNetModel": check_controlnet,
    "UNet2DConditionModel": check_unet,
}


def check_known(
    config: Mapping[str, Any], known: Collection[str], file: str, place: str = "model.path"
) -> None:
    """Raise UserError, naming the option `place`, for a field that the model's class does not have and that
    says something."""
    for key, value in config.items():
        says_something = value not in (None, False, {}, [])
        if not key.startswith("_") and key not in known and says_something:
            raise refused(file, key, value, "no such field is understood", place)


def attention_layers(config: Mapping[str, Any], latent_size: tuple[int, int]) -> set[tuple[str, int]]:
    """(block, longer side in tokens) of every self-attention layer of a UNet, at latents of (height,
    width)."""
    down = config.get("down_block_types") or ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up = config.get("up_block_types") or ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    middle = config.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    sides, side = [], max(latent_size)
    for _ in down:
        sides.append(side)
        side = (side + 1) // 2
    blocks = [("down", name, side) for name, side in zip(down, sides, strict=True)]
    blocks += [("up", name, side) for name, side in zip(up, reversed(sides), strict=True)]
    blocks.append(("mid", middle or "", sides[-1]))
    return {(block, side) for block, name, side in blocks if "Attn" in name}


def read(file: Path) -> dict[str, Any]:
    """The JSON object in `file`; raises UserError when there is none."""
    try:
        if file.exists() and not file.is_file():
            raise OSError("it is no regular file")
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {file}: {error} (model.path)") from error
    if not isinstance(found, dict):
        raise UserError(f"{file} holds no JSON object: give a Stable-Diffusion-format folder (model.path)")
    return found


def _check_class(config: Mapping[str, Any], wanted: str, file: str, place: str = "model.path") -> None:
    name = config.get("_class_name", wanted)
    if name != wanted:
        raise refused(file, "_class_name", name, f"{wanted} is understood", place)
