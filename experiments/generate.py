"""`study=generate`, the default: images of one request, their numbers and their run folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sow import report
from sow.types import component

from .core.fields import Count
from .core.samples import mean, numbers, write_numbers, write_pictures

if TYPE_CHECKING:
    from .core.study import StudyContext


@component("study")
class Generate:
    """`images` of the configured request, with seeds counted up from `seed`;
    several go to numbered folders."""

    images: Count

    def run(self, context: StudyContext) -> None:
        """Generate, write, measure, write, print."""
        folder = context.folder
        requests = context.requests(self.images)
        context.metrics.check()
        samples = context.generate(context.sampler(), requests, snapshots=True)
        places = [f"{i:03d}/" if len(samples) > 1 else "" for i in range(len(samples))]
        with context.timed("write"):  # before they are measured: a look takes no numbers
            written = [write_pictures(folder, s, place) for s, place in zip(samples, places, strict=True)]
        larger = "" if samples[0].view is samples[0].image else " (larger: view.png beside it)"
        context.console.print(f"image: {written[0]['image']}{larger}")
        rows = [numbers(s, m) for s, m in zip(samples, context.measure(samples), strict=True)]
        summary = mean(rows)
        with context.timed("write"):
            for sample, row, place in zip(samples, rows, places, strict=True):
                write_numbers(folder, sample, row, place)
            if len(samples) > 1:
                folder.save_json("metrics.json", {**summary, "each": rows})
        with context.timed("tracker"):
            tracked = context.tracked
            if len(samples) == 1:
                tracked.history(samples[0].trace)
            pairs = list(zip(places, written, strict=True))
            tracked.images({f"{place}{n}": path for place, paths in pairs for n, path in paths.items()})
            tracked.table(
                "samples",
                [{"image": p["image"], "plan": p["canvas"], **r} for p, r in zip(written, rows, strict=True)],
            )
            tracked.summary(summary)
        if context.group is None:  # a sweep shows its jobs in one table
            context.console.print(report.table(summary, context.seconds))
