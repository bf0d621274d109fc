"""Z-Image: Qwen's states of the tokens that there are, one stream, a velocity of the other sign."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sow.models.transformer import TransformerBackbone, own_size, shift_of

if TYPE_CHECKING:
    from torch import Tensor


class ZImageBackbone(TransformerBackbone):
    """ZImagePipeline's folder."""

    PARTS = {
        "transformer": "ZImageTransformer2DModel",
        "vae": "AutoencoderKL",
        "text_encoder": "AutoModel",
        "tokenizer": "AutoTokenizer",
    }
    length = 512

    def tokens_and_more(self, prompt: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
        asked = self.tokenizers[0].apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=True,
        )
        tokens = self.ids(0, asked, self.length)
        mask = tokens.attention_mask.bool()
        encoder = self.text_encoder[0]
        out = encoder(input_ids=tokens.input_ids, attention_mask=mask, output_hidden_states=True)
        return out.hidden_states[-2], None, mask

    def set_timesteps(
        self, scheduler: Any, num_inference_steps: int, latent_size: Sequence[int] | None
    ) -> None:
        import torch

        height, width = own_size(self, latent_size)
        scheduler.set_timesteps(
            num_inference_steps,
            sigmas=torch.linspace(1.0, 1 / num_inference_steps, num_inference_steps).tolist(),
            mu=shift_of(scheduler.config, height * width // 4),
        )

    def call(self, latents: Tensor, timestep: float, prompt_embeds: Tensor, **more: Any) -> Tensor:
        import torch

        states, _, mask = self.unpacked(prompt_embeds)
        output = self.unet(
            list(latents.unsqueeze(2).unbind(0)),
            (1000 - self.told(timestep, latents)) / 1000,
            [s[m] for s, m in zip(states, mask, strict=True)],
            return_dict=False,
        )[0]
        return -torch.stack(output).squeeze(2)
