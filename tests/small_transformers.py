"""Diffusion transformers with random weights, each as its own pipeline of diffusers makes and saves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    PRXPipeline,
    PRXTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from sow.models.tiny import SCHEDULER, byte_tokenizer

NAMES = ("pixart", "sd3", "flux", "prx", "z_image")
SHIFTED = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}


def vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        norm_num_groups=2,
        latent_channels=4,
        sample_size=64,
        scaling_factor=1.3,
        shift_factor=0.1,
    )


def clip(cls: Any) -> Any:
    return cls(
        CLIPTextConfig(
            vocab_size=514,
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            projection_dim=32,
            bos_token_id=512,
            eos_token_id=513,
        )
    )


def letters() -> T5Tokenizer:
    """A T5 tokenizer of single letters."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(chr(c), -3.0) for c in range(33, 127)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=24)


def t5() -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=128,
            d_model=32,
            d_kv=8,
            d_ff=37,
            num_layers=1,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        )
    )


def chat() -> Qwen2Tokenizer:
    """Qwen's tokenizer without merges, and a template of its shape."""
    vocab = {k: v for k, v in byte_tokenizer().get_vocab().items() if v < 256}
    vocab |= {"<|endoftext|>": 256, "<|im_start|>": 257, "<|im_end|>": 258}
    made = Qwen2Tokenizer(vocab=vocab, merges=[], model_max_length=512)
    made.chat_template = "{% for m in messages %}{{ m['role'] + ':' + m['content'] }}{% endfor %}>"
    return made


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    """With noise on every parameter: what starts at zero (gates, pads) would hide what is behind it."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return module.eval()


def made(name: str) -> Any:
    """A pipeline of diffusers in float32, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow = FlowMatchEulerDiscreteScheduler(shift=3.0)
        parts: dict[str, Any] = {"vae": vae(), "scheduler": flow}
        if name == "pixart":
            network = PixArtTransformer2DModel(
                sample_size=8,
                num_layers=2,
                patch_size=2,
                attention_head_dim=8,
                num_attention_heads=3,
                caption_channels=32,
                in_channels=4,
                cross_attention_dim=24,
                out_channels=8,
                use_additional_conditions=False,
            )
            parts |= {"text_encoder": t5(), "tokenizer": letters()}
            parts["scheduler"] = DDIMScheduler.from_config(SCHEDULER)
            cls: Any = PixArtSigmaPipeline
        elif name == "sd3":
            network = SD3Transformer2DModel(
                sample_size=8,
                patch_size=2,
                in_channels=4,
                out_channels=4,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=4,
                caption_projection_dim=32,
                joint_attention_dim=32,
                pooled_projection_dim=64,
                dual_attention_layers=(0,),
                qk_norm="rms_norm",
                pos_embed_max_size=16,
            )
            parts |= {
                "text_encoder": clip(CLIPTextModelWithProjection),
                "text_encoder_2": clip(CLIPTextModelWithProjection),
                "text_encoder_3": t5(),
                "tokenizer": byte_tokenizer(),
                "tokenizer_2": byte_tokenizer(),
                "tokenizer_3": letters(),
            }
            cls = StableDiffusion3Pipeline
        elif name == "flux":
            network = FluxTransformer2DModel(
                in_channels=16,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=32,
                pooled_projection_dim=32,
                guidance_embeds=True,
                axes_dims_rope=(4, 4, 8),
            )
            parts |= {
                "text_encoder": clip(CLIPTextModel),
                "text_encoder_2": t5(),
                "tokenizer": byte_tokenizer(),
                "tokenizer_2": letters(),
            }
            parts["scheduler"] = FlowMatchEulerDiscreteScheduler(**SHIFTED)
            cls = FluxPipeline
        elif name == "prx":
            from transformers.models.t5gemma import T5GemmaModuleConfig
            from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

            network = PRXTransformer2DModel(
                in_channels=4,
                patch_size=2,
                context_in_dim=32,
                hidden_size=16,
                mlp_ratio=2.0,
                num_heads=2,
                depth=2,
                axes_dim=[4, 4],
            )
            encoder = T5GemmaEncoder(
                T5GemmaModuleConfig(
                    vocab_size=128,
                    hidden_size=32,
                    intermediate_size=37,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    num_key_value_heads=2,
                    head_dim=8,
                    max_position_embeddings=64,
                    dropout_rate=0.0,
                )
            )
            parts |= {"text_encoder": encoder, "tokenizer": letters(), "default_sample_size": 512}
            cls = PRXPipeline
        else:
            network = ZImageTransformer2DModel(
                in_channels=4,
                dim=32,
                n_layers=2,
                n_refiner_layers=1,
                n_heads=2,
                n_kv_heads=2,
                cap_feat_dim=32,
                axes_dims=[8, 4, 4],
                axes_lens=[512, 32, 32],
            )
            encoder = Qwen3Model(
                Qwen3Config(
                    vocab_size=300,
                    hidden_size=32,
                    intermediate_size=37,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    num_key_value_heads=2,
                    head_dim=8,
                    max_position_embeddings=512,
                )
            )
            parts |= {"text_encoder": encoder, "tokenizer": chat()}
            cls = ZImagePipeline
        parts["transformer"] = network
        for part in parts.values():
            if isinstance(part, torch.nn.Module):
                shaken(part)
        pipe = cls(**parts)
        pipe.set_progress_bar_config(disable=True)
        return pipe


def saved(name: str, folder: Path) -> Path:
    """The pipeline as a folder."""
    made(name).save_pretrained(folder)
    return folder
