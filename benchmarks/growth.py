"""`python -m benchmarks.growth`: time and memory of an image as the work grows, and the law that fits them.

python -m benchmarks.growth --threads 1              # canvas, conditions, cycles, batch; embedded model
python -m benchmarks.growth --threads 1 --publish    # and figure and table into docs/speed.md
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks import models
from benchmarks.timing import Timed, interleaved
from sow.models.backbone import make_canvas
from sow.report import blocks, figures
from sow.store.files import atomic_write
from sow.types import Box, Request, VisualCondition

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "growth"
BOX = 32  # pixels of 128: the side of each of many conditions
WORDS = {
    "canvas": "canvas, pixels a side (one cycle)",
    "conditions": "conditions of an image",
    "cycles": "cycles",
    "batch": "images of a batch",
}


@dataclass(frozen=True)
class Growth:
    """What was measured along one axis: at each of `sizes` the median seconds, and the peak of memory in MiB.

    `expected` is the law that should hold: "linear" (a + b n) or "power" (a n^b).
    """

    axis: str
    expected: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    peak_mib: tuple[float, ...]

    def law(self) -> tuple[float, float, float]:
        """(a, b, R^2) of a + b n, or of a n^b, by least squares of the seconds (of their logarithms).

        A power is fitted to the upper half of the sizes, where what does not grow no longer counts.
        """
        import numpy as np

        n, y = np.asarray(self.sizes, float), np.asarray(self.seconds)
        if self.expected == "power":
            n, y = np.log(n[len(n) // 2 - 1 :]), np.log(y[len(y) // 2 - 1 :])
        slope, start = np.polyfit(n, y, 1)
        spread = float(((y - y.mean()) ** 2).sum())
        r2 = 1 - float(((y - start - slope * n) ** 2).sum()) / spread if spread else 1.0
        return (math.exp(start) if self.expected == "power" else float(start)), float(slope), r2

    def words(self) -> str:
        """The law as it is written on the figure."""
        start, slope, r2 = self.law()
        if self.expected == "power":
            return f"n^{slope:.2f} from {self.sizes[len(self.sizes) // 2 - 1]} on"
        return f"{start:.2f} + {slope:.3f} n s, R² {r2:.4f}"


def many(count: int) -> Request:
    """A request with `count` conditions side by side, each in a box of its own on a canvas of 128 pixels."""
    boxes = [Box(BOX * (k % 4), BOX * (k // 4), BOX, BOX) for k in range(count)]
    return Request(
        tuple(VisualCondition(models.picture(k), box=box) for k, box in enumerate(boxes)),
        "a photo of people in a forest",
        seed=0,
        id="many",
    )


def contestants(sampler: Any, axis: str, sizes: Sequence[int]) -> dict[str, Callable[[], object]]:
    """What is run at each size: whole images, from plans that are made beforehand."""
    one = models.requests(1)
    runs: dict[str, Callable[[], object]] = {}
    for n in sizes:
        made, requests = sampler, one
        if axis == "canvas":
            single = replace(sampler.method.cycle, cycles=1)
            made = sampler.variant(cycle=single, canvas=make_canvas(n, n, 8, models.made_limits()))
        elif axis == "conditions":
            requests = [many(n)]
        elif axis == "cycles":
            made = sampler.variant(cycle=replace(sampler.method.cycle, cycles=n))
        else:
            requests = models.requests(n)
            made = sampler.variant(batch_size=n)
        plans = made.plan(requests)
        runs[str(n)] = partial(made.generate, requests, plans=plans)
    return runs


AXES: dict[str, tuple[str, tuple[int, ...]]] = {
    "canvas": ("power", (128, 192, 256, 384, 512, 768, 1024)),
    "conditions": ("linear", (1, 2, 3, 4, 6, 8)),
    "cycles": ("linear", (1, 2, 5, 10, 20, 40)),
    "batch": ("linear", (1, 2, 4, 8, 16)),
}


def measure(sampler: Any, axis: str, rounds: int, largest: int | None = None) -> Growth:
    """Sizes take turns, so that what else the machine does meets all of them."""
    expected, sizes = AXES[axis]
    sizes = tuple(n for n in sizes if largest is None or n <= largest)
    device = torch.device(sampler.model.backbone.device)
    timed: dict[str, Timed] = interleaved(contestants(sampler, axis, sizes), rounds, device)
    kept = list(timed.values())
    return Growth(axis, expected, sizes, tuple(t.median for t in kept), tuple(t.peak_mib for t in kept))


def figure(found: Sequence[Growth]) -> Figure:
    """Seconds and memory along each axis; the law written on it."""

    def paint(drawn: Figure) -> None:
        axes = drawn.subplots(2, len(found), squeeze=False)
        for k, growth in enumerate(found):
            above, below = axes[0][k], axes[1][k]
            start, slope, _ = growth.law()
            power = growth.expected == "power"
            law = [start * n**slope if power else start + slope * n for n in growth.sizes]
            above.plot(growth.sizes, growth.seconds, "o", color=figures.COLORS["blue"])
            above.plot(growth.sizes, law, "--", color=figures.COLORS["gray"])
            above.set_title(growth.words(), fontsize=8)
            below.plot(growth.sizes, growth.peak_mib, "o-", color=figures.COLORS["orange"])
            below.set_xlabel(WORDS[growth.axis])
            for panel in (above, below):
                if power:
                    panel.loglog()
                else:
                    panel.set_ylim(bottom=0)
        axes[0][0].set_ylabel("seconds")
        axes[1][0].set_ylabel("peak memory of the process, MiB")

    return figures.draw(3.2 * len(found), 5.0, paint)


def markdown(found: Sequence[Growth], rounds: int) -> str:
    """The table for docs/speed.md, and what it was measured on."""
    lines = ["| along | sizes | seconds | peak MiB | law |", "| --- | --- | --- | --- | --- |"]
    for growth in found:
        cells = (
            ", ".join(str(n) for n in growth.sizes),
            ", ".join(f"{s:.2f}" for s in growth.seconds),
            ", ".join(f"{m:.0f}" for m in growth.peak_mib),
        )
        lines.append(f"| {WORDS[growth.axis]} | {' | '.join(cells)} | {growth.words()} |")
    here = f"float32, CPU, threads {torch.get_num_threads()}, torch {torch.__version__}"
    return "\n".join([*lines, "", f"Here: model people, {here}, medians of {rounds} rounds."])


def main(words: Sequence[str] | None = None) -> list[Growth]:
    """Measure, draw and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="people", help="people or tiny")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--largest", type=int, help="leave out sizes above it")
    parser.add_argument("--only", nargs="*", choices=list(AXES), default=list(AXES))
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/growth"))
    parser.add_argument("--publish", action="store_true", help="figure and table into docs/speed.md")
    chosen = parser.parse_args(words)
    if chosen.publish and list(chosen.only) != list(AXES):
        parser.error("--publish writes all axes: leave out --only")
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    sampler = models.sampler(chosen.model, "cpu", "float32")
    found: list[Growth] = []
    chosen.out.mkdir(parents=True, exist_ok=True)
    for axis in chosen.only:
        found.append(measure(sampler, axis, chosen.rounds, chosen.largest))
        print(f"{WORDS[axis]}: {found[-1].words()}", flush=True)
        with atomic_write(chosen.out / "growth.json") as part:  # after each: a run cut short leaves it
            part.write_text(json.dumps([asdict(g) for g in found], indent=2) + "\n")
    block, path = markdown(found, chosen.rounds), chosen.out / "growth.png"
    figure(found).savefig(path, dpi=150)
    print(f"{block}\nfigure: {path}")
    if chosen.publish:
        blocks.publish(NAME, block, path)
    return found


if __name__ == "__main__":
    main()
