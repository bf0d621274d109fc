"""`study=generate`, the default: images of one request, their numbers and their run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sow import records
from sow.errors import UserError
from sow.records import RunFolder

if TYPE_CHECKING:
    from experiments.study import StudyContext
    from sow.methods.sow import Sampler
    from sow.types import Plan, Sample, Step

PHASES = {
    "invert_condition": "inverting the condition",
    "invert_canvas": "inverting the canvas",
    "sample": "sampling",
    "cycle": "one-way diffusion",
    "preserve": "preserving the condition",
}


@dataclass(frozen=True)
class Generate:
    """`images` of the configured request, with seeds counted up from `seed`; several go to numbered folders."""

    images: int

    def __post_init__(self) -> None:
        if self.images < 1:
            raise UserError(f"need at least one image, got {self.images} (study.images)")

    def run(self, context: StudyContext) -> None:
        """Generate, measure, write, print."""
        requests = context.requests(self.images)
        context.metrics.check()
        tracked, sampler = context.tracked, context.sampler()
        with context.timed("plan"):
            plans = sampler.plan(requests)
        with progress_bar(sampler, plans, context.config.batch_size) as on_step:
            samples = sampler.generate(requests, plans=plans, snapshots=True, on_step=on_step)
        with context.timed("metrics"):
            measured = context.metrics.measure(samples)
        rows = [numbers(s, m) for s, m in zip(samples, measured, strict=True)]
        for sample in samples[:: context.config.batch_size]:  # a batch's samples share their seconds
            for phase, seconds in sample.seconds.items():
                context.seconds[phase] = context.seconds.get(phase, 0.0) + seconds
        pictures: dict[str, Any] = {}
        for i, (sample, row) in enumerate(zip(samples, rows, strict=True)):
            place = f"{i:03d}/" if len(samples) > 1 else ""
            written = write_sample(context.folder, sample, row, place)
            pictures.update({f"{place}{name}": path for name, path in written.items()})
        summary = mean(rows)
        if len(samples) > 1:
            context.folder.save_json("metrics.json", summary)
        if len(samples) == 1:
            tracked.history(samples[0].trace)
        tracked.images(pictures)
        tracked.summary(summary)
        report(context, summary)


def write_sample(
    folder: RunFolder, sample: Sample, row: Mapping[str, Any], place: str = ""
) -> dict[str, Any]:
    """One sample's files; returns its pictures' paths by name."""
    from sow.planner.drawing import draw_plan

    pictures = {"image": folder.save_image(f"{place}image.png", sample.image)}
    drawn = draw_plan(sample.request, sample.plan, sample.canvas)
    pictures["canvas"] = folder.save_image(f"{place}canvas.png", drawn)
    if sample.snapshots:
        pictures["cycles"] = folder.save_image(f"{place}cycles.png", records.strip(sample.snapshots))
    folder.save_json(f"{place}plan.json", sample.plan.to_dict())
    folder.save_json(f"{place}metrics.json", row)
    folder.save_table(f"{place}trace.parquet", sample.trace)
    return pictures


def numbers(sample: Sample, measured: Mapping[str, Any]) -> dict[str, Any]:
    """The row of one sample: what was measured, what the gates did, what it took."""
    return {
        "seed": sample.request.seed,
        **measured,
        "open_gates": open_gates(sample.trace),
        **{f"unet_evaluations_{size}": count for size, count in sample.counts.items()},
    }


def open_gates(trace: Sequence[Mapping[str, Any]]) -> float | None:
    """Share of layers and denoising steps in the cycles whose gate was open; None where there was no gate."""
    gates = [value for row in trace for name, value in row.items() if name.startswith("gate/")]
    return sum(value > 0 for value in gates) / len(gates) if gates else None


def mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means of the numbers over the images that have them; of one image its row."""
    if len(rows) == 1:
        return dict(rows[0])
    out: dict[str, Any] = {"images": len(rows)}
    for name in dict.fromkeys(key for row in rows for key in row if key != "seed"):
        values = [row[name] for row in rows if isinstance(row.get(name), (int, float))]
        out[name] = sum(values) / len(values) if values else None
    return out


@contextmanager
def progress_bar(
    sampler: Sampler, plans: Sequence[Plan], batch_size: int
) -> Iterator[Callable[[Step], None]]:
    """A bar over the UNet calls that names the phase and the cycle; yields the callback that moves it."""
    batches = [plans[i : i + batch_size] for i in range(0, len(plans), batch_size)]
    total = sum(
        sampler.denoising_steps(len({(b.w, b.h) for plan in batch for b in plan.boxes})) for batch in batches
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=total)

        def on_step(step: Step) -> None:
            words = PHASES[step.context.phase]
            if step.context.cycle is not None:
                words += f", cycle {step.context.cycle + 1} of {sampler.cycle.cycles}"
            progress.update(task, description=words, advance=int(step.event == "denoise"))

        yield on_step


def report(context: StudyContext, summary: Mapping[str, Any]) -> None:
    """Where the image is, and a small table of its numbers and times."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in summary.items():
        table.add_row(name.replace("_", " "), words(value))
    table.add_row("", "")
    for phase, seconds in context.seconds.items():
        table.add_row(f"seconds: {PHASES.get(phase, phase)}", f"{seconds:.2f}")
    context.console.print(table)
    image = context.folder.path / "image.png"
    context.console.print(f"image: {image if image.is_file() else context.folder.path}")


def words(value: Any) -> str:
    """A number for a reader."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
