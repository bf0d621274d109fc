"""Watching self-attention from outside: nothing that the model computes changes, and afterwards nothing is
left behind.

Notation
    c, cr, nc   the condition, its related region, everything outside c; here three disjoint regions: c, cr,
                and the
                rest (nc without cr)
    m[X, Y]     attention mass from X to Y: the mean over queries in X of the softmax weights on keys in Y

Attention is linear in its values: with the indicator of Y as values, the output of a row is its mass on Y. So
the processor that is in place (the model's own, or the modulated one) is run a second time on indicators, and
the mass is that of the softmax it really applies: (A'), with P- and P+, where attention is modulated. Hooks
show the layers, because the method puts its own processors in place inside each step and takes them back
after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sow.attention.modulator import Modulator
from sow.attention.processor import SelfAttentionProcessor
from sow.attention.regions import SampleRegions, layer_sizes, nearest

REGIONS = ("condition", "related", "rest")
SELF_ATTENTION = ".attn1"


class Watcher(Protocol):
    """Sees each self-attention layer of a UNet call, before that layer runs, and the end of the call."""

    def see(self, layer: str, attention: nn.Module, hidden: Tensor) -> None:
        """`hidden` (branches x B, N, channels) is what the layer is about to read."""
        ...

    def end(self) -> None:
        """The call is over."""
        ...


@contextmanager
def observed(unet: nn.Module, when: Callable[[], bool], *watchers: Watcher) -> Iterator[None]:
    """Within the block, `watchers` see the UNet calls before which `when()` holds;
    afterwards the hooks are gone."""
    active = [False]

    def before_call(_: nn.Module, args: tuple) -> None:
        active[0] = when()

    def after_call(_: nn.Module, args: tuple, output: Any) -> None:
        if active[0]:
            for watcher in watchers:
                watcher.end()
        active[0] = False

    def before_layer(layer: str, module: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> None:
        if active[0]:
            for watcher in watchers:
                watcher.see(layer, module, args[0] if args else kwargs["hidden_states"])

    handles = [
        unet.register_forward_pre_hook(before_call),
        unet.register_forward_hook(after_call),
        *(
            module.register_forward_pre_hook(partial(before_layer, name), with_kwargs=True)
            for name, module in unet.named_modules()
            if name.endswith(SELF_ATTENTION)
        ),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class WithValues:
    """An attention layer whose values are given and whose output is left as the heads produce it."""

    fused_projections = False
    residual_connection = False
    rescale_output_factor = 1.0

    def __init__(self, attention: nn.Module, values: Tensor) -> None:
        self._attention = attention
        self.to_v: Callable[[Tensor], Tensor] = lambda hidden: values
        self.to_out = (nn.Identity(), nn.Identity())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attention, name)


def mass(attention: Any, hidden: Tensor, indicators: Tensor) -> Tensor:
    """Attention mass of every query on each region, mean over heads: (n, N, R) for `indicators` (n, N, R)."""
    heads = attention.heads
    width = attention.to_q.out_features // heads
    out = []
    for part in indicators.split(width, dim=-1):  # as many regions at a time as a head has channels
        values = hidden.new_zeros((*hidden.shape[:2], heads, width))
        values[..., : part.shape[-1]] = part.to(hidden.dtype).unsqueeze(2)
        with torch.no_grad():
            result = attention.processor(WithValues(attention, values.flatten(2)), hidden)
        out.append(result.unflatten(-1, (heads, width))[..., : part.shape[-1]].float().mean(2))
    return torch.cat(out, -1)


class AttentionMass:
    """m[X, Y] of every layer, for a batch whose regions are known.

    `calls` holds, for each finished UNet call, layer -> (branches, B, R, R): query region, then key region;
    nan where a query region has no token in a layer.
    """

    def __init__(
        self, regions: Sequence[SampleRegions], latent_size: tuple[int, int], device: torch.device
    ) -> None:
        self.batch = len(regions)
        self.indicators = {
            n: torch.stack([three_regions(r, size) for r in regions]).to(device)
            for n, size in layer_sizes(*latent_size).items()
        }
        self.tokens: dict[str, int] = {}
        self.current: dict[str, Tensor] = {}
        self.calls: list[dict[str, Tensor]] = []

    def see(self, layer: str, attention: nn.Module, hidden: Tensor) -> None:
        """The mass of this layer; (branches x B, N, channels)."""
        inside = self.indicators[hidden.shape[1]]
        self.tokens[layer] = hidden.shape[1]
        branches = len(hidden) // self.batch
        per_query = mass(attention, hidden, inside.repeat(branches, 1, 1))
        per_query = per_query.unflatten(0, (branches, self.batch))
        total = torch.einsum("bnx,ebny->ebxy", inside, per_query)
        self.current[layer] = total / inside.sum(1)[None, :, :, None]  # 0 / 0 = nan: no such query here

    def end(self) -> None:
        self.calls.append({name: value.cpu() for name, value in self.current.items()})
        self.current = {}

    def share(self, tokens: int) -> Tensor:
        """(B, R): what uniform attention would give each region in a layer of `tokens` tokens."""
        return self.indicators[tokens].mean(1).cpu()


class ShadowGate:
    """What a gate would read and do: a modulator of strength zero that watches the queries and keys of a run.

    `modulator` is built as the method builds its own, from the readings of A13 to be tried; its output is
    thrown away. `calls` holds, for each finished UNet call, layer -> (R_c, factor), each (B, parts).
    """

    def __init__(self, modulator: Modulator, text_branch: int) -> None:
        self.modulator = modulator
        self.text_branch = text_branch
        self.begun = False
        self.tokens: dict[str, int] = {}
        self.calls: list[dict[str, tuple[Tensor, Tensor]]] = []

    def see(self, layer: str, attention: nn.Module, hidden: Tensor) -> None:
        self.tokens[layer] = hidden.shape[1]
        if not self.begun:
            branches = len(hidden) // self.modulator.batch
            self.modulator.begin(0.0, 0.0, branches, min(self.text_branch, branches - 1))
            self.begun = True
        with torch.no_grad():
            SelfAttentionProcessor(layer, self.modulator)(attention, hidden)

    def end(self) -> None:
        readings = self.modulator.end()
        self.calls.append({name: (r.float().cpu(), f.float().cpu()) for name, (r, f) in readings.items()})
        self.begun = False


def three_regions(region: SampleRegions, size: tuple[int, int]) -> Tensor:
    """(N, 3) float32 indicators of c, cr and the rest in a layer of `size` (height, width) tokens."""
    condition = nearest(region.conditions.any(0), *size).flatten()
    related = nearest(region.related, *size).flatten() & ~condition
    return torch.stack([condition, related, ~(condition | related)], dim=1).float()
