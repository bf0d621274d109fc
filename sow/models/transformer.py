"""Diffusion transformers behind the calls of a backbone: what their adapters share.

An adapter is a class with the parts of its pipeline's folder and six functions: `states` encodes a prompt,
`encode` and `decode` pictures (here and in the backbone), `set_timesteps` says which levels its pipeline
takes, `call` predicts, and `side` is the latents' size it was trained at. Latents are (B, C, h, w)
everywhere; a transformer that wants them packed gets them packed in `call`.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from sow.errors import UserError
from sow.models.backbone import Backbone, Dtype
from sow.models.loading import load_parts

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

# Pipelines of diffusers -> adapters.
ADAPTERS = {
    "PixArtSigmaPipeline": "sow.models.pixart.PixArtBackbone",
    "StableDiffusion3Pipeline": "sow.models.sd3.SD3Backbone",
    "FluxPipeline": "sow.models.flux.FluxBackbone",
    "PRXPipeline": "sow.models.prx.PRXBackbone",
    "ZImagePipeline": "sow.models.z_image.ZImageBackbone",
}
PATCH = 2  # latents on a side of a token
# Words in the names of checkpoints distilled to a few steps.
DISTILLED = ("turbo", "schnell", "lightning", "lcm", "dmd", "hyper", "distill")


def adapter_of(index: Mapping[str, Any], place: str) -> type[TransformerBackbone]:
    """The adapter of a model_index.json; raises UserError for a pipeline that has none."""
    name = str(index.get("_class_name"))
    if name not in ADAPTERS:
        raise UserError(
            f"{place}/model_index.json has _class_name={name}: of transformers {', '.join(ADAPTERS)} are "
            "understood (model.path)"
        )
    module, _, cls = ADAPTERS[name].rpartition(".")
    return getattr(importlib.import_module(module), cls)


def distilled(name: str) -> str | None:
    """The word in a checkpoint's name that says it was distilled to a few steps, None where there is none."""
    return next((word for word in DISTILLED if word in name.lower()), None)


