"""Models from checkpoints: a folder in Stable Diffusion's format or a hub id, with the options of how they
run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from sow.errors import UserError
from sow.models import checkpoint
from sow.models.backbone import Backbone, ConditionSize, Dtype, Size, make_canvas, pick_device
from sow.models.stable_diffusion import CHECKS, load_stable_diffusion
from sow.models.transformer import PATCH, TransformerBackbone, adapter_of, load_transformer
from sow.store.checksums import check_files
from sow.store.files import place_of
from sow.store.inputs import hub_revision
from sow.types import Canvas, component

log = logging.getLogger(__name__)

OWN = ("unet", "scheduler")
PARTS = ("vae", "text_encoder", "tokenizer", *OWN)
PEOPLE = Path(__file__).parents[1] / "people"
SHIPPED = {"people": PEOPLE / "weights", "people_flow": PEOPLE / "weights_flow"}  # come with the package
XL_PARTS = ("text_encoder_2", "tokenizer_2")


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
    `unet_path`          folder with another unet and scheduler for the same latents and prompt embeddings;
                         "people_flow" = the rectified flow of the embedded model; None = the model's own
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
    unet_path: str | None = None
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
            check_folder(self.folder())
        if self.unet_path is not None:
            need(self.unet_folder(), OWN, "model.unet_path")
            where = self.unet_folder() / "unet" / "config.json"
            checkpoint.check_unet(checkpoint.read(where), str(where))
        if self.path is not None or self.unet_path is not None:
            where = self.unet_folder()
            self.scheduler(checkpoint.read(where / checkpoint.SCHEDULER_FILE), str(where))

    def folder(self) -> Path:
        """The local folder; "people" names the weights that come with the package."""
        return _place(str(self.path))

    def unet_folder(self) -> Path:
        """The local folder of unet and scheduler."""
        return self.folder() if self.unet_path is None else _place(self.unet_path)

    def files(self) -> list[Path]:
        """All that lies in the local folders."""
        own = [] if self.path is None else [self.folder()]
        return own if self.unet_path is None else [*own, self.unet_folder()]

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
        from diffusers import DDIMScheduler

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
            own = source  # of unet and scheduler
            if self.unet_path is not None:
                own = str(self.unet_folder())
                check_files(self.unet_folder(), "model.unet_path")
            device = pick_device(self.device)
            if (adapter := self._adapter(source, local)) is not None:
                if self.unet_path is not None:
                    raise UserError(
                        f"{source} holds a diffusion transformer, which has no unet: leave it out "
                        "(model.unet_path)"
                    )
                scheduler = self.scheduler(
                    DDIMScheduler.load_config(source, subfolder="scheduler", **hub), source
                )
                return self._finish(
                    load_transformer(
                        adapter, source, hub, options, scheduler, device, self.dtype, self.embedded_guidance
                    )
                )
            made = load_stable_diffusion(
                source,
                lambda config: self.scheduler(config, own),
                device,
                self.dtype,
                key=options["key"],
                own=own,
                hub=hub,
                variant=self.variant,
            )
        except UserError:
            raise
        except Exception as error:
            if not local and isinstance(error, (OSError, ValueError)):
                raise  # the next mirror may have it
            raise UserError(f"cannot load the model in {source}: {error} ({options['key']})") from error
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
        unet = checkpoint.read(self.unet_folder() / "unet" / "config.json")
        vae = checkpoint.read(self.folder() / "vae" / "config.json")
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


def _place(name: str) -> Path:
    """The folder of a name of SHIPPED or of a path."""
    return SHIPPED.get(name) or place_of(name, "model.path")


def check_folder(folder: Path) -> None:
    """Fail early and clearly when a folder is no Stable-Diffusion-format model."""
    need(folder, ())
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


def need(folder: Path, parts: Sequence[str], key: str = "model.path") -> None:
    """Raise UserError for a folder that is not there, and for the parts of a model that it lacks."""
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder} ({key})")
    missing = [part for part in parts if not (folder / part).is_dir()]
    # Without it a tokenizer pads with what its class takes, which is not what every model was trained on.
    settings = [f"{part}/tokenizer_config.json" for part in parts if part.startswith("tokenizer")]
    missing += [
        name for name in settings if (folder / name).parent.is_dir() and not (folder / name).is_file()
    ]
    if missing:
        raise UserError(f"{folder} lacks {', '.join(missing)}: give a Stable-Diffusion-format folder ({key})")
