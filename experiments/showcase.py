"""`study=showcase`: the images of consecutive seeds, all of them, with their numbers:
what the documentation shows unpicked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sow import report
from sow.report import blocks, figures
from sow.types import component

from .core.fields import Count
from .core.samples import mean, numbers, write_numbers, write_pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sow.types import Sample

    from .core.study import StudyContext

COUNTED = {  # what is counted: its column, its name, the value that counts
    "head_is_condition": ("head is the condition (MTCNN, IoU >= 0.5)", True),
    "same_person": ("same person (judge)", True),
    "truncated": ("truncated outline (judge)", True),
    "failure": ("truncated, or a second face (judge)", True),
}
VERDICTS = {  # what is written above an image: when false, when true
    "head_is_condition": ("head lost", "head kept"),
    "same_person": ("another person", "same person"),
    "truncated": ("whole", "truncated"),
}


@component("study")
class Showcase:
    """Seeds `seed` .. `seed` + `seeds` - 1, each with the visual condition of its seed.


    `publish` puts figure and table on their page of docs/.
    """

    seeds: Count
    publish: bool

    def run(self, context: StudyContext) -> None:
        """Generate all, measure all, show all."""
        context.metrics.check()
        requests = context.requests_by_seed(self.seeds)
        samples = context.generate(context.sampler(), requests, snapshots=True)
        rows = [numbers(s, m) for s, m in zip(samples, context.measure(samples), strict=True)]
        for sample, row in zip(samples, rows, strict=True):
            place = f"seed_{sample.request.seed}/"
            write_pictures(context.folder, sample, place)
            write_numbers(context.folder, sample, row, place)
        context.folder.save_json("metrics.json", {**mean(rows), "each": rows})
        figure = figures.save(context.folder, "showcase", figure_of(samples, rows))
        context.folder.save_bytes("showcase.md", markdown(rows).encode())
        context.tracked.images({"showcase": figure})
        context.tracked.summary(mean(rows))
        context.console.print(report.table(mean(rows), context.seconds))
        context.console.print(f"figure: {figure}")
        if self.publish:
            blocks.publish("showcase", markdown(rows), figure, made=context.made())


def figure_of(samples: Sequence[Sample], rows: Sequence[Mapping[str, Any]]) -> Figure:
    """A column per seed: the visual condition, and the image with what was judged of it."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots(2, len(samples), squeeze=False)
        for sample, row, (above, below) in zip(samples, rows, axes.T, strict=True):
            verdicts = [words[bool(row[key])] for key, words in VERDICTS.items() if row.get(key) is not None]
            above.imshow(sample.request.conditions[0].on_gray(), interpolation="lanczos")
            above.set_title(f"seed {sample.request.seed}", fontsize=8)
            below.imshow(sample.image, interpolation="lanczos")
            below.set_title("\n".join(verdicts), fontsize=8)
        for axis in axes.flat:
            axis.axis("off")
        figure.suptitle(
            f"conditions (above) and images for “{samples[0].request.prompt}” (below)", fontsize=9
        )

    return figures.draw(1.75 * len(samples), 4.7, paint)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Counts over the seeds and one line per seed."""
    lines = [f"Seeds {rows[0]['seed']} to {rows[-1]['seed']}, every one of them:", ""]
    for key, (name, wanted) in COUNTED.items():
        lines.append(f"- {name}: {sum(row.get(key) is wanted for row in rows)} of {len(rows)}")
    columns = ("id_distance", "whole", "text_agreement", "psnr_condition", "boundary", "open_gates")
    lines += ["", "| seed | " + " | ".join(columns) + " |", "| ---: |" + " ---: |" * len(columns)]
    for row in rows:
        lines.append(f"| {row['seed']} | " + " | ".join(report.text(row.get(c)) for c in columns) + " |")
    return "\n".join(lines) + "\n"
