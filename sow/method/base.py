"""What every method is to a pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from sow.method.denoiser import Model
from sow.method.diffusion import Schedule
from sow.method.process import Process, need_noise
from sow.method.seed_init import Batch, SeedInit
from sow.types import Canvas, Request, Sample, Step

if TYPE_CHECKING:
    from sow.models.backbone import Backbone


class Method:
    """What a pipeline asks of every method; it needs `model`, `canvas`, `seed_init` and `run` of its own.

    A method draws with the batch's generators alone and does not know who watches, keeps or plans its runs.
    """

    model: Model
    canvas: Canvas
    seed_init: SeedInit

    @property
    def backbone(self) -> Backbone:
        return self.model.backbone

    @property
    def schedule(self) -> Process:
        return self.model.schedule

    @property
    def noise_schedule(self) -> Schedule:
        """The schedule of a model that predicts noise; raises UserError for a rectified flow."""
        return need_noise(self.schedule)

    @property
    def cycles(self) -> int:
        """How many cycles a run has, as the context of its steps counts them."""
        return 0

    def run(self, batch: Batch) -> Iterator[Step]:
        """Every step of one batch, the last one holding x_0."""
        raise NotImplementedError

    def denoising_steps(self, sizes: int = 1) -> int:
        """How many network calls (steps with the event "denoise") a batch takes whose conditions have `sizes`
        sizes."""
        raise NotImplementedError

    def check(self, request: Request) -> None:
        """Raise UserError for a request that this method cannot serve."""

    def ready(self, requests: Sequence[Request]) -> tuple[Method, Mapping[str, float]]:
        """The method that serves one batch of these requests, and the seconds, by phase, of getting it
        ready."""
        return self, {}

    def finished(self, sample: Sample) -> Sample:
        """What the method makes of a decoded sample."""
        return sample
