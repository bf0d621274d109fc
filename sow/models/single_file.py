"""One file with a whole model, in the layout of Stable Diffusion's own code: what its parts are, told by the
names and shapes of its tensors.

Nothing here imports torch or diffusers, so that a file is checked before they are. What shapes do not tell is
that of the two families: 8 heads a layer and quick GELU in Stable Diffusion 1, heads of 64 channels and GELU
in 2.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sow.errors import UserError
from sow.models.tiny import SCHEDULER

SUFFIXES = (".safetensors", ".ckpt")
LONGEST = 100_000_000  # bytes of a header, as in the library safetensors
UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
# What no network takes: the average's copy, the schedule (`betas` is read), what pairs texts with pictures.
LEFT_OVER = re.compile(
    r"model_ema\.|(\w*alphas_cumprod\w*|betas|posterior_\w+|lvlb_weights|logvar|scale_factor|global_step|"
    r"cond_stage_model\.([\w]+\.)*(logit_scale|text_projection(\.weight)?))$"
)
V_PREDICTION = 96  # latents a side that Stable Diffusion 2's v-prediction was trained at: 768 pixels

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The configurations of a file's parts, in the words of diffusers and transformers.

    `version` is 1 or 2, the family whose conventions hold; `assumed` says in a sentence what is not in the
    file.
    """

    version: int
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    assumed: str


def is_single(path: Path) -> bool:
    """Whether a path means one file and no folder."""
    return path.suffix in SUFFIXES and not path.is_dir()


def header(file: Path, key: str = "model.path") -> dict[str, Any]:
    """Names of a safetensors file's tensors with `dtype` and `shape`; raises UserError for a file that is
    none or is cut short."""
    try:
        with open(file, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            size = os.fstat(opened.fileno()).st_size
            if not 2 <= length <= min(LONGEST, size - 8):
                raise ValueError("its header is missing or cut short")
            found = json.loads(opened.read(length))
        found.pop("__metadata__", None)
        shapes = {name: tuple(map(int, about["shape"])) for name, about in found.items()}
        ends = [about["data_offsets"][1] for about in found.values()]
        if max(ends, default=0) != size - 8 - length:
            raise ValueError("its tensors are cut short")
        return {name: {"dtype": about["dtype"], "shape": shapes[name]} for name, about in found.items()}
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error} ({key})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error) if type(error) is ValueError else "its header is damaged"
        raise UserError(f"{file} is no whole file of safetensors: {reason} ({key})") from error


def check(file: Path, prediction: str | None) -> Layout | None:
    """The layout of a file; None for a .ckpt, whose names torch alone reads. Raises UserError."""
    if not file.is_file():
        raise UserError(f"no such file: {file} (model.path)")
    if file.suffix == ".ckpt":
        return None
    return layout({name: about["shape"] for name, about in header(file).items()}, file, prediction)


def layout(shapes: Mapping[str, Shape], file: Path, prediction: str | None) -> Layout:
    """What a file of tensors of these shapes holds; raises UserError for what is not Stable Diffusion 1 or 2
    as its own code saves it."""
    if any(name.startswith("conditioner.") for name in shapes):
        raise UserError(
            f"{file} is Stable Diffusion XL in one file, and only Stable Diffusion 1 and 2 are understood: "
            "give a folder in diffusers' format (model.path)"
        )
    parts = {"a UNet": UNET, "an autoencoder": VAE, "a text encoder": "cond_stage_model."}
    lacking = [
        f"{what} ({name}..)" for what, name in parts.items() if not any(n.startswith(name) for n in shapes)
    ]
    if lacking:
        raise UserError(
            f"{file} lacks {', '.join(lacking)}: give a whole Stable Diffusion 1 or 2 in one file, or a "
            "folder in diffusers' format (model.path)"
        )
    version = 1 if any(name.startswith(CLIP) for name in shapes) else 2
    try:
        unet = unet_config(_below(UNET, shapes))
        vae = vae_config(_below(VAE, shapes))
        text = (
            clip_config(_below(CLIP, shapes)) if version == 1 else open_clip_config(_below(OPEN_CLIP, shapes))
        )
    except (KeyError, IndexError, ZeroDivisionError, ValueError) as error:
        raise UserError(
            f"{file} lacks the tensor {error} of Stable Diffusion {version}, or has it in another shape: "
            "give a whole file, or a folder in diffusers' format (model.path)"
        ) from error
    told = prediction or "epsilon"
    large = version == 2 and told == "v_prediction"
    # In float16 the attention of the 768-pixel models overflows; their configuration says so.
    unet |= {"sample_size": V_PREDICTION if large else 64, "upcast_attention": large}
    vae["sample_size"] = unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)
    return Layout(
        version, unet, vae, text, {**SCHEDULER, "prediction_type": told}, _assumed(version, prediction)
    )


