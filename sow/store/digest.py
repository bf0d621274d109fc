"""The content of values: their hash, and the tensors in them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def digest(*parts: Any) -> bytes:
    """A hash of plain values, tensors and dataclasses of them; raises TypeError for what has no content to hash.

    A dataclass's fields that it does not compare are no part of its content.
    """
    state = hashlib.blake2b(digest_size=20)
    for part in parts:
        _feed(state, part)
    return state.digest()


def _feed(state: Any, part: Any) -> None:
    if part is None or isinstance(part, (bool, int, float, str)):
        text = repr(part).encode()
        state.update(f"{type(part).__name__}:{len(text)}:".encode() + text)
    elif isinstance(part, bytes):
        state.update(b"bytes:%d:" % len(part) + part)
    elif isinstance(part, (tuple, list)):
        state.update(b"list:%d:" % len(part))
        for item in part:
            _feed(state, item)
    elif isinstance(part, Mapping):
        _feed(state, [(k, part[k]) for k in sorted(part)])
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        names = [f.name for f in dataclasses.fields(part) if f.compare]
        _feed(state, [type(part).__module__, type(part).__qualname__, *names])
        _feed(state, [getattr(part, name) for name in names])
    elif is_tensor(part):
        import torch

        state.update(f"tensor:{part.dtype}:{tuple(part.shape)}:".encode())
        state.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    else:
        raise TypeError(f"{type(part).__qualname__} has no content to hash")


def is_tensor(value: Any) -> bool:
    """Whether `value` is a tensor, without importing torch."""
    return hasattr(value, "untyped_storage")


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples and dictionaries."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)
    elif is_tensor(value):
        yield value


def moved(value: Any, device: Any) -> Any:
    """A copy of nested tuples and dictionaries with every tensor on `device`, of its own memory and without gradient."""
    if isinstance(value, Mapping):
        return {k: moved(v, device) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(moved(v, device) for v in value)
    return value.detach().to(device).clone() if is_tensor(value) else value
