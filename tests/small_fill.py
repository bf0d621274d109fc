"""Learned inpainting pipelines of diffusers with random weights, as they are saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    ControlNetModel,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxFillPipeline,
    FluxKontextInpaintPipeline,
    FluxTransformer2DModel,
    QwenImageEditInpaintPipeline,
    QwenImageTransformer2DModel,
    StableDiffusionPipeline,
)
from small_transformers import chat, made, shaken
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from sow.models.tiny import SCHEDULER, Tiny

NAMES = ("flux_fill", "flux_kontext", "qwen_edit", "controlnet_inpaint")


def flux(fill: bool) -> Any:
    """Fill's transformer sees latents, those of the masked picture, and the mask's 8 x 8 pixels by patch."""
    parts = dict(made("flux").components)
    if fill:
        known = {k: v for k, v in parts["transformer"].config.items() if not k.startswith("_")}
        sizes = {"in_channels": 16 + 16 + 256, "out_channels": 16}
        parts["transformer"] = shaken(FluxTransformer2DModel(**{**known, **sizes}))
        return FluxFillPipeline(
            **{k: parts[k] for k in parts if "image_encoder" not in k and k != "feature_extractor"}
        )
    return FluxKontextInpaintPipeline(**parts)


def qwen() -> Any:
    tokenizer = chat()
    tokenizer.add_special_tokens(
        {
            "additional_special_tokens": [
                "<|vision_start|>",
                "<|vision_end|>",
                "<|image_pad|>",
                "<|video_pad|>",
            ]
        }
    )
    tokens = {
        n: tokenizer.convert_tokens_to_ids(f"<|{n}|>")
        for n in ("vision_start", "vision_end", "image_pad", "video_pad")
    }
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 300,
            "bos_token_id": 256,
            "eos_token_id": 256,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
            "max_position_embeddings": 2048,
            **heads,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
            "patch_size": 14,
            "fullatt_block_indexes": [0],
        },
        vision_start_token_id=tokens["vision_start"],
        vision_end_token_id=tokens["vision_end"],
        image_token_id=tokens["image_pad"],
        video_token_id=tokens["video_pad"],
    )
    images = Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=56 * 56)
    processor = Qwen2VLProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template="{{ messages }}",
    )
    network = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1] * 4,
        latents_std=[1.5] * 4,
    )
    return QwenImageEditInpaintPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=shaken(vae),
        text_encoder=shaken(Qwen2_5_VLForConditionalGeneration(config)),
        tokenizer=tokenizer,
        processor=processor,
        transformer=shaken(network),
    )


def stable_diffusion() -> tuple[Any, Any]:
    """A pipeline and a ControlNet for it, whose residuals are not zero."""
    backbone = Tiny(dtype="float32", device="cpu", canvas=(64, 64), condition_size=(64, 320), seed=0).load()
    control = shaken(ControlNetModel.from_unet(backbone.unet))
    parts = {n: getattr(backbone, n) for n in ("vae", "text_encoder", "tokenizer", "unet")}
    pipe = StableDiffusionPipeline(
        **parts,
        scheduler=DDIMScheduler.from_config(SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipe, control


def saved(name: str, folder: Path) -> list[str]:
    """The pipeline's folders as words of a command line."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "controlnet_inpaint":
            pipe, control = stable_diffusion()
            control.save_pretrained(folder / "control")
            more = [f"method.controlnet={folder / 'control'}"]
        else:
            pipe = qwen() if name == "qwen_edit" else flux(fill=name == "flux_fill")
            more = []
        pipe.save_pretrained(folder / "pipe")
    return [f"method={name}", f"method.path={folder / 'pipe'}", *more]
