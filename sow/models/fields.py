"""Types of the fields of a checkpoint's configuration files: what a network's class takes, and no other.

A class of diffusers or transformers takes any value and fails, or calculates something else, far from the
file. Nothing here imports torch or diffusers, so that a folder is checked before they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sow.errors import UserError

# Options that put a mislabelled fine-tune right, by the field that they replace.
OPTIONS = {"prediction_type": "model.prediction_type", "timestep_spacing": "model.timestep_spacing"}


class Kind(NamedTuple):
    """What a value may be: the test and its words."""

    fits: Callable[[Any], bool]
    words: str


Fields = Mapping[str, tuple[Kind, ...]]


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any) -> bool:
    """Whether a value of JSON is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and len(value) > 0 and all(map(fits, value))


def _count(value: Any) -> bool:
    return is_whole(value) and value >= 1


def _name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


NULL = Kind(lambda value: value is None, "null")
FLAG = Kind(_flag, "true or false")
FLAGS = Kind(_list_of(_flag), "a list of them")
COUNT = Kind(_count, "a whole number from 1 on")
COUNTS = Kind(_list_of(_count), "a list of whole numbers from 1 on")
NESTED = Kind(
    _list_of(lambda v: _count(v) or COUNTS.fits(v)), "a list of whole numbers from 1 on or of such lists"
)
SIDES = Kind(lambda v: COUNTS.fits(v) and len(v) == 2, "a list of two, height and width")
INDEX = Kind(lambda v: is_whole(v) and v >= 0, "a whole number from 0 on")
WHOLE = Kind(is_whole, "a whole number")
NUMBER = Kind(is_number, "a number")
POSITIVE = Kind(lambda v: is_number(v) and v > 0, "a number above 0")
NAME = Kind(_name, "a name")
NAMES = Kind(_list_of(_name), "a list of names")

