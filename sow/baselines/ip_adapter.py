"""IP-Adapter (Ye et al., 2023), the face variant: the condition enters through extra cross-attention, loaded
by diffusers."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sow.baselines.config import IPAdapter, local_folder
from sow.baselines.sampler import BaselineSampler, Prepared
from sow.errors import UserError
from sow.method.denoiser import Denoiser
from sow.models import hub
from sow.models.backbone import Backbone
from sow.models.loading import load_whole, need_whole
from sow.models.tensors import read_tensors
from sow.pipeline.factory import need_plain

KEY = "method.weight_name"


def load(options: IPAdapter, backbone: Backbone) -> tuple[Backbone, Any]:
    """A copy of the model with the adapter in its UNet, and the pipeline that embeds pictures for it.

    Raises UserError where no adapter is known for the model or its files cannot be had.
    """
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from transformers import CLIPVisionModelWithProjection

    width = str(backbone.unet.config.cross_attention_dim)
    weight_name = options.weight_name or options.hub.get(width)
    if weight_name is None:
        raise UserError(
            f"no IP-Adapter is known for a UNet of {width} text channels: Stable Diffusion 1.5 and XL have "
            "one (model=sd15, model=sdxl); for another give method.path, method.weight_name and "
            "method.image_encoder (method.weight_name)"
        )
    place = local_folder(options.path) or options.path
    if not local_folder(options.path):
        hub.need(options.path, weight_name, "method.path")
    folder = weight_name.rpartition("/")[0]
    own = copy.copy(backbone)
    own.unet = copy.deepcopy(backbone.unet)  # the shared model stays without the adapter
    parts = {"vae": backbone.vae, "unet": own.unet, "scheduler": None, "feature_extractor": None}
    if len(backbone.encoders) == 2:
        (one, first), (two, second) = backbone.encoders
        parts |= {"tokenizer": one, "text_encoder": first, "tokenizer_2": two, "text_encoder_2": second}
        pipe = StableDiffusionXLPipeline(**parts, image_encoder=None)
    else:
        parts |= {"tokenizer": backbone.tokenizer, "text_encoder": backbone.text_encoder}
        pipe = StableDiffusionPipeline(**parts, safety_checker=None, requires_safety_checker=False)
    try:
        encoder = options.image_encoder  # a bare name lies beside the weights, as diffusers has it
        inside = encoder if "/" in encoder else f"{folder}/{encoder}"
        pipe.register_modules(
            image_encoder=load_whole(
                CLIPVisionModelWithProjection,
                str(place),
                "method.image_encoder",
                subfolder=inside.lstrip("/"),
                dtype=backbone.dtype,
            )
        )
        _add(pipe, _file(place, weight_name), own.unet)
    except UserError:
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        words = f"it lacks {words}" if isinstance(error, KeyError) else words
        raise UserError(
            f"cannot load the IP-Adapter {weight_name} of {options.path}: {words}; download it or give a "
            "folder (method.path, method.weight_name, method.image_encoder)"
        ) from error
    pipe.set_ip_adapter_scale(options.scale)
    for module in (own.unet, pipe.image_encoder):
        torch.nn.Module.to(module, device=backbone.device, dtype=backbone.dtype).eval().requires_grad_(False)
    return own, pipe


def _file(place: str, weight_name: str) -> Path:
    """The adapter's file, in a folder or in the hub's copy on this disk, where it is fetched to."""
    if Path(place).is_dir():
        return Path(place, weight_name)
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(place, weight_name))


def _add(pipe: Any, file: Path, unet: Any) -> None:
    """Put the adapter in `file` into the pipeline's UNet, whole; raises UserError for tensors that are
    missing, left over, of another shape, or no finite floating-point numbers."""
    groups: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    left = []
    for name, tensor in read_tensors(file, KEY).items():
        group, _, inner = name.partition(".")
        if group in groups:
            groups[group][inner] = tensor
        else:
            left.append(name)
    layers = [name for name in unet.attn_processors if not name.endswith("attn1.processor")]
    wanted = {f"{2 * i + 1}.to_{kind}_ip.weight" for i in range(len(layers)) for kind in "kv"}
    given = groups["ip_adapter"].keys()
    left += [f"ip_adapter.{name}" for name in given - wanted]
    lost = [f"ip_adapter.{name}" for name in wanted - given]
    need_whole(str(file), KEY, missing=lost, unexpected=left)
    # With strict loading: what is built without memory first leaves out names that it does not know.
    pipe.load_ip_adapter(groups, subfolder="", weight_name=file.name, low_cpu_mem_usage=False)
    (projection,) = unet.encoder_hid_proj.image_projection_layers
    more = sum(t.numel() for t in groups["image_proj"].values())
    more -= sum(t.numel() for t in projection.parameters())
    if more:
        raise UserError(
            f"{file} has {more} numbers more than its image projection: two of its names mean one tensor "
            f"({KEY})"
        )


@dataclass(frozen=True, eq=False)
class IPAdapterSampler(BaselineSampler):
    """Plain sampling with the adapter; the condition's place is the model's own choice."""

    pipe: Any = None

    @classmethod
    def loaded(cls, options: IPAdapter, backbone: Backbone) -> tuple[Backbone, dict[str, Any]]:
        need_plain(backbone)
        own, pipe = load(options, backbone)
        return own, {"pipe": pipe}

    @property
    def needs_latents(self) -> bool:
        return False

    def inputs(
        self, batch: Prepared, denoiser: Denoiser, rows: Tensor, k: int
    ) -> tuple[Tensor, dict[str, Any]]:
        if "images" not in batch.kept:
            batch.kept["images"] = self._embed(batch, len(rows) // len(batch.requests))
        return rows, {"added_cond_kwargs": {"image_embeds": [batch.kept["images"]]}}

    def _embed(self, batch: Prepared, branches: int) -> Tensor:
        """What the adapter's image projection reads, negative branch first: (branches x B, conditions,
        channels) of a plain adapter, with zeros in the negative branch; (branches x B, conditions, tokens,
        channels) of a plus adapter, whose negative branch is the encoder's states of a picture of zeros. Each
        layout as it was trained."""
        own = []
        for request in batch.requests:
            pictures = [c.on_gray() for c in request.conditions]
            (both,) = self.pipe.prepare_ip_adapter_image_embeds(
                [pictures], None, self.backbone.device, 1, branches > 1
            )
            own.append(both.chunk(2) if branches > 1 else (both,))
        if len({e[0].shape for e in own}) > 1:
            raise UserError(
                "requests of one batch need the same number of conditions: take batch_size=1 (batch_size)"
            )
        return torch.cat([torch.cat([e[branch] for e in own]) for branch in range(branches)])
