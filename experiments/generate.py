"""`study=generate`, the default: images of one request, their numbers and their run folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sow import report
from sow.types import component

from .core.fields import Count
from .core.samples import mean, numbers, write_sample

if TYPE_CHECKING:
    from .core.study import StudyContext


@component("study")
class Generate:
    """`images` of the configured request, with seeds counted up from `seed`;
    several go to numbered folders."""

    images: Count

    def run(self, context: StudyContext) -> None:
        """Generate, measure, write, print."""
        folder = context.folder
        tracked_rows: list[Any] = []
        pictures: dict[Any, Any] = {}
        requests = context.requests(self.images)
        context.metrics.check()
        samples = context.generate(context.sampler(), requests, snapshots=True)
        rows = [numbers(s, m) for s, m in zip(samples, context.measure(samples), strict=True)]
        summary = mean(rows)
        with context.timed("write"):
            for i, (sample, row) in enumerate(zip(samples, rows, strict=True)):
                place = f"{i:03d}/" if len(samples) > 1 else ""
                written = write_sample(folder, sample, row, place)
                pictures |= {f"{place}{name}": path for name, path in written.items()}
                tracked_rows.append({"image": written["image"], "plan": written["canvas"], **row})
            if len(samples) > 1:
                folder.save_json("metrics.json", {**summary, "each": rows})
        with context.timed("tracker"):
            tracked = context.tracked
            if len(samples) == 1:
                tracked.history(samples[0].trace)
            tracked.images(pictures)
            tracked.table("samples", tracked_rows)
            tracked.summary(summary)
        if context.group is None:  # a sweep shows its jobs in one table
            context.console.print(report.table(summary, context.seconds))
        larger = "" if samples[0].view is samples[0].image else " (larger: view.png beside it)"
        context.console.print(f"image: {pictures[next(iter(pictures))]}{larger}")
