"""Attention over disjoint sets of keys, merged exactly by log-sum-exp: a bias that is constant on each set
costs nothing.

softmax(A + b) V with b constant on the key sets S_p of a row equals sum_p w_p O_p with w = softmax_p(LSE_p +
b_p), where O_p and LSE_p are the attention over S_p alone. No mask and no N x N tensor.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

log = logging.getLogger(__name__)

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


def masked_with_lse(
    q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`attention_with_lse` over the keys that `mask` (B, M, bool; None = all) lets through.

    A sample without any has the log-sum-exp -inf, which gives its output no weight in `merge`.
    """
    if mask is None:
        return attention_with_lse(q, k, v, scale)
    dtype = torch.promote_types(q.dtype, torch.float32)
    logits = (q.to(dtype) @ k.to(dtype).transpose(-1, -2)) * scale
    logits = logits.masked_fill(~mask[:, None, None], -torch.inf)
    return (logits.softmax(-1).nan_to_num(0.0) @ v.to(dtype)).to(q.dtype), logits.logsumexp(-1)


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


def take(x: Tensor, index: Tensor) -> Tensor:
    """Tokens `index` (B, n) of `x` (B, H, N, d): (B, H, n, d)."""
    B, H, N, d = x.shape
    # Whole tokens, all heads of them, as the projections lay them out: one copy of rows.
    flat = index + torch.arange(0, B * N, N, device=index.device).unsqueeze(-1) if B > 1 else index
    tokens = x.transpose(1, 2).reshape(B * N, H * d).index_select(0, flat.reshape(-1))
    return tokens.view(B, index.shape[1], H, d).transpose(1, 2)


# The range of rows of logits: by the Triton kernel on CUDA where it proves right, by the exact product
# elsewhere.


def row_range(q: Tensor, k: Tensor, scale: float, with_lse: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Minimum, maximum and log-sum-exp over keys `k` (B, H, N, d) of the logits of rows `q` (B, H, R, d).

    Each (B, H, R), at least float32; the log-sum-exp is empty unless wanted.
    """
    if torch.compiler.is_compiling():
        return row_statistics(q, k, scale, with_lse)
    return (
        kernel_range(q, k, scale, with_lse) if q.device.type == "cuda" else exact_range(q, k, scale, with_lse)
    )


@torch.library.custom_op("sow::row_statistics", mutates_args=())
def row_statistics(q: Tensor, k: Tensor, scale: float, with_lse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """`row_range` as one operation of a graph, which the compiler takes as it is."""
    found = (kernel_range if q.device.type == "cuda" else exact_range)(q, k, scale, with_lse)
    low, high, lse = (x.contiguous() for x in found)
    return low, high, lse


@row_statistics.register_fake
def _shapes(q: Tensor, k: Tensor, scale: float, with_lse: bool) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(q.dtype, torch.float32)
    low, high = (q.new_empty(q.shape[:3], dtype=dtype) for _ in range(2))
    return low, high, q.new_empty(q.shape[:3] if with_lse else (0,), dtype=dtype)


def exact_range(q: Tensor, k: Tensor, scale: float, with_lse: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """`row_range` by the product itself.

    One product and two reductions over a block that is still in the cache: about half of what attention over
    the same rows costs. (Minimum and maximum apart: `aminmax` over rows is not vectorised on CPU.)
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    B, H, R, _ = q.shape
    q, keys = q.to(dtype), k.to(dtype).transpose(-1, -2)
    chunk = max(1, CUDA_ELEMENTS // (B * H * k.shape[2]))
    if B * H * R * k.shape[2] <= CPU_ELEMENTS:
        low, high = _limits(q @ keys)
    elif q.device.type == "cuda" or H * R * k.shape[2] <= CPU_ELEMENTS:
        found = [_limits(rows @ keys) for rows in q.split(chunk, dim=2)]
        low, high = (torch.cat(part, -1) for part in zip(*found, strict=True))
    else:
        size = max(16, CPU_ELEMENTS // k.shape[2])
        found = [
            _limits(rows @ keys[b, h]) for b in range(B) for h in range(H) for rows in q[b, h].split(size)
        ]
        low, high = (torch.cat(part).view(B, H, R) for part in zip(*found, strict=True))
    if not with_lse:
        return low * scale, high * scale, low.new_empty((0,))
    keys = keys * scale
    lse = [(rows @ keys).logsumexp(-1) for rows in q.split(chunk, dim=2)]
    return low * scale, high * scale, torch.cat(lse, -1)


def _limits(logits: Tensor) -> tuple[Tensor, Tensor]:
    return logits.amin(-1), logits.amax(-1)


def kernel_range(q: Tensor, k: Tensor, scale: float, with_lse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """`row_range` by the kernel, by the product where the kernel is not right."""
    if not kernel_is_right(q.device, q.dtype, q.shape[3]):
        return exact_range(q, k, scale, with_lse)
    from sow.attention import kernels

    return kernels.row_statistics(q, k, scale, with_lse)


@cache
def kernel_is_right(device: torch.device, dtype: torch.dtype, d: int) -> bool:
    """Whether the kernel runs for heads of `d` channels on this device and agrees with the exact product,
    tried once.

    False, and a warning, where it does not; float64 is left to the exact product.
    """
    if importlib.util.find_spec("triton") is None or dtype == torch.float64:
        return False
    try:
        from sow.attention import kernels

        q, k = (waves(n, d).to(device, dtype) for n in (70, 90))
        scale = d**-0.5
        pairs = zip(kernels.row_statistics(q, k, scale, True), exact_range(q, k, scale), strict=True)
        for found, exact in pairs:
            torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-3)
    except Exception as error:  # whatever a compiler or driver raises: the exact product is always there
        log.warning(
            "the kernel for ranges of attention rows is not used: %s", " ".join(str(error).split())[:200]
        )
        return False
    return True


def waves(n: int, d: int) -> Tensor:
    """Numbers in [-2, 2] without order, (2, 3, n, d) float32, the same on every machine to rounding."""
    count = torch.arange(2 * 3 * n * d, dtype=torch.float64).view(2, 3, n, d)
    return (2 * torch.sin(count**2 + n)).float()
