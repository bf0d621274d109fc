"""Attention over disjoint sets of keys, merged exactly by log-sum-exp: a bias that is constant on each set
costs nothing.

softmax(A + b) V with b constant on the key sets S_p of a row equals sum_p w_p O_p with w = softmax_p(LSE_p +
b_p), where O_p and LSE_p are the attention over S_p alone. No mask and no N x N tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Logits held at once where a row's minimum and maximum are wanted: on a CPU the fastest of blocks of 64 to
# 2304 rows of 4096 keys with two threads (smaller ones leave the second thread idle between products, larger
# ones leave the caches), on CUDA what stays in the device's second-level cache. Bounds memory and time, not
# the result.
CPU_ELEMENTS = 1 << 20
CUDA_ELEMENTS = 1 << 22


def attention_with_lse(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention and its log-sum-exp: `q` (B, H, N, d), `k`, `v` (B, H, M, d), M > 0; returns (B, H, N, d) and
    (B, H, N).

    The log-sum-exp is float32 (float64 for float64 inputs). Fused kernels on CPU and CUDA, a plain product
    elsewhere.
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
    """Sum of `outs` (each (B, H, N, d)) weighted by the softmax of `scores` (each (B, H, N)) over the
    parts."""
    if len(outs) == 2:
        weight = torch.sigmoid(scores[0] - scores[1]).unsqueeze(-1)
        return torch.lerp(outs[1].to(weight.dtype), outs[0].to(weight.dtype), weight).to(outs[0].dtype)
    weights = torch.stack(tuple(scores)).softmax(0).unsqueeze(-1)
    total = outs[0] * weights[0]
    for out, weight in zip(outs[1:], weights[1:], strict=True):
        total = total + out * weight
    return total.to(outs[0].dtype)


def row_limits(q: Tensor, k: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Minimum and maximum over keys of the logits of rows `q` (B, H, R, d); each (B, H, R), at least float32.

    One product and two reductions over a block that is still in the cache: about half of what attention over
    the same rows costs. (Minimum and maximum apart: `aminmax` over rows is not vectorised on CPU.)
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    B, H, R, _ = q.shape
    q, keys = q.to(dtype), k.to(dtype).transpose(-1, -2)
    if B * H * R * k.shape[2] <= CPU_ELEMENTS:
        low, high = _limits(q @ keys)
    elif q.device.type == "cuda" or H * R * k.shape[2] <= CPU_ELEMENTS:
        chunk = max(1, CUDA_ELEMENTS // (B * H * k.shape[2]))
        found = [_limits(rows @ keys) for rows in q.split(chunk, dim=2)]
        low, high = (torch.cat(part, -1) for part in zip(*found, strict=True))
    else:
        chunk = max(16, CPU_ELEMENTS // k.shape[2])
        found = [
            _limits(rows @ keys[b, h]) for b in range(B) for h in range(H) for rows in q[b, h].split(chunk)
        ]
        low, high = (torch.cat(part).view(B, H, R) for part in zip(*found, strict=True))
    return low * scale, high * scale


def _limits(logits: Tensor) -> tuple[Tensor, Tensor]:
    return logits.amin(-1), logits.amax(-1)


def row_range(q: Tensor, k: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """`row_limits`, and the log-sum-exp of the same logits."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    low, high = row_limits(q, k, scale)
    chunk = max(1, CUDA_ELEMENTS // (q.shape[0] * q.shape[1] * k.shape[2]))
    keys = k.to(dtype).transpose(-1, -2) * scale
    lse = [(rows @ keys).logsumexp(-1) for rows in q.to(dtype).split(chunk, dim=2)]
    return low, high, torch.cat(lse, -1)


def take(x: Tensor, index: Tensor) -> Tensor:
    """Tokens `index` (B, n) of `x` (B, H, N, d): (B, H, n, d)."""
    B, H, N, d = x.shape
    # Whole tokens, all heads of them, as the projections lay them out: one copy of rows.
    flat = index + torch.arange(0, B * N, N, device=index.device).unsqueeze(-1) if B > 1 else index
    tokens = x.transpose(1, 2).reshape(B * N, H * d).index_select(0, flat.reshape(-1))
    return tokens.view(B, index.shape[1], H, d).transpose(1, 2)
