"""The frozen latent diffusion model: encode, decode, embed a prompt, predict noise (`pretrained.py` loads
one)."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from sow.errors import UserError
from sow.models import checkpoint
from sow.types import Bound, Canvas

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

Dtype = Literal["float16", "bfloat16", "float32", "float64"]
Size = Annotated[tuple[int, int], Bound(ge=1)]  # width, height in pixels
ConditionSize = Annotated[
    tuple[int, int], Bound(ge=1, le=512)
]  # smallest and largest side, for a canvas of 512
GRAPHS = 64  # compiled at most; further shapes run as they are


class Backbone:
    """A Stable-Diffusion-format model and nothing that depends on which one.

    `vae`, `text_encoder`, `tokenizer`, `unet` as diffusers and transformers load them; `scheduler_config`
    the contents of scheduler_config.json. Weights are frozen. `evaluations` counts UNet sample-evaluations
    by latent size (h, w).
    `autocast`: the UNet's products in bfloat16, over float32 weights; text and pictures keep their precision.
    """

    transformer: ClassVar[bool] = False  # whether the network is one
    embedded_guidance: float | None = None  # what a guidance-distilled network is told

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
        # Inpainting UNets take more than the latents; a transformer may leave its channels open.
        self.channels = int(getattr(unet.config, "out_channels", None) or vae.config.latent_channels)
        self.autocast = False
        self.compiled = False
        self.evaluations: Counter[tuple[int, int]] = Counter()
        self.calls = 0
        self.encodings = 0
        self.prompt_embeds: dict[str, Tensor] = {}
        self.loaded: dict[str, Any] = {}  # what was taken where the files leave a choice, for the manifest
        self._warned: set[str] = set()
        self._timesteps: dict[float, Tensor] = {}

    @property
    def flow(self) -> bool:
        """Whether the network predicts a rectified flow's velocity."""
        return self.scheduler_config.get("_class_name") in checkpoint.FLOWS

    def levels(
        self, num_inference_steps: int, latent_size: Sequence[int] | None = None
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """A flow's sigma_0 .. sigma_K and timesteps t_0 .. t_{K-1} for latents of `latent_size` (h, w), as
        diffusers' scheduler makes them; raises UserError for a K without as many levels."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        scheduler = FlowMatchEulerDiscreteScheduler(**checkpoint.flow_schedule(self.scheduler_config))
        self.set_timesteps(scheduler, num_inference_steps, latent_size)
        sigmas, timesteps = scheduler.sigmas.tolist()[::-1], scheduler.timesteps.tolist()[::-1]
        if not all(s < t for s, t in zip(sigmas, sigmas[1:], strict=False)):
            raise UserError(
                f"num_inference_steps={num_inference_steps} is more than this flow has levels: take fewer "
                "steps (num_inference_steps)"
            )
        return tuple(sigmas), tuple(timesteps)

    def set_timesteps(
        self, scheduler: Any, num_inference_steps: int, latent_size: Sequence[int] | None
    ) -> None:
        """The scheduler's grid, as the model's own pipeline asks for it."""
        scheduler.set_timesteps(num_inference_steps)

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Prompt embeddings (n, length, channels); each distinct prompt is encoded once in the life of the
        model."""
        import torch

        for prompt in prompts:
            if prompt not in self.prompt_embeds:
                self.prompt_embeds[prompt] = self.encode_prompt(prompt)
        return torch.cat([self.prompt_embeds[p] for p in prompts])

    @property
    def encoders(self) -> list[tuple[Any, Any]]:
        """(tokenizer, text encoder), one pair here."""
        return [(self.tokenizer, self.text_encoder)]

    def encode_prompt(self, prompt: str) -> Tensor:
        """The embedding (1, length, channels) of a prompt, encoded anew."""
        import torch

        ids = [self.tokens(tokenizer, encoder, prompt) for tokenizer, encoder in self.encoders]
        self.encodings += 1
        with torch.no_grad():
            states = self.states(ids)
        if not states.isfinite().all():
            raise UserError(f"the embedding of the prompt {prompt!r} is not finite: {self.precision_cure()}")
        return states

    def states(self, ids: Sequence[Tensor]) -> Tensor:
        """The embedding of token ids, one (1, length) for each encoder; gradients pass."""
        return self.text_encoder(ids[0].to(self.device), attention_mask=None)[0].to(self.dtype)

    def tokens(self, tokenizer: Any, text_encoder: Any, prompt: str) -> Tensor:
        """Token ids (1, length) of a prompt, padded and cut to the length that tokenizer and encoder
        share."""
        # A tokenizer saved without its length reports a huge one; the encoder's positions are the limit then.
        positions = int(text_encoder.config.max_position_embeddings)
        length = min(int(tokenizer.model_max_length), positions)
        tokens = tokenizer(
            prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        self.warn_lost(prompt, self.tokenizer, length)
        return tokens.input_ids

    def warn_lost(self, prompt: str, tokenizer: Any, length: int) -> None:
        """Say once which words of a prompt lie past the tokenizer's length and are lost."""
        full = tokenizer(prompt, padding=False, truncation=False, verbose=False).input_ids
        if len(full) > length and prompt not in self._warned:
            self._warned.add(prompt)
            lost = tokenizer.decode(full[length - 1 : -1]).strip()
            log.warning("the prompt is longer than %d tokens; these words are lost: %r", length, lost)

    def encode(self, images: Tensor, noises: Tensor | None = None) -> Tensor:
        """Latents (B, C, h, w) of images (B, 3, H, W) in [-1, 1]: the posterior's mode, or mean + std *
        `noises`.

        Encoded contiguous: PyTorch's channels-last GroupNorm on CPU errs by 1e-2 on a flat gray canvas.
        """

        def made(vae: Any) -> Tensor:
            posterior = vae.encode(images.to(self.device, vae.dtype).contiguous()).latent_dist
            return posterior.mode() if noises is None else posterior.mean + posterior.std * noises

        latents = self._through_vae(made, "encodes the picture to")
        config = self.vae.config
        if config.latents_mean is not None:
            mean, std = self._moments(latents)
            return (config.scaling_factor * (latents - mean) / std).to(self.dtype)
        shift = config.shift_factor or 0.0
        return (config.scaling_factor * (latents - shift)).to(self.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], float32 on the CPU, of latents (B, C, h, w).

        Decoded again in float32 where half precision overflows; raises UserError for pictures that are not
        finite then.
        """
        images = self._through_vae(
            lambda vae: vae.decode(self.unscaled(latents).to(vae.dtype), return_dict=False)[0],
            "decodes the latents to",
        )
        return (images.float() / 2 + 0.5).clamp(0, 1).cpu()

    def unscaled(self, latents: Tensor) -> Tensor:
        """The latents as the autoencoder has them, before scaling and shift."""
        config = self.vae.config
        latents = latents.to(self.vae.dtype)
        if config.latents_mean is not None:
            mean, std = self._moments(latents)
            return latents * std / config.scaling_factor + mean
        return latents / config.scaling_factor + (config.shift_factor or 0.0)

    def _moments(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (1, C, 1, 1) that the checkpoint says its latents have, channel by
        channel."""
        import torch

        values = torch.tensor([self.vae.config.latents_mean, self.vae.config.latents_std]).to(latents)
        mean, std = values.view(2, 1, -1, 1, 1)
        return mean, std

    def _through_vae(self, call: Callable[[Any], Tensor], what: str) -> Tensor:
        """What `call` makes with the autoencoder, made in float32 where half precision gives values that
        are not finite."""
        import torch

        half = self.vae.dtype in (torch.float16, torch.bfloat16)
        with torch.no_grad():
            made = call(self.vae)
            if not made.isfinite().all() and half and not hasattr(self.vae, "_hf_hook"):
                log.warning(
                    "the autoencoder %s values that are not finite in %s: once more in float32",
                    what,
                    self.vae.dtype,
                )
                # A copy: the model stays as it is, and with it what later requests get.
                made = call(torch.nn.Module.to(copy.deepcopy(self.vae), dtype=torch.float32))
        if not made.isfinite().all():
            raise UserError(f"the autoencoder {what} values that are not finite: {self.precision_cure()}")
        return made

    def precision_cure(self) -> str:
        """What helps against values that are not finite, in the precision that this model runs in."""
        import torch

        if self.autocast:
            return "try model.autocast=false (model.autocast)"
        if self.dtype == torch.float16:
            return "try model.dtype=float32 or bfloat16 (model.dtype)"
        if self.dtype == torch.bfloat16:
            return "try model.dtype=float32 (model.dtype)"
        return (
            "precision is not the cause; look for nan in the weights, or lower the guidance scale and omega "
            "(model.path, guidance.scale, p_plus.omega, p_minus.omega)"
        )

    def predict(self, latents: Tensor, timestep: float, prompt_embeds: Tensor, **more: Any) -> Tensor:
        """The UNet's output for `latents` (B, C, h, w) at `timestep`, one row of `prompt_embeds` a row of
        latents.

        `more` goes to the UNet as it is: a ControlNet's residuals, an adapter's embeddings.
        """
        import torch

        height, width = latents.shape[-2:]
        self.evaluations[height, width] += len(latents)
        self.calls += 1
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            output = self.call(latents, timestep, prompt_embeds, **more)
        # A copy where it is compiled: a CUDA graph writes over what it handed out.
        return output.to(latents.dtype, copy=self.compiled)

    def call(self, latents: Tensor, timestep: float, prompt_embeds: Tensor, **more: Any) -> Tensor:
        """The network's output, as `predict` asks for it."""
        own = self.unet_inputs(latents, prompt_embeds)
        if "added_cond_kwargs" in more:
            own["added_cond_kwargs"] = {**own.get("added_cond_kwargs", {}), **more.pop("added_cond_kwargs")}
        return self.unet(latents, self.on_device(timestep), return_dict=False, **own, **more)[0]

    def widest(self, height: int, width: int) -> int:
        """Numbers in the network's largest feature map of one picture with latents of (height, width)."""
        return height * width * int(self.unet.config.block_out_channels[0])

    def compile(self, **how: Any) -> None:
        """Compile the UNet; `how` goes to torch.compile. A graph for each batch size and latent size.

        Hooks set on its layers afterwards are not called: to look for them before each call takes longer
        than the call.
        """
        import torch._dynamo.config as limits

        # Not by an argument of compile, which torch 2.11 does not have.
        limits.recompile_limit = max(limits.recompile_limit, GRAPHS)
        self.unet.compile(dynamic=False, **how)
        self.compiled = True

    def on_device(self, timestep: float) -> Tensor:
        """The timestep as a tensor, sent to the device once: a number would be copied there in each call,
        and a compiled UNet would be compiled for each."""
        import torch

        if timestep not in self._timesteps:
            self._timesteps[timestep] = torch.tensor(timestep, device=self.device)
        return self._timesteps[timestep]

    def unet_inputs(self, latents: Tensor, prompt_embeds: Tensor) -> dict[str, Any]:
        """What the UNet takes of a prompt's embedding, by the names of its arguments."""
        return {"encoder_hidden_states": prompt_embeds}


def pick_device(device: str, dtype: str = "float32") -> str:
    """ "auto" becomes CUDA where there is one, else Apple's GPU (mps) unless `dtype` is float64, which that
    lacks; raises UserError for a device that is not here."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    can = {"cuda": True, "mps": dtype != "float64"}
    if device == "auto":
        return next((name for name in there if there[name] and can[name]), "cpu")
    kind = device.partition(":")[0]
    if not there.get(kind, True):
        raise UserError(f"device {device} is not available here: use model.device=cpu (model.device)")
    if not can.get(kind, True):
        raise UserError(
            f"device {device} has no {dtype}: use model.dtype=float32, or model.device=cpu (model.dtype, "
            "model.device)"
        )
    return device


def make_canvas(width: int, height: int, factor: int, condition_size: Sequence[int]) -> Canvas:
    """A canvas whose condition limits are scaled from 512 pixels to its shorter side and snapped to the
    VAE's factor."""
    if width % factor or height % factor:
        raise UserError(
            f"the canvas must be a multiple of {factor} pixels, got {width} x {height} (width, height, "
            "model.canvas)"
        )
    low, high = (side * min(width, height) / 512 for side in condition_size)
    smallest = max(factor, -(-int(low) // factor) * factor)
    return Canvas(width, height, factor, smallest, max(smallest, int(high) // factor * factor))
