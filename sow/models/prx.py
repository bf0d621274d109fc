"""PRX: T5Gemma, and image tokens that read a text which no layer changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sow.models.transformer import TransformerBackbone

if TYPE_CHECKING:
    from torch import Tensor


class PRXBackbone(TransformerBackbone):
    """PRXPipeline's folder, with the eightfold autoencoder."""

    PARTS = {
        "transformer": "PRXTransformer2DModel",
        "vae": "AutoencoderKL",
        "text_encoder": "T5GemmaEncoder",
        "tokenizer": "AutoTokenizer",
    }

    def __init__(self, *inputs: Any) -> None:
        from diffusers.pipelines.prx.pipeline_prx import TextPreprocessor

        super().__init__(*inputs)
        self.length = int(self.tokenizers[0].model_max_length)
        self.preprocess = TextPreprocessor()

    def side(self) -> int:
        return 512 // self.factor

    def tokens_and_more(self, prompt: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
        tokens = self.ids(0, self.preprocess.clean_text(prompt), self.length, return_attention_mask=True)
        mask = tokens.attention_mask.bool()
        encoder = self.text_encoder[0]
        states = encoder(input_ids=tokens.input_ids, attention_mask=mask, output_hidden_states=True)
        return states["last_hidden_state"], None, mask

    def call(self, latents: Tensor, timestep: float, prompt_embeds: Tensor, **more: Any) -> Tensor:
        states, _, mask = self.unpacked(prompt_embeds)
        return self.unet(
            hidden_states=latents,
            timestep=self.told(timestep, latents) / self.scheduler_config.get("num_train_timesteps", 1000),
            encoder_hidden_states=states,
            attention_mask=mask,
            return_dict=False,
        )[0]
