"""The self-attention calls of one step at 64 x 64 latents of Stable Diffusion 2.1-base, modulated three ways.

The contestants know the same: queries, keys, values, regions, and a gate that is open. Ours is the package's;
the other two are what one would write first, with the bias P of Eq. 4 and 5 as a tensor over all pairs of
tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.bare import open_gate
from sow.attention.modulator import Modulator
from sow.attention.regions import SampleRegions
from sow.method import noise
from sow.method.paper import components

LAYERS = {4096: (5, 5), 1024: (10, 5), 256: (20, 5), 64: (20, 1)}  # tokens -> heads of 64, layers
DIM = 64
MINUS, PLUS = 0.04, 0.145  # omega of the paper at the first cycle


@dataclass(frozen=True, eq=False)
class Calls:
    """q, k, v of every layer for both branches of the guidance, and the modulator that knows the regions."""

    layers: Sequence[tuple[str, Tensor, Tensor, Tensor]]
    modulator: Modulator

    def ours(self) -> list[Tensor]:
        """Two parts merged by their log-sum-exp."""
        self.modulator.begin(MINUS, PLUS, branches=2, text_branch=1)
        out = [self.modulator.attend(*layer) for layer in self.layers]
        self.modulator.end()
        return out

    def materialised(self) -> list[Tensor]:
        """Logits and probabilities of both branches as N x N tensors,
        as a processor that shows its scores has them."""
        out = []
        for _, q, k, v in self.layers:
            logits = (q.float() @ k.float().transpose(-1, -2)) * DIM**-0.5
            width = logits[1:].amax(-1, keepdim=True) - logits[1:].amin(-1, keepdim=True)
            logits[1:] += width * self.bias(q)
            out.append((logits.softmax(-1) @ v.float()).to(v.dtype))
        return out

    def materialised_text(self) -> list[Tensor]:
        """Logits, bias and probabilities of the text branch alone as N x N tensors,
        the other branch fused."""
        out = []
        for _, q, k, v in self.layers:
            plain = F.scaled_dot_product_attention(q[:1], k[:1], v[:1])
            logits = (q[1:].float() @ k[1:].float().transpose(-1, -2)) * DIM**-0.5
            low, high = logits.amin(-1, keepdim=True), logits.amax(-1, keepdim=True)
            logits = logits + (high - low) * self.bias(q)
            out.append(torch.cat([plain, (logits.softmax(-1) @ v[1:].float()).to(v.dtype)]))
        return out

    def masked(self) -> list[Tensor]:
        """scaled_dot_product_attention with the bias as an additive mask;
        the ranges still need the logits."""
        out = []
        for _, q, k, v in self.layers:
            plain = F.scaled_dot_product_attention(q[:1], k[:1], v[:1])
            logits = (q[1:].float() @ k[1:].float().transpose(-1, -2)) * DIM**-0.5
            width = logits.amax(-1, keepdim=True) - logits.amin(-1, keepdim=True)
            mask = (width * self.bias(q)).to(q.dtype)
            out.append(
                torch.cat([plain, F.scaled_dot_product_attention(q[1:], k[1:], v[1:], attn_mask=mask)])
            )
        return out

    def plain(self) -> list[Tensor]:
        """No modulation."""
        return [F.scaled_dot_product_attention(q, k, v) for _, q, k, v in self.layers]

    def bias(self, q: Tensor) -> Tensor:
        """P (N, N) of this resolution, float32."""
        p = torch.zeros(q.shape[2], q.shape[2], device=q.device)
        found = self.modulator.buckets.get(q.shape[2])
        if not found:  # a layer too coarse to tell the regions apart is left alone
            return p
        (bucket,) = found
        condition, related = bucket.keys[0][0], bucket.rows_r[0]
        p[related.unsqueeze(1), condition] = (PLUS * bucket.near[0][0].float()).unsqueeze(1)
        p[condition.unsqueeze(1), bucket.keys[1][0]] = -MINUS
        return p


def calls(device: torch.device, dtype: torch.dtype, latent: int = 64) -> Calls:
    """Random queries, keys and values; a condition of a quarter of the canvas's side squared, and
    a body below it."""
    made = components()
    conditions = torch.zeros((1, latent, latent), dtype=torch.bool)
    unit = latent // 8
    conditions[0, unit : 4 * unit, 2 * unit : 5 * unit] = True
    related = torch.zeros((latent, latent), dtype=torch.bool)
    related[3 * unit :, unit : 7 * unit] = True
    region = SampleRegions(
        conditions, related & ~conditions[0], torch.tensor([[2.5 / 8, 3.5 / 8]], dtype=torch.float64)
    )
    modulator = Modulator(
        made["modulation"],
        open_gate(made["gate"]),
        made["decay_distance"],
        [region],
        (latent, latent),
        device,
    )
    layers: list[tuple[str, Tensor, Tensor, Tensor]] = []
    for tokens, (heads, count) in LAYERS.items():
        tokens = tokens * latent**2 // 64**2
        for i in range(count):
            g = noise.generator(len(layers))
            q, k, v = (
                noise.randn((2, tokens, heads, DIM), g, device, dtype).transpose(1, 2) for _ in range(3)
            )
            layers.append((f"down_blocks.{tokens}.{i}.attn1", q, k, v))
    return Calls(layers, modulator)