class TransformerBackbone(Backbone):
    """A diffusion transformer with its autoencoder and text encoders.

    A prompt's embedding is one tensor here too: `length` rows of token states, then rows that hold what else
    the network takes of a prompt, vectors of `extra` numbers, and the tokens' mask where it takes one.
    """

    PARTS: ClassVar[Mapping[str, str]] = {}  # folder -> class, of diffusers or transformers
    transformer: ClassVar[bool] = True
    masked: ClassVar[bool] = False

    length: int  # tokens of a prompt
    extra: int = 0  # numbers of a prompt besides its token states
    width: int  # of its token states

    def __init__(
        self, parts: Mapping[str, Any], scheduler_config: dict[str, Any], device: str, dtype: str
    ) -> None:
        import torch

        encoders = [parts[name] for name in parts if name.startswith("text_encoder")]
        network = parts["transformer"]
        patch = getattr(network.config, "patch_size", 2) or 2
        if patch not in (1, PATCH):  # FLUX packs 2 x 2 latents itself and says 1
            raise UserError(f"transformer/config.json has patch_size={patch}: 2 is understood (model.path)")
        super().__init__(
            parts["vae"],
            torch.nn.ModuleList(encoders),
            parts["tokenizer"],
            network,
            scheduler_config,
            device,
            dtype,
        )
        self.tokenizers = tuple(parts[name] for name in parts if name.startswith("tokenizer"))
        self.channels = int(parts["vae"].config.latent_channels)

    # What an adapter says of its model.

    def side(self) -> int:
        """The latents' side that the model was trained at."""
        return 128

    def tokens_and_more(self, prompt: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Token states (1, length, width) of a prompt, a vector (1, extra), and their mask (1, length)."""
        raise NotImplementedError

    def call(self, latents: Tensor, timestep: float, prompt_embeds: Tensor, **more: Any) -> Tensor:
        """The network's output (B, C, h, w) for latents (B, C, h, w)."""
        raise NotImplementedError

    # One tensor a prompt.

    def encode_prompt(self, prompt: str) -> Tensor:
        import torch

        self.encodings += 1
        with torch.no_grad():
            states, vector, mask = self.tokens_and_more(prompt)
        found = [x.to(self.dtype) for x in (vector, mask) if x is not None]
        if found:
            row = torch.cat(found, 1)
            rows = -(-row.shape[1] // states.shape[2])
            row = torch.nn.functional.pad(row, (0, rows * states.shape[2] - row.shape[1]))
            states = torch.cat([states.to(self.dtype), row.unflatten(1, (rows, states.shape[2]))], 1)
        if not states.isfinite().all():
            raise UserError(f"the embedding of the prompt {prompt!r} is not finite: {self.precision_cure()}")
        return states.to(self.dtype)

    def unpacked(self, prompt_embeds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Token states, vectors and masks (bool) of prompts, each a row a prompt."""
        states, rest = prompt_embeds[:, : self.length], prompt_embeds[:, self.length :].flatten(1)
        return states, rest[:, : self.extra], rest[:, self.extra : self.extra + self.length] > 0.5

    def ids(self, number: int, prompt: str, length: int, **options: Any) -> Any:
        """What a tokenizer makes of a prompt, padded and cut to `length`, on the device of its encoder."""
        tokens = self.tokenizers[number](
            prompt,
            padding="max_length",
            max_length=length,
            truncation=True,
            return_tensors="pt",
            **options,
        )
        self.warn_lost(prompt, self.tokenizers[number], length)
        return tokens.to(self.device)

    # The backbone's calls.

    def told(self, timestep: float, latents: Tensor, scale: float = 1.0) -> Tensor:
        """The timestep, by `scale`, one for each row of latents."""
        return (self.on_device(timestep) * scale).expand(len(latents))

    def widest(self, height: int, width: int) -> int:
        """Numbers in one feature map of one picture with latents of (height, width)."""
        config = self.unet.config
        found = [getattr(config, n, None) for n in ("hidden_size", "dim", "num_attention_heads")]
        hidden = found[0] or found[1] or found[2] * config.attention_head_dim
        return height * width // 4 * int(hidden)


def shift_of(config: Mapping[str, Any], tokens: int) -> float:
    """mu of a scheduler that shifts its levels by the number of the image's tokens: a line through its two
    ends."""
    few, many = config["base_image_seq_len"], config["max_image_seq_len"]
    slope = (config["max_shift"] - config["base_shift"]) / (many - few)
    return tokens * slope + config["base_shift"] - slope * few


def own_size(backbone: TransformerBackbone, latent_size: Sequence[int] | None) -> tuple[int, int]:
    """(h, w) of latents, the model's own where none is given."""
    height, width = latent_size or (backbone.side(), backbone.side())
    return int(height), int(width)


def load_transformer(
    adapter: Any,
    source: str,
    hub: dict[str, Any],
    options: dict[str, Any],
    scheduler: dict[str, Any],
    device: str,
    dtype: Dtype,
    embedded_guidance: float | None,
) -> TransformerBackbone:
    """A diffusion transformer's folder or hub id through its adapter; raises UserError where
    `embedded_guidance` does not fit the network, and warns of distilled ones."""
    parts = load_parts(adapter.PARTS, source, hub, options)
    made = adapter(parts, scheduler, device, dtype)
    if word := distilled(source):
        log.warning(
            "%s is distilled to a few steps (%r): its velocities are no path that can be walked back, and "
            "inversion on such models is reported to fail; take the model it was made from "
            "(model.path, model.repo_id)",
            source,
            word,
        )
    guided = bool(getattr(made.unet.config, "guidance_embeds", False))
    if guided != (embedded_guidance is not None):
        need = "takes its guidance as an input: give model.embedded_guidance=3.5"
        raise UserError(
            f"{source} {need if guided else 'takes no guidance as an input: leave it out'} "
            "(model.embedded_guidance)"
        )
    made.embedded_guidance = embedded_guidance
    return made
