"""What a run leaves behind besides its image: a row per step, seconds per phase, UNet evaluations by size."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sow.errors import UserError
from sow.models.backbone import Backbone
from sow.types import Step, StepContext


class Recorder:
    """Collects the steps of one batch on the device and brings them to the host once per phase."""

    def __init__(self, backbone: Backbone, seconds: Mapping[str, float] | None = None) -> None:
        self.backbone = backbone
        self.seconds: defaultdict[str, float] = defaultdict(float, seconds or {})
        self.before = Counter(backbone.evaluations)
        self.rows: list[tuple[Step, Tensor]] = []
        self.unchecked: list[tuple[StepContext, Tensor]] = []
        self.current: str | None = None
        self.since = time.perf_counter()

    def child(self) -> Recorder:
        """A recorder for one batch that starts with the seconds spent for all of them."""
        return Recorder(self.backbone, self.seconds)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the seconds of the block as `name`."""
        self._turn(None)
        start = time.perf_counter()
        yield
        self._synchronize()
        self.seconds[name] += time.perf_counter() - start

    def add(self, step: Step) -> None:
        """One step; a new phase closes the last one's time and checks that its latents were finite."""
        phase = step.context.phase
        if phase != self.current:
            self._turn(phase)
        norm = step.latents.detach().flatten(1).float().norm(dim=1)
        self.rows.append((replace(step, latents=norm, denoised=None), norm))
        self.unchecked.append((step.context, norm.isfinite().all()))

    def _turn(self, phase: str | None) -> None:
        self._synchronize()
        now = time.perf_counter()
        # Before the first step comes encoding and planning of the batch, counted with the first phase.
        name = self.current or phase
        if name is not None:
            self.seconds[name] += now - self.since
        self.since, self.current = now, phase
        if self.unchecked:
            good = torch.stack([ok for _, ok in self.unchecked]).cpu()
            if not good.all():
                context = self.unchecked[int((~good).nonzero()[0])][0]
                raise UserError(
                    f"latents are not finite in phase {context.phase}, cycle {context.cycle}, step "
                    f"{context.index}: {self.backbone.precision_cure()}"
                )
        self.unchecked = []

    def _synchronize(self) -> None:
        if self.backbone.device.type == "cuda":
            torch.cuda.synchronize(self.backbone.device)

    def finish(self, batch: int) -> tuple[list[tuple[dict[str, Any], ...]], dict[str, float], dict[str, int]]:
        """(rows per sample, seconds by phase, UNet sample-evaluations by latent size)."""
        self._turn(None)
        traces: list[list[dict[str, Any]]] = [[] for _ in range(batch)]
        for step, norm in self.rows:
            norms = norm.cpu().tolist()
            gates = {name: (r.float().cpu(), f.float().cpu()) for name, (r, f) in step.gates.items()}
            for i, sample in enumerate(range(batch) if step.samples is None else step.samples):
                row = {
                    "phase": step.context.phase,
                    "cycle": step.context.cycle,
                    "index": step.context.index,
                    "timestep": step.context.timestep,
                    "event": step.event,
                    "norm": norms[i],
                }
                for name, (r, f) in gates.items():
                    for part in range(r.shape[1]):
                        suffix = "" if r.shape[1] == 1 else f".{part}"
                        row[f"r_c/{name}{suffix}"] = float(r[i, part])
                        row[f"gate/{name}{suffix}"] = float(f[i, part])
                traces[sample].append(row)
        counts = Counter(self.backbone.evaluations)
        counts.subtract(self.before)
        named = {f"{h}x{w}": n for (h, w), n in counts.items() if n}
        return [tuple(t) for t in traces], dict(self.seconds), named
