"""Modulated attention of a small layer: the modulated rows' logits fit a core's cache, and one block of them
does it all.

The same as `modulation.py` computes with two-part attention, in a third of the operations: in layers of a few
hundred tokens their number is what costs. Only for the default readings (A12 "row", A13 "related" points of
"logits").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sow.attention.gate import nearest_count
from sow.attention.modulation import Reading, Strength, normalised
from sow.attention.regions import Bucket
from sow.attention.split import take

# Logits of the modulated rows, all heads: one MiB in float32.
ELEMENTS = 1 << 18


@dataclass(frozen=True, eq=False)
class Tables:
    """A bucket's regions as factors: `inside` (b, 1, parts, N) 1 on the keys of each part, `mean` (b, 1, N,
    parts) the same over their number, `nearest` (b, 1, m, parts) 1 on the nearest share of the points,
    `uniform` that share of them, `own`, `near` (b, R, parts) where and how P- and P+ act."""

    inside: Tensor
    mean: Tensor
    nearest: Tensor
    uniform: Tensor
    own: Tensor
    near: Tensor


def applies(q: Tensor, bucket: Bucket, strength: Strength) -> bool:
    """Whether a bucket of a layer with queries `q` (branches x B, H, N, d) is small and read in the default
    way."""
    gate = strength.gate
    if (strength.normalisation, gate.queries, gate.score) != ("row", "related", "logits"):
        return False
    return bucket.rows.numel() * q.shape[1] * q.shape[2] <= ELEMENTS


def tables(bucket: Bucket, tokens: int, fraction: float, dtype: torch.dtype) -> Tables:
    """The bucket's tables, made once."""
    if (dtype, fraction) not in bucket.tables:
        device, b, m = bucket.rows.device, *bucket.rows_r.shape
        conditions = bucket.keys[:-1]
        inside = torch.zeros((b, len(conditions), tokens), dtype=dtype, device=device)
        nearest = torch.zeros((b, len(conditions), m), dtype=dtype, device=device)
        k = nearest_count(m, fraction)
        for p, keys in enumerate(conditions):
            inside[:, p].scatter_(1, keys, 1.0)
            nearest[:, p].scatter_(1, bucket.order[p][:, :k], 1.0)
        bucket.tables[dtype, fraction] = Tables(
            inside.unsqueeze(1),
            (inside / inside.sum(-1, keepdim=True)).transpose(1, 2).unsqueeze(1),
            nearest.transpose(1, 2).unsqueeze(1),
            torch.tensor(k / m, dtype=dtype, device=device),  # a number would be a graph's own
            torch.stack(bucket.own, -1).to(dtype),
            torch.stack(bucket.nearness, -1).to(dtype),
        )
    return bucket.tables[dtype, fraction]


def modulated_rows(
    q: Tensor, k: Tensor, v: Tensor, bucket: Bucket, strength: Strength, scale: float, previous: Tensor | None
) -> tuple[Tensor, Reading]:
    """softmax(A') V of the modulated rows alone, (b, H, R, d) in the order of `bucket.rows` (Eq. 8), and the
    reading.

    `q`, `k`, `v` (b, H, N, d); `previous` (b, parts) as in `modulated_attention`.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    gate = strength.gate
    table = tables(bucket, q.shape[2], gate.fraction, dtype)
    rows = take(q, bucket.rows).to(dtype) * scale
    logits = rows @ k.to(dtype).transpose(-1, -2)
    low, high = logits.amin(-1, keepdim=True), logits.amax(-1, keepdim=True)
    own = r_c_of(logits, low, high, bucket.rows_r.shape[1], table)
    factor = gate.factor(own if previous is None else previous.to(dtype))
    amount = (table.own * strength.minus + table.near * strength.plus) * factor.unsqueeze(1)
    bias = (high - low) * (amount.unsqueeze(1) @ table.inside)
    return ((logits + bias).softmax(-1) @ v.to(dtype)).to(v.dtype), Reading(own, factor)


def r_c_of(logits: Tensor, low: Tensor, high: Tensor, m: int, table: Tables) -> Tensor:
    """R_c (b, parts) from the logits of the modulated rows, of which the last `m` are points (Eq. 7)."""
    points = logits[:, :, -m:] @ table.mean
    a: Any = normalised(points, low[:, :, -m:], high[:, :, -m:])
    total = a.sum(2)
    share = (a * table.nearest).sum(2) / total
    return torch.where(total > 0, share, table.uniform).mean(1)
