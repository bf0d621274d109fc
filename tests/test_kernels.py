"""The kernel for ranges of attention rows against the exact product, and what happens where it does not
run."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sow.attention import split
from sow.method import noise

# bfloat16 is left out: the interpreter multiplies its bits as whole numbers.
INTERPRETED = """
import torch
from sow.method import noise
from sow.attention import kernels, split
cases = [(1, 1, 5, torch.float32), (17, 33, 40, torch.float16), (70, 130, 64, torch.float16),
         (65, 64, 80, torch.float32), (16, 19, 160, torch.float16)]
for R, N, d, dtype in cases:
    drawn = noise.randn((2, R + N, 2, d), noise.generator(R), "cpu", torch.float32).to(dtype)
    q, k = drawn.transpose(1, 2).split((R, N), dim=2)  # strided, as heads are
    exact = split.exact_range(q, k, 0.3)
    low, high, lse = kernels.row_statistics(q, k, 0.3, True)
    for found, expected in zip((low, high, lse), exact, strict=True):
        assert found.shape == (2, 2, R) and found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    low, high, nothing = kernels.row_statistics(q, k, 0.3, False)
    torch.testing.assert_close((low, high), exact[:2], rtol=1e-5, atol=1e-5)
    assert nothing.numel() == 0
print("as exact")
"""


def rows(seed: int, *shape: int, dtype=torch.float32) -> torch.Tensor:
    return noise.randn(shape, noise.generator(seed), "cpu", torch.float32).to(dtype)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_interpreted_kernel_equals_the_exact_product():
    """In a process of its own: triton decides when it is imported whether it interprets."""
    root = Path(__file__).resolve().parents[1]
    words = {"TRITON_INTERPRET": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        cwd=root,
        env={**os.environ, **words},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "as exact", done.stderr[-2000:]


@pytest.mark.parametrize("with_lse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_operation_of_graphs_says_its_shapes(with_lse, dtype):
    """Schema, fake shapes, types and strides against what the operation really returns."""
    q, k = rows(0, 2, 3, 7, 5, dtype=dtype), rows(1, 2, 3, 9, 5, dtype=dtype)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(split.row_statistics, (q, k, 0.5, with_lse), test_utils=tests)
    low, high, lse = split.row_statistics(q, k, 0.5, with_lse)
    logits = (q.double() @ k.double().transpose(-1, -2)) * 0.5
    for found, expected in zip((low, high), (logits.amin(-1), logits.amax(-1)), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    if with_lse:
        torch.testing.assert_close(lse.double(), logits.logsumexp(-1), rtol=1e-5, atol=1e-5)


def test_a_graph_takes_the_ranges_as_one_operation():
    q, k = rows(0, 2, 3, 7, 5), rows(1, 2, 3, 9, 5)
    compiled = torch.compile(split.row_range, backend="aot_eager", fullgraph=True)
    for found, expected in zip(compiled(q, k, 0.5), split.exact_range(q, k, 0.5), strict=True):
        torch.testing.assert_close(found, expected)
    torch._dynamo.reset()


def test_a_kernel_that_fails_or_errs_is_left_with_one_warning(monkeypatch, caplog):
    """On a CPU the kernel cannot run; then one that is wrong is put in its place."""
    pytest.importorskip("triton")
    from sow.attention import kernels

    q, k = rows(0, 2, 3, 7, 5), rows(1, 2, 3, 9, 5)
    expected = split.exact_range(q, k, 0.5)

    def wrong(q, k, scale, with_lse):
        low, high, lse = split.exact_range(q, k, scale, with_lse)
        return low, high + 0.1, lse

    for kernel in (None, wrong):
        if kernel is not None:
            monkeypatch.setattr(kernels, "row_statistics", kernel)
        split.kernel_is_right.cache_clear()
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                found = split.kernel_range(q, k, 0.5, True)
                torch.testing.assert_close(found, expected)
        assert len(caplog.records) == 1 and "\n" not in caplog.records[0].getMessage()
    right = split.exact_range
    monkeypatch.setattr(kernels, "row_statistics", right)
    split.kernel_is_right.cache_clear()
    assert split.kernel_is_right(torch.device("cpu"), torch.float32, 5)
    assert not split.kernel_is_right(torch.device("cpu"), torch.float64, 5)
    split.kernel_is_right.cache_clear()
