"""The frozen latent diffusion model: load, encode, decode, embed a prompt, predict noise."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sow.cache import Cache
from sow.errors import UserError
from sow.types import Canvas

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

DTYPES = ("float16", "bfloat16", "float32", "float64")
PARTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
XL_PARTS = ("text_encoder_2", "tokenizer_2")


class Backbone:
    """A Stable-Diffusion-format model and nothing that depends on which one.

    `vae`, `text_encoder`, `tokenizer`, `unet` as diffusers and transformers load them; `scheduler_config` the contents of
    scheduler_config.json. Weights are frozen. `evaluations` counts UNet sample-evaluations by latent size (h, w).
    """

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        scheduler_config: dict,
        device: str,
        dtype: str,
    ) -> None:
        import torch

        self.device = torch.device(device)
        self.dtype = getattr(torch, dtype)
        # nn.Module.to: diffusers' own `to` warns about every cast of a model that keeps nothing in float32.
        self.vae, self.text_encoder, self.unet = (
            torch.nn.Module.to(m, device=self.device, dtype=self.dtype).eval().requires_grad_(False)
            for m in (vae, text_encoder, unet)
        )
        self.tokenizer = tokenizer
        self.scheduler_config = dict(scheduler_config)
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.channels = int(unet.config.out_channels)  # inpainting UNets take more than the latents
        self.evaluations: Counter[tuple[int, int]] = Counter()
        self.calls = 0
        self.encodings = 0
        self.cache = Cache()
        self._embeds: dict[str, Tensor] = {}
        self._warned: set[str] = set()

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Prompt embeddings (n, length, channels); each distinct prompt is encoded once in the life of the model."""
        import torch

        for prompt in prompts:
            if prompt not in self._embeds:
                self._embeds[prompt] = self._encode_prompt(prompt)
        return torch.cat([self._embeds[p] for p in prompts])

    @property
    def encoders(self) -> list[tuple[Any, Any]]:
        """(tokenizer, text encoder), one pair here."""
        return [(self.tokenizer, self.text_encoder)]

    def _encode_prompt(self, prompt: str) -> Tensor:
        import torch

        ids = [self.tokens(tokenizer, encoder, prompt) for tokenizer, encoder in self.encoders]
        self.encodings += 1
        with torch.no_grad():
            return self.states(ids)

    def states(self, ids: Sequence[Tensor]) -> Tensor:
        """The embedding of token ids, one (1, length) for each encoder; gradients pass."""
        return self.text_encoder(ids[0].to(self.device), attention_mask=None)[0].to(self.dtype)

    def tokens(self, tokenizer: Any, text_encoder: Any, prompt: str) -> Tensor:
        """Token ids (1, length) of a prompt, padded and cut to the length that tokenizer and encoder share."""
        # A tokenizer saved without its length reports a huge one; the encoder's positions are the limit then.
        positions = int(text_encoder.config.max_position_embeddings)
        length = min(int(tokenizer.model_max_length), positions)
        tokens = tokenizer(
            prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        self._warn_lost(prompt, length)
        return tokens.input_ids

    def _warn_lost(self, prompt: str, length: int) -> None:
        """Say once which words of a prompt lie past the tokenizer's length and are lost."""
        full = self.tokenizer(prompt, padding=False, truncation=False, verbose=False).input_ids
        if len(full) > length and prompt not in self._warned:
            self._warned.add(prompt)
            lost = self.tokenizer.decode(full[length - 1 : -1]).strip()
            log.warning("the prompt is longer than %d tokens; these words are lost: %r", length, lost)

    def encode(self, images: Tensor, noises: Tensor | None = None) -> Tensor:
        """Latents (B, C, h, w) of images (B, 3, H, W) in [-1, 1]: the posterior's mode, or mean + std * `noises`.

        Encoded contiguous: PyTorch's channels-last GroupNorm on CPU errs by 1e-2 on a flat gray canvas.
        """
        import torch

        with torch.no_grad():
            images = images.to(device=self.device, dtype=self.vae.dtype).contiguous()
            posterior = self.vae.encode(images).latent_dist
            latents = posterior.mode() if noises is None else posterior.mean + posterior.std * noises
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        return (self.vae.config.scaling_factor * (latents - shift)).to(self.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], float32 on the CPU, of latents (B, C, h, w)."""
        import torch

        with torch.no_grad():
            images = self.vae.decode(self.unscaled(latents), return_dict=False)[0]
        return (images.float() / 2 + 0.5).clamp(0, 1).cpu()

    def unscaled(self, latents: Tensor) -> Tensor:
        """The latents as the autoencoder has them, before scaling and shift."""
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        return latents.to(self.vae.dtype) / self.vae.config.scaling_factor + shift

    def predict(self, latents: Tensor, timestep: int, prompt_embeds: Tensor, **more: Any) -> Tensor:
        """The UNet's output for `latents` (B, C, h, w) at `timestep`, one row of `prompt_embeds` a row of latents.

        `more` goes to the UNet as it is: a ControlNet's residuals, an adapter's embeddings.
        """
        import torch

        height, width = latents.shape[-2:]
        self.evaluations[height, width] += len(latents)
        self.calls += 1
        with torch.no_grad():
            own = self.unet_inputs(latents, prompt_embeds)
            if "added_cond_kwargs" in more:
                own["added_cond_kwargs"] = {
                    **own.get("added_cond_kwargs", {}),
                    **more.pop("added_cond_kwargs"),
                }
            return self.unet(latents, timestep, return_dict=False, **own, **more)[0]

    def unet_inputs(self, latents: Tensor, prompt_embeds: Tensor) -> dict[str, Any]:
        """What the UNet takes of a prompt's embedding, by the names of its arguments."""
        return {"encoder_hidden_states": prompt_embeds}


def pick_device(device: str) -> str:
    """ "auto" becomes CUDA where there is one; raises UserError for CUDA where there is none."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device {device} is not available here: use model.device=cpu (model.device)")
    return device


@dataclass(frozen=True)
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
    `compile`         none, or the mode that torch.compile takes for the UNet; modulated attention itself stays as it is
    """

    path: str | None
    repo_id: str | None
    mirrors: list[str]
    revision: str | None
    variant: str | None
    dtype: str
    device: str
    canvas: list[int] | None
    condition_size: list[int]
    cpu_offload: bool
    attention_slicing: bool
    vae_slicing: bool
    vae_tiling: bool
    channels_last: bool
    fuse_qkv: bool
    compile: Literal["none", "default", "reduce-overhead", "max-autotune"]
    _target_: str = "sow.backbone.Pretrained"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UserError(f"dtype is one of {', '.join(DTYPES)}, got {self.dtype!r} (model.dtype)")
        if self.path is None and self.repo_id is None:
            raise UserError(
                "a model needs a folder or a hub id: give model.path=DIR (model.path, model.repo_id)"
            )
        if self.canvas is not None and (len(self.canvas) != 2 or min(self.canvas) <= 0):
            raise UserError(f"the canvas is [width, height] in pixels, got {self.canvas} (model.canvas)")
        low_high = self.condition_size
        if len(low_high) != 2 or not 0 < low_high[0] <= low_high[1] <= 512:
            raise UserError(f"need 0 < smallest <= largest <= 512, got {low_high} (model.condition_size)")
        if self.path is not None:
            check_folder(self.folder())

    def folder(self) -> Path:
        """The local folder; "people" names the weights that come with the package."""
        if self.path == "people":
            return Path(__file__).parent / "people" / "weights"
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

        from sow.backbone_xl import XLBackbone

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
        if self.fuse_qkv:
            backbone.unet.fuse_qkv_projections()
        if self.compile != "none":
            from sow.attention.processor import leave_uncompiled

            leave_uncompiled()
            backbone.unet.compile(mode=self.compile, dynamic=False)
        backbone.cache.settle(backbone)
        return backbone

    def canvas_of(self, backbone: Backbone, width: int | None, height: int | None) -> Canvas:
        """The canvas of a run: what the user asked for, else the config's, else the UNet's training size."""
        size = backbone.unet.config.sample_size
        size = [size, size] if isinstance(size, int) else [size[1], size[0]]
        default = self.canvas or [size[0] * backbone.factor, size[1] * backbone.factor]
        return make_canvas(width or default[0], height or default[1], backbone.factor, self.condition_size)


def make_canvas(width: int, height: int, factor: int, condition_size: Sequence[int]) -> Canvas:
    """A canvas whose condition limits are scaled from 512 pixels to its shorter side and snapped to the VAE's factor."""
    if width % factor or height % factor:
        raise UserError(
            f"the canvas must be a multiple of {factor} pixels, got {width} x {height} (width, height, model.canvas)"
        )
    low, high = (side * min(width, height) / 512 for side in condition_size)
    smallest = max(factor, -(-int(low) // factor) * factor)
    return Canvas(width, height, factor, smallest, max(smallest, int(high) // factor * factor))


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
