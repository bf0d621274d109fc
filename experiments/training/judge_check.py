"""`study=judge_check`: the judge measured on held-out renders, and a sheet of generated images with its words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from sow.config.places import PACKAGE
from sow.errors import UserError
from sow.report.blocks import publish_picture, write_block
from sow.types import Bound, component

from ..core.fields import LIMIT, Count

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from sow.people.judge import Reading
    from sow.types import Sample

    from ..core.study import StudyContext

CARD = PACKAGE / "people" / "judge" / "README.md"
STATES = {
    "clean": "as rendered",
    "softened": "softened, noisy or recoloured",
    "closeups": "close-ups",
    "redrawn": "redrawn by the model",
}
NUMBERS = {
    "face_found": "face found",
    "nobody_called_nobody": "nobody there, nobody found",
    "box_iou_mean": "IoU of the face's box, mean",
    "attributes_mean": "attributes, mean of the accuracies below",
    "identity_auc": "identity, ROC-AUC of the distances",
    "identity_equal_error": "identity, equal error rate",
    "identity_same_accepted": "same person accepted at the shipped threshold",
    "identity_different_rejected": "other person rejected at it",
    "whole_called_whole": "whole outline called whole",
    "truncated_called_truncated": "truncated outline called truncated",
    "one_face_called_one": "one face called one",
    "second_face_found": "second face, whole or in part, found",
}


@component("study")
class JudgeCheck:
    """`held_out` renders measure the judge, `samples` pictures made from captions hold it against MTCNN and the captions;
    `groups` images of the benchmark are shown with what it says of them."""

    groups: Annotated[int, Bound(ge=0, le=LIMIT)]
    split: str
    columns: Count
    held_out: Annotated[int, Bound(ge=0, le=LIMIT)]
    samples: Annotated[int, Bound(ge=0, le=LIMIT)]
    steps: Count
    publish: bool

    def __post_init__(self) -> None:
        if 0 < self.held_out < 20:
            raise UserError(f"need held_out 0 or at least 20, got {self.held_out} (study.held_out)")

    def run(self, context: StudyContext) -> None:
        """Measure, generate, draw; raises UserError where groups or the judge's weights are missing."""
        if self.held_out:
            with context.timed("measure"):
                self._measure(context)
        if self.samples:
            with context.timed("samples"):
                self._sample(context)
        if self.groups:
            self._show(context)

    def _measure(self, context: StudyContext) -> None:
        from sow.people.judge import load_judge
        from sow.people.judge.evaluation import evaluate

        report = evaluate(load_judge(), self.held_out)
        path = context.folder.save_json("report.json", report)
        text = markdown(report)
        context.folder.save_bytes("report.md", text.encode())
        context.console.print(text)
        context.console.print(f"report: {path}")
        if self.publish:
            CARD.with_name("report.json").write_text(json.dumps(report, indent=2) + "\n")
            write_block(CARD, "measured", text)

    def _sample(self, context: StudyContext) -> None:
        from ..training import judge_samples

        found = judge_samples.measure(self.samples, self.steps)
        context.folder.save_json("generated.json", found)
        text = judge_samples.markdown(found)
        context.console.print(text)
        if self.publish:
            write_block(CARD, "generated", text)

    def _show(self, context: StudyContext) -> None:
        from sow.metrics import columns as explained
        from sow.metrics.readings import readings
        from sow.report import figures

        from ..core.groups import first_of_each, generate_groups

        if not {"whole", "same_person", "text_missed"} <= explained(context.metrics).keys():
            raise UserError(
                "the sheet shows the judge's numbers: choose metrics=people or metrics=all (metrics)"
            )
        context.metrics.check()
        groups = first_of_each(context.config.data.groups(self.split), self.groups)
        with context.timed("sample"):
            samples = generate_groups(context.config, groups)
        rows = context.measure(samples)
        with context.timed("metrics"):
            read = readings([s.image for s in samples])
        columns = min(self.columns, len(samples))
        lines = -(-len(samples) // columns)
        cells = [(g.id, side_by_side(s), words(r, row)) for g, s, r, row in zip(groups, samples, read, rows)]
        figure = figures.draw(2.3 * columns, 2.75 * lines, lambda f: paint(f, cells, lines, columns))
        path = figures.save(context.folder, "judge_check", figure)
        each = [{"group": g.id, "prompt": g.request.prompt, **row} for g, row in zip(groups, rows)]
        context.folder.save_json("judged.json", each)
        context.tracked.images({"judge_check": path})
        context.console.print(f"sheet: {path}")
        if self.publish:
            publish_picture("judge_check", path)


def side_by_side(sample: Sample) -> Image.Image:
    """The condition on gray at half height, and the image with the condition's box."""
    from PIL import Image, ImageDraw

    face = sample.request.conditions[0].on_gray()
    scale = -(-256 // sample.image.height)
    width, height = sample.image.width * scale, sample.image.height * scale
    out = Image.new("RGB", (width + height // 2, height), (255, 255, 255))
    out.paste(face.resize((height // 2, height // 2)), (0, height // 4))
    out.paste(sample.image.resize((width, height), Image.Resampling.BICUBIC), (height // 2, 0))
    box = sample.plan.boxes[0].scaled(scale)
    corners = (height // 2 + box.x, box.y, height // 2 + box.right - 1, box.bottom - 1)
    ImageDraw.Draw(out).rectangle(corners, outline=(255, 255, 255))
    return out


def words(reading: Reading, row: Mapping[str, Any]) -> str:
    """What the judge says of an image, in four short lines."""
    seen = reading.attributes
    person = "no face"
    if reading.face_box is not None:
        wears = [seen[n] for n in ("glasses", "hat") if seen[n] != "none"]
        person = ", ".join(
            [f"{seen['expression']} {seen['age']}", f"{seen['hair_color']} {seen['hair']}", *wears]
        )
    around = f"{seen['scene']}, {seen['style']}"
    if "clothing" in seen:
        around = f"{seen['clothing_color']} {seen['clothing']}, {around}"
    distance, whole = row["id_distance"], row["whole"]
    who = "no distance" if distance is None else f"{'same' if row['same_person'] else 'other'} {distance:.2f}"
    outline = "no outline" if whole is None else f"{'truncated' if row['truncated'] else 'whole'} {whole:.2f}"
    if row["faces"] > 1:
        outline += ", a second face"
    return f"{person}\n{around}\n{who}, {outline}\nmisses: {row['text_missed'] or 'nothing'}"


def paint(figure: Figure, cells: Sequence[tuple[str, Any, str]], lines: int, columns: int) -> None:
    """The sheet: a group's id above its condition and image, the judge's words below."""
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (name, picture, text) in zip(axes.flat, cells, strict=False):
        axis.imshow(picture)
        axis.set_title(name, fontsize=6)
        axis.text(0.5, -0.03, text, transform=axis.transAxes, fontsize=5, ha="center", va="top")


def markdown(report: Mapping[str, Any]) -> str:
    """The report as two tables: numbers, and the accuracy of each attribute."""
    states = [s for s in STATES if s in report]
    head = f"| {report['renders']} held-out renders | " + " | ".join(STATES[s] for s in states) + " |"
    rule = "| --- |" + " ---: |" * len(states)
    lines = [head, rule]
    for key, name in NUMBERS.items():
        if any(key in report[s] for s in states):
            lines.append(f"| {name} | " + " | ".join(_share(report[s].get(key)) for s in states) + " |")
    lines += ["", "| attribute | " + " | ".join(STATES[s] for s in states) + " |", rule]
    for name in report[states[0]]["attributes"]:
        values = (_share(report[s].get("attributes", {}).get(name)) for s in states)
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
