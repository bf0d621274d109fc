"""The attention of a network's image tokens, taken over alike in UNets and in diffusion transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from sow.attention.joint import LAYOUTS, TakenOver, image_layers, taking_over
from sow.attention.regions import layer_sizes, nearest
from sow.baselines.mutual import self_attention_layers
from sow.baselines.processor import attended

# (layer, q, k, v, options of the call) -> what attention gives, of q's shape; q, k, v (rows, H, length, d).
Attend = Callable[[str, Tensor, Tensor, Tensor, dict[str, Any]], Tensor]


@contextmanager
def image_attention(network: Any, attend: Attend) -> Iterator[None]:
    """Within the block each attention layer in which the image reads itself is left to `attend`: a UNet's
    self-attention, a transformer's joint attention, its text included."""
    if type(network).__name__ in LAYOUTS:
        with taking_over(TakenOver(attend), image_layers(network)):
            yield
        return
    with attended(network, {name: _Layer(name, attend) for name in self_attention_layers(network)}):
        yield


@dataclass(frozen=True)
class _Layer:
    """One layer of a UNet, whose image is all there is."""

    name: str
    attend_to: Attend

    def attend(self, q: Tensor, k: Tensor, v: Tensor, cross: bool) -> Tensor:
        return self.attend_to(self.name, q, k, v, {})


@dataclass(frozen=True, eq=False)
class Place:
    """Where the conditions lie among a layer's tokens: `M` (B, 1, h, w) bool of the latents, `network` whose
    layers they are."""

    M: Tensor
    network: Any

    @property
    def first(self) -> bool:
        """Whether the image's tokens come first, or last."""
        layout = LAYOUTS.get(type(self.network).__name__)
        return layout is None or layout.first

    def tokens(self, length: int) -> int:
        """How many of a layer's `length` keys are the image's."""
        height, width = self.M.shape[-2:]
        return length if type(self.network).__name__ not in LAYOUTS else height * width // 4

    def size(self, tokens: int) -> tuple[int, int]:
        """(height, width) of a layer of so many image tokens."""
        return layer_sizes(*self.M.shape[-2:])[tokens]

    def mask(self, tokens: int) -> Tensor:
        """M of such a layer, (B, tokens) bool: a token is what its first latent is."""
        return nearest(self.M[:, 0], *self.size(tokens)).flatten(1)

    def image(self, x: Tensor, tokens: int) -> Tensor:
        """The image's part of queries, keys or values, as a view."""
        return x[:, :, :tokens] if self.first else x[:, :, x.shape[2] - tokens :]


def softmax(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
    """softmax(q k^T / sqrt(d)) v with the options of the network's own call."""
    return F.scaled_dot_product_attention(q, k, v, **options)
