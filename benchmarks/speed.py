"""`python -m benchmarks.speed`: the table of ratios, measured interleaved in one process, and its JSON.

python -m benchmarks.speed                  # CPU: the embedded model
python -m benchmarks.speed --device cuda    # Stable Diffusion 2.1-base at full size, random weights, bfloat16
python -m benchmarks.speed --publish        # and the table into docs/speed.md
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import models, ratios
from benchmarks.work import Row
from sow.report import blocks
from sow.store.files import atomic_write


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--model", help="people, tiny or sd21_base; the device's own by default")
    parser.add_argument("--dtype", help="float32 on a CPU, bfloat16 on CUDA by default")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of a short ratio")
    parser.add_argument(
        "--long-rounds", type=int, default=3, help="rounds of a ratio whose sides take minutes"
    )
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice by default")
    parser.add_argument("--latent", type=int, default=64, help="side of the latents of the attention calls")
    parser.add_argument("--batch", type=int, default=8, help="requests of the batch")
    parser.add_argument(
        "--only",
        nargs="*",
        help="some of attention, step, overhead, options, compiled, image, batch, omega, preservation",
    )
    parser.add_argument("--out", type=Path, help="JSON; outputs/benchmarks/speed-DEVICE.json by default")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="write the CPU's table into docs/speed.md; a card's is benchmarks.card's",
    )
    chosen = parser.parse_args(words)
    cuda = kind(chosen) == "cuda"
    if cuda and chosen.publish:
        parser.error("a card's table is made by benchmarks/cuda_check.py, published by benchmarks.card")
    chosen.model = chosen.model or ("sd21_base" if cuda else "people")
    chosen.dtype = chosen.dtype or ("bfloat16" if cuda else "float32")
    chosen.out = chosen.out or Path("outputs/benchmarks") / f"speed-{kind(chosen)}.json"
    return chosen


def measurements(chosen: argparse.Namespace) -> dict[str, Callable[[], Row | list[Row]]]:
    """What can be measured, by name; nothing is built before it is asked for."""
    cuda = kind(chosen) == "cuda"
    made: list[Any] = []

    def sampler() -> Any:
        if not made:
            made.append(models.sampler(chosen.model, chosen.device, chosen.dtype))
        return made[0]

    short, long, requests = chosen.rounds, chosen.long_rounds, models.requests(chosen.batch)
    found: dict[str, Callable[[], Row | list[Row]]] = {
        "attention": lambda: ratios.attention(
            torch.device(chosen.device), getattr(torch, chosen.dtype), long, chosen.latent
        ),
        "step": lambda: ratios.modulated_step(sampler(), requests, short, 1.05 if cuda else 1.15),
        "overhead": lambda: ratios.overhead(sampler(), requests, short),
        "options": lambda: ratios.options(sampler(), requests, short),
        "compiled": lambda: ratios.compiled_step(sampler(), requests, short, 0.75 if cuda else None),
        "image": lambda: ratios.image(sampler(), requests, long),
        "batch": lambda: ratios.batch(sampler(), requests, long, 0.75 if cuda else 0.9),
        "omega": lambda: ratios.omegas(sampler(), requests, long),
        "preservation": lambda: ratios.preservations(sampler(), requests, long),
    }
    return found


def table(rows: Sequence[Row]) -> Table:
    """The rows for a terminal."""
    out = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("", "median", "95 %", "quartiles", "expected", "met", "peak MiB", "work"):
        out.add_column(name)
    for r in rows:
        name, median, ends, quartiles, aim, peak, work = cells(r)
        met = {True: "yes", False: "NO", None: ""}[r.met]
        out.add_row(name, median, ends, quartiles, aim or "report", met, peak, work)
    return out


def markdown(chosen: argparse.Namespace, rows: Sequence[Row]) -> str:
    """The rows for docs/speed.md, and what they were measured on."""
    lines = [
        "| ratio | median | 95 % | quartiles | aim | peak MiB | work |",
        "| --- | ---: | ---: | ---: | --- | --- | --- |",
    ]
    for r in rows:
        name, median, ends, quartiles, aim, peak, work = cells(r)
        met = {True: " met", False: " missed", None: ""}[r.met]
        lines.append(f"| {name} | {median} | {ends} | {quartiles} | {aim}{met} | {peak} | {work} |")
    return "\n".join([*lines, "", f"Here: {conditions(chosen)}."])


def conditions(chosen: argparse.Namespace) -> str:
    """What rows were measured on."""
    return (
        f"model {chosen.model}, {chosen.dtype}, {device_name(chosen)}, torch {torch.__version__}, "
        f"threads {torch.get_num_threads()}, latent {chosen.latent}, batch {chosen.batch}, "
        f"rounds {chosen.rounds}, long rounds {chosen.long_rounds}"
    )


def replaced(before: str, now: str, apart: str) -> str:
    """A published table in which the rows of `now` took the place of their namesakes, or came last; other
    rows stay.

    A note names the rows that were measured apart from the others, and on what.
    """
    lines = {name: line for line in now.splitlines() if (name := first_cell(line))}
    out: list[str] = []
    notes: list[str] = []
    for line in before.splitlines():
        (out if line.startswith("|") else notes).append(lines.pop(first_cell(line), line))
    names = [name for line in now.splitlines() if (name := first_cell(line))]
    kept = [note for note in notes if note and note != f"Apart from them: {', '.join(names)}; {apart}."]
    return "\n".join([*out, *lines.values(), "", *kept, "", f"Apart from them: {', '.join(names)}; {apart}."])


def first_cell(line: str) -> str:
    """The name of a table's row; empty for its head and for what is no row."""
    name = line.strip("|").split("|")[0].strip() if line.startswith("|") else ""
    return "" if name in ("ratio", "---") else name


