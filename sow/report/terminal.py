"""A run in the terminal: its progress bar, its table, and the strip of its cycles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from PIL import Image

    from sow.pipeline.pipeline import Pipeline
    from sow.types import Plan, Step

PHASES = {
    "invert_condition": "inverting the condition",
    "invert_canvas": "inverting the canvas",
    "sample": "sampling",
    "cycle": "one-way diffusion",
    "preserve": "preserving the condition",
}
GAP = 4  # pixels between two pictures of a strip
COLUMNS = 10  # pictures in a row of it


@contextmanager
def progress_bar(
    sampler: Pipeline, plans: Sequence[Plan], batch_size: int | None = None
) -> Iterator[Callable[[Step], None]]:
    """A bar over the UNet calls that names the phase and the cycle; yields the callback that moves it."""
    batch_size = batch_size or sampler.batch_size
    batches = [plans[i : i + batch_size] for i in range(0, len(plans), batch_size)]
    sizes = [len({(box.w, box.h) for plan in batch for box in plan.boxes}) for batch in batches]
    with bar(sum(sampler.denoising_steps(n) for n in sizes), "starting") as move:

        def on_step(step: Step) -> None:
            words = PHASES[step.context.phase]
            if step.context.cycle is not None:
                words += f", cycle {step.context.cycle + 1} of {sampler.method.cycles}"
            move(words, int(step.event == "denoise"))

        yield on_step


@contextmanager
def bar(total: int, words: str) -> Iterator[Callable[[str, int], None]]:
    """A progress bar on a terminal, elsewhere nothing; yields what describes it anew and moves it on."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    left = (TextColumn("left"), TimeRemainingColumn())
    quiet = not console.is_terminal
    with Progress(*columns, *left, console=console, transient=True, disable=quiet) as progress:
        task = progress.add_task(words, total=total)
        yield lambda words, count: progress.update(task, description=words, advance=count)


def table(numbers: Mapping[str, Any], seconds: Mapping[str, float]) -> Table:
    """Numbers of a run and its seconds by phase, for a terminal."""
    out = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in numbers.items():
        out.add_row(name.replace("_", " "), text(value))
    out.add_row("", "")
    for phase, value in seconds.items():
        out.add_row(f"seconds {PHASES.get(phase, phase)}", f"{value:.2f}")
    out.add_row("seconds in all", f"{sum(seconds.values()):.2f}")
    return out


def text(value: Any) -> str:
    """A value for a reader; "-" where a number does not exist."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def strip(images: Iterable[Image.Image]) -> Image.Image:
    """The pictures of one run side by side on white, in rows of ten."""
    from PIL import Image as PIL

    pictures = list(images)
    columns = min(len(pictures), COLUMNS)
    rows = -(-len(pictures) // columns)
    width, height = pictures[0].size
    out = PIL.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for i, picture in enumerate(pictures):
        out.paste(picture, (i % columns * (width + GAP), i // columns * (height + GAP)))
    return out
