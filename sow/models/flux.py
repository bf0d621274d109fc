"""FLUX.1: CLIP's pooled state and T5, double and single blocks, guidance as an input of the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sow.models.transformer import TransformerBackbone, own_size, shift_of

if TYPE_CHECKING:
    from torch import Tensor


class FluxBackbone(TransformerBackbone):
    """FluxPipeline's folder: 512 tokens of T5; `embedded_guidance` is what a guidance-distilled network is
    told."""

    PARTS = {
        "transformer": "FluxTransformer2DModel",
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "text_encoder_2": "T5EncoderModel",
        "tokenizer": "CLIPTokenizer",
        "tokenizer_2": "T5Tokenizer",
    }
    length = 512

    def __init__(self, *inputs: Any) -> None:
        super().__init__(*inputs)
        self.extra = int(self.unet.config.pooled_projection_dim)

    @property
    def guided(self) -> bool:
        """Whether the network takes its guidance as an input."""
        return bool(self.unet.config.guidance_embeds)

    def tokens_and_more(self, prompt: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
        clip = int(self.tokenizers[0].model_max_length)
        pooled = self.text_encoder[0](self.ids(0, prompt, clip).input_ids).pooler_output
        states = self.text_encoder[1](self.ids(1, prompt, self.length).input_ids)[0]
        return states, pooled, None

    def set_timesteps(
        self, scheduler: Any, num_inference_steps: int, latent_size: Sequence[int] | None
    ) -> None:
        import numpy as np

        height, width = own_size(self, latent_size)
        scheduler.set_timesteps(
            sigmas=np.linspace(1.0, 1 / num_inference_steps, num_inference_steps),
            mu=shift_of(scheduler.config, height * width // 4),
        )

    def call(self, latents: Tensor, timestep: float, prompt_embeds: Tensor, **more: Any) -> Tensor:
        import torch

        states, pooled, _ = self.unpacked(prompt_embeds)
        batch, channels, height, width = latents.shape
        tall, wide = height // 2, width // 2
        # Patches of 2 x 2 latents, row by row; channels outermost within a patch.
        packed = torch.nn.functional.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)
        rows, columns = torch.meshgrid(
            torch.arange(tall, device=self.device), torch.arange(wide, device=self.device), indexing="ij"
        )
        image_ids = torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1).to(latents.dtype)
        guidance = None
        if self.guided:
            guidance = torch.full((batch,), float(self.embedded_guidance or 0), device=self.device)
        output = self.unet(
            hidden_states=packed,
            timestep=self.told(timestep, latents).to(latents.dtype) / 1000,
            guidance=guidance,
            pooled_projections=pooled,
            encoder_hidden_states=states,
            txt_ids=torch.zeros(states.shape[1], 3, device=self.device, dtype=latents.dtype),
            img_ids=image_ids,
            return_dict=False,
        )[0]
        patches = output.transpose(1, 2).unflatten(2, (tall, wide))
        return torch.nn.functional.pixel_shuffle(patches, 2)
