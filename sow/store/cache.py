"""What a frozen model has already worked out, found again by the content of everything it was worked out from.

A run's latents are a chain: each step follows from the step before and from what enters there (noise, strengths, levels,
prompts). A `Chain` carries the digest of all of it, and the digest after a step is the key of that step's result. Runs
that share a beginning share its results: sweeps over strengths, thresholds and decays start at the first cycle, sweeps
over the preservation start after the last one, five cycles are the first half of ten. A result found is the result that
was computed, byte for byte; everything that is not provably the same misses.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sow.store.cache_folder import CacheFolder
from sow.store.digest import digest, tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sow.models.backbone import Backbone

log = logging.getLogger(__name__)


class Cache:
    """Results by key: the last ones used in memory, at most `limit` bytes of them, and more of them in `folder` if given.

    A model's own: what it holds was computed by these weights. Nothing is kept until `configure` says how much may be.
    """

    def __init__(self) -> None:
        self.limit = 0
        self.folder: CacheFolder | None = None
        self.size = 0
        self.hits = 0
        self.misses = 0
        self._entries: OrderedDict[bytes, tuple[Any, tuple[int, ...], int]] = OrderedDict()
        self._state: tuple[Any, ...] | None = None
        self._plain: tuple[Any, ...] | None = None
        self._identity: bytes | None = None

    def configure(self, limit: int, folder: Path | None, folder_limit: int = 0) -> None:
        """How many bytes memory may hold, 0 = none, where results are kept on disk, None = nowhere, and how many bytes
        may lie there, 0 = no bound."""
        self.limit = limit
        wanted = None if folder is None else CacheFolder(Path(folder).expanduser(), folder_limit)
        if wanted != self.folder:
            self.folder = wanted
        self._shrink()

    def clear(self) -> None:
        """Forget what memory holds; the folder stays."""
        self._entries.clear()
        self.size = 0

    def settle(self, backbone: Backbone) -> None:
        """Take the model as it is now, hooks and compiled parts included, for the plain one."""
        self._plain = _watchers(backbone)

    def open_for(self, backbone: Backbone) -> Cache | None:
        """This cache, ready for one run; None where nothing may be cached.

        Nothing is while someone watches or replaces the model's calls (hooks, another `forward`): a result found would
        be a call not seen. Everything is forgotten when weights or attention processors have changed.
        """
        if self.limit == 0 and self.folder is None:
            return None
        if self._plain is None:
            self.settle(backbone)
        assert self._plain is not None
        if not _same(_watchers(backbone), self._plain):
            return None
        state = _state(backbone)
        if self._state is None or not _same(state, self._state):
            self.clear()
            self._state, self._identity = state, None
        if self.folder is not None and self._identity is None:
            self._identity = identity(backbone)
        return self

    def get(self, key: bytes) -> Any | None:
        """The value of `key`; None when there is none, or when someone has written into its tensors since."""
        found = self._entries.get(key)
        if found is not None:
            value, versions, size = found
            if tuple(t._version for t in tensors(value)) == versions:
                self._entries.move_to_end(key)
                self.hits += 1
                return value
            del self._entries[key]
            self.size -= size
        value = None
        if self.folder is not None and self._identity is not None:
            value = self.folder.read(self._name(key))
        if value is None:
            self.misses += 1
            return None
        self.hits += 1
        self._keep(key, value)
        return value

    def put(self, key: bytes, value: Any) -> None:
        """Keep `value`, nested tuples and dictionaries of tensors."""
        self._keep(key, value)
        if self.folder is not None and self._identity is not None:
            self.folder.write(self._name(key), value)

    def _keep(self, key: bytes, value: Any) -> None:
        size = sum(t.untyped_storage().nbytes() for t in tensors(value))
        if size > self.limit:
            return
        if key in self._entries:
            self.size -= self._entries.pop(key)[2]
        self._entries[key] = (value, tuple(t._version for t in tensors(value)), size)
        self.size += size
        self._shrink()

    def _shrink(self) -> None:
        while self.size > self.limit and self._entries:
            _, (_, _, size) = self._entries.popitem(last=False)
            self.size -= size

    def _name(self, key: bytes) -> str:
        assert self._identity is not None
        return digest(self._identity, key).hex()


class Chain:
    """Where one run stands among all runs: the digest of everything that its latents follow from.

    Without a cache it does nothing. It trusts a tensor only when it has handed it on itself and nobody has written into
    it: after anything else the rest of the run is computed and not kept.
    """

    def __init__(self, cache: Cache | None, *parts: Any) -> None:
        self.cache = cache
        self.key = b""
        self._seen: list[tuple[Tensor, int]] = []
        self.note(*parts)
        self._root = self.key

    @property
    def alive(self) -> bool:
        """Whether results are still looked up."""
        return self.cache is not None

    def note(self, *parts: Any) -> None:
        """Something that everything after it depends on."""
        if self.cache is None:
            return
        try:
            self.key = digest(self.key, *parts)
        except TypeError as error:
            log.info("nothing is cached: %s", error)
            self._die()

    def fork(self) -> Chain:
        """A chain that starts where this one started and goes its own way until `join`."""
        other = Chain(self.cache)
        other.key = self._root
        return other

    def join(self, other: Chain) -> None:
        """What comes after depends on both chains."""
        if not other.alive:
            self._die()
        self.note(other.key)
        self._seen += other._seen

    def trust(self, x: Tensor) -> Tensor:
        """Hand on a tensor that follows from this chain."""
        if self.cache is not None:
            self._seen.append((x, x._version))
        return x

    def reads(self, x: Tensor) -> None:
        """The next step reads `x`: it must be what was handed on last, and nothing handed on may have been written to."""
        if self.cache is None:
            return
        handed_on = bool(self._seen) and self._seen[-1][0] is x
        if not handed_on or any(t._version != version for t, version in self._seen):
            self._die()

    def recall(self, parts: Sequence[Any], make: Callable[[], Any]) -> Any:
        """The result of the step described by `parts`: found, or made and kept. A tuple, its latents first."""
        self.note(*parts)
        if self.cache is None:
            return make()
        value = self.cache.get(self.key)
        if value is None:
            value = make()
            self.cache.put(self.key, value)
        self.trust(value[0])
        return value

    def _die(self) -> None:
        self.cache = None
        self._seen.clear()


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
    """What the networks' results depend on besides their input: weights, by place and version, and processors."""
    found: list[Any] = []
    for network in _networks(backbone):
        found.append(network)
        for p in network.parameters():
            found += (p.data_ptr(), p._version)
        found += [vars(m).get("processor") for m in network.modules()]
    return tuple(found)


def _code() -> list[Path]:
    """The files that decide what a result is."""
    package = Path(__file__).resolve().parents[1]
    rooms = (
        package,
        *(package / room for room in ("method", "attention", "pipeline", "models", "store", "data")),
    )
    return sorted(path for room in rooms for path in room.glob("*.py"))


def identity(backbone: Backbone) -> bytes:
    """The weights' bytes and everything about this process and machine that may change a result's last bit."""
    import diffusers
    import torch
    import transformers

    cuda = backbone.device.type == "cuda"
    parts: list[Any] = [
        *(path.read_bytes() for path in _code()),
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
        backbone.tokenizer.get_vocab(),
        int(backbone.tokenizer.model_max_length),
    ]
    for network in _networks(backbone):
        parts += [type(network).__qualname__, repr(getattr(network, "config", None))]
        parts += [digest(name, t.cpu()) for name, t in sorted(network.state_dict().items())]
        parts += [type(vars(m).get("processor")).__qualname__ for m in network.modules()]
    return digest(*parts)
