"""Regions of a canvas as sets of attention tokens: c, cr and nc at the resolution of every layer.

Notation
    c    condition tokens (box_v, or the mask; A9), cr = box_r minus c, nc = everything outside c
    o*   centre of box_v; a token of cr belongs to the condition whose centre is nearest (A18)

Everything here is computed on the host, once per run, from boxes; the attention layers only gather by index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sow.attention.decay import DecayInDistance


@dataclass(frozen=True, eq=False)
class SampleRegions:
    """Regions of one sample at latent resolution.

    `conditions` (n, h, w) bool, disjoint; `related` (h, w) bool, outside every condition; `centers` (n, 2)
    float64, the centres o* as (y, x) fractions of the canvas.
    """

    conditions: Tensor
    related: Tensor
    centers: Tensor


@dataclass(frozen=True, eq=False)
class Bucket:
    """Samples of a batch whose regions have the same sizes in a layer, so that one gather serves them all.

    `samples`   (b,) int64, places in the batch
    `keys`      the disjoint key sets, each (b, n_p) int64: the conditions (one, or one each), then nc
    `rows_c`    per condition part, the rows that P- modulates (those of its key set)
    `rows_r`    (b, m) rows of cr; `order` per condition part (b, m): places in rows_r, nearest to o* first
    `near`      per condition part (b, m) gamma_dis of each row of cr, float64
    `places`    the samples as numbers on the host
    `sorted`    (b, N) all tokens, key set after key set
    `rows`      (b, R) all modulated rows: those of the conditions, then those of cr; and for each of them,
                per condition part, `own` (b, R) 1 where P- modulates it and `nearness` (b, R) gamma_dis where
                P+ does, else 0
    `numbers`   per condition part, which condition it is: others may be empty in this layer; 0 for their
                union
    `tables`    the same, laid out for small layers (`block.py`)
    """

    samples: Tensor
    keys: tuple[Tensor, ...]
    rows_r: Tensor
    order: tuple[Tensor, ...]
    near: tuple[Tensor, ...]
    places: tuple[int, ...]
    rows: Tensor
    sorted: Tensor
    own: tuple[Tensor, ...]
    nearness: tuple[Tensor, ...]
    numbers: tuple[int, ...]
    tables: dict[Any, Any] = field(default_factory=dict)

    @property
    def rows_c(self) -> tuple[Tensor, ...]:
        return self.keys[:-1]

    def to(self, device: torch.device) -> Bucket:
        move = lambda tensors: tuple(t.to(device) for t in tensors)  # noqa: E731
        return Bucket(
            self.samples.to(device),
            move(self.keys),
            self.rows_r.to(device),
            move(self.order),
            move(self.near),
            self.places,
            self.rows.to(device),
            self.sorted.to(device),
            move(self.own),
            move(self.nearness),
            self.numbers,
        )


def nearest(maps: Tensor, height: int, width: int) -> Tensor:
    """Nearest resize of boolean maps (..., h, w) to (..., height, width): the token at i reads the latent at
    i h / height."""
    rows = torch.arange(height) * maps.shape[-2] // height
    columns = torch.arange(width) * maps.shape[-1] // width
    return maps[..., rows, :][..., columns]


def layer_sizes(height: int, width: int, depth: int = 8) -> dict[int, tuple[int, int]]:
    """Token count -> (height, width) of every resolution a UNet reaches from latents of `height` x `width` by
    halving."""
    sizes: dict[int, tuple[int, int]] = {}
    for _ in range(depth):
        sizes.setdefault(height * width, (height, width))
        height, width = (height + 1) // 2, (width + 1) // 2
    return sizes


def sample_in_layer(
    region: SampleRegions, height: int, width: int, decay_distance: DecayInDistance, union: bool
) -> tuple[Any, ...] | None:
    """One sample's key sets, rows and decays in a layer, or None where c, nc or cr is empty there."""
    conditions = nearest(region.conditions, height, width).flatten(1)
    related = nearest(region.related, height, width).flatten()
    everything = conditions.any(0)
    outside = (~everything).nonzero().flatten()
    rows_r = related.nonzero().flatten()
    kept = [i for i in range(len(conditions)) if conditions[i].any()]
    if not kept or len(outside) == 0 or len(rows_r) == 0:
        return None
    # Distances in tokens of the layer's longer side, as they lie on the canvas: where a side is odd, tokens
    # are no squares.
    tall, wide = region.related.shape[0] / height, region.related.shape[1] / width
    unit = max(region.related.shape) / max(height, width)
    y = (rows_r.div(width, rounding_mode="floor").double() + 0.5) * (tall / unit)
    x = ((rows_r % width).double() + 0.5) * (wide / unit)
    scale = torch.tensor([height * (tall / unit), width * (wide / unit)], dtype=torch.float64)
    distance = torch.stack(
        [((torch.stack([y, x], 1) - region.centers[i] * scale) ** 2).sum(1).sqrt() for i in kept]
    )
    grid = max(height, width)
    if union:
        parts, distances, kept = [everything.nonzero().flatten()], [distance.amin(0)], [0]
    else:
        parts, distances = [conditions[i].nonzero().flatten() for i in kept], list(distance)
    return (
        (*parts, outside),
        rows_r,
        tuple(d.argsort(stable=True) for d in distances),
        tuple(decay_distance.factors(d, grid) for d in distances),
        tuple(kept),
    )


def buckets(
    regions: Sequence[SampleRegions],
    height: int,
    width: int,
    decay_distance: DecayInDistance,
    union: bool,
    device: torch.device,
) -> tuple[Bucket, ...]:
    """The batch's regions in a layer of `height` x `width` tokens, samples of equal region sizes together."""
    groups: dict[tuple[Any, ...], list] = {}
    for place, region in enumerate(regions):
        found = sample_in_layer(region, height, width, decay_distance, union)
        if found is not None:
            keys, rows_r, order, near, numbers = found
            groups.setdefault((numbers, len(rows_r), *(len(k) for k in keys)), []).append(
                (place, keys, rows_r, order, near)
            )
    result = []
    for (numbers, *_), members in groups.items():
        places, keys, rows_r, order, near = zip(*members, strict=True)
        stacked = lambda parts: tuple(torch.stack(p) for p in zip(*parts, strict=True))  # noqa: E731
        result.append(
            make_bucket(
                places, stacked(keys), torch.stack(rows_r), stacked(order), stacked(near), numbers
            ).to(device)
        )
    return tuple(result)


def make_bucket(
    places: Sequence[int],
    keys: tuple[Tensor, ...],
    rows_r: Tensor,
    order: tuple[Tensor, ...],
    near: tuple[Tensor, ...],
    numbers: tuple[int, ...],
) -> Bucket:
    """A bucket from what the layer's regions say; what every step needs of it is laid out once."""
    conditions = keys[:-1]
    rows = torch.cat((*conditions, rows_r), dim=1)
    owner = torch.cat(
        [torch.full_like(c, i) for i, c in enumerate(conditions)] + [torch.full_like(rows_r, -1)], 1
    )
    own = tuple((owner == i).double() for i in range(len(conditions)))
    nearness = tuple(torch.cat([n.new_zeros(len(n), rows.shape[1] - n.shape[1]), n], 1) for n in near)
    return Bucket(
        torch.tensor(places),
        keys,
        rows_r,
        order,
        near,
        tuple(places),
        rows,
        torch.cat(keys, 1),
        own,
        nearness,
        numbers,
    )
