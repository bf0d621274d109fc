"""The range of rows of logits: by the Triton kernel on CUDA where it proves right, by the exact product
elsewhere.

Inside a compiled graph both are one operation, `sow::row_statistics`, that the compiler takes as it is.
"""

from __future__ import annotations

import importlib.util
import logging
from functools import cache

import torch
from torch import Tensor

from sow.attention import split

log = logging.getLogger(__name__)


def row_limits(q: Tensor, k: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Minimum and maximum over keys `k` (B, H, N, d) of the logits of rows `q` (B, H, R, d); each (B, H, R),
    at least float32."""
    if torch.compiler.is_compiling():
        low, high, _ = row_statistics(q, k, scale, False)
        return low, high
    if q.device.type == "cuda":
        low, high, _ = _on_cuda(q, k, scale, False)
        return low, high
    return split.row_limits(q, k, scale)


def row_range(q: Tensor, k: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """`row_limits`, and the log-sum-exp of the same logits."""
    if torch.compiler.is_compiling():
        return row_statistics(q, k, scale, True)
    if q.device.type == "cuda":
        return _on_cuda(q, k, scale, True)
    return split.row_range(q, k, scale)


@torch.library.custom_op("sow::row_statistics", mutates_args=())
def row_statistics(q: Tensor, k: Tensor, scale: float, with_lse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Minimum, maximum and log-sum-exp (empty unless wanted) of rows of logits, as one operation of a
    graph."""
    found = (_on_cuda if q.device.type == "cuda" else _exact)(q, k, scale, with_lse)
    low, high, lse = (x.contiguous() for x in found)
    return low, high, lse


@row_statistics.register_fake
def _shapes(q: Tensor, k: Tensor, scale: float, with_lse: bool) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(q.dtype, torch.float32)
    low, high = (q.new_empty(q.shape[:3], dtype=dtype) for _ in range(2))
    return low, high, q.new_empty(q.shape[:3] if with_lse else (0,), dtype=dtype)


def _exact(q: Tensor, k: Tensor, scale: float, with_lse: bool) -> tuple[Tensor, Tensor, Tensor]:
    if with_lse:
        return split.row_range(q, k, scale)
    low, high = split.row_limits(q, k, scale)
    return low, high, low.new_empty((0,))


def _on_cuda(q: Tensor, k: Tensor, scale: float, with_lse: bool) -> tuple[Tensor, Tensor, Tensor]:
    if kernel_is_right(q.device, q.dtype, q.shape[3]):
        from sow.attention import kernels

        return kernels.row_statistics(q, k, scale, with_lse)
    return _exact(q, k, scale, with_lse)


@cache
def kernel_is_right(device: torch.device, dtype: torch.dtype, d: int) -> bool:
    """Whether the kernel runs for heads of `d` channels on this device and agrees with the exact product,
    tried once.

    False, and a warning, where it does not; float64 is left to the exact product.
    """
    if importlib.util.find_spec("triton") is None or dtype not in (
        torch.float16,
        torch.bfloat16,
        torch.float32,
    ):
        return False
    try:
        from sow.attention import kernels

        q, k = (waves(n, d).to(device, dtype) for n in (70, 90))
        scale = d**-0.5
        for found, exact in zip(
            kernels.row_statistics(q, k, scale, True), _exact(q, k, scale, True), strict=True
        ):
            torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-3)
    except Exception as error:  # whatever a compiler or driver raises: the exact product is always there
        log.warning(
            "the kernel for ranges of attention rows is not used: %s", " ".join(str(error).split())[:200]
        )
        return False
    return True


def waves(n: int, d: int) -> Tensor:
    """Numbers in [-2, 2] without order, (2, 3, n, d) float32, the same on every machine to rounding."""
    count = torch.arange(2 * 3 * n * d, dtype=torch.float64).view(2, 3, n, d)
    return (2 * torch.sin(count**2 + n)).float()
