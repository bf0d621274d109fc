"""What a frozen model has already worked out, found again by the bytes of everything it was worked out from.

`Cache.call(function, *inputs)` stands around whole moves: the encoding of pictures, a step of an inversion, a
step of denoising. Its key is the function, the object it is bound to, and the bytes of its inputs, drawn
noise among them; so runs that share a beginning share its results, whatever they do later: sweeps over
strengths, thresholds and decays start at the first cycle, sweeps over the preservation after the last one,
five cycles are the first half of ten. A result found is the result that was computed, byte for byte.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sow.method.denoiser import Attention, Denoiser, Gates, Held, Model
from sow.method.guidance import Rule
from sow.store.code import fingerprint_code
from sow.store.fingerprint import fingerprint
from sow.store.store import Store

if TYPE_CHECKING:
    from torch import nn

    from sow.models.backbone import Backbone

log = logging.getLogger(__name__)


class Cache:
    """Results of one model's moves. Nothing is kept until `configure` says how much may be."""

    def __init__(self) -> None:
        self.results = Store(None)
        self.clear = self.results.clear
        self._state: tuple[Any, ...] | None = None
        self._plain: tuple[Any, ...] | None = None
        self._identity: str | None = None

    def configure(self, limit: int, folder: Path | None, folder_limit: int = 0) -> None:
        """How many bytes memory may hold, 0 = none, where results are kept on disk, None = nowhere, and how
        many bytes may lie there, 0 = no bound."""
        self.results.configure(folder, folder_limit, limit)

    def call(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """`function(*inputs)`, found or computed; a tensor, or nested tuples and dictionaries of tensors.

        The result must follow from the inputs, from the compared fields of the dataclass that `function` is
        bound to, and from the model. Inputs without content to hash are computed each time.
        """
        if "<" in function.__qualname__:
            raise ValueError(f"{function.__qualname__} has no name that says what it computes")
        try:
            owner = getattr(function, "__self__", None)
            key = fingerprint([self._identity, function.__module__, function.__qualname__, owner, inputs])
        except TypeError as error:
            log.info("not cached: %s", error)
            return function(*inputs)
        value = self.results.get(key)
        if value is None:
            value = function(*inputs)
            self.results.put(key, value)
        return value

    def around(self, model: Model) -> Model:
        """`model` with its moves looked up first; `model` itself where nothing may be cached.

        Nothing is while someone watches or replaces the model's calls (hooks, another `forward`): a result
        found would be a call not seen. Everything is forgotten when weights or attention processors have
        changed.
        """
        results, backbone = self.results, model.backbone
        if results.memory == 0 and results.folder is None:
            return model
        if self._plain is None:
            self.settle(backbone)
        assert self._plain is not None
        if not _same(_watchers(backbone), self._plain):
            return model
        state = _state(backbone)
        if self._state is None or not _same(state, self._state):
            self.clear()
            self._state, self._identity = state, None
        # In a folder other models' results lie beside this one's.
        if results.folder is not None and self._identity is None:
            self._identity = identity(backbone)
        return CachedModel(backbone, model.schedule, self)

    def settle(self, backbone: Backbone) -> None:
        """Take the model as it is now, hooks and compiled parts included, for the plain one."""
        self._plain = _watchers(backbone)


@dataclass(frozen=True, eq=False)
class CachedModel(Model):
    """A model whose encodings and denoisers' moves are looked up first."""

    cache: Cache = field(compare=False)

    def encode(self, images: Tensor, noises: Tensor | None = None) -> Tensor:
        return self.cache.call(super().encode, images, noises)

    def denoiser(self, rule: Rule, prompts: Sequence[str], attention: Attention | None = None) -> Denoiser:
        plain = super().denoiser(rule, prompts, attention)
        return CachedDenoiser(**vars(plain), cache=self.cache)


@dataclass(frozen=True, eq=False, kw_only=True)
class CachedDenoiser(Denoiser):
    """A denoiser whose moves are looked up first."""

    cache: Cache = field(compare=False)

    def step(self, *inputs: Any) -> tuple[Tensor, Tensor, Gates, Held]:
        return self.cache.call(super().step, *inputs)

    def invert(self, *inputs: Any) -> Tensor:
        return self.cache.call(super().invert, *inputs)


def _same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    """Equal numbers, identical objects."""
    return len(a) == len(b) and all(
        x is y or (isinstance(x, int) and x == y) for x, y in zip(a, b, strict=True)
    )


def _networks(backbone: Backbone) -> tuple[nn.Module, ...]:
    return backbone.unet, backbone.vae, backbone.text_encoder


def _watchers(backbone: Backbone) -> tuple[Any, ...]:
    """Whatever stands between a caller and the networks: replaced methods and hooks."""
    found: list[Any] = [vars(backbone).get(name) for name in ("predict", "encode", "embed")]
    for network in _networks(backbone):
        found += [vars(network).get(name) for name in ("forward", "encode")]
        for module in network.modules():
            for hooks in (module._forward_hooks, module._forward_pre_hooks):
                found += hooks.values()
    return tuple(found)


def _state(backbone: Backbone) -> tuple[Any, ...]:
    """What the networks' results depend on besides their input: weights, by place and version, and
    processors."""
    found: list[Any] = []
    for network in _networks(backbone):
        found.append(network)
        for p in network.parameters():
            found += (p.data_ptr(), p._version)
        found += [vars(m).get("processor") for m in network.modules()]
    return tuple(found)


def identity(backbone: Backbone) -> str:
    """The weights' bytes and everything about this process and machine that may change a result's last
    bit."""
    import diffusers
    import torch
    import transformers

    cuda = backbone.device.type == "cuda"
    parts: list[Any] = [
        fingerprint_code("sow.pipeline.cached", type(backbone)),
        torch.__version__,
        diffusers.__version__,
        transformers.__version__,
        str(backbone.dtype),
        backbone.autocast,
        backbone.compiled,
        torch.cuda.get_device_name(backbone.device) if cuda else torch.backends.cpu.get_cpu_capability(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        type(backbone).__qualname__,
        getattr(backbone, "zero_empty", None),
        backbone.embedded_guidance,
        backbone.tokenizer.get_vocab(),
        int(backbone.tokenizer.model_max_length),
    ]
    for network in _networks(backbone):
        parts += [type(network).__qualname__, repr(getattr(network, "config", None))]
        parts += [fingerprint([name, t]) for name, t in sorted(network.state_dict().items())]
        parts += [type(vars(m).get("processor")).__qualname__ for m in network.modules()]
    return fingerprint(parts)
