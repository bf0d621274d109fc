"""Attention processors of baselines that compute a layer's softmax themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor


class Attends(Protocol):
    """Who computes softmax(q k^T / sqrt(d)) v of a layer, or what stands in its place."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, cross: bool) -> Tensor:
        """`q` (rows, H, N, d), `k`, `v` (rows, H, L, d) -> q's shape; `cross` in cross-attention."""
        ...


class Processor:
    """A processor for one self- or cross-attention layer of a UNet that leaves the softmax to `attends`."""

    def __init__(self, attends: Attends) -> None:
        self.attends = attends

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
        out = self.attends.attend(q, k, v, cross=encoder_hidden_states is not None)
        out = attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))
        if attn.residual_connection:
            out = out + hidden_states
        return out / attn.rescale_output_factor


@contextmanager
def attended(unet: Any, by_layer: Mapping[str, Attends]) -> Iterator[None]:
    """Within the block the layers named are left to their `Attends`; afterwards all processors are what they
    were."""
    before = dict(unet.attn_processors)
    try:
        unet.set_attn_processor(
            {name: Processor(by_layer[name]) if name in by_layer else own for name, own in before.items()}
        )
        yield
    finally:
        unet.set_attn_processor(before)
