"""Attention that image and text tokens share, in diffusion transformers: found by layout, taken over in the
call itself.

A transformer's processors norm, rotate and join queries and keys, each class in its own way, and then call
`scaled_dot_product_attention`. That call alone is taken over, so that P+ and P- act after the query-key norm
and the rotary embedding, and no processor is written a second time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sow.errors import UserError

if TYPE_CHECKING:
    from sow.attention.modulator import Modulator


@dataclass(frozen=True)
class Layout:
    """Where a transformer's attention sees the image: `layers` matches the names of its modules; the image's
    tokens are the first or the last ones of queries and keys, patches of 2 x 2 latents."""

    layers: str
    first: bool


LAYOUTS = {
    "SD3Transformer2DModel": Layout(r"transformer_blocks\.\d+\.attn2?", True),
    "FluxTransformer2DModel": Layout(r"(single_)?transformer_blocks\.\d+\.attn", False),
    "PRXTransformer2DModel": Layout(r"blocks\.\d+\.attention", False),
    "ZImageTransformer2DModel": Layout(r"(noise_refiner|layers)\.\d+\.attention", True),
}


OPTIONS = ("attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")  # of the call, in its order
MODULATED: WeakSet[nn.Module] = WeakSet()  # networks inside `joined`
WATCHING: WeakKeyDictionary[nn.Module, list[Callable[..., None]]] = WeakKeyDictionary()


def image_layers(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Names and modules of the attention layers that see the image, in order."""
    layout = LAYOUTS[type(network).__name__]
    return [(n, m) for n, m in network.named_modules() if re.fullmatch(layout.layers, n)]


