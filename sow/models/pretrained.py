"""Models from checkpoints: a folder in Stable Diffusion's format or a hub id, with the options of how they
run."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from sow.errors import UserError
from sow.models import checkpoint
from sow.models.backbone import Backbone, ConditionSize, Dtype, Size, make_canvas, pick_device
from sow.models.loading import load_whole
from sow.store.checksums import check_files
from sow.store.inputs import hub_revision
from sow.types import Canvas, component

log = logging.getLogger(__name__)

PARTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
XL_PARTS = ("text_encoder_2", "tokenizer_2")
CHECKS = {
    "vae": checkpoint.check_vae,
    "unet": checkpoint.check_unet,
    "text_encoder": checkpoint.check_text_encoder,
    "text_encoder_2": checkpoint.check_text_encoder,
}


@component("model")
class Pretrained:
    """A Stable-Diffusion-format checkpoint: a local folder, or a hub id with its mirrors.

    `path`            folder with vae, text_encoder, tokenizer, unet and scheduler; None = `repo_id`, then
                      `mirrors`
    `revision`, `variant`  as on the hub; the variant must match the files ("fp16")
    `dtype`           float16, bfloat16, float32 or float64; `device` auto, cpu or cuda
    `canvas`          [width, height] in pixels, None = what the UNet was trained at
    `condition_size`  smallest and largest side of a condition, for a canvas of 512 pixels (Sec. V)
    `cpu_offload`, `attention_slicing`, `vae_slicing`, `vae_tiling`  diffusers' low-memory options
    `channels_last`   the UNet's convolutions on channels-last memory; the autoencoder's stay contiguous
                      (see `encode`)
    `fuse_qkv`        one product for queries, keys and values
    `autocast`        the UNet's products in bfloat16 over float32 weights (`dtype` float32)
    `compile`         none, or the mode that torch.compile takes for the UNet, modulated attention included
    `prediction_type`, `timestep_spacing`  in place of the scheduler's own, for a fine-tune that is labelled
                                           wrongly
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
    prediction_type: Literal["epsilon", "v_prediction", "sample"] | None
    timestep_spacing: Literal["leading", "trailing", "linspace"] | None

    def __post_init__(self) -> None:
        if self.path is None and self.repo_id is None:
            raise UserError(
                "a model needs a folder or a hub id: give model.path=DIR (model.path, model.repo_id)"
            )
        if self.autocast and self.dtype != "float32":
            raise UserError(
                f"autocast is for float32 weights, got dtype {self.dtype}: set model.dtype=float32 or "
                "model.autocast=false "
                "(model.autocast)"
            )
        low, high = self.condition_size
        if low > high:
            raise UserError(f"need smallest <= largest, got {self.condition_size} (model.condition_size)")
        if self.path is not None:
            folder = self.folder()
            check_folder(folder)
            self.scheduler(checkpoint.read(folder / checkpoint.SCHEDULER_FILE), str(folder))

    def folder(self) -> Path:
        """The local folder; "people" names the weights that come with the package."""
        if self.path == "people":
            return Path(__file__).parents[1] / "people" / "weights"
        return Path(str(self.path)).expanduser()

    def files(self) -> list[Path]:
        """All that lies in the local folder."""
        return [] if self.path is None else [self.folder()]

    def revisions(self) -> dict[str, str]:
        """The commits of the hub's models on this disk that may be loaded."""
        if self.path is not None:
            return {}
        found = [
            hub_revision(name, "unet/config.json", self.revision)
            for name in (str(self.repo_id), *self.mirrors)
        ]
        return {name: commit for one in found for name, commit in one.items()}

    def load(self) -> Backbone:
        """The frozen model on its device; raises UserError with every place that was tried."""
        pick_device(self.device)  # before minutes are spent on reading weights
        if self.path is not None:
            return self._load(str(self.folder()), local=True)
        tried = [str(self.repo_id), *self.mirrors]
        for source in tried:
            try:
                return self._load(source, local=False)
            except (OSError, ValueError) as error:
                log.info("%s: %s", source, error)
        raise UserError(
            f"no weights for {tried[0]} on this disk or from the hub (tried {', '.join(tried)}): download "
            "one of them, or "
            "give a local folder with model=local model.path=DIR (model.repo_id, model.mirrors)"
        )

    def _load(self, source: str, local: bool) -> Backbone:
        import torch
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        hub = {} if local else {"revision": self.revision}
        options = {
            **hub,
            "variant": self.variant,
            "use_safetensors": True,
            "dtype": getattr(torch, self.dtype),
            "key": "model.path" if local else "model.repo_id",
        }
        try:
            if local:
                check_files(Path(source), "model.path")
            for part, cls in {"unet": UNet2DConditionModel, "vae": AutoencoderKL}.items():
                config = cls.load_config(source, subfolder=part, **hub)
                known = inspect.signature(cls.__init__).parameters
                checkpoint.check_known(config, known, f"{source}/{part}/config.json")
                CHECKS[part](config, f"{source}/{part}/config.json")
            scheduler = self.scheduler(
                DDIMScheduler.load_config(source, subfolder="scheduler", **hub), source
            )
            unet = load_whole(UNet2DConditionModel, source, subfolder="unet", **options)
            vae = load_whole(AutoencoderKL, source, subfolder="vae", **options)
            text = load_whole(CLIPTextModel, source, subfolder="text_encoder", **options)
            tokenizer = CLIPTokenizer.from_pretrained(source, subfolder="tokenizer", **hub)
            if unet.config.addition_embed_type == "text_time":
                made = self._load_xl(source, hub, options, unet, vae, text, tokenizer, scheduler)
            else:
                made = Backbone(vae, text, tokenizer, unet, scheduler, pick_device(self.device), self.dtype)
        except UserError:
            raise
        except Exception as error:
            if not local and isinstance(error, (OSError, ValueError)):
                raise  # the next mirror may have it
            raise UserError(f"cannot load the model in {source}: {error} ({options['key']})") from error
        fit_together(made, source)
        return self._finish(made)

    def scheduler(self, config: dict[str, Any], source: str) -> dict[str, Any]:
        """The checkpoint's scheduler configuration, with what `prediction_type` and `timestep_spacing` put
        right."""
        own = {"prediction_type": self.prediction_type, "timestep_spacing": self.timestep_spacing}
        own = {k: v for k, v in own.items() if v is not None}
        if own and config.get("_class_name") in checkpoint.FLOWS:
            raise UserError(
                f"{source} is a rectified flow, which predicts a velocity: leave out "
                f"{', '.join(f'model.{key}' for key in own)} ({', '.join(f'model.{key}' for key in own)})"
            )
        config = {**config, **own}
        checkpoint.check_scheduler(config, f"{source}/{checkpoint.SCHEDULER_FILE}")
        return config

    def _load_xl(
        self,
        source: str,
        hub: dict[str, Any],
        options: dict[str, Any],
        unet: Any,
        vae: Any,
        text: Any,
        tokenizer: Any,
        scheduler: dict[str, Any],
    ) -> Backbone:
        """The rest of a Stable-Diffusion-XL-format model: its second text encoder and tokenizer."""
        from diffusers import StableDiffusionXLPipeline
        from transformers import CLIPTextModelWithProjection, CLIPTokenizer

        from sow.models.backbone_xl import XLBackbone

        second = load_whole(CLIPTextModelWithProjection, source, subfolder="text_encoder_2", **options)
        tokenizers = [tokenizer, CLIPTokenizer.from_pretrained(source, subfolder="tokenizer_2", **hub)]
        try:
            index = StableDiffusionXLPipeline.load_config(source, **hub)
        except OSError:  # a folder of parts without a model_index.json
            index = {}
        zero_empty = bool(index.get("force_zeros_for_empty_prompt", True))
        device = pick_device(self.device)
        return XLBackbone(vae, [text, second], tokenizers, unet, scheduler, device, self.dtype, zero_empty)

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
        return self._canvas(backbone.unet.config, backbone.factor, width, height)

    def known(self, width: int | None, height: int | None) -> tuple[Canvas, Mapping[str, Any]] | None:
        """The canvas of a run and the UNet's configuration, as a local folder says before it is loaded."""
        if self.path is None:
            return None
        unet, vae = (checkpoint.read(self.folder() / part / "config.json") for part in ("unet", "vae"))
        factor = 2 ** (len(vae.get("block_out_channels", (64,))) - 1)
        return self._canvas(unet, factor, width, height), unet

    def _canvas(self, unet: Mapping[str, Any], factor: int, width: int | None, height: int | None) -> Canvas:
        size = unet.get("sample_size") or 64  # Stable Diffusion's own, where the file is silent
        tall, wide = (size, size) if isinstance(size, int) else size
        default = self.canvas or [wide * factor, tall * factor]
        return make_canvas(width or default[0], height or default[1], factor, self.condition_size)


