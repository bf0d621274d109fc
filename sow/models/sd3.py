"""Stable Diffusion 3 and 3.5: two CLIP encoders and T5, joint attention of image and text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sow.models.transformer import TransformerBackbone, own_size, shift_of

if TYPE_CHECKING:
    from torch import Tensor

T5_TOKENS = 256  # the pipeline's


class SD3Backbone(TransformerBackbone):
    """StableDiffusion3Pipeline's folder: 77 tokens of both CLIP encoders side by side, then 256 of T5."""

    PARTS = {
        "transformer": "SD3Transformer2DModel",
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModelWithProjection",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "text_encoder_3": "T5EncoderModel",
        "tokenizer": "CLIPTokenizer",
        "tokenizer_2": "CLIPTokenizer",
        "tokenizer_3": "T5Tokenizer",
    }

    def __init__(self, *inputs: Any) -> None:
        super().__init__(*inputs)
        self.clip_tokens = int(self.tokenizers[0].model_max_length)
        self.length = self.clip_tokens + T5_TOKENS
        self.extra = int(self.unet.config.pooled_projection_dim)

    def side(self) -> int:
        return int(self.unet.config.sample_size)

    def tokens_and_more(self, prompt: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
        import torch

        states, pooled = [], []
        for number in (0, 1):
            ids = self.ids(number, prompt, self.clip_tokens).input_ids
            out = self.text_encoder[number](ids, output_hidden_states=True)
            states.append(out.hidden_states[-2])
            pooled.append(out[0])
        long = self.text_encoder[2](self.ids(2, prompt, T5_TOKENS, add_special_tokens=True).input_ids)[0]
        short = torch.cat(states, -1)
        short = torch.nn.functional.pad(short, (0, long.shape[-1] - short.shape[-1]))
        return torch.cat([short, long], -2), torch.cat(pooled, -1), None

    def set_timesteps(
        self, scheduler: Any, num_inference_steps: int, latent_size: Sequence[int] | None
    ) -> None:
        mu = None
        if scheduler.config.use_dynamic_shifting:
            height, width = own_size(self, latent_size)
            mu = shift_of(scheduler.config, height * width // 4)
        scheduler.set_timesteps(num_inference_steps, mu=mu)

    def call(self, latents: Tensor, timestep: float, prompt_embeds: Tensor, **more: Any) -> Tensor:
        states, pooled, _ = self.unpacked(prompt_embeds)
        return self.unet(
            hidden_states=latents,
            timestep=self.told(timestep, latents),
            encoder_hidden_states=states,
            pooled_projections=pooled,
            return_dict=False,
        )[0]
