"""Attention with P- and P+ (Eq. 4, 5, 7, 8), on plain tensors.

Notation
    A        logits q k^T / sqrt(d); A~ the same, min-max-normalised per head and query row (A12)
    P        P+ + P-: on rows of cr, +gamma_dis gamma_time omega+ on the keys of c; on rows of c,
             -gamma_time omega- on the keys of nc
    s        the gate's factor sqrt(max(0, R_c - tau))
    A'       A + (max - min) s P: P is added on the [0, 1] scale and mapped back

A row's bias takes one value on c and one on nc, so only their difference matters and A' needs no mask: see
`split.py`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from sow.errors import UserError
from sow.types import component

if TYPE_CHECKING:
    from torch import Tensor

    from sow.attention.gate import Gate
    from sow.attention.regions import Bucket


@component("modulation")
class Modulation:
    """Where and how attention is modulated.

    `normalisation`  "row" per head and query row, "head" per head, "none" adds P to the logits, "literal"
                     leaves the scores of modulated rows normalised in the softmax (A12)
    `resolutions`    longer sides, in tokens, of the layers to modulate, None = all; `blocks` of down, mid, up
                     of a UNet; `layers` the numbers, from 0 in the network's order, of the layers that see
                     the image, None = all (A15)
    `branches`       "text": only the text branch of the guidance, "all": every branch (A16)
    `conditions`     "union": c is the union of the conditions; "each": one key set and one R_c per condition
                     (A18)
    `region`         "box": c is box_v; "mask": the condition's latent mask (A9)
    `text_keys`      where text and image share one attention: P- lowers the keys of nc alone ("kept"), or
                     the text's too ("lowered": everything outside c; A23)
    `text_reads`     where text and image share one attention: "all": the text's rows read every key;
                     "condition": not those of nc, which closes the way nc -> text -> c (A24)
    """

    normalisation: Literal["row", "head", "none", "literal"]
    resolutions: list[int] | None
    blocks: list[Literal["down", "mid", "up"]]
    branches: Literal["text", "all"]
    conditions: Literal["union", "each"]
    region: Literal["box", "mask"]
    layers: list[int] | None = None
    text_keys: Literal["kept", "lowered"] = "kept"
    text_reads: Literal["all", "condition"] = "all"

    def __post_init__(self) -> None:
        if not self.blocks:
            raise UserError("blocks are of down, mid, up, got none (modulation.blocks)")

    def check_text(self, joint: bool) -> None:
        """Raise UserError for an option that a model with (`joint`) or without joint attention lacks."""
        wrong = None
        if not joint and self.text_keys != "kept":
            wrong = f"text_keys={self.text_keys}"
        elif not joint and self.text_reads != "all":
            wrong = f"text_reads={self.text_reads}"
        elif joint and set(self.blocks) != {"down", "mid", "up"}:
            raise UserError(
                f"blocks={list(self.blocks)} are of a UNet, and this model is a transformer: choose "
                "its layers by number (modulation.blocks, modulation.layers)"
            )
        if wrong is not None:
            raise UserError(
                f"{wrong} is of models whose text and image share one attention, and this one has a UNet: "
                f"leave it out (modulation.{wrong.partition('=')[0]})"
            )

    def check_layers(self, layers: Collection[tuple[str, int]]) -> None:
        """Raise UserError where no layer, or none of a resolution, is selected among those of a model
        (block, side)."""
        sides = {side for block, side in layers if block in self.blocks}
        lost = [r for r in self.resolutions or () if r not in sides]
        if lost or not sides or self.resolutions == []:
            there = ", ".join(
                f"{block} {side}" for block, side in sorted(layers, key=lambda x: (-x[1], x[0]))
            )
            raise UserError(
                f"resolutions={self.resolutions} in blocks={list(self.blocks)} selects no layer"
                f"{f' of {lost[0]} tokens' if lost else ''}: this model has {there} on this canvas "
                "(modulation.resolutions, modulation.blocks)"
            )


@component("modulation")
class NoModulation:
    """Plain sampling (the ablation without DAM, Table II): the UNet keeps its own attention."""


@dataclass(frozen=True, eq=False)
class Strength:
    """What modulates one UNet call: omega times gamma_time for P- and P+ (numbers or 0-dimensional tensors),
    the gate, and the reading of A12."""

    minus: float | Tensor
    plus: float | Tensor
    gate: Gate
    normalisation: str = "row"


@dataclass(frozen=True, eq=False)
class Text:
    """Keys and values (b, H, M, d) that image rows read besides the image's: text, and padding.

    `mask` (b, M) bool, False where there is nothing to read; None = all of them are read. P+ and P- leave
    them as they are where they are `kept` (Eq. 4 and 5 speak of the image's tokens); else P- lowers them
    with the keys of nc (A23).
    """

    k: Tensor
    v: Tensor
    mask: Tensor | None = None
    kept: bool = True


@dataclass(frozen=True, eq=False)
class Reading:
    """R_c and factor of one layer: `r_c`, `factor` (b, parts), one column per condition part."""

    r_c: Tensor
    factor: Tensor


@dataclass(frozen=True, eq=False)
class Rows:
    """Logits of the modulated rows of one bucket: `low`, `high` and, where it is wanted, `lse` (b, H, R),
    rows of cr last."""

    index: Tensor
    q: Tensor
    low: Tensor
    high: Tensor
    lse: Tensor | None
    related: int = field(default=0)

    def part(self, here: slice) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """(q, low, high, lse) of some of the rows."""
        lse = None if self.lse is None else self.lse[:, :, here]
        return self.q[:, :, here], self.low[:, :, here], self.high[:, :, here], lse


def row_statistics(
    q: Tensor, k: Tensor, bucket: Bucket, scale: float, normalisation: str, with_lse: bool = False
) -> Rows:
    """Range of the logits of the rows in c and cr, the only rows that are modulated."""
    from sow.attention.split import row_range, take

    q_rows = take(q, bucket.rows)
    low, high, lse = row_range(q_rows, k, scale, with_lse)
    if normalisation == "head":
        all_low, all_high, _ = row_range(q, k, scale, False)
        low = all_low.amin(-1, keepdim=True).expand_as(low)
        high = all_high.amax(-1, keepdim=True).expand_as(high)
    return Rows(bucket.rows, q_rows, low, high, lse if with_lse else None, bucket.rows_r.shape[1])


def point_scores(
    rows: Rows, k: Tensor, k_part: Tensor, bucket: Bucket, part: int, scale: float, gate: Gate
) -> Tensor:
    """a_i of Eq. 7 for condition part `part`, whose keys are `k_part`: (b, H, m), nearest point first
    (A13)."""
    import torch

    from sow.attention.split import take

    keys_c = k_part.to(rows.low.dtype)
    order = bucket.order[part][:, None].expand(-1, k.shape[1], -1)
    if gate.queries == "related":
        q, low, high, lse = rows.part(slice(rows.q.shape[2] - rows.related, None))
        if lse is not None:
            logits = (q.to(keys_c.dtype) @ keys_c.transpose(-1, -2)) * scale
            scores = (logits - lse.unsqueeze(-1)).exp().mean(-1)
        else:
            # The mean over keys of c commutes with the product: pooled keys, one dot product per point.
            pooled = (q.to(keys_c.dtype) * keys_c.mean(2, keepdim=True)).sum(-1) * scale
            scores = normalised(pooled, low, high)
        return scores.gather(-1, order)
    start = sum(r.shape[1] for r in bucket.rows_c[:part])
    q, low, high, lse = rows.part(slice(start, start + bucket.rows_c[part].shape[1]))
    points = take(k, bucket.rows_r).to(keys_c.dtype)
    logits = (q.to(points.dtype) @ points.transpose(-1, -2)) * scale
    if lse is not None:
        scores = (logits - lse.unsqueeze(-1)).exp()
    else:
        scores = normalised(logits, low.unsqueeze(-1), high.unsqueeze(-1))
    return torch.mean(scores, dim=2).gather(-1, order)


def normalised(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Min-max normalisation to [0, 1]; a constant row normalises to 1 (A13)."""
    width = high - low
    flat = width == 0
    return ((x - low) / (width + flat) + flat).clamp(0, 1)


def modulated_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bucket: Bucket,
    strength: Strength,
    scale: float,
    previous: Tensor | None = None,
    text: Text | None = None,
) -> tuple[Tensor, Reading]:
    """softmax(A') V for the samples of one bucket (Eq. 8).

    `q`, `k`, `v` (b, H, N, d) of the image's tokens, `text` what its rows read besides;
    `previous` (b, parts) an R_c to use in place of this layer's own, nan where there is none.
    Returns (b, H, N, d) in the dtype of `v`, and this layer's reading (its own R_c and the factor that was
    applied).
    """
    import torch

    from sow.attention.gate import r_c
    from sow.attention.split import attention_with_lse, masked_with_lse, merge, take

    parts = len(bucket.keys) - 1
    gate = strength.gate
    # 1. The range of the logits of the rows that are modulated (A12).
    rows = row_statistics(q, k, bucket, scale, strength.normalisation, gate.score == "softmax")
    # 2. Keys and values, those of a key set side by side: one copy, then views.
    counts = [keys.shape[1] for keys in bucket.keys]
    k_parts, v_parts = (take(x, bucket.sorted).split(counts, dim=2) for x in (k, v))
    # 3. R_c of each condition part (Eq. 7), and how far the gate opens.
    own = torch.stack(
        [r_c(point_scores(rows, k, k_parts[p], bucket, p, scale, gate), gate.fraction) for p in range(parts)],
        dim=-1,
    )
    factor = gate.factor(own if previous is None else previous.to(own.dtype))
    # 4. The width of the scale on which P is added (A12).
    width = rows.high - rows.low
    if strength.normalisation == "literal":
        # The whole row is normalised where its gate is open: scale its queries, then P needs no mapping back.
        opened = (factor.amax(-1) > 0)[:, None, None]
        shrink = torch.where(opened & (width > 0), 1 / width.where(width > 0, width + 1), width * 0 + 1)
        scaling = torch.ones(q.shape[:3], dtype=shrink.dtype, device=q.device)
        scaling = scaling.scatter(2, rows.index[:, None].expand(-1, q.shape[1], -1), shrink)
        q = (q * scaling.unsqueeze(-1)).to(q.dtype)
    if strength.normalisation in ("none", "literal"):
        width = torch.ones_like(width)
    # 5. Attention over each key set alone; its log-sum-exp takes the set's bias (Eq. 4, 5, 8).
    outs, scores = [], []
    for p in range(parts + 1):
        out, lse = attention_with_lse(q, k_parts[p], v_parts[p], scale)
        if p < parts:
            lse = lse + row_bias(rows, width, row_amount(bucket, strength, factor, p), lse)
        outs.append(out)
        scores.append(lse)
    if text is not None:
        out, lse = masked_with_lse(q, text.k, text.v, scale, text.mask)
        if text.kept:  # P- lowers the keys of nc: beside them the text's are raised, as the condition's are
            lse = lse + row_bias(rows, width, kept_amount(bucket, strength, factor), lse)
        outs.append(out)
        scores.append(lse)
    # 6. The sets together, weighted by their log-sum-exps: softmax(A') V.
    return merge(outs, scores), Reading(own, factor)


