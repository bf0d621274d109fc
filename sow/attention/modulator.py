"""Modulates the self-attention of one batch, layer by layer, without knowing the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sow.attention import block
from sow.attention.decay import DecayInDistance
from sow.attention.gate import Gate
from sow.attention.modulation import Modulation, Reading, Strength, modulated_attention
from sow.attention.regions import Bucket, SampleRegions, buckets, layer_sizes
from sow.errors import UserError

PATCH = 2  # latents on a side of a transformer's token


class Modulator:
    """Modulates the self-attention of one batch through its cycles.

    Built once per batch from the regions of its samples. `begin` sets the strengths of a UNet call before it,
    `end` returns what the gates read in it; there is no clock of its own.

    What changes between calls lies in tensors that stay where they are (`strength`, `held`), everything else
    is fixed by then: torch.compile takes `attend` into the UNet's graph, one for all strengths, cycles and
    gates, without a break.
    """

    def __init__(
        self,
        modulation: Modulation,
        gate: Gate,
        decay_distance: DecayInDistance,
        regions: Sequence[SampleRegions],
        latent_size: tuple[int, int],
        device: torch.device,
    ) -> None:
        self.modulation = modulation
        self.gate = gate
        self.batch = len(regions)
        self.sizes = self.levels = layer_sizes(*latent_size)
        self.image_tokens = (latent_size[0] // PATCH) * (latent_size[1] // PATCH)  # of a transformer
        if modulation.resolutions is not None:
            wanted = set(modulation.resolutions)
            self.sizes = {n: size for n, size in self.sizes.items() if max(size) in wanted}
        union = modulation.conditions == "union"
        self.buckets: dict[int, tuple[Bucket, ...]] = {
            n: buckets(regions, *size, decay_distance, union, device) for n, size in self.sizes.items()
        }
        self.parts = 1 if union else max(len(r.conditions) for r in regions)
        # Layers of about 16 x 16 tokens at 64 x 64 latents, wherever the canvas's size puts them (A14).
        self.middle = latent_size[0] * latent_size[1] // 16
        self.previous: dict[int, Tensor] = {}
        self.indices: dict[tuple[int, ...], Tensor] = {}
        self.layers: dict[nn.Module, list[tuple[str, Any]]] = {}
        self.numbers: dict[str, int] = {}  # of the layers, in the network's order
        # 0-dimensional tensors, not numbers: a graph would be compiled anew for each number.
        minus, plus = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))
        self.amounts = minus, plus
        self.strength = Strength(minus, plus, gate, modulation.normalisation)
        self.device = device
        self.held: dict[int, Tensor] = {}
        self.begun = False
        self.indexed: set[int] = set()
        self.branches: tuple[int, ...] = ()
        self.readings: dict[str, tuple[int, dict[int, tuple[Tensor, Tensor]]]] = {}

    # 1. Before a UNet call.

    def begin(self, minus: float, plus: float, branches: int, text_branch: int) -> None:
        """Before a UNet call on `branches` x batch rows: the strengths omega gamma_time of P- and P+."""
        for amount, value in zip(self.amounts, (minus, plus), strict=True):
            amount.fill_(value)
        self.branches = tuple(range(branches)) if self.modulation.branches == "all" else (text_branch,)
        self.text_branch = text_branch
        for branch in self.branches:
            if branch not in self.held:
                shape = (self.batch, self.parts)
                self.held[branch] = torch.empty(shape, dtype=torch.float64, device=self.device)
            if branch in self.previous:
                self.held[branch].copy_(self.previous[branch])
            else:
                self.held[branch].fill_(float("nan"))
        self.index(branches)
        self.readings = {}
        self.begun = True

    def index(self, branches: int) -> None:
        """Send every index of rows that a call on `branches` x batch rows takes to the device, before the
        call."""
        if branches in self.indexed:
            return
        self.indexed.add(branches)
        device = self.device
        for found in self.buckets.values():
            if found and (rest := self.rest(found, branches * self.batch)):
                self.rows(rest, device)
            for bucket in found:
                self.rows(bucket.places, device)
                for branch in self.branches:
                    self.rows(self.places(branch, bucket), device)
                    self.column(self.places(branch, bucket), device)

    # 2. In the call, layer by layer.

    def selects(self, layer: str) -> bool:
        """Whether the layer of this name lies in the blocks that are modulated (A15)."""
        if self.modulation.layers is not None and self.numbers[layer] not in self.modulation.layers:
            return False
        block = layer.split("_", 1)[0]
        return block in self.modulation.blocks or block not in ("down", "mid", "up")

    def attend(self, layer: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Self-attention of one layer: `q`, `k`, `v` (branches x B, H, N, d) -> the same shape."""
        found = self.buckets.get(q.shape[2], ()) if self.begun and self.selects(layer) else ()
        if not found:
            return F.scaled_dot_product_attention(q, k, v)
        if all(block.applies(q, bucket, self.strength) for bucket in found):
            out = F.scaled_dot_product_attention(q, k, v)
            attend = self.in_block
        else:
            out = self.plain(found, q, k, v)
            attend = self.in_parts
        by_branch: dict[int, tuple[Tensor, Tensor]] = {}
        for branch in self.branches:
            readings = [(bucket, attend(branch, bucket, q, k, v, out)) for bucket in found]
            by_branch[branch] = self.collected(readings, q)
        self.readings[layer] = (q.shape[2], by_branch)
        return out

    def plain(self, found: Sequence[Bucket], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Plain attention of the rows of the batch that are not modulated; the others are left empty."""
        # Tokens outermost, as the layer's output projection reads them.
        out = torch.empty_like(v.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
        if rest := self.rest(found, len(q)):
            rows = self.rows(rest, q.device)
            out[rows] = F.scaled_dot_product_attention(q[rows], k[rows], v[rows])
        return out

    def rest(self, found: Sequence[Bucket], rows: int) -> tuple[int, ...]:
        """Those of a layer's `rows` rows that belong to none of its buckets."""
        done = {branch * self.batch + place for branch in self.branches for b in found for place in b.places}
        return tuple(row for row in range(rows) if row not in done)

    def in_parts(self, branch: int, bucket: Bucket, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> Reading:
        """Two-part attention of a bucket's samples, written to `out`."""
        rows = self.rows(self.places(branch, bucket), q.device)
        previous = self.borrowed(branch, bucket)
        out[rows], reading = modulated_attention(
            q[rows], k[rows], v[rows], bucket, self.strength, q.shape[-1] ** -0.5, previous
        )
        return reading

    def in_block(self, branch: int, bucket: Bucket, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> Reading:
        """The modulated rows of a bucket's samples, written over the plain ones in `out`."""
        places = self.places(branch, bucket)
        rows = self.rows(places, q.device)
        previous = self.borrowed(branch, bucket)
        made, reading = block.modulated_rows(
            q[rows], k[rows], v[rows], bucket, self.strength, q.shape[-1] ** -0.5, previous
        )
        if len(places) == 1:
            out[places[0]].index_copy_(1, bucket.rows[0], made[0])
        else:
            sample = self.column(places, q.device)
            out.transpose(1, 2)[sample, bucket.rows] = made.transpose(1, 2)
        return reading

    # 3. After the call.

    def end(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """After the call: layer name -> (R_c, factor), each (B, parts), nan where a layer was not
        modulated."""
        self.begun = False
        if not self.readings:
            return {}
        sizes = {n for n, _ in self.readings.values()}
        target = (
            max(sizes) if self.gate.scope == "layer" else min(sizes, key=lambda n: (abs(n - self.middle), -n))
        )
        for branch in self.branches:
            values = [by_branch[branch][0] for n, by_branch in self.readings.values() if n == target]
            self.previous[branch] = torch.stack(values).nanmean(0)
        # Copies: what a CUDA graph hands out is written over by its next call.
        own = [by_branch[self.text_branch] for _, by_branch in self.readings.values()]
        r_c, factor = (torch.stack(values).unbind() for values in zip(*own, strict=True))
        return dict(zip(self.readings, zip(r_c, factor, strict=True), strict=True))

    # Rows of a batch: which they are, and the indices that take them.

    def places(self, branch: int, bucket: Bucket) -> tuple[int, ...]:
        """Rows of a branch's samples of a bucket among those of all branches."""
        return tuple(branch * self.batch + place for place in bucket.places)

    def column(self, places: tuple[int, ...], device: torch.device) -> Tensor:
        """The same rows as an index (b, 1)."""
        if (*places, -1) not in self.indices:
            self.indices[*places, -1] = torch.tensor(places, device=device).unsqueeze(1)
        return self.indices[*places, -1]

    def collected(self, readings: Sequence[tuple[Bucket, Reading]], like: Tensor) -> tuple[Tensor, Tensor]:
        """(R_c, factor) of the batch, each (B, parts), nan where there is none."""
        bucket, reading = readings[0]
        everyone = tuple(range(self.batch)), tuple(range(self.parts))
        if (bucket.places, bucket.numbers) == everyone:
            return reading.r_c, reading.factor
        dtype = torch.promote_types(like.dtype, torch.float32)
        r_c = like.new_full((self.batch, self.parts), float("nan"), dtype=dtype)
        factor = r_c.clone()
        for bucket, reading in readings:
            here = self.rows(bucket.places, like.device)
            for part, number in enumerate(bucket.numbers):  # each in its condition's column
                r_c[here, number] = reading.r_c[:, part].to(dtype)
                factor[here, number] = reading.factor[:, part].to(dtype)
        return r_c, factor

    def rows(self, places: tuple[int, ...], device: torch.device) -> slice | Tensor:
        """Rows of a batch: a view where they are neighbours, else an index that was sent to the device
        once."""
        if places == tuple(range(places[0], places[0] + len(places))):
            return slice(places[0], places[0] + len(places))
        if places not in self.indices:
            self.indices[places] = torch.tensor(places, device=device)
        return self.indices[places]

    def borrowed(self, branch: int, bucket: Bucket) -> Tensor | None:
        """R_c of the step before, where this layer does not gate itself (A14, A19); None where it does."""
        if self.gate.scope == "layer" and bucket.rows_r.shape[1] >= self.gate.min_points:
            return None
        held = self.held[branch][bucket.samples]
        if bucket.numbers == tuple(range(len(bucket.numbers))):
            return held[:, : len(bucket.numbers)]
        return torch.stack([held[:, number] for number in bucket.numbers], dim=1)

    # Once per network.

    def number(self, names: Sequence[str]) -> None:
        """Tell the layers' numbers; raises UserError for a layer to be modulated that is not among them."""
        self.numbers = {name: i for i, name in enumerate(names)}
        lost = [i for i in self.modulation.layers or () if not 0 <= i < len(names)]
        if lost or self.modulation.layers == []:
            raise UserError(
                f"layers={self.modulation.layers} selects no layer{f' {lost[0]}' if lost else ''}: this "
                f"model has {len(names)}, from 0 on (modulation.layers)"
            )
        if self.modulation.layers is None or not (depth := _depth(names)):
            return
        left = [name for name, i in self.numbers.items() if i in self.modulation.layers]
        for name in left:
            tokens = [*self.levels.values()][min(_level(name, depth), len(self.levels) - 1)]
            if not self.selects(name) or max(tokens) not in (self.modulation.resolutions or [max(tokens)]):
                block = name.split("_", 1)[0]
                raise UserError(
                    f"layers names layer {self.numbers[name]}, a layer of {block} with {max(tokens)} tokens "
                    f"a side, which resolutions={self.modulation.resolutions} and "
                    f"blocks={list(self.modulation.blocks)} leave out "
                    "(modulation.layers, modulation.resolutions, modulation.blocks)"
                )

    def prepare(self, dtype: torch.dtype, compiled: bool) -> None:
        """Lay out the small layers' tables for a network of `dtype`: where a graph first needs them it is too
        late.

        One graph shall serve regions of all sizes, so where the network is compiled their sizes are symbols
        in it.
        """
        for n, found in self.buckets.items():
            for bucket in found:
                table = block.tables(bucket, n, self.gate.fraction, torch.promote_types(dtype, torch.float32))
                if compiled:
                    for part in (
                        *bucket.keys,
                        bucket.rows_r,
                        *bucket.order,
                        bucket.rows,
                        *bucket.own,
                        *bucket.nearness,
                    ):
                        torch._dynamo.maybe_mark_dynamic(part, 1)
                    for part, axis in ((table.nearest, 2), (table.own, 1), (table.near, 1)):
                        torch._dynamo.maybe_mark_dynamic(part, axis)


def _depth(names: Sequence[str]) -> int:
    """How many resolutions a UNet with layers of these names has; 0 for another network."""
    found = [int(name.split(".")[1]) for name in names if name.startswith(("down_blocks.", "up_blocks."))]
    return 1 + max(found, default=-1)


def _level(name: str, depth: int) -> int:
    """How often a layer's resolution is halved."""
    block, _, rest = name.partition(".")
    index = int(rest.partition(".")[0]) if block != "mid_block" else 0
    return {"down_blocks": index, "up_blocks": depth - 1 - index}.get(block, depth - 1)
