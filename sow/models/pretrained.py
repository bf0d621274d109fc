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
from sow.models.loading import load_parts, load_whole
from sow.models.transformer import PATCH, TransformerBackbone, adapter_of, distilled
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
    `embedded_guidance`  what a network is told that takes its guidance as an input (FLUX.1 dev); None = it
                         does not
    `licence`, `gated`   of the hub's files, said before they are fetched

    A diffusion transformer's folder, which has `transformer` in place of `unet`, loads through its adapter.
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
    embedded_guidance: float | None = None
    licence: str | None = None
    gated: bool = False

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
        if self.licence is not None:
            gate = "; its page must be accepted once, and a token given to the hub" if self.gated else ""
            log.warning("%s has the licence %s%s (model.repo_id)", tried[0], self.licence, gate)
        for source in tried:
            try:
                return self._load(source, local=False)
            except (OSError, ValueError) as error:
                log.info("%s: %s", source, error)
        raise UserError(
            f"no weights for {tried[0]} on this disk or from the hub (tried {', '.join(tried)}): download "
            "one of them, or "
            "give a local folder with model=local model.path=DIR (model.repo_id, model.mirrors)"
            + ("; the hub gives it to those who accepted its page and are logged in" if self.gated else "")
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
            if (adapter := self._adapter(source, local)) is not None:
                return self._finish(self._load_transformer(adapter, source, hub, options))
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

    def _adapter(self, source: str, local: bool) -> Any:
        """The adapter of a diffusion transformer, None for a UNet."""
        from diffusers import DiffusionPipeline

        if local and not (Path(source) / "transformer").is_dir():
            return None
        try:
            index = DiffusionPipeline.load_config(source, **({} if local else {"revision": self.revision}))
        except OSError:
            if local:
                raise
            return None  # a folder of parts without a model_index.json, as some mirrors are
        return adapter_of(index, source) if local or "transformer" in index else None

    def _load_transformer(
        self, adapter: Any, source: str, hub: dict[str, Any], options: dict[str, Any]
    ) -> Backbone:
        from diffusers import DDIMScheduler

        scheduler = self.scheduler(DDIMScheduler.load_config(source, subfolder="scheduler", **hub), source)
        parts = load_parts(adapter.PARTS, source, hub, options)
        checkpoint.check_vae(parts["vae"].config, f"{source}/vae/config.json")
        made = adapter(parts, scheduler, pick_device(self.device), self.dtype)
        if word := distilled(source):
            log.warning(
                "%s is distilled to a few steps (%r): its velocities are no path that can be "
                "walked back, and inversion on such models is reported to fail; take the model it was "
                "made from (model.path, model.repo_id)",
                source,
                word,
            )
        guided = bool(getattr(made.unet.config, "guidance_embeds", False))
        if guided != (self.embedded_guidance is not None):
            need = "takes its guidance as an input: give model.embedded_guidance=3.5"
            raise UserError(
                f"{source} {need if guided else 'takes no guidance as an input: leave it out'} "
                "(model.embedded_guidance)"
            )
        made.embedded_guidance = self.embedded_guidance
        return made

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

        if backbone.transformer:
            wrong = [n for n in ("attention_slicing", "channels_last", "fuse_qkv") if getattr(self, n)]
            wrong += ["compile"] if self.compile != "none" else []
            if wrong:
                names = ", ".join(f"model.{n}" for n in wrong)
                raise UserError(
                    f"{names} is for UNets, and this is a diffusion transformer: leave it out ({names})"
                )
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
        """The canvas of a run: what the user asked for, else the config's, else the training's."""
        if isinstance(backbone, TransformerBackbone):
            return self._canvas({"sample_size": backbone.side()}, backbone.factor, width, height, PATCH)
        return self._canvas(backbone.unet.config, backbone.factor, width, height)

    def known(self, width: int | None, height: int | None) -> tuple[Canvas, Mapping[str, Any] | None] | None:
        """The canvas of a run and the UNet's configuration, as a local folder says before it is loaded; None
        where it does not."""
        if self.path is None or (self.folder() / "transformer").is_dir():
            return None
        unet, vae = (checkpoint.read(self.folder() / part / "config.json") for part in ("unet", "vae"))
        factor = 2 ** (len(vae.get("block_out_channels", (64,))) - 1)
        return self._canvas(unet, factor, width, height), unet

    def _canvas(
        self,
        unet: Mapping[str, Any],
        factor: int,
        width: int | None,
        height: int | None,
        patch: int = 1,
    ) -> Canvas:
        size = unet.get("sample_size") or 64  # Stable Diffusion's own, where the file is silent
        tall, wide = (size, size) if isinstance(size, int) else size
        default = self.canvas or [wide * factor, tall * factor]
        wide, tall = width or default[0], height or default[1]
        if wide % (factor * patch) or tall % (factor * patch):
            raise UserError(
                f"the canvas must be a multiple of {factor * patch} pixels, got {wide} x {tall} (width, "
                "height, model.canvas)"
            )
        return make_canvas(wide, tall, factor, self.condition_size)


def check_folder(folder: Path) -> None:
    """Fail early and clearly when a folder is no Stable-Diffusion-format model."""
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder} (model.path)")
    if (folder / "transformer").is_dir():
        need(folder, tuple(adapter_of(checkpoint.read(folder / "model_index.json"), str(folder)).PARTS))
        checkpoint.check_vae(checkpoint.read(folder / "vae" / "config.json"), f"{folder}/vae/config.json")
        return
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