def row_amount(bucket: Bucket, strength: Strength, factor: Tensor, part: int) -> Tensor:
    """P of the modulated rows (b, R) on the keys of condition part `part`, relative to those of nc (Eq. 4 and
    5)."""
    factor = factor[:, part]
    own = bucket.own[part].to(factor.dtype) * strength.minus
    near = bucket.nearness[part].to(factor.dtype) * strength.plus
    # P- is negative on everything outside the condition, which is positive on the condition's own keys.
    return (own + near) * factor[:, None]


def kept_amount(bucket: Bucket, strength: Strength, factor: Tensor) -> Tensor:
    """P of the modulated rows (b, R) on keys that it leaves alone, relative to those of nc."""
    own = [own.to(factor.dtype) * factor[:, p : p + 1] for p, own in enumerate(bucket.own)]
    return sum(own[1:], own[0]) * strength.minus


def row_bias(rows: Rows, width: Tensor, amount: Tensor, like: Tensor) -> Tensor:
    """Bias of every row (b, H, N) from P of the modulated ones, `amount` (b, R), mapped back (A12)."""
    import torch

    bias = width * amount.unsqueeze(1)
    index = rows.index[:, None].expand(-1, like.shape[1], -1)
    return torch.zeros_like(like).scatter(2, index, bias.to(like.dtype))
