"""`study=generate`, the default: images of one request, their numbers and their run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sow import report
from sow.config.bounds import need_at_least

if TYPE_CHECKING:
    from pathlib import Path

    from sow.runs.records import RunFolder
    from sow.types import Sample

    from .core.study import StudyContext


@dataclass(frozen=True)
class Generate:
    """`images` of the configured request, with seeds counted up from `seed`; several go to numbered folders."""

    images: int

    def __post_init__(self) -> None:
        need_at_least(self, "study", images=1)

    def run(self, context: StudyContext) -> None:
        """Generate, measure, write, print."""
        requests = context.requests(self.images)
        context.metrics.check()
        sampler = context.sampler()
        with context.timed("plan"):
            plans = sampler.plan(requests)
        tracked = context.tracked  # from here on the input is known to be good
        with report.progress_bar(sampler, plans) as on_step:
            samples = sampler.generate(requests, plans=plans, snapshots=True, on_step=on_step)
        context.count_seconds(samples)
        with context.timed("metrics"):
            rows = [numbers(s, m) for s, m in zip(samples, context.metrics.measure(samples), strict=True)]
        with context.timed("write"):
            pictures = self._write(context.folder, samples, rows)
        summary = mean(rows)
        with context.timed("tracker"):
            if len(samples) == 1:
                tracked.history(samples[0].trace)
            tracked.images(pictures)
            tracked.table("samples", table_rows(context.folder.path, rows))
            tracked.summary(summary)
        context.console.print(report.table(summary, context.seconds))
        context.console.print(f"image: {pictures[next(iter(pictures))]}")

    def _write(
        self, folder: RunFolder, samples: Sequence[Sample], rows: Sequence[Mapping[str, Any]]
    ) -> dict[str, Path]:
        if len(samples) == 1:
            return write_sample(folder, samples[0], rows[0])
        pictures = {}
        for i, (sample, row) in enumerate(zip(samples, rows, strict=True)):
            written = write_sample(folder, sample, row, f"{i:03d}/")
            pictures.update({f"{i:03d}/{name}": path for name, path in written.items()})
        folder.save_json("metrics.json", {**mean(rows), "each": rows})
        return pictures


def write_sample(
    folder: RunFolder, sample: Sample, row: Mapping[str, Any], place: str = ""
) -> dict[str, Path]:
    """One sample's files; returns its pictures' paths by name, the image first."""
    from sow.planner.drawing import draw_plan

    drawn = draw_plan(sample.request, sample.plan, sample.canvas)
    pictures = {
        "image": folder.save_image(f"{place}image.png", sample.image),
        "canvas": folder.save_image(f"{place}canvas.png", drawn),
    }
    if sample.snapshots:
        pictures["cycles"] = folder.save_image(f"{place}cycles.png", report.strip(sample.snapshots))
    folder.save_json(f"{place}plan.json", sample.plan.to_dict())
    folder.save_json(f"{place}metrics.json", row)
    folder.save_table(f"{place}trace.parquet", sample.trace)
    return pictures


def table_rows(folder: Path, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a table that shows each sample's image and plan beside its numbers; the files are those of `_write`."""
    places = [folder] if len(rows) == 1 else [folder / f"{i:03d}" for i in range(len(rows))]
    return [
        {"image": place / "image.png", "plan": place / "canvas.png", **row}
        for place, row in zip(places, rows, strict=True)
    ]


def numbers(sample: Sample, measured: Mapping[str, Any]) -> dict[str, Any]:
    """The row of one sample: what was measured, what the gates did, what it took."""
    return {
        "seed": sample.request.seed,
        **measured,
        "open_gates": open_gates(sample.trace),
        **{f"unet_evaluations_{size}": count for size, count in sample.counts.items()},
    }


def open_gates(trace: Sequence[Mapping[str, Any]]) -> float | None:
    """Share of the cycles' gates, one a layer and denoising step, that were open; None where there was none."""
    gates = [value for row in trace for name, value in row.items() if name.startswith("gate/")]
    return sum(value > 0 for value in gates) / len(gates) if gates else None


def mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means of the numbers over the images that have them; of one image, its row."""
    if len(rows) == 1:
        return dict(rows[0])
    out: dict[str, Any] = {"images": len(rows)}
    for name in dict.fromkeys(key for row in rows for key in row if key != "seed"):
        values = [row[name] for row in rows if isinstance(row.get(name), (int, float))]
        out[name] = sum(values) / len(values) if values else None
    return out
