"""The method as a whole on random weights: what moves it, what must not, and what its steps show."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sow import build, compose
from sow.attention.modulation import NoModulation
from sow.config.compose import CONF
from sow.errors import UserError
from sow.method import noise
from sow.types import Box, Plan, Request, VisualCondition

TINY = [
    "model=tiny",
    "model.dtype=float64",
    "model.device=cpu",
    "planner=fixed",
    "intensify=none",
    "metrics=none",
]
SHORT = "calibration.cycles=3"


def picture(seed: int, size: int = 64) -> Image.Image:
    values = noise.randn((1, 3, size, size), noise.generator(seed), "cpu", torch.float32)[0]
    return Image.fromarray(((values.clamp(-1, 1) + 1) * 127).byte().permute(1, 2, 0).numpy())


def disc(size: int = 64) -> Image.Image:
    y, x = np.mgrid[:size, :size] - size / 2 + 0.5
    return Image.fromarray(((x**2 + y**2 < (size * 0.45) ** 2) * 255).astype("uint8"))


def request(i: int = 0, conditions: int = 1, **kw) -> Request:
    own = tuple(VisualCondition(picture(10 * i + j), disc()) for j in range(conditions))
    return Request(own, f"a person {i} in a forest", seed=i, id=str(i), **kw)


def plan(i: int = 0) -> Plan:
    side = 64 - 8 * (i % 2)
    return Plan((Box(16 + 8 * i, 8, side, side),), (Box(16, 72, 96, 56),), f"person {i}", "test")


def sampler(*overrides: str):
    return build(compose([*TINY, SHORT, *overrides]))


def latents(made, i: int = 0) -> torch.Tensor:
    return made.generate([request(i)], plans=[plan(i)])[0].latents


def moved(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture(scope="module")
def full():
    return sampler("gate.tau=0")


@pytest.fixture(scope="module")
def reference(full):
    return latents(full)


def test_a_batch_of_four_equals_four_singles(full):
    requests, plans = [request(i) for i in range(4)], [plan(i) for i in range(4)]
    together = full.generate(requests, plans=plans)
    for i in range(4):
        assert moved(together[i].latents, latents(full, i)) < 1e-6
    split = replace(full, batch_size=3).generate(requests, plans=plans)
    assert [s.request.id for s in split] == ["0", "1", "2", "3"]
    assert moved(split[3].latents, together[3].latents) < 1e-6


def test_one_step_of_a_float32_batch_equals_the_single_step():
    made = sampler("gate.tau=0", "model.dtype=float32", "cycle.cycles=1")
    x = torch.cat([noise.randn((1, 4, 16, 16), noise.generator(i), "cpu", torch.float32) for i in range(4)])
    embeds = made.backbone.embed(["one", "two", "three", "four"])
    together = made.backbone.predict(x, 501, embeds)
    for i in range(4):
        assert moved(together[i : i + 1], made.backbone.predict(x[i : i + 1], 501, embeds[i : i + 1])) < 1e-5


def test_same_seed_and_batch_give_the_same_bytes(full, reference):
    assert torch.equal(latents(full), reference)
    assert moved(full.generate([replace_seed(request(0), 7)], plans=[plan(0)])[0].latents, reference) > 1e-3


def replace_seed(old: Request, seed: int) -> Request:
    return Request(old.conditions, old.prompt, old.task, seed, old.id)


@pytest.mark.parametrize(
    "override",
    [
        "modulation=none",
        "p_plus=none",
        "p_minus=none",
        "decay_time=none",
        "decay_distance=none",
        "gate=always",
        "seed_init=none",
        "cycle=once",
        "preservation.t3=[]",
        "gate.queries=condition",
        "gate.score=softmax",
        "gate.scope=previous",
        "gate.min_points=40",
        "modulation.normalisation=head",
        "modulation.normalisation=none",
        "modulation.normalisation=literal",
        "modulation.branches=all",
        "modulation.region=mask",
        "modulation.blocks=[up]",
        "modulation.resolutions=[16]",
        "decay_time.clock=step",
        "decay_time.clock=cycle_from_one",
        "decay_distance.unit=grid16",
        "decay_distance.unit=token",
        "seed_init=black",
        "seed_init=noise",
        "seed_init.start=inject",
        "inversion.guidance_scale=1",
        "inversion.prompt=empty",
        "inversion.condition=canvas",
        "inversion.levels=official",
        "inversion.vae=sample",
        "cycle.inject_levels=official",
        "cycle.steps=literal",
        "cycle.eta=0",
        "preservation.prompt=intensified",
        "guidance=none",
        "guidance=regional",
    ],
)
def test_every_choice_changes_the_image(override, reference):
    tau = [] if override == "gate=always" else ["gate.tau=0"]
    assert moved(latents(sampler(*tau, override)), reference) > 1e-9


@pytest.mark.parametrize("ablation", sorted(p.stem for p in (CONF / "ablation").glob("*.yaml")))
def test_every_ablation_runs(ablation):
    """From the plan to the image; what it changes in the configuration is in test_configs.py."""
    sample = sampler(f"+ablation={ablation}", "model.dtype=float32").generate([request(0)])[0]
    assert sample.latents.isfinite().all()
    assert any(k.startswith("gate/") for row in sample.trace for k in row) == (ablation != "no_dam")
    if ablation == "no_ap":
        assert sample.plan.boxes[0] != Box(32, 0, 64, 64)


def test_zero_strengths_equal_stock_attention(full):
    neutral = sampler("gate.tau=0", "p_plus=none", "p_minus=none")
    assert moved(latents(neutral), latents(sampler("modulation=none"))) < 1e-12


def test_a_shut_gate_equals_stock_attention():
    assert moved(latents(sampler("gate.tau=1")), latents(sampler("modulation=none"))) < 1e-12


def test_steps_show_the_whole_run(full):
    steps = list(full.steps(request(0), plan=plan(0)))
    assert {s.event for s in steps} == {"start", "inject", "denoise", "replace"}
    phases = [s.context.phase for s in steps]
    assert sorted(set(phases), key=phases.index) == ["invert_condition", "invert_canvas", "cycle", "preserve"]
    denoised = Counter(s.context.phase for s in steps if s.event == "denoise")
    assert denoised == {"invert_condition": 7, "invert_canvas": 7, "cycle": 6, "preserve": 5}
    assert sum(denoised.values()) == full.denoising_steps()
    replaced = [(s.context.cycle, s.context.index) for s in steps if s.event == "replace"]
    assert replaced == [(c, k) for c in range(3) for k in (7, 6, 5)] + [(None, 4), (None, 3)]
    assert sum(s.event == "inject" for s in steps) == 2
    assert all(s.gates for s in steps if s.event == "denoise" and s.context.phase == "cycle")
    assert not any(s.gates for s in steps if s.context.phase != "cycle")
    made = full.generate([request(0)], plans=[plan(0)])[0]
    assert torch.equal(made.latents, steps[-1].latents)


def test_replacement_is_exact_inside_the_mask_and_touches_nothing_outside(full):
    from sow.method.seed_init import canvas_mask, place

    inverted, before = {}, None
    _, seeds = place(full.method.seed_init, request(0), plan(0), full.canvas, 0, noise.generator(0))
    mask = canvas_mask(seeds, 1, full.canvas.latent_size)
    (seed,) = seeds
    height, width = seed.latent_mask.shape
    assert 0 < mask.sum() < height * width
    for step in full.steps(request(0), plan=plan(0)):
        if step.context.phase == "invert_condition":
            inverted[0 if step.event == "start" else step.context.index + 1] = step.latents
        if step.event == "replace":
            window = step.latents[:, :, seed.top : seed.top + height, seed.left : seed.left + width]
            kept = seed.latent_mask.expand_as(window)
            assert torch.equal(window[kept], inverted[step.context.index][kept])
            outside = ~mask.expand_as(step.latents)
            assert torch.equal(step.latents[outside], before[outside])
        before = step.latents


def test_processors_are_restored_after_an_exception(full):
    before = dict(full.backbone.unet.attn_processors)
    original, calls = full.backbone.unet.forward, []

    def failing(*args, **kwargs):
        calls.append(full.backbone.unet.attn_processors != before)
        if calls[-1]:
            raise RuntimeError("stop")
        return original(*args, **kwargs)

    full.backbone.unet.forward = failing
    try:
        with pytest.raises(RuntimeError, match="stop"):
            latents(full)
    finally:
        full.backbone.unet.forward = original
    assert calls[-1] and full.backbone.unet.attn_processors == before


@pytest.mark.parametrize("conditions", ["union", "each"])
def test_several_conditions_of_different_sizes(conditions):
    made = sampler("gate.tau=0", f"modulation.conditions={conditions}")
    both = Plan((Box(0, 0, 48, 48), Box(72, 8, 56, 56)), (Box(0, 64, 128, 64),), "two people", "test")
    steps = list(made.steps(request(0, conditions=2), plan=both))
    sizes = {s.latents.shape[-1] for s in steps if s.context.phase == "invert_condition"}
    assert sizes == {6, 7}
    gates = next(s.gates for s in steps if s.gates)
    assert next(iter(gates.values()))[0].shape == (1, 1 if conditions == "union" else 2)
    mixed = made.generate([request(0, conditions=2), request(1)], plans=[both, plan(1)])
    assert moved(mixed[0].latents, steps[-1].latents) < 1e-6
    assert moved(mixed[1].latents, latents(made, 1)) < 1e-6


def test_a_conditions_rows_are_traced_for_its_own_sample():
    """Two conditions of one size belong to the first sample, although a batch of two has as many rows."""
    made = sampler()
    both = Plan((Box(0, 0, 48, 48), Box(72, 8, 48, 48)), (Box(0, 64, 128, 64),), "two people", "test")
    one = Plan((Box(8, 8, 56, 56),), (Box(0, 64, 128, 64),), "a person", "test")
    found = made.generate([request(0, conditions=2), request(1)], plans=[both, one])
    inverted = [[row["norm"] for row in s.trace if row["phase"] == "invert_condition"] for s in found]
    steps = made.method.t2 + 1
    assert [len(norms) for norms in inverted] == [2 * steps, steps]
    assert moved(torch.tensor(inverted[1]), torch.tensor(inverted[0][:steps])) > 1e-3


@pytest.mark.parametrize(
    "overrides", [["num_inference_steps=20"], ["num_inference_steps=50"], ["width=160", "height=136"]]
)
def test_other_step_counts_and_canvases(overrides):
    made = sampler("gate.tau=0", *overrides)
    sample = made.generate([request(0)], plans=[plan(0)], snapshots=True)[0]
    assert sample.image.size == (made.canvas.width, made.canvas.height)
    assert sample.latents.isfinite().all() and len(sample.snapshots) == 3
    k = made.model.schedule.steps
    assert (made.method.t1, made.method.t2) == (k // 2, int(0.7 * k))


def test_moved_cycles_move_t3():
    assert sampler("cycle.t1=3", "cycle.t2=5").method.t3 == (2, 1)
    assert sampler("cycle.t1=7", "cycle.t2=9").method.t3 == (5, 4)
    with pytest.raises(UserError, match="t3"):
        sampler("cycle.t1=3", "cycle.t2=5", "preservation.t3=[4]")


def test_wrong_requests_fail_in_one_line(full):
    with pytest.raises(UserError, match="at least one visual condition"):
        full.generate([Request((), "a person")])
    with pytest.raises(UserError, match="task=style"):
        full.generate([request(0, task="style")])
    far = Plan((Box(100, 0, 64, 64),), (), "x", "test")
    with pytest.raises(UserError, match="outside"):
        full.generate([request(0)], plans=[far])


def test_non_finite_latents_are_reported_with_their_step(full):
    original = full.backbone.unet.forward

    def broken(x, t, **kwargs):
        (out,) = original(x, t, **kwargs)
        return (out * float("nan"),) if t == 601 else (out,)

    full.backbone.unet.forward = broken
    try:
        with pytest.raises(UserError, match="phase invert_condition, cycle None, step 6.*model.path"):
            latents(full)
    finally:
        full.backbone.unet.forward = original


def test_a_trace_row_a_step_and_the_gates_in_it(full):
    sample = full.generate([request(0)], plans=[plan(0)])[0]
    rows = [r for r in sample.trace if r["phase"] == "cycle" and r["event"] == "denoise"]
    assert len(rows) == 6 and all(np.isfinite(r["norm"]) for r in sample.trace)
    layers = [key.removeprefix("gate/") for key in rows[0] if key.startswith("gate/")]
    assert layers and all(f"r_c/{layer}" in rows[0] for layer in layers)
    assert any(rows[-1][f"gate/{layer}"] > 0 for layer in layers)
    assert {"invert_condition", "invert_canvas", "cycle", "preserve", "decode"} <= set(sample.seconds)


def test_no_modulation_is_no_processor():
    made = sampler("modulation=none")
    assert isinstance(made.method.modulation, NoModulation)
    assert not any(s.gates for s in made.steps(request(0), plan=plan(0)))
