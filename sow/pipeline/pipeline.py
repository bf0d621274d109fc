"""SOW and COW: the components of a run put together, from requests to samples.

COW is this class composed of other components (conf/method/cow.yaml); there is no second loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sow.attention.modulation import NoModulation
from sow.errors import UserError
from sow.method import noise
from sow.method.algorithm import selective_one_way_diffusion
from sow.method.cycle import Cycle
from sow.method.diffusion import Schedule
from sow.method.guidance import ClassifierFree, Regional, Rule
from sow.method.inversion import Inversion
from sow.method.preservation import Preservation
from sow.method.seed_init import Background, PureNoise, Seed, canvas_mask, place
from sow.models.backbone import Backbone
from sow.pipeline.batches import halved, out_of_memory
from sow.pipeline.stages import Moves, Stages
from sow.pipeline.start import invert_conditions, start
from sow.pipeline.trace import Recorder
from sow.store.cache import Chain
from sow.types import Canvas, Plan, Request, Sample, Step


@dataclass(frozen=True, eq=False)
class Sampler:
    """Text-vision-to-image generation on a frozen model (Sec. IV).

    Every field but `backbone` and `canvas` is a component of the config group of the same name; `planner`, `position`
    and `intensify` make the plans.
    """

    backbone: Backbone
    canvas: Canvas
    planner: Any
    position: Any
    intensify: Any
    seed_init: Background | PureNoise
    inversion: Inversion
    cycle: Cycle
    preservation: Preservation
    guidance: ClassifierFree | Regional
    modulation: Any
    p_plus: Any
    p_minus: Any
    decay_time: Any
    decay_distance: Any
    gate: Any
    num_inference_steps: int
    task: str = "normal"
    batch_size: int = 4
    schedule: Schedule = field(init=False)
    t1: int = field(init=False)
    t2: int = field(init=False)
    t3: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        t1, t2 = self.cycle.resolve(self.num_inference_steps)
        derived = {
            "schedule": Schedule.from_config(self.backbone.scheduler_config, self.num_inference_steps),
            "t1": t1,
            "t2": t2,
            "t3": self.preservation.resolve(self.cycle, self.num_inference_steps),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def plan(self, requests: Sequence[Request]) -> list[Plan]:
        """One plan a request (Sec. IV-A), its boxes where the conditions will lie."""
        from sow.planner import make_plans

        plans = make_plans(list(requests), self.planner, self.position, self.intensify, self.canvas)
        if not self.seed_init.snap:
            return plans
        return [replace(p, boxes=tuple(b.snapped(self.canvas.factor) for b in p.boxes)) for p in plans]

    def generate(
        self,
        requests: Sequence[Request],
        *,
        plans: Sequence[Plan] | None = None,
        snapshots: bool = False,
        on_step: Callable[[Step], None] | None = None,
    ) -> list[Sample]:
        """One sample a request, in order; at most `batch_size` requests share a UNet call, which changes rounding only.

        `snapshots` decodes the predicted image after each cycle. `on_step` sees every step of every batch. A batch that
        memory does not hold is halved and made again.
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
                samples += self._generate_batch(
                    requests[here], plans[here], recorder.child(), snapshots, on_step
                )
                continue
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            # Out here the error and the tensors that its traceback held are gone.
            size = halved(self.backbone, self.canvas, len(requests[here]))
        return samples

    def steps(self, request: Request, *, plan: Plan | None = None) -> Iterator[Step]:
        """Every step of one request's run, the last one holding x_0; nothing is decoded."""
        self.check([request])
        plans = [plan] if plan is not None else self.plan([request])
        yield from self._run([request], plans)

    def denoising_steps(self, sizes: int = 1) -> int:
        """How many UNet calls (steps with the event "denoise") one batch takes whose conditions have `sizes` sizes."""
        per_cycle = self.t2 - self.cycle.last_state(self.t1)
        inversions = 0 if self.inversion.condition == "canvas" else sizes * self.t2
        start = (
            self.num_inference_steps - self.t2
            if isinstance(self.seed_init, PureNoise)
            else (self.t1 if self._inverts_to_t1 else self.t2)
        )
        return inversions + start + self.cycle.cycles * per_cycle + self.cycle.last_state(self.t1)

    def check(self, requests: Sequence[Request]) -> None:
        """Raise UserError for requests that this sampler was not composed for."""
        for request in requests:
            if not request.conditions:
                raise UserError("a request needs at least one visual condition (condition)")
            if request.task is not None and request.task != self.task:
                raise UserError(
                    f"the request's task is {request.task} but the sampler was composed for {self.task}: compose "
                    f"task={request.task} (task)"
                )

    @property
    def _inverts_to_t1(self) -> bool:
        return self.seed_init.start == "inject" and self.inversion.condition == "alone"

    def _generate_batch(
        self,
        requests: Sequence[Request],
        plans: Sequence[Plan],
        recorder: Recorder,
        snapshots: bool,
        on_step: Callable[[Step], None] | None,
    ) -> list[Sample]:
        step = None
        last_of_cycle: list[Tensor] = []
        end = self.cycle.last_state(self.t1)
        for step in self._run(requests, plans):
            recorder.add(step)
            if (
                snapshots
                and step.event == "denoise"
                and step.context.cycle is not None
                and step.context.index == end
            ):
                assert step.denoised is not None  # every denoising step predicts x_0
                last_of_cycle.append(step.denoised)
            if on_step is not None:
                on_step(step)
        assert step is not None
        with recorder.phase("decode"):
            images = pictures(self.backbone, step.latents)
            series = [pictures(self.backbone, x) for x in last_of_cycle]
        traces, seconds, counts = recorder.finish(len(requests))
        return [
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
            for i, request in enumerate(requests)
        ]

    def _run(self, requests: Sequence[Request], plans: Sequence[Plan]) -> Iterator[Step]:
        """Algorithm 1 on one batch: place, encode, invert, cycle, preserve."""
        generators = [noise.generator(r.seed) for r in requests]
        placed = [
            place(self.seed_init, r, p, self.canvas, i, g)
            for i, (r, p, g) in enumerate(zip(requests, plans, generators, strict=True))
        ]
        seeds = [seed for _, own in placed for seed in own]
        M = canvas_mask(seeds, len(requests), self.canvas.latent_size).to(self.backbone.device)
        prompts = [
            self.inversion.choose_prompt(r.prompt, p.prompt) for r, p in zip(requests, plans, strict=True)
        ]
        chain = self._chain()

        v = yield from invert_conditions(self, chain, seeds, len(requests), prompts, generators)
        x = yield from start(self, chain, [image for image, _ in placed], prompts, generators, plans, v)
        if chain.alive:
            chain.note(self.canvas, self.seed_init.start, self.cycle.last_state(self.t1), self.guidance)
            chain.note(*((s.latent_mask, s.top, s.left, s.sample, s.condition, s.box) for s in seeds))
            chain.note(self.modulation, self.gate, self.decay_distance, *(p.related for p in plans))
            chain.trust(x)

        modulator = self._modulator(plans, seeds)
        moves = Stages(self, requests, plans, M, modulator, generators, chain).functions()
        yield from selective_one_way_diffusion(
            x,
            v,
            M,
            t1=self.t1,
            t2=self.t2,
            t3=self.t3,
            N=self.cycle.cycles,
            inject_first=self.seed_init.start == "inject",
            literal=self.cycle.steps == "literal",
            timesteps=self.schedule.timesteps,
            **self._moves(moves, requests, plans, seeds),
        )

    def _chain(self) -> Chain:
        """This run's place in the model's cache; nothing is cached for a subclass."""
        cache = self.backbone.cache.open_for(self.backbone) if type(self) is Sampler else None
        schedule = self.schedule
        return Chain(
            cache,
            schedule.timesteps,
            schedule.alphas_cumprod,
            schedule.final_alpha,
            schedule.prediction_type,
            self.inversion,
        )

    def _moves(
        self, moves: Moves, requests: Sequence[Request], plans: Sequence[Plan], seeds: Sequence[Seed]
    ) -> Moves:
        """p_a, p_s, inject and replace of Algorithm 1, bound to this batch: where a subclass puts its own around them."""
        return moves

    def _modulator(self, plans: Sequence[Plan], seeds: Sequence[Seed]):
        """The modulator of this batch, None where attention is left alone."""
        if isinstance(self.modulation, NoModulation):
            return None
        from sow.attention.processor import Modulator
        from sow.method.regions import regions_of

        regions = regions_of(plans, seeds, self.canvas, self.modulation.region)
        return Modulator(
            self.modulation,
            self.gate,
            self.decay_distance,
            regions,
            self.canvas.latent_size,
            self.backbone.device,
        )

    def draw_on_host(self, shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
        """One draw of `shape` (1, C, h, w) for each generator, as a batch in the model's precision, on the CPU."""
        return torch.cat([noise.randn(shape, g, "cpu", self.backbone.dtype) for g in generators])

    def to_device(self, x: Tensor) -> Tensor:
        """`x` on the model's device; from pinned memory, so that the host does not wait for what the device has to do."""
        if self.backbone.device.type == "cuda":
            return x.pin_memory().to(self.backbone.device, non_blocking=True)
        return x.to(self.backbone.device)

    def _draw(self, shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
        """One draw of `shape` (1, C, h, w) for each generator, as a batch."""
        return self.to_device(self.draw_on_host(shape, generators))

    def _embeds(self, rule: Rule, prompts: Sequence[str]) -> Tensor:
        """Prompt embeddings of every branch, branch by branch: (branches x B, length, channels)."""
        branches = zip(*(rule.prompts(p) for p in prompts), strict=True)
        return torch.cat([self.backbone.embed(branch) for branch in branches])

    def _epsilon(self, rule: Rule, x: Tensor, k: int, embeds: Tensor, mask: Tensor) -> Tensor:
        """Guided noise prediction of step k for x (B, C, h, w)."""
        branches = len(embeds) // len(x)
        output = self.backbone.predict(torch.cat([x] * branches), self.schedule.timesteps[k], embeds)
        output = self.schedule.epsilon(output, torch.cat([x] * branches), k)
        return rule.combine(output.chunk(branches), mask)


def pictures(backbone: Backbone, latents: Tensor) -> list[Any]:
    """PIL images of latents (B, C, h, w)."""
    from PIL import Image

    pixels = (backbone.decode(latents) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(p) for p in pixels]
