"""The one fingerprint: SHA-256 of values, pictures and tensors;
`file_hashes` has that of files, `code` of code."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def sha256(data: bytes | str) -> str:
    """Hex SHA-256 of bytes, or of a text as UTF-8."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def fingerprint(value: Any) -> str:
    """Hex SHA-256 of the canonical JSON of a value.

    Takes plain containers, bytes, paths (their names), sets, dataclasses, partial calls of named functions, PIL images, arrays and tensors
    (dtype, shape and bytes). A dataclass's fields that it does not compare are no part of its content. Raises
    TypeError for what has no content to hash.
    """
    return sha256(json.dumps(value, sort_keys=True, default=_content))


def _content(value: Any) -> Any:
    """What stands for a value that JSON does not know."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"bytes": sha256(bytes(value))}
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return {"set": sorted(json.dumps(v, sort_keys=True, default=_content) for v in value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.compare}
        return {"dataclass": f"{type(value).__module__}.{type(value).__qualname__}", "fields": fields}
    if isinstance(value, functools.partial):  # a call that is put off: what it calls, and with what
        called = f"{value.func.__module__}.{value.func.__qualname__}"
        return {"partial": [called, list(value.args), value.keywords]}
    if is_tensor(value):
        import torch

        data = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        return {"tensor": [str(value.dtype), list(value.shape), hashlib.sha256(data).hexdigest()]}
    if hasattr(value, "tobytes") and hasattr(value, "mode"):  # a PIL image
        return {"image": fingerprint_image(value)}
    if hasattr(value, "tobytes") and hasattr(value, "dtype"):  # an array, or a number of numpy's
        return {"array": [str(value.dtype), list(value.shape), sha256(value.tobytes())]}
    raise TypeError(f"{type(value).__qualname__} has no content to hash")


def fingerprint_image(image: Any) -> str:
    """SHA-256 of a PIL image's mode, size and pixels."""
    return sha256(f"{image.mode} {image.width} {image.height} ".encode() + image.tobytes())


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read now; raises OSError."""
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


# Tensors in nested values.


def is_tensor(value: Any) -> bool:
    """Whether `value` is a tensor, without importing torch."""
    return hasattr(value, "untyped_storage")


def tensors(value: Any) -> Iterator[Any]:
    """Every tensor in nested tuples, lists and dictionaries."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)
    elif is_tensor(value):
        yield value
