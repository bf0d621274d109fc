"""Attention over disjoint sets of keys, merged exactly by log-sum-exp: a bias that is constant on each set costs nothing.

softmax(A + b) V with b constant on the key sets S_p of a row equals sum_p w_p O_p with w = softmax_p(LSE_p + b_p), where
O_p and LSE_p are the attention over S_p alone. No mask and no N x N tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Rows of logits held at once when a row's minimum and maximum are wanted: bounds memory, not the result.
ROW_CHUNK_ELEMENTS = 1 << 22


def attention_with_lse(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention and its log-sum-exp: `q` (B, H, N, d), `k`, `v` (B, H, M, d), M > 0; returns (B, H, N, d) and (B, H, N).

    The log-sum-exp is float32 (float64 for float64 inputs). Fused kernels on CPU and CUDA, a plain product elsewhere.
    """
    if k.shape[2] == 0:
        raise ValueError("attention over no keys")
    aten = torch.ops.aten
    if q.device.type == "cpu":
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, False, attn_mask=None, scale=scale
        )
        return out, lse
    if q.device.type == "cuda":
        if q.dtype in (torch.float16, torch.bfloat16):
            out, lse = aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, False, scale=scale)[:2]
        else:
            out, lse = aten._scaled_dot_product_efficient_attention(
                q, k, v, None, True, 0.0, False, scale=scale
            )[:2]
        return out, lse[..., : q.shape[2]]
    logits = (q.float() @ k.float().transpose(-1, -2)) * scale
    return (logits.softmax(-1) @ v.float()).to(q.dtype), logits.logsumexp(-1)


def merge(outs: Sequence[Tensor], scores: Sequence[Tensor]) -> Tensor:
    """Sum of `outs` (each (B, H, N, d)) weighted by the softmax of `scores` (each (B, H, N)) over the parts."""
    weights = torch.stack(tuple(scores)).softmax(0).unsqueeze(-1)
    total = outs[0] * weights[0]
    for out, weight in zip(outs[1:], weights[1:], strict=True):
        total = total + out * weight
    return total.to(outs[0].dtype)


def row_range(q: Tensor, k: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Minimum, maximum and log-sum-exp over keys of the logits of rows `q` (B, H, R, d); each (B, H, R), at least float32."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    keys = k.to(dtype).transpose(-1, -2) * scale
    per_row = max(1, k.shape[2] * q.shape[0] * q.shape[1])
    chunk = max(1, ROW_CHUNK_ELEMENTS // per_row)
    low, high, lse = [], [], []
    for rows in q.to(dtype).split(chunk, dim=2):
        logits = rows @ keys
        low.append(logits.amin(-1))
        high.append(logits.amax(-1))
        lse.append(logits.logsumexp(-1))
    return torch.cat(low, -1), torch.cat(high, -1), torch.cat(lse, -1)


def take(x: Tensor, index: Tensor) -> Tensor:
    """Tokens `index` (B, n) of `x` (B, H, N, d): (B, H, n, d)."""
    return x.gather(2, index[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
