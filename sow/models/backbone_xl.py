"""Stable Diffusion XL: two text encoders, pooled embeddings and size conditioning behind
the same few calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sow.models.backbone import Backbone
from sow.models.fields import FLAG, NULL, check_fields
from sow.models.loading import load_whole

if TYPE_CHECKING:
    from torch import Tensor


class XLBackbone(Backbone):
    """A Stable-Diffusion-XL-format model.

    A prompt's embedding is one tensor here too: the token states of both encoders side by side, then the
    pooled embedding of the second in extra rows, which `predict` takes off again. The UNet is told that
    pictures were, and shall be, as large as the latents it sees, uncropped. With `zero_empty` the empty
    prompt's embedding is zero, as in training.
    """

    def __init__(
        self,
        vae: Any,
        text_encoders: Sequence[Any],
        tokenizers: Sequence[Any],
        unet: Any,
        scheduler_config: dict,
        device: str,
        dtype: str,
        zero_empty: bool = True,
    ) -> None:
        import torch

        both = torch.nn.ModuleList(text_encoders)
        super().__init__(vae, both, tokenizers[0], unet, scheduler_config, device, dtype)
        self.tokenizers = tuple(tokenizers)
        self.zero_empty = zero_empty
        self.pooled = int(text_encoders[1].config.projection_dim)
        self.width = sum(int(e.config.hidden_size) for e in text_encoders)
        self.rows = -(-self.pooled // self.width)
        # The XL autoencoder overflows in float16, and its configuration says so.
        if self.dtype == torch.float16 and getattr(vae.config, "force_upcast", False):
            torch.nn.Module.to(self.vae, dtype=torch.float32)

    @property
    def encoders(self) -> list[tuple[Any, Any]]:
        return list(zip(self.tokenizers, self.text_encoder, strict=True))

    def encode_prompt(self, prompt: str) -> Tensor:
        embeds = super().encode_prompt(prompt)
        return embeds * 0 if prompt == "" and self.zero_empty else embeds

    def states(self, ids: Sequence[Tensor]) -> Tensor:
        import torch

        states, pooled = [], None
        for (_, encoder), own in zip(self.encoders, ids, strict=True):
            out = encoder(own.to(self.device), output_hidden_states=True)
            states.append(out.hidden_states[-2])
            pooled = out[0]
        assert pooled is not None
        row = torch.nn.functional.pad(pooled, (0, self.rows * self.width - self.pooled))
        rows = row.unflatten(1, (self.rows, self.width))
        return torch.cat([torch.cat(states, dim=-1), rows], dim=1).to(self.dtype)

    def unet_inputs(self, latents: Tensor, prompt_embeds: Tensor) -> dict[str, Any]:
        """Token states, pooled embedding and (height, width, 0, 0, height, width) for the UNet."""
        import torch

        height, width = (n * self.factor for n in latents.shape[-2:])
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=prompt_embeds.dtype)
        return {
            "encoder_hidden_states": prompt_embeds[:, : -self.rows],
            "added_cond_kwargs": {
                "text_embeds": prompt_embeds[:, -self.rows :].flatten(1)[:, : self.pooled],
                "time_ids": sizes.to(prompt_embeds.device).expand(len(prompt_embeds), -1),
            },
        }


def load_xl(
    source: str,
    hub: dict[str, Any],
    options: dict[str, Any],
    vae: Any,
    text: Any,
    tokenizer: Any,
    unet: Any,
    scheduler: dict[str, Any],
    device: str,
    dtype: str,
) -> XLBackbone:
    """The Stable-Diffusion-XL-format model in `source`, whose other parts are loaded: its second encoder and
    tokenizer are added."""
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    second = load_whole(CLIPTextModelWithProjection, source, subfolder="text_encoder_2", **options)
    tokenizers = [tokenizer, CLIPTokenizer.from_pretrained(source, subfolder="tokenizer_2", **hub)]
    try:
        index = StableDiffusionXLPipeline.load_config(source, **hub)
    except OSError:  # a folder of parts without a model_index.json
        index = {}
    own = {"force_zeros_for_empty_prompt": (FLAG, NULL)}
    check_fields(index, own, f"{source}/model_index.json", options["key"])
    zero_empty = bool(index.get("force_zeros_for_empty_prompt", True))
    return XLBackbone(vae, [text, second], tokenizers, unet, scheduler, device, dtype, zero_empty)