_OF_BLOCKS: dict[str, tuple[Kind, ...]] = {  # of a UNet and of its ControlNet
    "in_channels": (COUNT,),
    "flip_sin_to_cos": (FLAG,),
    "freq_shift": (NUMBER,),
    "down_block_types": (NAMES,),
    "mid_block_type": (NAME, NULL),
    "only_cross_attention": (FLAG, FLAGS),
    "block_out_channels": (COUNTS,),
    "layers_per_block": (COUNT, COUNTS),
    "downsample_padding": (INDEX,),
    "mid_block_scale_factor": (POSITIVE,),
    "act_fn": (NAME,),
    "norm_num_groups": (COUNT, NULL),
    "norm_eps": (POSITIVE,),
    "cross_attention_dim": (COUNT, COUNTS),
    "transformer_layers_per_block": (COUNT, NESTED),
    "encoder_hid_dim": (COUNT, NULL),
    "encoder_hid_dim_type": (NAME, NULL),
    "attention_head_dim": (COUNT, COUNTS),
    "num_attention_heads": (COUNT, COUNTS, NULL),
    "use_linear_projection": (FLAG,),
    "class_embed_type": (NAME, NULL),
    "addition_embed_type": (NAME, NULL),
    "addition_time_embed_dim": (COUNT, NULL),
    "num_class_embeds": (COUNT, NULL),
    "upcast_attention": (FLAG, NULL),  # Stable Diffusion XL's own files have null
    "resnet_time_scale_shift": (NAME,),
    "projection_class_embeddings_input_dim": (COUNT, NULL),
    "addition_embed_type_num_heads": (COUNT,),
}
UNET: Fields = {
    **_OF_BLOCKS,
    "sample_size": (COUNT, SIDES, NULL),
    "out_channels": (COUNT,),
    "center_input_sample": (FLAG,),
    "up_block_types": (NAMES,),
    "dropout": (NUMBER,),
    "reverse_transformer_layers_per_block": (NESTED, NULL),
    "dual_cross_attention": (FLAG,),
    "resnet_skip_time_act": (FLAG,),
    "resnet_out_scale_factor": (POSITIVE,),
    "time_embedding_type": (NAME,),
    "time_embedding_dim": (COUNT, NULL),
    "time_embedding_act_fn": (NAME, NULL),
    "timestep_post_act": (NAME, NULL),
    "time_cond_proj_dim": (COUNT, NULL),
    "conv_in_kernel": (COUNT,),
    "conv_out_kernel": (COUNT,),
    "attention_type": (NAME,),
    "class_embeddings_concat": (FLAG,),
    "mid_block_only_cross_attention": (FLAG, NULL),
    "cross_attention_norm": (NAME, NULL),
}
CONTROLNET: Fields = {
    **_OF_BLOCKS,
    "conditioning_channels": (COUNT,),
    "controlnet_conditioning_channel_order": (NAME,),
    "conditioning_embedding_out_channels": (COUNTS, NULL),
    "global_pool_conditions": (FLAG, NULL),
}
VAE: Fields = {
    "in_channels": (COUNT,),
    "out_channels": (COUNT,),
    "down_block_types": (NAMES,),
    "up_block_types": (NAMES,),
    "block_out_channels": (COUNTS,),
    "layers_per_block": (COUNT,),
    "act_fn": (NAME,),
    "latent_channels": (COUNT,),
    "norm_num_groups": (COUNT,),
    "sample_size": (COUNT, SIDES),
    "scaling_factor": (POSITIVE,),
    "shift_factor": (NUMBER, NULL),
    "force_upcast": (FLAG,),
    "use_quant_conv": (FLAG,),
    "use_post_quant_conv": (FLAG,),
    "mid_block_add_attention": (FLAG,),
}
_OF_CLIP: dict[str, tuple[Kind, ...]] = {  # of both its halves
    "hidden_size": (COUNT,),
    "intermediate_size": (COUNT,),
    "projection_dim": (COUNT,),
    "num_hidden_layers": (COUNT,),
    "num_attention_heads": (COUNT,),
    "hidden_act": (NAME,),
    "layer_norm_eps": (POSITIVE,),
}
CLIP_TEXT: Fields = {
    **_OF_CLIP,
    "vocab_size": (COUNT,),
    "max_position_embeddings": (COUNT,),
    "pad_token_id": (WHOLE, NULL),
    "bos_token_id": (WHOLE, NULL),
    "eos_token_id": (WHOLE, NULL),
}
CLIP_VISION: Fields = {
    **_OF_CLIP,
    "num_channels": (COUNT,),
    "image_size": (COUNT,),
    "patch_size": (COUNT,),
}
# One entry of each of these belongs to one block.
_ONE_A_BLOCK = (
    *("up_block_types", "only_cross_attention", "block_out_channels", "layers_per_block"),
    *("cross_attention_dim", "transformer_layers_per_block", "attention_head_dim", "num_attention_heads"),
    "reverse_transformer_layers_per_block",
)


def check_fields(config: Mapping[str, Any], fields: Fields, file: str, place: str = "model.path") -> None:
    """Raise UserError, naming the option `place`, for a value that its field does not take, and for lists of
    blocks of which one is longer than another."""
    for key, kinds in fields.items():
        if key in config and not any(kind.fits(config[key]) for kind in kinds):
            words = f"{' or '.join(kind.words for kind in kinds)} is understood"
            raise refused(file, key, config[key], words, place)
    blocks = config.get("down_block_types") or ()
    for key in _ONE_A_BLOCK if blocks else ():
        value = config.get(key)
        if isinstance(value, list | tuple) and len(value) != len(blocks):
            words = f"one for each of the {len(blocks)} down_block_types is understood"
            raise refused(file, key, value, words, place)


def refused(file: str, key: str, value: Any, understood: str, place: str = "model.path") -> UserError:
    """The error for a value in a file, with what would be understood."""
    option = OPTIONS.get(key)
    cure = f"; a fine-tune that is labelled wrongly takes {option}=..." if option else ""
    return UserError(f"{file} has {key}={in_json(value)}: {understood}{cure} ({option or place})")


def in_json(value: Any) -> str:
    """A value as its file has it, cut short."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."
