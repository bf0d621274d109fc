"""Trains and measures the seam classifier of the embedded world, and writes its weights: `study=train_seam`."""

from __future__ import annotations

import json
import time
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

from sow.config.places import PACKAGE
from sow.report.blocks import write_block
from sow.store.files import place_of
from sow.types import Bound, component

from ..core.fields import LIMIT, Count

if TYPE_CHECKING:
    from ..core.study import StudyContext

CARD = PACKAGE / "people" / "seam" / "README.md"


@component("study")
class TrainSeam:
    """The sizes of `sow.people.seam.training.Recipe`; the weights (float16) are written to `output`, the
    measurement on `held_out` renders to report.json there, and with `publish` onto the classifier's card."""

    figures: Count
    redrawn: Annotated[int, Bound(ge=0, le=LIMIT)]
    steps: Count
    pairs: Annotated[int, Bound(ge=2, le=LIMIT)]
    learning_rate: Annotated[float, Bound(gt=0)]
    weight_decay: Annotated[float, Bound(ge=0)]
    seed: Annotated[int, Bound(ge=0, le=50)]
    held_out: Annotated[int, Bound(ge=5, le=LIMIT)]
    threads: Count
    output: str
    publish: bool

    def run(self, context: StudyContext) -> dict[str, Any]:
        """Train, write the weights, read them again and measure; returns the report."""
        import cv2
        import torch

        from sow.people.seam.reader import WEIGHTS, load_seam, save_seam
        from sow.people.seam.training import Recipe, markdown, measure, train

        torch.set_num_threads(self.threads)
        cv2.setNumThreads(self.threads)
        begun, mean = time.process_time(), 0.0
        recipe = Recipe(**{f.name: getattr(self, f.name) for f in fields(Recipe)})
        for step, loss, trained in train(recipe):
            network = trained
            mean = loss if step == 1 else 0.97 * mean + 0.03 * loss
            if step % 50 == 0:
                context.console.print(f"step {step} of {self.steps}, loss {mean:.3f}")
        spent = round(time.process_time() - begun)
        output = place_of(self.output, "study.output")
        output.mkdir(parents=True, exist_ok=True)
        training = {"steps": self.steps, "seconds": spent, "seed": self.seed}
        save_seam(output / WEIGHTS.name, network, training)
        load_seam.cache_clear()  # the file may be in the place of the one that was read
        report = measure(load_seam(output / WEIGHTS.name), self.held_out) | {"training": training}
        (output / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        text = markdown({k: v for k, v in report.items() if k != "training"})
        context.console.print(text)
        if self.publish:
            write_block(CARD, "measured", text)
        return report