def cells(r: Row) -> tuple[str, str, str, str, str, str, str]:
    """Name, median, its 95 % interval, quartiles, aim (empty where the row is only reported), peak memory
    and work, in words.

    Numbers have a fourth digit, so that a value beside its aim is not rounded onto it.
    """
    median, low, high = r.value
    aim = f"<= {r.at_most}" if r.at_most is not None else f">= {r.at_least}" if r.at_least is not None else ""
    return (
        r.name,
        f"{median:.4g} {r.unit}".strip(),
        "" if r.interval is None else f"{r.interval[0]:.4g} to {r.interval[1]:.4g}",
        f"{low:.4g} to {high:.4g} {r.unit}".strip(),
        aim,
        ", ".join(f"{n} {m:.0f}" for n, m in r.peak_mib.items()),
        r.work,
    )


def kind(chosen: argparse.Namespace) -> str:
    """The device without its index: cpu or cuda."""
    return chosen.device.partition(":")[0]


def device_name(chosen: argparse.Namespace) -> str:
    """The card, or the processor."""
    if kind(chosen) == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU {platform.processor() or platform.machine()}"


def main(words: Sequence[str] | None = None) -> list[Row]:
    """Measure, print and write."""
    chosen = arguments(words)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    found = measurements(chosen)
    console = Console(width=220)
    rows: list[Row] = []
    for name in chosen.only or found:
        result = found[name]()
        new = result if isinstance(result, list) else [result]
        rows += new
        for r in new:
            console.print(f"{r.name}: {r.value[0]:.4g} {r.unit}")
        write(chosen, rows)  # after each, so that a run cut short leaves what it measured
    console.print(table(rows))
    console.print(f"written: {chosen.out}")
    if chosen.publish:
        name, block = "speed-cpu", markdown(chosen, rows)
        if chosen.only and "| ratio |" in (before := blocks.published(name)):
            block = replaced(before, block, conditions(chosen))
        blocks.publish(name, block)
    return rows


def write(chosen: argparse.Namespace, rows: Sequence[Row]) -> None:
    """The JSON of what has been measured so far."""
    report = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device_name(chosen),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "arguments": {k: str(v) for k, v in vars(chosen).items()},
        "rows": [{**asdict(r), "met": r.met} for r in rows],
    }
    with atomic_write(chosen.out) as part:
        part.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
