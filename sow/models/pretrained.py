"""Models from checkpoints: a folder in Stable Diffusion's format or a hub id, with the options of how they run."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from sow.errors import UserError
from sow.models.backbone import Backbone, ConditionSize, Dtype, Size, make_canvas, pick_device
from sow.types import Canvas, component

log = logging.getLogger(__name__)

PARTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
XL_PARTS = ("text_encoder_2", "tokenizer_2")


@component("model")
class Pretrained:
    """A Stable-Diffusion-format checkpoint: a local folder, or a hub id with its mirrors.

    `path`            folder with vae, text_encoder, tokenizer, unet and scheduler; None = `repo_id`, then `mirrors`
    `revision`, `variant`  as on the hub; the variant must match the files ("fp16")
    `dtype`           float16, bfloat16, float32 or float64; `device` auto, cpu or cuda
    `canvas`          [width, height] in pixels, None = what the UNet was trained at
    `condition_size`  smallest and largest side of a condition, for a canvas of 512 pixels (Sec. V)
    `cpu_offload`, `attention_slicing`, `vae_slicing`, `vae_tiling`  diffusers' low-memory options
    `channels_last`   the UNet's convolutions on channels-last memory; the autoencoder's stay contiguous (see `encode`)
    `fuse_qkv`        one product for queries, keys and values
    `autocast`        the UNet's products in bfloat16 over float32 weights (`dtype` float32)
    `compile`         none, or the mode that torch.compile takes for the UNet, modulated attention included
    """

    path: str | None
    repo_id: str | None
    mirrors: list[str]
    revision: str | None
    variant: str | None
    dtype: Dtype
    device: str
    canvas: Size | None
    condition_size: ConditionSize
    cpu_offload: bool
    attention_slicing: bool
    vae_slicing: bool
    vae_tiling: bool
    channels_last: bool
    fuse_qkv: bool
    autocast: bool
    compile: Literal["none", "default", "reduce-overhead", "max-autotune"]

    def __post_init__(self) -> None:
        if self.path is None and self.repo_id is None:
            raise UserError(
                "a model needs a folder or a hub id: give model.path=DIR (model.path, model.repo_id)"
            )
        if self.autocast and self.dtype != "float32":
            raise UserError(
                f"autocast is for float32 weights, got dtype {self.dtype}: set model.dtype=float32 or model.autocast=false "
                "(model.autocast)"
            )
        low, high = self.condition_size
        if low > high:
            raise UserError(f"need smallest <= largest, got {self.condition_size} (model.condition_size)")
        if self.path is not None:
            check_folder(self.folder())

    def folder(self) -> Path:
        """The local folder; "people" names the weights that come with the package."""
        if self.path == "people":
            return Path(__file__).parents[1] / "people" / "weights"
        return Path(str(self.path)).expanduser()

    def load(self) -> Backbone:
        """The frozen model on its device; raises UserError with every place that was tried."""
        if self.path is not None:
            return self._load(str(self.folder()), local=True)
        tried = [str(self.repo_id), *self.mirrors]
        for source in tried:
            try:
                return self._load(source, local=False)
            except (OSError, ValueError) as error:
                log.info("%s: %s", source, error)
        raise UserError(
            f"no weights for {tried[0]} on this disk or from the hub (tried {', '.join(tried)}): download one of them, or "
            "give a local folder with model=local model.path=DIR (model.repo_id, model.mirrors)"
        )

    def _load(self, source: str, local: bool) -> Backbone:
        import torch
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        dtype = getattr(torch, self.dtype)
        hub = {} if local else {"revision": self.revision}
        weights = {**hub, "variant": self.variant, "use_safetensors": True}
        try:
            unet = UNet2DConditionModel.from_pretrained(source, subfolder="unet", dtype=dtype, **weights)
            vae = AutoencoderKL.from_pretrained(source, subfolder="vae", dtype=dtype, **weights)
            text = CLIPTextModel.from_pretrained(source, subfolder="text_encoder", dtype=dtype, **weights)
            tokenizer = CLIPTokenizer.from_pretrained(source, subfolder="tokenizer", **hub)
            scheduler = DDIMScheduler.from_pretrained(source, subfolder="scheduler", **hub).config
            if unet.config.addition_embed_type == "text_time":
                return self._load_xl(source, hub, weights, unet, vae, text, tokenizer, dict(scheduler))
        except UserError:
            raise
        except Exception as error:
            if local:
                raise UserError(f"cannot load the model in {source}: {error} (model.path)") from error
            raise
        return self._finish(
            Backbone(vae, text, tokenizer, unet, dict(scheduler), pick_device(self.device), self.dtype)
        )

    def _load_xl(
        self,
        source: str,
        hub: dict,
        weights: dict,
        unet: Any,
        vae: Any,
        text: Any,
        tokenizer: Any,
        scheduler: dict,
    ) -> Backbone:
        """The rest of a Stable-Diffusion-XL-format model: its second text encoder and tokenizer."""
        import torch
        from diffusers import StableDiffusionXLPipeline
        from transformers import CLIPTextModelWithProjection, CLIPTokenizer

        from sow.models.backbone_xl import XLBackbone

        second = CLIPTextModelWithProjection.from_pretrained(
            source, subfolder="text_encoder_2", dtype=getattr(torch, self.dtype), **weights
        )
        tokenizers = [tokenizer, CLIPTokenizer.from_pretrained(source, subfolder="tokenizer_2", **hub)]
        try:
            index = StableDiffusionXLPipeline.load_config(source, **hub)
        except OSError:  # a folder of parts without a model_index.json
            index = {}
        zero_empty = bool(index.get("force_zeros_for_empty_prompt", True))
        device = pick_device(self.device)
        made = XLBackbone(vae, [text, second], tokenizers, unet, scheduler, device, self.dtype, zero_empty)
        return self._finish(made)

    def _finish(self, backbone: Backbone) -> Backbone:
        """Diffusers' low-memory options on a loaded model, and those for speed."""
        import torch

        if self.vae_slicing:
            backbone.vae.enable_slicing()
        if self.vae_tiling:
            backbone.vae.enable_tiling()
        if self.attention_slicing:
            backbone.unet.set_attention_slice("auto")
        if self.cpu_offload:
            if backbone.device.type != "cuda":
                raise UserError(
                    "cpu_offload needs a CUDA device: set model.cpu_offload=false (model.cpu_offload)"
                )
            from accelerate import cpu_offload

            for module in (backbone.text_encoder, backbone.unet, backbone.vae):
                cpu_offload(module, execution_device=backbone.device)
        if self.channels_last:
            backbone.unet.to(memory_format=torch.channels_last)
        backbone.autocast = self.autocast
        if self.fuse_qkv:
            backbone.unet.fuse_qkv_projections()
        if self.compile != "none":
            backbone.compile(mode=self.compile)
        return backbone

    def canvas_of(self, backbone: Backbone, width: int | None, height: int | None) -> Canvas:
        """The canvas of a run: what the user asked for, else the config's, else the UNet's training size."""
        size = backbone.unet.config.sample_size
        size = [size, size] if isinstance(size, int) else [size[1], size[0]]
        default = self.canvas or [size[0] * backbone.factor, size[1] * backbone.factor]
        return make_canvas(width or default[0], height or default[1], backbone.factor, self.condition_size)


def check_folder(folder: Path) -> None:
    """Fail early and clearly when a folder is no Stable-Diffusion-format model."""
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder} (model.path)")
    need(folder, PARTS)
    config = folder / "unet" / "config.json"
    try:
        embeddings = json.loads(config.read_text()).get("addition_embed_type")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {config}: {error} (model.path)") from error
    if embeddings == "text_time":
        need(folder, XL_PARTS)
    elif embeddings is not None:
        raise UserError(
            f"the UNet in {folder} wants embeddings of kind {embeddings}: give a model of Stable Diffusion 1, 2 or XL "
            "(model.path)"
        )


def need(folder: Path, parts: Sequence[str]) -> None:
    """Raise UserError for the parts of a model that the folder lacks."""
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        raise UserError(
            f"{folder} lacks {', '.join(missing)}: give a Stable-Diffusion-format folder (model.path)"
        )
