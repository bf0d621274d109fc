"""The only place that draws random numbers for the method.

Every draw takes the generator of one image, so an image never depends on its batch or its place in a sweep.
Callers look the functions up on this module when they call them (`noise.randn(...)`), so that one assignment
replaces every draw of a run.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def generator(seed: int) -> torch.Generator:
    """A CPU generator seeded with `seed`; CPU always, so that a seed means the same image on every device."""
    return torch.Generator(device="cpu").manual_seed(int(seed))


def randn(
    shape: Sequence[int], generator: torch.Generator, device: torch.device | str, dtype: torch.dtype
) -> torch.Tensor:
    """Standard normal noise of `shape` (1, C, h, w), drawn in float32 on the generator's device and then
    cast.

    Called once per image and draw; the cast keeps float16, float32 and float64 runs on the same noise.
    """
    draw = torch.randn(tuple(shape), generator=generator, device=generator.device, dtype=torch.float32)
    return draw.to(device=device, dtype=dtype)


def batch(
    shape: Sequence[int],
    generators: Sequence[torch.Generator],
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """One draw of `shape` (1, C, h, w) per generator, as a batch on `device`.

    Sent from pinned memory to CUDA, so that the host does not wait for what the device has to do.
    """
    draws = torch.cat([randn(shape, g, "cpu", dtype) for g in generators])
    return draws.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else draws.to(device)


def integers(low: int, high: int, generator: torch.Generator) -> int:
    """One integer from [low, high], both ends included."""
    if high < low:
        raise ValueError(f"need low <= high, got low={low}, high={high}")
    return int(torch.randint(low, high + 1, (1,), generator=generator, device=generator.device).item())
