"""Stable Diffusion 1, 2 and XL from a folder or the hub: every part understood, loaded whole, and fitting the
others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sow.errors import UserError
from sow.models import checkpoint
from sow.models.backbone import Backbone
from sow.models.loading import load_whole, need_whole_tokenizer

CHECKS = {
    "vae": checkpoint.check_vae,
    "unet": checkpoint.check_unet,
    "text_encoder": checkpoint.check_text_encoder,
    "text_encoder_2": checkpoint.check_text_encoder,
}


def load_stable_diffusion(
    source: str,
    scheduler: Callable[[dict[str, Any]], Mapping[str, Any]],
    device: str,
    dtype: str,
    *,
    key: str = "model.path",
    own: str | None = None,
    hub: Mapping[str, Any] | None = None,
    variant: str | None = None,
) -> Backbone:
    """The model in the folder or hub id `source`, frozen, on its device.

    `scheduler` checks and completes the scheduler's configuration; `own` is where unet and scheduler lie, if
    elsewhere; `hub` are options of the hub (`revision`). Raises UserError, naming `key`, for what is not
    understood in a part, is not whole, or does not fit the other parts.
    """
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    from sow.models.backbone_xl import load_xl

    own, hub = own or source, hub or {}
    told = dict(scheduler(DDIMScheduler.load_config(own, subfolder="scheduler", **hub)))
    options: dict[str, Any] = {
        **hub,
        "variant": variant,
        "use_safetensors": True,
        "dtype": getattr(torch, dtype),
        "key": key,
    }
    unet = load_whole(UNet2DConditionModel, own, subfolder="unet", **options)
    vae = load_whole(AutoencoderKL, source, subfolder="vae", **options)
    text = load_whole(CLIPTextModel, source, subfolder="text_encoder", **options)
    tokenizer = CLIPTokenizer.from_pretrained(source, subfolder="tokenizer", **hub)
    made: Backbone
    if unet.config.addition_embed_type == "text_time":
        made = load_xl(source, dict(hub), options, vae, text, tokenizer, unet, told, device, dtype)
    else:
        made = Backbone(vae, text, tokenizer, unet, told, device, dtype)
    fit_together(made, source, key)
    return made


def fit_together(backbone: Backbone, source: str, key: str) -> None:
    """Raise UserError where the parts of a checkpoint come from models of different sizes."""
    unet, latents = backbone.unet.config, int(backbone.vae.config.latent_channels)
    if backbone.channels != latents:
        raise UserError(
            f"the parts in {source} do not fit: unet/config.json has out_channels={backbone.channels}, "
            f"vae/config.json latent_channels={latents} ({key})"
        )
    width = sum(int(encoder.config.hidden_size) for _, encoder in backbone.encoders)
    if unet.encoder_hid_dim is None and unet.cross_attention_dim != width:
        raise UserError(
            f"the parts in {source} do not fit: unet/config.json has "
            f"cross_attention_dim={unet.cross_attention_dim}, the "
            f"text encoder hidden_size={width} ({key})"
        )
    for i, (tokenizer, encoder) in enumerate(backbone.encoders):
        place = f"{source}/tokenizer{f'_{i + 1}' if i else ''}"
        need_whole_tokenizer(tokenizer, encoder.config, place, key)
