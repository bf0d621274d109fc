"""Tensors in files of weights: finite floating-point numbers, or refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sow.errors import UserError

SHOWN = 4  # names of tensors of a kind in the error
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")  # what safetensors calls the types of weights
TORCHS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")  # the same in torch
# Positions 0, 1, 2, .., which older versions of transformers wrote among the weights.
COUNTED = "position_ids"
NUMBERS = (COUNTED, "num_batches_tracked")  # which are whole


def need_floats(file: Path, key: str, of_model: Callable[[str], bool] = lambda name: True) -> None:
    """Raise UserError for a tensor of a file of safetensors or of torch that is no weight of floating-point
    numbers; `of_model` says which names are weights."""
    kinds = {name: kind for name, kind in _kinds(file).items() if of_model(name)}
    wrong = sorted(n for n, kind in kinds.items() if kind not in FLOATS and not n.endswith(NUMBERS))
    if wrong:
        named = [f"{name} {kinds[name]}" for name in wrong]
        raise UserError(
            f"{file} has {len(wrong)} tensors that are no floating-point numbers ({some(named)}): give "
            f"weights of {', '.join(FLOATS)}, not quantised ones ({key})"
        )


def _kinds(file: Path) -> dict[str, str]:
    """What the numbers of each tensor of a file are, by its name."""
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
    import torch

    tensors = flat(torch.load(file, map_location="meta", weights_only=True))
    names = dict(zip((f"torch.{name}" for name in TORCHS), FLOATS, strict=True))
    return {name: names.get(str(tensor.dtype), str(tensor.dtype)) for name, tensor in tensors.items()}


def read_tensors(file: Path, key: str) -> dict[str, Any]:
    """The tensors of a file of safetensors or of torch, on the CPU, by names whose parts have dots between
    them; raises UserError for those that are no finite floating-point numbers."""
    import torch
    from safetensors.torch import load_file

    need_floats(file, key)
    found = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    tensors = flat(found)
    need_finite(tensors, str(file), key)
    return tensors


def flat(tensors: Any, name: str = "") -> dict[str, Any]:
    """The tensors in nested mappings, as a file of torch has them, by the names on the way; what is no tensor
    is left out."""
    if isinstance(tensors, Mapping):
        inner = [flat(value, f"{name}.{key}" if name else str(key)) for key, value in tensors.items()]
        return {n: tensor for one in inner for n, tensor in one.items()}
    return {name: tensors} if hasattr(tensors, "dtype") else {}


def need_finite(module: Any, place: str, key: str) -> None:
    """Raise UserError for weights, of a network or by name, that are not finite: nan, or beyond the numbers
    of their precision."""
    state = module if isinstance(module, Mapping) else module.state_dict()
    wrong = sorted(n for n, v in state.items() if v.is_floating_point() and not _finite(v))
    if wrong:
        kind = str(state[wrong[0]].dtype).removeprefix("torch.")
        cure = ", or more precision with model.dtype=float32" if kind in ("float16", "bfloat16") else ""
        raise UserError(
            f"the weights in {place} are not finite in {kind}: {len(wrong)} tensors ({some(wrong)}); give "
            f"whole ones{cure} ({key})"
        )


def _finite(values: Any) -> bool:
    """Whether all numbers of a tensor are finite, in one pass and without a copy."""
    if values.numel() == 0:
        return True
    values = values.float() if values.itemsize == 1 else values  # float8 has no extremes
    return all(bool(extreme.isfinite()) for extreme in values.aminmax())


def some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", .." if len(names) > SHOWN else "")