def check_folder(folder: Path) -> None:
    """Fail early and clearly when a folder is no Stable-Diffusion-format model."""
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder} (model.path)")
    need(folder, PARTS)
    unet = checkpoint.read(folder / "unet" / "config.json")
    if unet.get("addition_embed_type") == "text_time":
        need(folder, XL_PARTS)
    for part, check in CHECKS.items():
        if (folder / part).is_dir():
            check(checkpoint.read(folder / part / "config.json"), f"{folder / part}/config.json")


def need(folder: Path, parts: Sequence[str]) -> None:
    """Raise UserError for the parts of a model that the folder lacks."""
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        raise UserError(
            f"{folder} lacks {', '.join(missing)}: give a Stable-Diffusion-format folder (model.path)"
        )


def fit_together(backbone: Backbone, source: str) -> None:
    """Raise UserError where the parts of a checkpoint come from models of different sizes."""
    unet, latents = backbone.unet.config, int(backbone.vae.config.latent_channels)
    if backbone.channels != latents:
        raise UserError(
            f"the parts in {source} do not fit: unet/config.json has out_channels={backbone.channels}, "
            "vae/config.json "
            f"latent_channels={latents} (model.path)"
        )
    width = sum(int(encoder.config.hidden_size) for _, encoder in backbone.encoders)
    if unet.encoder_hid_dim is None and unet.cross_attention_dim != width:
        raise UserError(
            f"the parts in {source} do not fit: unet/config.json has "
            f"cross_attention_dim={unet.cross_attention_dim}, the "
            f"text encoder hidden_size={width} (model.path)"
        )
    for tokenizer, encoder in backbone.encoders:
        if len(tokenizer) > encoder.config.vocab_size:
            raise UserError(
                f"the parts in {source} do not fit: the tokenizer has {len(tokenizer)} tokens, the text "
                "encoder "
                f"vocab_size={encoder.config.vocab_size} (model.path)"
            )
