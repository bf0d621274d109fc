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
after it. In a transformer the call of attention is watched, and the text is a region of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sow.attention.joint import LAYOUTS, Call, attend_jointly, watching
from sow.attention.modulator import PATCH, Modulator
from sow.attention.processor import SelfAttentionProcessor, self_attention
from sow.attention.regions import SampleRegions, layer_sizes, nearest

REGIONS = ("condition", "related", "rest")
TEXT = "text"  # a fourth region where text and image share one attention


class Attended(Protocol):
    """One layer's attention in one network call, over `tokens` places of the image and perhaps the text."""

    tokens: int
    rows: int  # branches x B

    def places(self, inside: Tensor) -> tuple[Tensor, Tensor]:
        """Indicators (B, N, 3) of the image's regions -> those of all queries and of all keys, (B, length, 3)
        or, with the text, 4."""
        ...

    def mass(self, indicators: Tensor) -> Tensor:
        """Attention mass of every query on each region of the keys, mean over heads: `indicators`
        (branches x B, keys, R) -> (branches x B, queries, R)."""
        ...

    def gate(self, layer: str, modulator: Modulator) -> None:
        """Let another modulator read the layer; what it makes is thrown away."""
        ...


class Watcher(Protocol):
    """Sees each self-attention layer of a network call, and the end of the call."""

    def see(self, layer: str, attended: Attended) -> None:
        """A layer of this name attends."""
        ...

    def end(self) -> None:
        """The call is over."""
        ...


@contextmanager
def observed(
    network: nn.Module, latent_size: tuple[int, int], when: Callable[[], bool], *watchers: Watcher
) -> Iterator[None]:
    """Within the block, `watchers` see the network's calls before which `when()` holds; afterwards the hooks
    are gone. `latent_size` is (height, width)."""
    active = [False]

    def before_call(_: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> None:
        active[0] = when()

    def after_call(_: nn.Module, args: tuple, output: Any) -> None:
        if active[0]:
            for watcher in watchers:
                watcher.end()
        active[0] = False

    def show(layer: str, attended: Attended) -> None:
        if active[0]:
            for watcher in watchers:
                watcher.see(layer, attended)

    def before_layer(layer: str, module: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> None:
        if active[0]:
            show(layer, SelfAttention(module, args[0] if args else kwargs["hidden_states"]))

    with ExitStack() as stack:
        for handle in (
            network.register_forward_pre_hook(before_call, with_kwargs=True),
            network.register_forward_hook(after_call),
        ):
            stack.callback(handle.remove)
        if type(network).__name__ in LAYOUTS:
            tokens = (latent_size[0] // PATCH) * (latent_size[1] // PATCH)
            stack.enter_context(
                watching(network, tokens, lambda layer, call: show(layer, JointAttention(call)))
            )
        else:
            for name, module in self_attention(network):
                handle = module.register_forward_pre_hook(partial(before_layer, name), with_kwargs=True)
                stack.callback(handle.remove)
        yield


class SelfAttention:
    """A UNet's layer that is about to read `hidden` (branches x B, N, channels)."""

    def __init__(self, attention: nn.Module, hidden: Tensor) -> None:
        self.attention, self.hidden = attention, hidden
        self.rows, self.tokens = hidden.shape[:2]

    def places(self, inside: Tensor) -> tuple[Tensor, Tensor]:
        return inside, inside

    def mass(self, indicators: Tensor) -> Tensor:
        return mass(self.attention, self.hidden, indicators)

    def gate(self, layer: str, modulator: Modulator) -> None:
        SelfAttentionProcessor(layer, modulator)(self.attention, self.hidden)


class JointAttention:
    """A transformer's layer whose queries and keys may hold the text beside the image."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.rows, self.tokens = len(call.q), call.tokens

    def places(self, inside: Tensor) -> tuple[Tensor, Tensor]:
        lengths = [x.shape[2] - self.tokens for x in (self.call.q, self.call.k)]
        if not lengths[1]:
            return inside, inside
        image = torch.cat([inside, inside.new_zeros((*inside.shape[:2], 1))], -1)
        both = []
        for length in lengths:
            text = inside.new_tensor([0, 0, 0, 1]).expand(len(inside), length, 4)
            both.append(torch.cat([image, text] if self.call.first else [text, image], 1))
        return both[0], both[1]

    def mass(self, indicators: Tensor) -> Tensor:
        value = self.call.v
        heads, width = value.shape[1], value.shape[-1]
        out = []
        for part in indicators.split(width, dim=-1):
            values = torch.zeros_like(value)
            values[..., : part.shape[-1]] = part.to(value.dtype).unsqueeze(1).expand(-1, heads, -1, -1)
            with torch.no_grad():
                out.append(self.call.again(values)[..., : part.shape[-1]].float().mean(1))
        return torch.cat(out, -1)

    def gate(self, layer: str, modulator: Modulator) -> None:
        call = self.call
        attend_jointly(modulator, call.first, layer, (call.q, call.k, call.v), call.options)


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

    `calls` holds, for each finished network call, layer -> (branches, B, R, R): query, then key
    region, of REGIONS and, where text and image share the attention, TEXT; nan where a query region is empty.
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
        # (B, R): what uniform attention would give each region in a layer
        self.shares: dict[str, Tensor] = {}
        self.current: dict[str, Tensor] = {}
        self.calls: list[dict[str, Tensor]] = []

    def see(self, layer: str, attended: Attended) -> None:
        """The mass of this layer."""
        queries, keys = attended.places(self.indicators[attended.tokens])
        self.tokens[layer] = attended.tokens
        self.shares[layer] = keys.mean(1).cpu()
        branches = attended.rows // self.batch
        per_query = attended.mass(keys.repeat(branches, 1, 1))
        per_query = per_query.unflatten(0, (branches, self.batch))
        total = torch.einsum("bnx,ebny->ebxy", queries, per_query)
        self.current[layer] = total / queries.sum(1)[None, :, :, None]  # 0 / 0 = nan: no such query here

    def end(self) -> None:
        self.calls.append({name: value.cpu() for name, value in self.current.items()})
        self.current = {}


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

    def see(self, layer: str, attended: Attended) -> None:
        self.tokens[layer] = attended.tokens
        if not self.begun:
            branches = attended.rows // self.modulator.batch
            self.modulator.begin(0.0, 0.0, branches, min(self.text_branch, branches - 1))
            self.begun = True
        with torch.no_grad():
            attended.gate(layer, self.modulator)

    def end(self) -> None:
        readings = self.modulator.end()
        self.calls.append({name: (r.float().cpu(), f.float().cpu()) for name, (r, f) in readings.items()})
        self.begun = False


def three_regions(region: SampleRegions, size: tuple[int, int]) -> Tensor:
    """(N, 3) float32 indicators of c, cr and the rest in a layer of `size` (height, width) tokens."""
    condition = nearest(region.conditions.any(0), *size).flatten()
    related = nearest(region.related, *size).flatten() & ~condition
    return torch.stack([condition, related, ~(condition | related)], dim=1).float()
