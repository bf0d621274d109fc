"""What `study=benchmark` costs beyond its images: a sampler that makes pictures out of nothing, 5,000 groups.

`python -m benchmarks.harness [--groups 5000] [--steps 3] [--json FILE]` halves the number of groups `steps`
times and fits how each cost grows with it: making and keeping a batch beyond drawing its pictures and
compressing them, finding again that nothing is missing, collating the table with its intervals, and the size
of the store. Times are the processor's, so that what else the machine does is not in them; nor is waiting for
the disk.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image
from rich.console import Console

from experiments.benchmark.table import collate
from experiments.benchmark.work import Work
from experiments.core.study import StudyContext
from sow import compose
from sow.config.compose import Paths
from sow.data import Group
from sow.runs.records import RunFolder
from sow.store.files import atomic_write
from sow.types import Box, Canvas, Plan, Request, Sample, VisualCondition

AIM = 5.0  # milliseconds per image
WORDS = (
    "model=tiny",
    "metrics=none",
    "tracker=none",
    "study=benchmark",
    "batch_size=8",
    "+study.rows.full={overrides:[]}",
    "+study.rows.no_dam={overrides:['+ablation=no_dam']}",
    "study.reference=full",
    "study.columns=[{metric:distance,label:Distance,better:lower,format:number},"
    "{metric:failure,label:Failure,better:lower,format:percent}]",
)
ROWS = 2
CANVAS = Canvas(128, 128, 8, 1, 128)


class Fake:
    """Samples of noise of the embedded model's size, as fast as they can be drawn."""

    method = SimpleNamespace()

    def plan(self, requests: Sequence[Request]) -> list[Plan]:
        return [Plan((Box(32, 32, 32, 32),), (Box(16, 64, 64, 64),), r.prompt, "fake") for r in requests]

    def generate(self, requests: Sequence[Request], plans: Sequence[Plan]) -> list[Sample]:
        out = []
        for request, plan in zip(requests, plans, strict=True):
            small = np.random.default_rng(request.seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            image = Image.fromarray(small).resize((CANVAS.width, CANVAS.height), Image.Resampling.BICUBIC)
            out.append(Sample(request, plan, image, None, CANVAS, seconds={"cycle": 0.1}))  # type: ignore[arg-type]
        return out


class Numbers:
    """Metrics that cost nothing."""

    def check(self) -> None: ...

    def measure(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        draws = [np.random.default_rng(s.request.seed).normal() for s in samples]
        return [{"distance": 1 + 0.1 * float(d), "failure": bool(d > 1)} for d in draws]


def groups(count: int) -> list[Group]:
    """`count` groups of one setting, each with a picture of its own."""
    out = []
    for i in range(count):
        condition = VisualCondition(
            Image.new("RGB", (64, 64), (i % 256, i // 256 % 256, 90)), name=f"square {i}"
        )
        request = Request((condition,), f"a person number {i}", "normal", seed=i, id=f"group-{i:05d}")
        out.append(Group(request.id, "normal", "validation", request))
    return out


def measure(count: int, outputs: Path) -> dict[str, float]:
    """Milliseconds of processor time per image of each stage, and kilobytes per image on disk,
    of `count` groups in two rows; with _wall by the clock."""
    config = replace(compose(list(WORDS)), metrics=Numbers(), paths=Paths(outputs))
    context = StudyContext(config, RunFolder(outputs / "run"), console=Console(quiet=True))
    images = count * ROWS
    found: dict[str, float] = {"images": images}

    def timed(name: str, action: Callable[[], Any]) -> Any:
        start, wall = time.process_time(), time.perf_counter()
        result = action()
        found[f"{name}_ms"] = 1000 * (time.process_time() - start) / images
        found[f"{name}_wall_ms"] = 1000 * (time.perf_counter() - wall) / images
        return result

    made = groups(count)
    with (
        mock.patch.object(type(config.data), "groups", lambda self, split: made),
        mock.patch("sow.pipeline.factory.build", lambda config: Fake()),
    ):
        requests = [g.request for g in made[:500]]
        start = time.process_time()
        samples = Fake().generate(requests, Fake().plan(requests))
        drawn = time.process_time()
        for sample in samples:
            sample.image.save(io.BytesIO(), "PNG")
        found["png_ms"] = 1000 * (time.process_time() - drawn) / len(samples)
        drawing = 1000 * (drawn - start) / len(samples)
        work = Work(config.study, context)
        batches = timed("batches", lambda: work.batches)
        missing = timed("missing", lambda: work.missing(batches))
        timed("make", lambda: work.generate(missing))
        found["make_ms"] -= drawing
        timed("find", lambda: work.missing(batches))
        timed("collate", lambda: collate(config.study, work, context))
    whole = sum(found[f"{name}_ms"] for name in ("batches", "missing", "make", "find"))
    found["overhead_ms"] = whole - found["png_ms"]
    store = sum(f.stat().st_size for f in (outputs / ".batches").rglob("*") if f.is_file())
    found["store_kb"] = store / images / 1000
    return found


def growth(rows: Sequence[dict[str, float]], name: str) -> float:
    """The exponent p of total cost ~ images^p, by least squares on logarithms: 1 is linear."""
    x = [math.log(row["images"]) for row in rows]
    y = [math.log(max(row[name], 1e-3) * row["images"]) for row in rows]  # a difference may be noise
    return float(np.polyfit(x, y, 1)[0])


def table(rows: Sequence[dict[str, float]]) -> list[str]:
    """The lines of a Markdown table, with the aim."""
    names = ("png_ms", "make_ms", "find_ms", "overhead_ms", "collate_ms", "store_kb")
    lines = [
        f"| images | {' | '.join(n.replace('_', ', ') for n in names)} |",
        "| ---: |" + " ---: |" * len(names),
    ]
    lines += [f"| {row['images']:.0f} | {' | '.join(f'{row[n]:.2f}' for n in names)} |" for row in rows]
    lines.append(f"| grows as images^ | {' | '.join(f'{growth(rows, n):.2f}' for n in names)} |")
    last = rows[-1]
    met = [f"{n} {'met' if last[f'{n}_ms'] <= AIM else 'missed'}" for n in ("overhead", "collate")]
    return [*lines, "", f"Processor time per image; aim: at most {AIM:g} ms and linear: {', '.join(met)}."]


def main(words: Sequence[str] | None = None) -> list[dict[str, float]]:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--groups", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=3, help="how often the number of groups is halved")
    parser.add_argument("--json", type=Path, default=Path("outputs/benchmarks/harness.json"))
    chosen = parser.parse_args(words)
    rows = []
    for step in range(chosen.steps, -1, -1):
        with tempfile.TemporaryDirectory() as place:
            rows.append(measure(chosen.groups >> step, Path(place)))
        with atomic_write(chosen.json) as part:  # after each, so that a run cut short leaves what it measured
            part.write_text(json.dumps(rows, indent=1) + "\n")
    print("\n".join(table(rows)))
    return rows


if __name__ == "__main__":
    main()
