"""Stable Diffusion 1 and 2 from one file: its tensors under diffusers' names, loaded whole or not at all."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sow.errors import UserError
from sow.models import single_file
from sow.models.backbone import Backbone
from sow.models.loading import fill, need_whole
from sow.models.single_file import CLIP, LEFT_OVER, OPEN_CLIP, UNET, VAE, Layout
from sow.models.stable_diffusion import fit_together
from sow.models.tensors import need_floats
from sow.models.tokenizer import published

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

KEY = "model.path"
OF_OPEN_CLIP = ("token_embedding.weight", "positional_embedding", "ln_final.weight", "ln_final.bias")
Parts = dict[str, "Tensor"]


def load_single_file(
    file: Path,
    prediction: str | None,
    scheduler: Callable[[dict[str, Any]], Mapping[str, Any]],
    device: str,
    dtype: str,
) -> Backbone:
    """The model in one file of Stable Diffusion's own layout, frozen, on its device.

    `prediction`, `scheduler` as `Pretrained` has them. Raises UserError for a file that is not whole, and for
    a .ckpt that holds more than tensors.
    """
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    whole = read(file)
    tensors = {name: value for name, value in whole.items() if not LEFT_OVER.match(name)}
    found = single_file.layout({name: tuple(t.shape) for name, t in tensors.items()}, file, prediction)
    log.warning("%s does not say all of a model: assumed are %s", file, found.assumed)
    unet, vae, text, unknown = convert(tensors, found)
    kind = getattr(torch, dtype)
    made = {
        "unet": (UNet2DConditionModel, dict(found.unet), unet),
        "vae": (AutoencoderKL, {**found.vae, **scale(whole)}, vae),
        "text_encoder": (CLIPTextModel, CLIPTextConfig(**found.text_encoder), text),
    }
    need_whole(str(file), KEY, unexpected=unknown)
    parts = {name: _filled(*one, f"{file}, {name},", kind) for name, one in made.items()}
    told = scheduler({**found.scheduler, **betas(whole, found)})
    tokenizer = published(pad="<|endoftext|>" if found.version == 1 else "!")
    backbone = Backbone(
        parts["vae"], parts["text_encoder"], tokenizer, parts["unet"], dict(told), device, dtype
    )
    backbone.loaded["assumed"] = found.assumed
    fit_together(backbone, str(file), KEY)
    return backbone


def _filled(cls: Any, config: Any, state: Parts, place: str, kind: Any) -> Any:
    """A network of diffusers or transformers with these tensors and no other, without drawing random ones."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        module = cls(**config) if isinstance(config, dict) else cls(config)
    if not hasattr(module, "text_model"):  # which later versions of transformers leave out of the names
        state = {name.removeprefix("text_model."): value for name, value in state.items()}
    fill(module, state, place, KEY, dtype=kind)
    return module


def read(file: Path) -> Parts:
    """The tensors of a file, on the CPU; raises UserError for a file that is none or holds more."""
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            need_floats_of(file)
            return load_file(file)
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file} holds more than tensors, and code in a .ckpt is not run: give a .safetensors file of "
            f"the same weights, or a folder ({KEY})"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, SafetensorError) as error:
        words = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"cannot read {file}: {words} ({KEY})") from error
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise UserError(f"{file} holds no tensors by name: give a checkpoint of Stable Diffusion ({KEY})")
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


def need_floats_of(file: Path) -> None:
    """As `need_floats`, but for what no network of the model takes."""
    need_floats(file, KEY, lambda name: name.startswith((UNET, VAE, "cond_stage_model.")))


def convert(tensors: Parts, found: Layout) -> tuple[Parts, Parts, Parts, list[str]]:
    """Tensors of UNet, autoencoder and text encoder by diffusers' names, and the names of those that no part
    takes."""
    from diffusers.loaders import single_file_utils as of_diffusers

    unet = of_diffusers.convert_ldm_unet_checkpoint(_named(UNET, tensors), found.unet)
    vae = of_diffusers.convert_ldm_vae_checkpoint(_named(VAE, tensors), found.vae)
    if found.version == 1:
        text = of_diffusers.convert_ldm_clip_checkpoint(_named(CLIP, tensors))
        known: set[str] = set(_named(CLIP, tensors))
    else:
        text, known = open_clip(tensors, found)
    # The two conversions leave out what they do not know; what they take keeps its place in memory.
    kept = {value.data_ptr() for part in (unet, vae) for value in part.values()}
    unknown = [
        name
        for name, value in tensors.items()
        if name not in known and not (name.startswith((UNET, VAE)) and value.data_ptr() in kept)
    ]
    return unet, vae, text, unknown


def open_clip(tensors: Parts, found: Layout) -> tuple[Parts, set[str]]:
    """OpenCLIP's text encoder without its last layer, by transformers' names; and the names of the file's
    tensors that it knows."""
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
    from transformers import CLIPTextConfig

    class Told:  # the one thing that the conversion asks of a model
        config = CLIPTextConfig(**found.text_encoder)

    own = _named(OPEN_CLIP, tensors)
    last = f"{OPEN_CLIP}transformer.resblocks.{found.text_encoder['num_hidden_layers']}."
    used = {n: t for n, t in own.items() if not n.startswith(last)}
    layers = f"{OPEN_CLIP}transformer."  # whose names the conversion passes on, known or not
    known = {n for n in own if n.startswith(layers) or n.removeprefix(OPEN_CLIP) in OF_OPEN_CLIP}
    return convert_open_clip_checkpoint(Told(), used, prefix=OPEN_CLIP), known


def _named(prefix: str, tensors: Parts) -> Parts:
    return {name: value for name, value in tensors.items() if name.startswith(prefix)}


def betas(tensors: Parts, found: Layout) -> dict[str, Any]:
    """The file's own betas as a field of its scheduler, where they are not those that are assumed."""
    import torch
    from diffusers import DDIMScheduler

    own = tensors.get("betas")
    if own is None:
        return {}
    assumed = DDIMScheduler.from_config(dict(found.scheduler)).betas
    own = own.flatten().to(torch.float32)
    if own.shape == assumed.shape and torch.allclose(own, assumed, rtol=1e-3, atol=1e-6):
        return {}
    return {"num_train_timesteps": len(own), "trained_betas": own.tolist()}


def scale(tensors: Parts) -> dict[str, float]:
    """The file's own factor between the autoencoder's latents and the UNet's, where it has one."""
    own = tensors.get("scale_factor")
    return {} if own is None else {"scaling_factor": float(own)}
