"""Interleaved timing: the contestants of a ratio take turns,
so that what else the machine does meets all of them."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Timed:
    """Seconds of each round, and the peak of memory over all rounds in MiB (the process on a CPU,
    the device on CUDA)."""

    seconds: tuple[float, ...]
    peak_mib: float

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(
    contestants: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, warmup: int = 1
) -> dict[str, Timed]:
    """Each contestant once a round, the order turned round every other time;
    `warmup` rounds are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    peaks = dict.fromkeys(contestants, 0.0)
    for turn in range(-warmup, rounds):
        names = list(contestants) if turn % 2 == 0 else list(reversed(list(contestants)))
        for name in names:
            forget_peak(device)
            synchronize(device)
            start = time.perf_counter()
            contestants[name]()
            synchronize(device)
            took = time.perf_counter() - start
            if turn >= 0:
                seconds[name].append(took)
                peaks[name] = max(peaks[name], peak_mib(device))
    return {name: Timed(tuple(seconds[name]), peaks[name]) for name in contestants}


def ratio(over: Timed, under: Timed) -> tuple[float, float, float]:
    """(median, first quartile, third quartile) of the rounds' ratios."""
    return quartiles([a / b for a, b in zip(over.seconds, under.seconds, strict=True)])


def interval(over: Timed, under: Timed) -> tuple[float, float]:
    """A 95 % interval of the median of the rounds' ratios, from their order alone; of fewer than six rounds
    the whole range, which covers less often."""
    values = sorted(a / b for a, b in zip(over.seconds, under.seconds, strict=True))
    n, cut = len(values), 0
    while 2 * sum(math.comb(n, k) for k in range(cut + 1)) <= 0.05 * 2**n:
        cut += 1
    cut = max(cut - 1, 0)
    return values[cut], values[n - 1 - cut]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """(median, first quartile, third quartile)."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def forget_peak(device: torch.device) -> None:
    """Start measuring peak memory anew, where the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # what an earlier round freed is not this one's
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib(device: torch.device) -> float:
    """Peak memory since `forget_peak`; on a CPU without /proc since the process began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
