"""A Stable-Diffusion-format model with random weights, built in memory in a second: for tests, never for
pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sow.models.backbone import ConditionSize, Dtype, Size, make_canvas, pick_device
from sow.models.tokenizer import clip_tokenizer
from sow.types import Canvas, SeedNumber, component

if TYPE_CHECKING:
    from sow.models.backbone import Backbone

SCHEDULER = {  # that of Stable Diffusion 2.1-base
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
}
UNET = {
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}


@component("model")
class Tiny:
    """Random weights in the classes of Stable Diffusion.

    `canvas` [width, height]; `condition_size` for a canvas of 512; `seed` of the weights; `dtype`, `device`
    as in
    `sow.models.pretrained.Pretrained`.
    """

    dtype: Dtype
    device: str
    canvas: Size
    condition_size: ConditionSize
    seed: SeedNumber

    def load(self) -> Backbone:
        """The model, the same for the same seed."""
        import torch
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel

        from sow.models.backbone import Backbone

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            vae = AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(4, 8, 8, 8),
                norm_num_groups=4,
                latent_channels=4,
                sample_size=self.canvas[0],
            )
            unet = UNet2DConditionModel(
                sample_size=self.canvas[0] // 8,
                layers_per_block=1,
                **UNET,
                attention_head_dim=2,
                cross_attention_dim=16,
                norm_num_groups=8,
                use_linear_projection=True,
            )
            text_encoder = CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=514,
                    hidden_size=16,
                    intermediate_size=32,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    max_position_embeddings=77,
                    bos_token_id=512,
                    eos_token_id=513,
                )
            )
        return Backbone(
            vae,
            text_encoder,
            byte_tokenizer(),
            unet,
            dict(SCHEDULER),
            pick_device(self.device, self.dtype),
            self.dtype,
        )

    def known(self, width: int | None, height: int | None) -> tuple[Canvas, Mapping[str, Any]]:
        """The canvas of a run and the UNet's configuration, before it is made."""
        canvas = make_canvas(width or self.canvas[0], height or self.canvas[1], 8, self.condition_size)
        return canvas, UNET

    def canvas_of(self, backbone: Backbone, width: int | None, height: int | None) -> Canvas:
        """The canvas of a run: what the user asked for, else the config's."""
        return make_canvas(
            width or self.canvas[0], height or self.canvas[1], backbone.factor, self.condition_size
        )


def byte_tokenizer() -> Any:
    """A CLIP tokenizer without merges: every text becomes its bytes."""
    return clip_tokenizer(())
