"""Runs observed: tidy rows of attention mass, of gate readings, and of responses to perturbations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from sow.attention.gate import nearest_count
from sow.attention.modulator import Modulator
from sow.attention.processor import modulated_layers
from sow.attention.regions import SampleRegions
from sow.dynamics.observe import REGIONS, TEXT, AttentionMass, ShadowGate, Watcher, observed, three_regions
from sow.dynamics.perturb import (
    HELD,
    Perturbation,
    cyclic,
    denoising_contexts,
    perturbed,
    region_noise,
    responses,
)
from sow.dynamics.samples import spread
from sow.method.regions import regions_of
from sow.method.seed_init import Batch
from sow.pipeline.pipeline import Pipeline
from sow.types import Plan, Request, Sample, Step, StepContext

Row = dict[str, Any]
INSIDE = ("sample", "cycle", "preserve")  # phases in which the image is made


def regions(
    sampler: Pipeline, requests: Sequence[Request], plans: Sequence[Plan], region: str
) -> list[SampleRegions]:
    """c (its "box" or latent "mask"), cr and centres of each request, where the sampler would place them."""
    batch = Batch.of(requests, plans, sampler.canvas, sampler.method.seed_init)
    return regions_of(plans, batch.placed, sampler.canvas, region)


def batches(count: int, size: int) -> list[slice]:
    """Slices of at most `size`."""
    return [slice(i, min(i + size, count)) for i in range(0, count, size)]


def watch(
    sampler: Pipeline,
    requests: Sequence[Request],
    plans: Sequence[Plan],
    *watchers: Watcher,
    phases: Sequence[str] = INSIDE,
) -> tuple[list[Sample], list[StepContext]]:
    """One batch made under observation: the samples,
    and the context of each UNet call that the watchers saw."""
    contexts: list[StepContext] = []
    phase: list[str] = [""]

    def on_step(step: Step) -> None:
        phase[0] = step.context.phase
        if step.event == "denoise" and phase[0] in phases:
            contexts.append(step.context)

    with observed(sampler.backbone.unet, sampler.canvas.latent_size, lambda: phase[0] in phases, *watchers):
        watched = perturbed(sampler, {}).variant(batch_size=len(requests))
        samples = watched.generate(requests, plans=plans, on_step=on_step)
    return samples, contexts


def flow_rows(
    sampler: Pipeline,
    requests: Sequence[Request],
    plans: Sequence[Plan],
    region: str | None,
    shadows: Mapping[str, tuple[Any, Any, Any]],
    phases: Sequence[str] = INSIDE,
) -> tuple[list[Row], list[Row], list[Sample]]:
    """Attention mass, what gates would read, and the samples.

    Attention, unless `region` is None: a row per request, step, layer and pair of regions, with the mass
    m[query, key] and what uniform attention would give. Gates: a row per request, step, layer and `reading`,
    a name of `shadows`, each (modulation, gate, decay of distance). `step` counts the denoising steps of
    `phases`; `tokens` is the layer's size.
    """
    attention: list[Row] = []
    gates: list[Row] = []
    samples: list[Sample] = []
    size, device = sampler.canvas.latent_size, sampler.backbone.device
    branch = cyclic(sampler).guidance.in_cycle().text_branch
    names = [name for name, _ in modulated_layers(sampler.backbone.unet)]
    kinds = {modulation.region for modulation, _, _ in shadows.values()} | ({region} if region else set())
    for here in batches(len(requests), sampler.batch_size):
        group, planned = requests[here], plans[here]
        found = {kind: regions(sampler, group, planned, kind) for kind in kinds}
        masses = [AttentionMass(found[region], size, device)] if region else []
        watchers = {
            name: ShadowGate(Modulator(m, gate, decay, found[m.region], size, device), branch)
            for name, (m, gate, decay) in shadows.items()
        }
        for watcher in watchers.values():
            watcher.modulator.number(names)
        made, contexts = watch(sampler, group, planned, *masses, *watchers.values(), phases=phases)
        samples += made
        for step, context in enumerate(contexts):
            for mass in masses:
                for layer, value in mass.calls[step].items():
                    own = value[min(branch, len(value) - 1)]
                    attention += mass_rows(group, mass, context, step, layer, own)
            for name, watcher in watchers.items():
                placed = found[shadows[name][0].region]
                gates += [
                    {"reading": name, **row} for row in gate_rows(group, placed, watcher, context, step)
                ]
    return attention, gates, samples


def mass_rows(
    requests: Sequence[Request],
    masses: AttentionMass,
    context: StepContext,
    step: int,
    layer: str,
    value: Tensor,
) -> list[Row]:
    """Rows of one layer of one step; `value` (B, R, R)."""
    tokens = masses.tokens[layer]
    share, values = masses.shares[layer].tolist(), value.tolist()
    names = (*REGIONS, TEXT)[: value.shape[-1]]
    return [
        {
            "request": request.id,
            "step": step,
            **moment_columns(context),
            "layer": layer,
            "tokens": tokens,
            "query": query,
            "key": key,
            "mass": values[b][x][y],
            "uniform": share[b][y],
        }
        for b, request in enumerate(requests)
        for x, query in enumerate(names)
        for y, key in enumerate(names)
    ]


def gate_rows(
    requests: Sequence[Request],
    found: Sequence[SampleRegions],
    watcher: ShadowGate,
    context: StepContext,
    step: int,
) -> list[Row]:
    """Rows of one step: R_c of every layer as its gate reads it, and whether the gate is open there.

    `points` is m, the points of the related region in the layer, `uniform` = k / m what uniform attention
    reads, and `own` whether the layer's own R_c decides: one with too few points borrows, and its factor is
    that of the borrowed value.
    """
    gate = watcher.modulator.gate
    rows = []
    for layer, (r, f) in watcher.calls[step].items():
        tokens = watcher.tokens[layer]
        size = watcher.modulator.sizes[tokens]
        for b, request in enumerate(requests):
            points = int(three_regions(found[b], size)[:, REGIONS.index("related")].sum())
            for part, (value, factor) in enumerate(zip(r[b].tolist(), f[b].tolist(), strict=True)):
                if value != value:  # nan: the layer has no such region
                    continue
                rows.append(
                    {
                        "request": request.id,
                        "step": step,
                        **moment_columns(context),
                        "layer": layer,
                        "tokens": tokens,
                        "part": part,
                        "points": points,
                        "uniform": nearest_count(points, gate.fraction) / points,
                        "own": gate.scope == "layer" and points >= gate.min_points,
                        "r_c": value,
                        "open": factor > 0,
                    }
                )
    return rows


def layout(sampler: Pipeline, request: Request, plan: Plan, region: str) -> Tensor:
    """(h, w, 3) indicators of condition, related region and rest on the latents."""
    height, width = sampler.canvas.latent_size
    (found,) = regions(sampler, [request], [plan], region)
    return three_regions(found, (height, width)).unflatten(0, (height, width))


@dataclass(frozen=True)
class Probe:
    """A causal measurement: `positions` steps of a run, one perturbation per step and source, of `strength`
    (latents have a standard deviation of about one). `sources` are of condition, related, rest and held (see
    `Perturbation`)."""

    sources: Sequence[str]
    positions: int
    strength: float
    region: str
    seed: int


def response_rows(
    sampler: Pipeline, request: Request, plan: Plan, probe: Probe
) -> tuple[list[Row], dict[tuple[str, int], Tensor], Sample]:
    """One row per source, step and target region, with G and F; the changes |D| (h, w) by (source, step); the
    plain run.

    Every row of a batch has the request's own seed, so a change comes from the perturbation and from rounding
    alone.
    """
    indicators = layout(sampler, request, plan, probe.region)
    contexts = denoising_contexts(cyclic(sampler))
    wanted: dict[str, tuple[str, int]] = {}
    perturbations: dict[str, Perturbation] = {}
    for step in spread(range(len(contexts)), probe.positions):
        for source in probe.sources:
            where = indicators[..., REGIONS.index("condition" if source == HELD else source)]
            if not where.any():
                continue
            delta = region_noise(where, sampler.backbone.channels, probe.strength, probe.seed)
            key = f"{request.id}:{source}:{step}"
            wanted[key] = (source, step)
            perturbations[key] = Perturbation(delta, contexts[step], source == HELD)
    copies = [request, *(replace(request, id=key) for key in wanted)]
    samples = perturbed(sampler, perturbations).generate(copies, plans=[plan] * len(copies))
    base = samples[0].latents[0].float().cpu()
    rows: list[Row] = []
    maps: dict[tuple[str, int], Tensor] = {}
    for sample, (source, step) in zip(samples[1:], wanted.values(), strict=True):
        change = sample.latents[0].float().cpu() - base
        maps[source, step] = change.pow(2).mean(0).sqrt()
        for target, (response, energy) in responses(change, indicators, probe.strength).items():
            rows.append(
                {
                    "request": request.id,
                    "step": step,
                    **moment_columns(contexts[step]),
                    "source": source,
                    "target": target,
                    "response": response,
                    "energy": energy,
                }
            )
    return rows, maps, samples[0]


def moment_columns(context: StepContext) -> Mapping[str, Any]:
    """Where a step stands, as columns."""
    return {name: getattr(context, name) for name in ("phase", "cycle", "index", "timestep")}
