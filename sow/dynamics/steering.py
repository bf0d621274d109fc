"""Steered self-attention of the toy experiments (Fig. 4 b, c): one region's attention to another is lifted,
or cut off.

Notation
    A        logits q k^T / sqrt(d); max, min over the keys of a row
    A'       A + strength (max - min) on the rows of `queries` and the keys of `keys`, A elsewhere

The bias of a row takes one value on `keys` and zero elsewhere, so softmax(A') V is an exact merge of two
attention calls.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sow.attention.regions import layer_sizes, nearest
from sow.attention.split import attention_with_lse, merge, row_range, take


class Steering:
    """Attention from the region `queries` to the region `keys`, both (h, w) bool at latent resolution, for a
    whole batch.

    `strength` is in units of a row's range of logits, as P+ and P- are (Eq. 4, 5); None leaves the rows of
    `queries` no other keys at all. Every sample and branch of the batch is steered alike, in every layer of
    `blocks`. A layer too coarse to hold both regions is left alone.
    """

    def __init__(
        self,
        queries: Tensor,
        keys: Tensor,
        strength: float | None,
        device: torch.device | str,
        blocks: tuple[str, ...] = ("down", "mid", "up"),
    ) -> None:
        self.strength = strength
        self.blocks = blocks
        self.parts: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        for tokens, (height, width) in layer_sizes(*queries.shape).items():
            rows = nearest(queries, height, width).flatten()
            inside = nearest(keys, height, width).flatten()
            if rows.any() and inside.any() and not inside.all():
                found = (rows, inside, ~inside)
                self.parts[tokens] = tuple(m.nonzero().flatten().to(device) for m in found)  # type: ignore[assignment]

    def attend(self, layer: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Self-attention of one layer: `q`, `k`, `v` (B, H, N, d) -> the same shape."""
        out = F.scaled_dot_product_attention(q, k, v)
        found = self.parts.get(q.shape[2])
        if found is None or layer.split("_", 1)[0] not in self.blocks:
            return out
        rows, inside, outside = (index.expand(len(q), -1) for index in found)
        scale = q.shape[-1] ** -0.5
        q_rows = take(q, rows)
        steered, lse = attention_with_lse(q_rows, take(k, inside), take(v, inside), scale)
        if self.strength is not None:
            low, high, _ = row_range(q_rows, k, scale, False)
            rest, lse_rest = attention_with_lse(q_rows, take(k, outside), take(v, outside), scale)
            steered = merge([steered, rest], [lse + self.strength * (high - low), lse_rest])
        out = out.clone()
        out[:, :, found[0]] = steered.to(out.dtype)
        return out
