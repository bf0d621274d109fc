"""A Triton kernel for CUDA: the range and the log-sum-exp of rows of logits in one pass, the logits never in
memory.

Each program holds a block of query rows and walks over the keys as flash attention does, without values.
`split.py` decides where it runs; importing this module needs triton.
"""

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# A tile of keys: as many as fit into 16 KiB of shared memory, two tiles at a time, also on small cards.
TILE_BYTES = 1 << 14


@triton.jit
def _row_statistics(
    q,
    k,
    low,
    high,
    lse,
    scale,
    heads,
    R,
    N,
    q_b,
    q_h,
    q_r,
    q_d,
    k_b,
    k_h,
    k_n,
    k_d,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WITH_LSE: tl.constexpr,
):
    here = tl.program_id(1).to(tl.int64)
    b, h = here // heads, here % heads
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    dims = tl.arange(0, BLOCK_D)
    queries = tl.load(
        q + b * q_b + h * q_h + rows[:, None] * q_r + dims[None, :] * q_d,
        mask=(rows[:, None] < R) & (dims[None, :] < D),
        other=0.0,
    )
    smallest = tl.full([BLOCK_R], float("inf"), tl.float32)
    largest = tl.full([BLOCK_R], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_R], tl.float32)
    for start in range(0, N, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        keys = tl.load(
            k + b * k_b + h * k_h + columns[None, :] * k_n + dims[:, None] * k_d,
            mask=(columns[None, :] < N) & (dims[:, None] < D),
            other=0.0,
        )
        logits = tl.dot(queries, keys, input_precision="ieee") * scale
        inside = columns[None, :] < N
        smallest = tl.minimum(smallest, tl.min(tl.where(inside, logits, float("inf")), 1))
        logits = tl.where(inside, logits, float("-inf"))
        top = tl.maximum(largest, tl.max(logits, 1))
        if WITH_LSE:
            total = total * tl.exp(largest - top) + tl.sum(tl.exp(logits - top[:, None]), 1)
        largest = top
    out = here * R + rows
    tl.store(low + out, smallest, mask=rows < R)
    tl.store(high + out, largest, mask=rows < R)
    if WITH_LSE:
        tl.store(lse + out, largest + tl.log(total), mask=rows < R)


def row_statistics(q: Tensor, k: Tensor, scale: float, with_lse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Minimum, maximum and log-sum-exp over keys `k` (B, H, N, d) of the scaled logits of rows `q` (B, H, R,
    d).

    Each (B, H, R) float32, the last one empty without `with_lse`. float16, bfloat16 or float32 inputs of any
    strides, products and sums in float32; any R, N and d.
    """
    B, H, R, d = q.shape
    low, high = (torch.empty((B, H, R), dtype=torch.float32, device=q.device) for _ in range(2))
    lse = torch.empty((B, H, R) if with_lse else (0,), dtype=torch.float32, device=q.device)
    padded = max(16, triton.next_power_of_2(d))
    block = max(16, min(64, TILE_BYTES // (padded * q.element_size())))
    _row_statistics[(triton.cdiv(R, block), B * H)](
        q,
        k,
        low,
        high,
        lse,
        scale,
        H,
        R,
        k.shape[2],
        *q.stride(),
        *k.stride(),
        D=d,
        BLOCK_D=padded,
        BLOCK_R=block,
        BLOCK_N=block,
        WITH_LSE=with_lse,
        num_warps=4,
        num_stages=2,
    )
    return low, high, lse
