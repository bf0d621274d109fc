"""The only file that knows diffusers' UNet attention: processors that hand self-attention to a modulator, and
take it back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from sow.attention.joint import LAYOUTS, image_layers, joined
from sow.attention.modulator import Modulator


class SelfAttentionProcessor:
    """A processor for one self-attention layer that leaves softmax(A) V to the modulator."""

    def __init__(self, layer: str, modulator: Modulator) -> None:
        self.layer = layer
        self.modulator = modulator

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        if getattr(attn, "fused_projections", False):
            q, k, v = attn.to_qkv(hidden_states).chunk(3, dim=-1)
        else:
            q, k, v = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
        if torch.is_autocast_enabled(q.device.type):
            with torch.autocast(
                q.device.type, enabled=False
            ):  # logits and their range in float32 all the same
                out = self.modulator.attend(self.layer, q, k, v)
        else:
            out = self.modulator.attend(self.layer, q, k, v)
        out = out.transpose(1, 2).flatten(2)
        out = attn.to_out[1](attn.to_out[0](out))
        if attn.residual_connection:
            out = out + hidden_states
        return out / attn.rescale_output_factor


@contextmanager
def modulated(unet: nn.Module, modulator: Modulator) -> Iterator[Modulator]:
    """Within the block, the UNet's self-attention is `modulator`'s; afterwards its processors are what they
    were."""
    if type(unet).__name__ in LAYOUTS:
        with joined(unet, modulator):
            yield modulator
        return
    known = getattr(modulator, "layers", {})  # walking a UNet takes as long as one of its layers
    if unet not in known:
        known[unet] = self_attention(unet)
        if isinstance(modulator, Modulator):
            modulator.number([name for name, _ in known[unet]])
            modulator.prepare(next(unet.parameters()).dtype, unet._compiled_call_impl is not None)
    layers = known[unet]
    before = [attention.processor for _, attention in layers]
    try:
        for name, attention in layers:
            attention.set_processor(SelfAttentionProcessor(name, modulator))
        yield modulator
    finally:
        for (_, attention), processor in zip(layers, before, strict=True):
            attention.set_processor(processor)


def self_attention(unet: nn.Module) -> list[tuple[str, Attention]]:
    """Names and modules of the UNet's self-attention layers, in order."""
    return [(name, module) for name, module in unet.named_modules() if name.endswith(".attn1")]


def modulated_layers(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Names and modules of the layers that P+ and P- may act in, in the order of their numbers."""
    if type(network).__name__ in LAYOUTS:
        return image_layers(network)
    return list(self_attention(network))
