"""PixArt-Sigma: self-attention of the image apart from the text, noise prediction with a learned variance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sow.models.transformer import TransformerBackbone

if TYPE_CHECKING:
    from torch import Tensor


class PixArtBackbone(TransformerBackbone):
    """PixArtSigmaPipeline's folder; 300 tokens of T5, and their mask."""

    PARTS = {
        "transformer": "PixArtTransformer2DModel",
        "vae": "AutoencoderKL",
        "text_encoder": "T5EncoderModel",
        "tokenizer": "T5Tokenizer",
    }
    length = 300

    def side(self) -> int:
        return int(self.unet.config.sample_size)

    def tokens_and_more(self, prompt: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
        # The pipeline's own preparation of a caption.
        tokens = self.ids(0, prompt.lower().strip(), self.length, add_special_tokens=True)
        states = self.text_encoder[0](tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        return states, None, tokens.attention_mask

    def call(self, latents: Tensor, timestep: float, prompt_embeds: Tensor, **more: Any) -> Tensor:
        states, _, mask = self.unpacked(prompt_embeds)
        output = self.unet(
            latents,
            encoder_hidden_states=states,
            encoder_attention_mask=mask.to(states.dtype),
            timestep=self.told(timestep, latents),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]
        return output[:, : self.channels]  # the rest is the variance
