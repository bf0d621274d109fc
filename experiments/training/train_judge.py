"""Trains, calibrates and measures the judge of the embedded world,
and writes its weights: `study=train_judge`."""

from __future__ import annotations

import json
import time
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from sow.errors import UserError
from sow.store.files import place_of
from sow.types import component

if TYPE_CHECKING:
    from sow.people.judge.training import Recipe


@component("study")
class TrainJudge:
    """A training of `minutes` of processor time in all, or up to the clock time `until` ("HH:MM").

    It goes on where `folder` left off, and begins with the judge in the folder `start` where one is named. The weights (float16) and report.json are written to `output`; sizes
    and rates are explained in sow.people.judge.training.Recipe. Raises UserError where neither or both of
    `minutes` and `until` are given.
    """

    minutes: float | None
    until: str | None
    seed: int
    threads: int
    start: str | None
    folder: str
    output: str
    held_out: int
    pairs: int
    broken: int
    empty: int
    redrawn: int
    identities: int
    views: int
    scenes: int
    refresh: int
    learning_rate: float
    weight_decay: float
    warmup: int
    average: float
    scene_share: float
    queue: int
    contrast: float
    device: str
    workers: int

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.until is None):
            raise UserError("give a length or an end, not both: study.minutes=30 or study.until=23:30")
        if self.identities < self.pairs:
            raise UserError(
                f"need identities >= pairs, got {self.identities} < {self.pairs} (study.identities)"
            )

    def recipe(self) -> Recipe:
        """The numbers that the trainer needs."""
        from sow.people.judge.training import Recipe

        return Recipe(**{f.name: getattr(self, f.name) for f in fields(Recipe)})

    def run(self, context: Any = None) -> dict[str, Any]:
        """Train, calibrate on held-out renders, measure on others,
        write weights and report; returns the report."""
        import cv2
        import torch

        from sow.people.judge.evaluation import calibrate, evaluate
        from sow.people.judge.reader import WEIGHTS, Judge, load_judge, save_judge
        from sow.people.judge.training import Trainer
        from sow.people.training.pace import seconds_until

        torch.set_num_threads(self.threads)
        cv2.setNumThreads(self.threads)
        begun = load_judge(place_of(self.start, "study.start") / WEIGHTS.name).network if self.start else None
        if begun is not None:
            begun.requires_grad_(True)
        trainer = Trainer(
            self.recipe(), self.seed, place_of(self.folder, "study.folder"), begun, self.device, self.workers
        )
        if self.minutes is not None:
            steps = trainer.run(self.minutes * 60)
        else:
            steps = trainer.run(trainer.spent + seconds_until(str(self.until)), time.monotonic)
        mean: dict[str, float] = {}
        for step, progress, terms in steps:
            now = {n: float(v) for n, v in terms.items()}
            mean = {n: 0.97 * mean.get(n, v) + 0.03 * v for n, v in now.items()}
            if step % 50 == 0:
                line = " ".join(f"{n} {v:.3f}" for n, v in mean.items())
                print(f"step {step} {progress:6.1%} {line}", flush=True)
        trainer.average.cpu()
        calibration = calibrate(trainer.average, self.held_out)
        report = evaluate(Judge(trainer.average, calibration), self.held_out)
        report["training"] = {"steps": trainer.step, "seconds": round(trainer.spent), "seed": self.seed}
        output = place_of(self.output, "study.output")
        output.mkdir(parents=True, exist_ok=True)
        save_judge(output / "weights.safetensors", trainer.average, calibration, report)
        (output / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        print(json.dumps(report, indent=2))
        return report
