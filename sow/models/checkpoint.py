"""What a checkpoint's configuration files say of its mathematics: understood here, or refused by file, key
and value.

Nothing here imports torch or diffusers, so that a folder is checked before they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from sow.errors import UserError

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
# Fields of CLIP's text encoder, and what its files have besides: of training, and of writing texts, which it
# does not do.
_CLIP_TEXT = frozenset(
    "vocab_size hidden_size intermediate_size projection_dim num_hidden_layers num_attention_heads "
    "max_position_embeddings hidden_act layer_norm_eps pad_token_id bos_token_id eos_token_id "
    "model_type".split()
)
_NOT_OF_TEXT = frozenset(
    "architectures attention_dropout dropout initializer_factor initializer_range dtype torch_dtype "
    "transformers_version chunk_size_feed_forward gradient_checkpointing id2label label2id problem_type "
    "finetuning_task task_specific_params tokenizer_class return_dict output_attentions "
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
_OPTIONS = {"prediction_type": "model.prediction_type", "timestep_spacing": "model.timestep_spacing"}


def training_schedule(config: Mapping[str, Any], file: str = SCHEDULER_FILE) -> dict[str, Any]:
    """The arguments of diffusers' DDIMScheduler that a scheduler_config.json means.

    A missing field has the default of the file's own class. Raises UserError for a class, field or value
    that is not understood, and for a prediction of epsilon where the last level holds no signal.
    """
    name = config.get("_class_name", "DDIMScheduler")
    if not isinstance(name, str) or name not in CLASSES:
        raise _refused(
            file,
            "_class_name",
            name,
            f"a chain of betas sampled by one of {', '.join(CLASSES)} is understood",
        )
    for key, value in config.items():
        if key.startswith("_") or key in _DDIM or key in _NOT_READ:
            continue
        if key not in _NEUTRAL:
            raise _refused(file, key, value, "no such field is understood")
    values = {**_DDIM, **CLASSES[name], **{k: v for k, v in config.items() if not k.startswith("_")}}
    for key, allowed in _NEUTRAL.items():
        if key in values and not any(values[key] is a or values[key] == a for a in allowed):
            words = f"only {' or '.join(_json(a) for a in allowed)} is understood"
            if key not in config:
                words = f"it is what {name} takes where the file is silent, but {words}"
            raise _refused(file, key, values[key], f"{words}; write it if nothing else was trained")
    for key, choices in _CHOICES.items():
        if values[key] not in choices:
            raise _refused(file, key, values[key], f"one of {', '.join(choices)} is understood")
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
                raise _refused(file, key, value, f"only {_json(_FLOW_NEUTRAL[key][0])} is understood")
        elif key not in _FLOW:
            raise _refused(file, key, value, "no such field of a flow is understood")
    values = {**_FLOW, **{k: v for k, v in config.items() if k in _FLOW}}
    if not _whole(values["num_train_timesteps"]) or values["num_train_timesteps"] < 1:
        value = values["num_train_timesteps"]
        raise _refused(file, "num_train_timesteps", value, "a whole number from 1 on is understood")
    if not isinstance(values["use_dynamic_shifting"], bool):
        value = values["use_dynamic_shifting"]
        raise _refused(file, "use_dynamic_shifting", value, "true or false is understood")
    if values["time_shift_type"] not in ("exponential", "linear"):
        raise _refused(
            file, "time_shift_type", values["time_shift_type"], "exponential or linear is understood"
        )
    for key in ("shift", "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len"):
        if not _number(values[key]) or values[key] <= 0:
            raise _refused(file, key, values[key], "a number above 0 is understood")
    return values


def _check_numbers(values: Mapping[str, Any], file: str) -> None:
    for key in ("set_alpha_to_one", "rescale_betas_zero_snr"):
        if not isinstance(values[key], bool):
            raise _refused(file, key, values[key], "true or false is understood")
    total, offset, betas = values["num_train_timesteps"], values["steps_offset"], values["trained_betas"]
    if not _whole(total) or total < 1:
        raise _refused(file, "num_train_timesteps", total, "a whole number from 1 on is understood")
    if not _whole(offset) or offset < 0:
        raise _refused(file, "steps_offset", offset, "a whole number from 0 on is understood")
    if betas is not None:
        good = isinstance(betas, list | tuple) and all(_number(b) and 0 < b < 1 for b in betas)
        if not good or len(betas) != total:
            raise _refused(file, "trained_betas", betas, f"null or {total} numbers in (0, 1) are understood")
        return
    for key in ("beta_start", "beta_end"):
        if not _number(values[key]) or not 0 < values[key] < 1:
            raise _refused(file, key, values[key], "a number in (0, 1) is understood")


def check_vae(config: Mapping[str, Any], file: str = "vae/config.json") -> None:
    """Raise UserError for an autoencoder whose latents are not understood: its class, and how they are
    normalised."""
    _check_class(config, "AutoencoderKL", file)
    channels = config.get("latent_channels", 4)
    scale, shift = config.get("scaling_factor", 0.18215), config.get("shift_factor")
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if not _number(scale) or scale <= 0:
        raise _refused(file, "scaling_factor", scale, "a number above 0 is understood")
    if shift is not None and not _number(shift):
        raise _refused(file, "shift_factor", shift, "null or a number is understood")
    for key, values, other in (("latents_mean", mean, std), ("latents_std", std, mean)):
        if values is None:
            if other is not None:
                raise _refused(file, key, None, "latents_mean and latents_std come together")
            continue
        good = isinstance(values, list | tuple) and len(values) == channels and all(map(_number, values))
        if not good or (key == "latents_std" and min(values) <= 0):
            raise _refused(
                file, key, values, f"null or {channels} numbers, the deviations above 0, are understood"
            )
        if shift:
            raise _refused(file, "shift_factor", shift, f"it is not understood beside {key}")


def check_unet(config: Mapping[str, Any], file: str = "unet/config.json") -> None:
    """Raise UserError for a UNet that wants more than latents, a timestep and a prompt."""
    _check_class(config, "UNet2DConditionModel", file)
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
            raise _refused(
                file,
                key,
                value,
                "a UNet of Stable Diffusion 1, 2 or XL takes latents, a timestep and a prompt",
            )


def check_text_encoder(config: Mapping[str, Any], file: str = "text_encoder/config.json") -> None:
    """Raise UserError for a text encoder that is not CLIP's."""
    kind = config.get("model_type", "clip_text_model")
    if kind not in ("clip", "clip_text_model"):
        raise _refused(file, "model_type", kind, "a text encoder of CLIP is understood")
    inner = config.get("text_config")
    if kind == "clip" and isinstance(inner, Mapping):  # the text's half of a whole CLIP
        check_text_encoder({**inner, "model_type": "clip_text_model"}, f"{file} (text_config)")
        config = {k: v for k, v in config.items() if k not in _WHOLE_CLIP}
    check_known(config, _CLIP_TEXT | _NOT_OF_TEXT, file)


def check_controlnet(config: Mapping[str, Any], file: str) -> None:
    """Raise UserError for a ControlNet that does more than add residuals to a UNet's."""
    _check_class(config, "ControlNetModel", file, "method.path")
    if config.get("global_pool_conditions"):
        raise _refused(file, "global_pool_conditions", True, "only false is understood", "method.path")


def check_known(
    config: Mapping[str, Any], known: Collection[str], file: str, place: str = "model.path"
) -> None:
    """Raise UserError, naming the option `place`, for a field that the model's class does not have and that
    says something."""
    for key, value in config.items():
        says_something = value not in (None, False, {}, [])
        if not key.startswith("_") and key not in known and says_something:
            raise _refused(file, key, value, "no such field is understood", place)


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
        raise _refused(file, "_class_name", name, f"{wanted} is understood", place)


def _refused(file: str, key: str, value: Any, understood: str, place: str = "model.path") -> UserError:
    option = _OPTIONS.get(key)
    cure = f"; a fine-tune that is labelled wrongly takes {option}=..." if option else ""
    return UserError(f"{file} has {key}={_json(value)}: {understood}{cure} ({option or place})")


def _json(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
