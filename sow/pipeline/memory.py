"""The memory of this machine, and what a canvas takes of it at least; no tensor library is imported."""

from __future__ import annotations

import os
from pathlib import Path

from sow.errors import UserError

# Bytes for each pixel of one picture that a run cannot do without, so that what is refused would never have
# gone through: the picture as three floats, twice, and as bytes; where the host decodes as well, the last
# feature map of the smallest decoder there is (16 channels of float32), before and after a layer.
OF_A_PICTURE = 32
OF_A_DECODER = 128
GIB = 2**30


def host_memory() -> int:
    """Bytes that this process can still take of the host's memory: what is free, within the bound of its
    control group."""
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    free = [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    free += [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2] if not free else []
    bound = Path("/sys/fs/cgroup/memory.max")
    if bound.is_file() and (text := bound.read_text().strip()).isdigit():
        free.append(int(text))
    return min(free)


def need_memory(width: int, height: int, pictures: int, device: str) -> None:
    """Raise UserError for a canvas of `width` x `height` pixels of which this machine cannot hold so many
    pictures at a time; `device` is the model's (auto: a GPU where one is seen)."""
    here = device == "cpu" or (device == "auto" and not any(Path("/dev").glob("nvidia[0-9]*")))
    need = width * height * pictures * (OF_A_DECODER if here else OF_A_PICTURE)
    free = host_memory()
    if need > free:
        many = pictures > 1
        several = f"{pictures} pictures at a time of " if many else ""
        cure = "a smaller canvas or batch" if many else "a smaller canvas"
        keys = "width, height, model.canvas, batch_size" if many else "width, height, model.canvas"
        raise UserError(
            f"{several}{width} x {height} pixels need {need / GIB:,.1f} GiB at least, and this machine has "
            f"{free / GIB:,.1f} GiB free: ask for {cure} ({keys})"
        )
