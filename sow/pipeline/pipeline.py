"""From requests to samples: plans, batches, memory, caching, recording, decoding."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sow.errors import UserError
from sow.method.base import Method
from sow.method.denoiser import Model
from sow.method.paste_back import NoPasteBack, PasteBack
from sow.method.seed_init import Batch
from sow.pipeline.batches import halved, out_of_memory, release
from sow.pipeline.cached import Cache
from sow.pipeline.trace import Recorder
from sow.types import Canvas, Plan, Request, Sample, Step

if TYPE_CHECKING:
    from PIL import Image

    from sow.models.backbone import Backbone

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Pipeline:
    """Text-vision-to-image generation by one method on a frozen model (Sec. IV).

    `planner`, `position` and `intensify` make the plans; `paste_back` finishes the pictures; `task` is the
    setting that the method was composed for; at most `batch_size` requests share a network call; `cache`
    keeps what runs share.
    """

    method: Method
    planner: Any
    position: Any
    intensify: Any
    paste_back: PasteBack = NoPasteBack()
    task: str = "normal"
    batch_size: int = 4
    cache: Cache = field(default_factory=Cache)

    @property
    def model(self) -> Model:
        return self.method.model

    @property
    def backbone(self) -> Backbone:
        return self.method.model.backbone

    @property
    def canvas(self) -> Canvas:
        return self.method.canvas

    def variant(self, **changes: Any) -> Pipeline:
        """This pipeline with other values of its own fields or of its method's, by name."""
        own = {f.name for f in fields(self)} & changes.keys()
        method: Any = changes.pop("method", self.method)
        of_method = {name: value for name, value in changes.items() if name not in own}
        mine = {name: value for name, value in changes.items() if name in own}
        return replace(self, method=replace(method, **of_method), **mine)

    def plan(self, requests: Sequence[Request]) -> list[Plan]:
        """One plan per request (Sec. IV-A), its boxes where the conditions will lie."""
        from sow.planner import make_plans

        plans = make_plans(list(requests), self.planner, self.position, self.intensify, self.canvas)
        if self.method.seed_init.snap:
            factor = self.canvas.factor
            plans = [replace(p, boxes=tuple(b.snapped(factor) for b in p.boxes)) for p in plans]
        for request, plan in zip(requests, plans, strict=True):
            for own, box in zip((c.box for c in request.conditions), plan.boxes, strict=False):
                if own not in (None, box):
                    log.warning(
                        "the box %s is taken as %s: the latents' grid, the limits of a condition's size "
                        "or position moved it (condition.box)",
                        *(own.as_list(), box.as_list()),
                    )
        return plans

    def generate(
        self,
        requests: Sequence[Request],
        *,
        plans: Sequence[Plan] | None = None,
        snapshots: bool = False,
        on_step: Callable[[Step], None] | None = None,
    ) -> list[Sample]:
        """One sample per request, in order; a batch's size changes rounding only.

        `snapshots` decodes the image predicted at the end of each cycle. `on_step` sees every step of every
        batch. A batch that memory does not hold is halved and made again.
        """
        requests = list(requests)
        self.check(requests)
        recorder = Recorder(self.backbone)
        with recorder.phase("plan"):
            plans = list(plans) if plans is not None else self.plan(requests)
        samples: list[Sample] = []
        size = self.batch_size
        while len(samples) < len(requests):
            here = slice(len(samples), len(samples) + size)
            try:
                samples += self._generate_batch(requests[here], plans[here], recorder, snapshots, on_step)
                continue
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            # Out here the error and the tensors that its traceback held are gone.
            self.cache.clear()
            release(self.backbone)
            size = halved(self.canvas, len(requests[here]))
        return samples

    def steps(self, request: Request, *, plan: Plan | None = None) -> Iterator[Step]:
        """Every step of one request's run, the last one holding x_0; nothing is decoded."""
        self.check([request])
        plans = [plan] if plan is not None else self.plan([request])
        method, _ = self.method.ready([request])
        yield from self._run(method, [request], plans)

    def denoising_steps(self, sizes: int = 1) -> int:
        """How many network calls one batch takes whose conditions have `sizes` sizes."""
        return self.method.denoising_steps(sizes)

    def check(self, requests: Sequence[Request]) -> None:
        """Raise UserError for requests that this pipeline was not composed for."""
        for request in requests:
            if not request.conditions:
                raise UserError("a request needs at least one visual condition (condition)")
            if request.task is not None and request.task != self.task:
                raise UserError(
                    f"the request's task is {request.task} but the sampler was composed for {self.task}: "
                    f"compose task={request.task} (task)"
                )
            self.method.check(request)

    def _run(self, method: Any, requests: Sequence[Request], plans: Sequence[Plan]) -> Iterator[Step]:
        method = replace(method, model=self.cache.around(method.model))
        yield from method.run(Batch.of(requests, plans, method.canvas, method.seed_init))

    def _generate_batch(
        self,
        requests: Sequence[Request],
        plans: Sequence[Plan],
        recorder: Recorder,
        snapshots: bool,
        on_step: Callable[[Step], None] | None,
    ) -> list[Sample]:
        method, seconds = self.method.ready(requests)
        recorder = recorder.child()
        recorder.seconds.update(seconds)
        step = None
        last_of_cycle: dict[int, Tensor] = {}
        for step in self._run(method, requests, plans):
            recorder.add(step)
            if snapshots and step.context.cycle is not None and step.denoised is not None:
                last_of_cycle[step.context.cycle] = step.denoised
            if on_step is not None:
                on_step(step)
        assert step is not None
        with recorder.phase("decode"):
            images = pictures(method.backbone, step.latents)
            series = [pictures(method.backbone, x) for x in last_of_cycle.values()]
        traces, seconds, counts = recorder.finish(len(requests))
        samples = [
            method.finished(
                Sample(
                    request=request,
                    plan=plans[i],
                    image=images[i],
                    latents=step.latents[i : i + 1],
                    canvas=self.canvas,
                    snapshots=tuple(s[i] for s in series),
                    trace=traces[i],
                    seconds=seconds,
                    counts=counts,
                )
            )
            for i, request in enumerate(requests)
        ]
        mask = method.seed_init.mask
        return [replace(s, image=self.paste_back.over(s.image, s.request, s.plan, mask)) for s in samples]


def pictures(backbone: Backbone, latents: Tensor) -> list[Image.Image]:
    """PIL images of latents (B, C, h, w)."""
    from PIL import Image

    pixels = (backbone.decode(latents) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(p) for p in pixels]