class TakenOver(TorchFunctionMode):
    """Hands the attention of the layer that runs to `attend`, and leaves all other calls as they are."""

    def __init__(self, attend: Callable[..., Tensor]) -> None:
        super().__init__()
        self.attend = attend
        self.layer: str | None = None
        self.calls = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention or self.layer is None:
            return func(*args, **(kwargs or {}))
        self.calls += 1
        return self.attend(self.layer, *_bound(*args, **(kwargs or {})))

    def enter_layer(self, name: str) -> Callable[..., None]:
        """The hook before a layer."""

        def hook(module: nn.Module, inputs: Any) -> None:
            self.layer, self.calls = name, 0

        return hook

    def leave_layer(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """The hook after a layer, after an exception in it too."""
        name, self.layer = self.layer, None
        if output is not None and self.calls != 1:
            raise UserError(
                f"the layer {name} called scaled_dot_product_attention {self.calls} times, not once: P+ and "
                "P- need diffusers' native attention backend and its stock processors (model)"
            )


def _bound(query: Tensor, key: Tensor, value: Tensor, *more: Any, **options: Any) -> tuple[Any, ...]:
    """The call's arguments as queries, keys, values and options by name."""
    return query, key, value, {**dict(zip(OPTIONS, more, strict=False)), **options}


class Unchecked(TakenOver):
    """The same for a watcher, which sees nothing of a layer that another has taken over."""

    def leave_layer(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """The hook after a layer."""
        self.layer = None


@contextmanager
def joined(network: nn.Module, modulator: Modulator) -> Iterator[None]:
    """Within the block the transformer's image attention is `modulator`'s; afterwards nothing is left."""
    layout = LAYOUTS[type(network).__name__]
    if network not in modulator.layers:
        modulator.layers[network] = image_layers(network)
        modulator.number([name for name, _ in modulator.layers[network]])

    def attend(layer: str, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
        def again(values: Tensor) -> Tensor:
            return attend_jointly(modulator, layout.first, layer, (query, key, values), options)

        out = again(value)
        kept = modulator.readings.get(layer)
        for see in WATCHING.get(network, ()):
            see(layer, Call(again, query, key, value, options, layout.first, modulator.image_tokens))
        if kept is not None:  # what a watcher asked for again is no reading of the run's
            modulator.readings[layer] = kept
        return out

    MODULATED.add(network)
    try:
        with taking_over(TakenOver(attend), modulator.layers[network]):
            yield
    finally:
        MODULATED.discard(network)


@contextmanager
def taking_over(mode: TakenOver, layers: Sequence[tuple[str, nn.Module]]) -> Iterator[None]:
    """Within the block `mode` has the attention of the layers."""
    hooks = []
    try:
        for name, module in layers:
            hooks.append(module.register_forward_pre_hook(mode.enter_layer(name)))
            hooks.append(module.register_forward_hook(mode.leave_layer, always_call=True))
        with mode:
            yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True, eq=False)
class Call:
    """One call of attention as a watcher sees it: `again` is the same attention on other values, P+ and P-
    included; `q`, `k`, `v` (branches x B, H, length, d); the image's `tokens` come `first` or last."""

    again: Callable[[Tensor], Tensor]
    q: Tensor
    k: Tensor
    v: Tensor
    options: dict[str, Any]
    first: bool
    tokens: int


@contextmanager
def watching(network: nn.Module, tokens: int, see: Callable[[str, Call], None]) -> Iterator[None]:
    """Within the block `see` gets each call of the transformer's image attention, modulated or not."""
    layout = LAYOUTS[type(network).__name__]

    def attend(layer: str, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
        def again(values: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(query, key, values, **options)

        if network not in MODULATED:  # else `joined` shows its own
            see(layer, Call(again, query, key, value, options, layout.first, tokens))
        return again(value)

    WATCHING.setdefault(network, []).append(see)
    try:
        with taking_over(Unchecked(attend), image_layers(network)):
            yield
    finally:
        WATCHING[network].remove(see)


def attend_jointly(
    modulator: Modulator,
    first: bool,
    layer: str,
    qkv: tuple[Tensor, Tensor, Tensor],
    options: dict[str, Any],
) -> Tensor:
    """Attention of one layer whose queries and keys hold the image's tokens `first` or last: `qkv` each
    (branches x B, H, length, d) -> the queries' shape.

    Raises UserError for options of the call that the merge does not know.
    """
    from sow.attention.modulation import Text, modulated_attention

    q, k, v = qkv
    out = F.scaled_dot_product_attention(q, k, v, **options)
    n = modulator.image_tokens
    found = modulator.buckets.get(n, ()) if modulator.begun else ()
    modulation, chosen = modulator.modulation, modulator.selects(layer)
    kept, closed = modulation.text_keys == "kept", modulation.text_reads == "condition"
    if not found or not (chosen or closed):
        return out
    unknown = [o for o in ("dropout_p", "is_causal", "enable_gqa") if options.get(o)]
    mask = options.get("attn_mask")
    if unknown or (mask is not None and (mask.dtype != torch.bool or mask.dim() != 4 or mask.shape[-2] != 1)):
        raise UserError(
            f"the layer {layer} asks for attention with {', '.join(unknown) or 'a mask for each row'}, which "
            "P+ and P- do not know: take modulation=none (modulation)"
        )
    scale = options.get("scale") or q.shape[-1] ** -0.5
    image = (slice(0, n) if first else slice(-n, None), slice(n, None) if first else slice(0, -n))
    (q_image, q_text), (k_image, k_text), (v_image, v_text) = ([x[:, :, s] for s in image] for x in (q, k, v))
    keys_mask = None if mask is None else mask[:, 0, 0, image[1]].expand(len(q), -1)
    by_branch: dict[int, tuple[Tensor, Tensor]] = {}
    for branch in modulator.branches:
        readings = []
        for bucket in found:
            rows = modulator.rows(modulator.places(branch, bucket), q.device)
            own = None if keys_mask is None else keys_mask[rows]
            text = Text(k_text[rows], v_text[rows], own, kept) if k_text.shape[2] else None
            if chosen:
                made, reading = modulated_attention(
                    q_image[rows],
                    k_image[rows],
                    v_image[rows],
                    bucket,
                    modulator.strength,
                    scale,
                    modulator.borrowed(branch, bucket),
                    text,
                )
                out[rows, :, image[0]] = made
                readings.append((bucket, reading))
            if closed and q_text.shape[2] and text is not None:
                seen = torch.cat(bucket.keys[:-1], 1)
                out[rows, :, image[1]] = without_rest(
                    q_text[rows], k_image[rows], v_image[rows], seen, text, scale
                )
        if chosen:
            by_branch[branch] = modulator.collected(readings, q)
    if chosen:
        modulator.readings[layer] = (n, by_branch)
    return out


def without_rest(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, text: Any, scale: float) -> Tensor:
    """Rows of the text (b, H, M, d) over the image's keys `seen` (b, n) and the text's own: nc is hidden
    (A24)."""
    from sow.attention.split import take

    k, v = (torch.cat([take(image, seen), own], 2) for image, own in ((k, text.k), (v, text.v)))
    mask = None
    if text.mask is not None:
        mask = torch.cat([text.mask.new_ones(seen.shape), text.mask], 1)[:, None, None]
    return F.scaled_dot_product_attention(q, k, v, mask, scale=scale)