def _assumed(version: int, prediction: str | None) -> str:
    base = {1: "1", 2: "2.1-base"}[version]
    words = f"the betas of Stable Diffusion {base} and CLIP's vocabulary"
    if prediction is not None:
        return words
    other = "; a 768-pixel model takes model.prediction_type=v_prediction" if version == 2 else ""
    return (
        f"that the UNet predicts epsilon at 512 pixels (model.prediction_type says otherwise{other}), {words}"
    )


def _below(prefix: str, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    return {name[len(prefix) :]: shape for name, shape in shapes.items() if name.startswith(prefix)}


def _numbers(pattern: str, names: Iterable[str]) -> list[int]:
    """The different numbers that the group of a pattern, at a name's beginning, stands for; sorted."""
    return sorted({int(found[1]) for name in names if (found := re.match(pattern, name))})


def unet_config(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """The configuration of diffusers' UNet2DConditionModel for a UNet of these tensors."""
    blocks = _numbers(r"input_blocks\.(\d+)\.", shapes)
    levels: list[list[int]] = [[]]  # numbers of the input blocks between two that halve the sides
    for i in blocks[1:]:
        if f"input_blocks.{i}.0.op.weight" in shapes:
            levels.append([])
        else:
            levels[-1].append(i)
    crossed = [any(n.startswith(f"input_blocks.{level[0]}.1.") for n in shapes) for level in levels]
    channels = [shapes[f"input_blocks.{level[0]}.0.out_layers.3.weight"][0] for level in levels]
    attention = "middle_block.1."
    linear = len(shapes[f"{attention}proj_in.weight"]) == 2
    return {
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": channels,
        "layers_per_block": len(levels[0]),
        "down_block_types": ["CrossAttnDownBlock2D" if c else "DownBlock2D" for c in crossed],
        "up_block_types": ["CrossAttnUpBlock2D" if c else "UpBlock2D" for c in reversed(crossed)],
        "cross_attention_dim": shapes[f"{attention}transformer_blocks.0.attn2.to_k.weight"][1],
        "use_linear_projection": linear,
        # diffusers' name for the number of heads
        "attention_head_dim": [max(1, c // 64) for c in channels] if linear else 8,
    }


def vae_config(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """The configuration of diffusers' AutoencoderKL for an autoencoder of these tensors."""
    levels = _numbers(r"encoder\.down\.(\d+)\.", shapes)
    return {
        "block_out_channels": [shapes[f"encoder.down.{i}.block.0.conv2.weight"][0] for i in levels],
        "down_block_types": ["DownEncoderBlock2D"] * len(levels),
        "up_block_types": ["UpDecoderBlock2D"] * len(levels),
        "layers_per_block": len(_numbers(r"encoder\.down\.0\.block\.(\d+)\.", shapes)),
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "scaling_factor": 0.18215,
    }


def clip_config(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """The configuration of transformers' CLIPTextModel for Stable Diffusion 1's text encoder."""
    shapes = {name.removeprefix("text_model."): shape for name, shape in shapes.items()}
    return _text_config(
        shapes["embeddings.token_embedding.weight"],
        shapes["embeddings.position_embedding.weight"],
        shapes["encoder.layers.0.mlp.fc1.weight"],
        len(_numbers(r"encoder\.layers\.(\d+)\.", shapes)),
        "quick_gelu",
    )


def open_clip_config(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """The same for Stable Diffusion 2's, of OpenCLIP: its last layer is not used."""
    return _text_config(
        shapes["token_embedding.weight"],
        shapes["positional_embedding"],
        shapes["transformer.resblocks.0.mlp.c_fc.weight"],
        len(_numbers(r"transformer\.resblocks\.(\d+)\.", shapes)) - 1,
        "gelu",
    )


def _text_config(tokens: Shape, positions: Shape, inner: Shape, layers: int, act: str) -> dict[str, Any]:
    return {
        "vocab_size": tokens[0],
        "hidden_size": tokens[1],
        "max_position_embeddings": positions[0],
        "intermediate_size": inner[0],
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, tokens[1] // 64),
        "hidden_act": act,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
    }
