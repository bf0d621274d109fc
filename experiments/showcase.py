"""`study=showcase`: the images of consecutive seeds, all of them, with their numbers: what the documentation shows unpicked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sow import report
from sow.config.bounds import need_at_least
from sow.report import blocks

from .generate import mean, numbers, write_sample

if TYPE_CHECKING:
    from sow.types import Sample

    from .core.study import StudyContext

COUNTED = {  # what is counted: its column, its name, the value that counts
    "head_is_condition": ("head is the condition (MTCNN, IoU >= 0.5)", True),
    "same_person": ("same person (judge)", True),
    "failure": ("truncated outline (judge)", True),
}
VERDICTS = {  # what is written above an image: when false, when true
    "head_is_condition": ("head lost", "head kept"),
    "same_person": ("another person", "same person"),
    "failure": ("whole", "truncated"),
}


@dataclass(frozen=True)
class Showcase:
    """Seeds `seed` .. `seed` + `seeds` - 1, each with the visual condition of its seed; `publish` puts figure
    and table on their page of docs/."""

    seeds: int
    publish: bool

    def __post_init__(self) -> None:
        need_at_least(self, "study", seeds=1)

    def run(self, context: StudyContext) -> None:
        """Generate all, measure all, show all."""
        context.metrics.check()
        requests = context.requests_by_seed(self.seeds)
        sampler = context.sampler()
        with context.timed("plan"):
            plans = sampler.plan(requests)
        with report.progress_bar(sampler, plans) as on_step:
            samples = sampler.generate(requests, plans=plans, snapshots=True, on_step=on_step)
        context.count_seconds(samples)
        with context.timed("metrics"):
            rows = [numbers(s, m) for s, m in zip(samples, context.metrics.measure(samples), strict=True)]
        for sample, row in zip(samples, rows, strict=True):
            write_sample(context.folder, sample, row, f"seed_{sample.request.seed}/")
        context.folder.save_json("metrics.json", {**mean(rows), "each": rows})
        figure = context.folder.save_image("showcase.png", figure_of(samples, rows))
        context.folder.save_bytes("showcase.md", markdown(rows).encode())
        tracked = context.tracked
        tracked.images({"showcase": figure})
        tracked.summary(mean(rows))
        context.console.print(report.table(mean(rows), context.seconds))
        context.console.print(f"figure: {figure}")
        if self.publish:
            blocks.publish("showcase", markdown(rows), figure)


def figure_of(samples: Sequence[Sample], rows: Sequence[Mapping[str, Any]]) -> Any:
    """A column a seed: the visual condition, and the image with what was judged of it."""
    import io

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from PIL import Image

    figure, axes = plt.subplots(2, len(samples), figsize=(1.75 * len(samples), 4.7), squeeze=False, dpi=110)
    for column, (sample, row) in enumerate(zip(samples, rows, strict=True)):
        shown = sample.request.conditions[0].on_gray()
        verdict = "\n".join(
            words[bool(row[key])] for key, words in VERDICTS.items() if row.get(key) is not None
        )
        for axis, image, title in (
            (axes[0, column], shown, f"seed {sample.request.seed}"),
            (axes[1, column], sample.image, verdict),
        ):
            axis.imshow(image, interpolation="lanczos")
            axis.set_title(title, fontsize=8)
            axis.axis("off")
    figure.suptitle(f"conditions (above) and images for “{samples[0].request.prompt}” (below)", fontsize=9)
    figure.tight_layout(h_pad=1.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return Image.open(buffer).convert("RGB")


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Counts over the seeds and one line a seed."""
    lines = [f"Seeds {rows[0]['seed']} to {rows[-1]['seed']}, every one of them:", ""]
    for key, (name, wanted) in COUNTED.items():
        lines.append(f"- {name}: {sum(row.get(key) is wanted for row in rows)} of {len(rows)}")
    columns = ("id_distance", "whole", "text_agreement", "psnr_condition", "boundary", "open_gates")
    lines += ["", "| seed | " + " | ".join(columns) + " |", "| ---: |" + " ---: |" * len(columns)]
    for row in rows:
        lines.append(f"| {row['seed']} | " + " | ".join(report.text(row.get(c)) for c in columns) + " |")
    return "\n".join(lines) + "\n"
