"""Small models in the layout of Stable Diffusion's own code: one file of tensors, named as there."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from sow.models.tiny import SCHEDULER

State = dict[str, torch.Tensor]
# Of each family what shapes do not tell, and its own way to project in attention.
UNETS: dict[int, dict[str, Any]] = {
    1: {"block_out_channels": (32, 64), "attention_head_dim": 8},
    2: {"block_out_channels": (64, 128), "attention_head_dim": (1, 2), "use_linear_projection": True},
}
RESNET = {
    "norm1.": "in_layers.0.", "conv1.": "in_layers.2.", "norm2.": "out_layers.0.", "conv2.": "out_layers.3.",
    "time_emb_proj.": "emb_layers.1.", "conv_shortcut.": "skip_connection.",
}  # fmt: skip
ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


@cache
def networks(version: int) -> dict[str, Any]:
    """UNet, autoencoder and text encoder of Stable Diffusion 1 or 2, with few channels and random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(version)
        unet = UNet2DConditionModel(
            sample_size=64,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=64,
            layers_per_block=2,
            **UNETS[version],
        )
        vae = AutoencoderKL(
            block_out_channels=(32, 32, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            sample_size=512,
        )
        text = CLIPTextConfig(
            vocab_size=49408, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=1, max_position_embeddings=77, bos_token_id=49406, eos_token_id=49407,
            hidden_act="quick_gelu" if version == 1 else "gelu",
        )  # fmt: skip
        return {"unet": unet, "vae": vae, "text_encoder": CLIPTextModel(text)}


def tensors(version: int) -> State:
    """The same as one file holds them, with what training leaves beside."""
    made = networks(version)
    state = {f"model.diffusion_model.{_unet(n)}": v for n, v in made["unet"].state_dict().items()}
    for name, value in made["vae"].state_dict().items():
        own = _vae(name)
        value = value[:, :, None, None] if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", own) else value
        state[f"first_stage_model.{own}"] = value
    text = {n.removeprefix("text_model."): v for n, v in made["text_encoder"].state_dict().items()}
    state |= _clip(text) if version == 1 else _open_clip(text)
    scheduler = DDIMScheduler.from_config(SCHEDULER)
    state |= {
        "betas": scheduler.betas,
        "alphas_cumprod": scheduler.alphas_cumprod,
        "logvar": torch.zeros(1000),
    }
    state |= {"model_ema.num_updates": torch.tensor(7), "posterior_variance": torch.zeros(1000)}
    return {name: value.clone() for name, value in state.items()}


def save(file: Path, state: State) -> Path:
    """The tensors as a .safetensors or .ckpt file."""
    if file.suffix == ".ckpt":
        torch.save({"state_dict": state, "global_step": 7}, file)
    else:
        save_file(state, file)
    return file


def _unet(name: str) -> str:
    for ours, theirs in ENDS.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs, 1)
    if name.startswith("mid_block"):
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}", name)
        name = name.replace("mid_block.attentions.0", "middle_block.1")
    down = re.match(r"down_blocks\.(\d)\.(\w+)\.(\d)\.(?:conv\.)?", name)
    up = re.match(r"up_blocks\.(\d)\.(\w+)\.(\d)\.(?:conv\.)?", name)
    if down:
        number = 3 * int(down[1]) + (3 if down[2] == "downsamplers" else int(down[3]) + 1)
        kind = {"resnets": "0", "attentions": "1", "downsamplers": "0.op"}[down[2]]
        name = f"input_blocks.{number}.{kind}.{name[down.end() :]}"
    if up:
        number = 3 * int(up[1]) + (2 if up[2] == "upsamplers" else int(up[3]))
        # Behind a layer with attention it comes third.
        kind = {"resnets": "0", "attentions": "1", "upsamplers": "1.conv"}[up[2]]
        name = f"output_blocks.{number}.{kind}.{name[up.end() :]}"
    if "transformer_blocks" not in name:
        for ours, theirs in RESNET.items():
            name = re.sub(rf"(?<=\.){re.escape(ours)}", theirs, name)
    return name


def _vae(name: str) -> str:
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    up = re.search(r"up_blocks\.(\d)", name)
    if up:
        name = name.replace(up[0], f"up.{3 - int(up[1])}").replace("resnets", "block")
        name = name.replace("upsamplers.0", "upsample")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    for ours, theirs in {
        "mid_block.attentions.0": "mid.attn_1", "conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut",
        "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
    }.items():  # fmt: skip
        name = name.replace(ours, theirs)
    return name


def _clip(text: State) -> State:
    positions = {"embeddings.position_ids": torch.arange(77)[None]}
    return {f"cond_stage_model.transformer.text_model.{n}": v for n, v in {**text, **positions}.items()}


def _open_clip(text: State) -> State:
    """With a third layer, which Stable Diffusion 2 has and does not use."""
    found = {
        "token_embedding.weight": text["embeddings.token_embedding.weight"],
        "positional_embedding": text["embeddings.position_embedding.weight"],
        "ln_final.weight": text["final_layer_norm.weight"],
        "ln_final.bias": text["final_layer_norm.bias"],
        "text_projection": torch.eye(64),
        "logit_scale": torch.tensor(4.6),
    }
    for i in range(3):
        ours, theirs = f"encoder.layers.{min(i, 1)}.", f"transformer.resblocks.{i}."
        for kind in ("weight", "bias"):
            parts = [text[f"{ours}self_attn.{n}_proj.{kind}"] for n in "qkv"]
            found[f"{theirs}attn.in_proj_{kind}"] = torch.cat(parts)
            for one, other in {
                "self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
                "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
            }.items():  # fmt: skip
                found[f"{theirs}{other}.{kind}"] = text[f"{ours}{one}.{kind}"]
    return {f"cond_stage_model.model.{n}": v for n, v in found.items()}
