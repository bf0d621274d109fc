"""Observation leaves a run as it was, masses are those of the softmax that is applied,
and responses are what they say."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from sow import build, compose
from sow.attention.regions import SampleRegions
from sow.dynamics import perturb, record, summary
from sow.dynamics.observe import REGIONS, AttentionMass, SelfAttention, observed, three_regions
from sow.dynamics.plain import plain
from sow.dynamics.samples import spread
from sow.types import Request

SMALL = ["model=tiny", "model.dtype=float64", "tracker=none", "cycle.cycles=2", "batch_size=8"]


@pytest.fixture(scope="module")
def config():
    return compose(SMALL)


@pytest.fixture(scope="module")
def sampler(config):
    return build(config)


@pytest.fixture(scope="module")
def request_and_plan(config, sampler):
    request = Request(config.condition.load(0), config.prompt, config.task.name, 0, "0")
    return request, sampler.plan([request])[0]


@pytest.fixture(scope="module")
def untouched(sampler, request_and_plan):
    request, plan = request_and_plan
    return sampler.generate([request], plans=[plan])[0].latents


def regions() -> SampleRegions:
    condition, related = torch.zeros(1, 8, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool)
    condition[0, 1:4, 2:5] = True
    related[4:7, 1:7] = True
    return SampleRegions(condition, related, torch.tensor([[0.3, 0.4]], dtype=torch.float64))


def layer_of(sampler):
    layers = [(n, m) for n, m in sampler.backbone.unet.named_modules() if n.endswith(".attn1")]
    return layers[0]


def test_masses_are_sums_of_the_softmax(sampler) -> None:
    name, attention = layer_of(sampler)
    hidden = torch.randn(
        2, 64, attention.to_q.in_features, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    watcher = AttentionMass([regions(), regions()], (8, 8), torch.device("cpu"))
    watcher.see(name, SelfAttention(attention, hidden))
    watcher.end()
    got = watcher.calls[0][name][0]
    q, k = (
        f(hidden).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        for f in (attention.to_q, attention.to_k)
    )
    weights = ((q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5).softmax(-1).mean(1)
    inside = three_regions(regions(), (8, 8)).double()
    for x in range(3):
        for y in range(3):
            rows = inside[:, x] > 0
            want = (weights[:, rows] * inside[:, y]).sum(-1).mean(-1)
            assert torch.allclose(got[:, x, y].double(), want, atol=1e-6)


def test_regions_cover_every_token_once() -> None:
    for size in ((8, 8), (4, 4), (3, 5)):
        assert torch.equal(three_regions(regions(), size).sum(1), torch.ones(size[0] * size[1]))


def test_watching_changes_nothing_and_leaves_nothing(sampler, config, request_and_plan, untouched) -> None:
    request, plan = request_and_plan
    shadows = {"own": (config.modulation, config.gate, config.decay_distance)}
    attention, gates, samples = record.flow_rows(sampler, [request], [plan], "mask", shadows)
    assert torch.equal(samples[0].latents, untouched)
    modules = list(sampler.backbone.unet.modules())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in modules)
    table = pd.DataFrame(attention)
    sums = table.groupby(["step", "layer", "query"])["mass"].sum()
    assert sums.to_numpy() == pytest.approx(1.0, abs=1e-5)
    steps = len(perturb.denoising_contexts(sampler.method))
    assert sorted(table.step.unique()) == list(range(steps))
    # What the shadow gate reads is what the run's own gates read.
    trace = pd.DataFrame(samples[0].trace)
    own = trace[(trace.phase == "cycle") & (trace.event == "denoise")].reset_index(drop=True)
    shadow = pd.DataFrame(gates)
    shadow = shadow[shadow.phase == "cycle"]
    for row in shadow.itertuples():
        assert row.r_c == pytest.approx(own.loc[row.step, f"r_c/{row.layer}"], abs=1e-6)


def test_hooks_are_gone_after_an_exception(sampler) -> None:
    with pytest.raises(ZeroDivisionError), observed(sampler.backbone.unet, (8, 8), lambda: True):
        raise ZeroDivisionError
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in sampler.backbone.unet.modules())


def test_modulated_attention_is_watched_as_modulated(request_and_plan) -> None:
    request, plan = request_and_plan
    strong = build(compose([*SMALL, "cycle.cycles=1", "gate=always", "p_plus.omega=4", "p_minus.omega=4"]))
    weak = build(compose([*SMALL, "cycle.cycles=1", "modulation=none"]))
    means = {}
    for name, sampler in (("strong", strong), ("weak", weak)):
        rows, _, _ = record.flow_rows(sampler, [request], [plan], "box", {})
        table = pd.DataFrame(rows)
        first = table[table.step == 0]
        means[name] = {flow: t.ratio.mean() for flow, t in summary.ratios(first).items()}
    assert means["strong"]["cr_to_c"] > 1.02 * means["weak"]["cr_to_c"]
    assert means["strong"]["c_to_nc"] < means["weak"]["c_to_nc"]


def test_only_what_is_perturbed_changes(sampler, request_and_plan, untouched) -> None:
    request, plan = request_and_plan
    probe = record.Probe(("condition", "rest"), 1, 0.1, "mask", 7)
    rows, maps, base = record.response_rows(sampler, request, plan, probe)
    assert torch.allclose(base.latents, untouched, atol=1e-9)
    table = pd.DataFrame(rows)
    assert set(table.source) == {"condition", "rest"} and set(table.target) == set(REGIONS)
    assert (table.energy > 0).all()
    # One-way: the condition is put back after every step, so what was done to it at the first step leaves it
    # by the steps after the last replacement alone, while the surroundings keep what was done to them.
    value = table.set_index(["source", "target"]).response
    assert value["condition", "condition"] < 0.5 * value["rest", "rest"]


def test_a_held_condition_stays_perturbed(sampler, request_and_plan) -> None:
    request, plan = request_and_plan
    rows, _, _ = record.response_rows(
        sampler, request, plan, record.Probe(("condition", "held"), 1, 0.1, "mask", 7)
    )
    value = pd.DataFrame(rows).set_index(["source", "target"]).response
    assert value["held", "condition"] > 5 * value["condition", "condition"]


def test_plain_sampling_replaces_once_and_has_no_cycle(sampler, request_and_plan) -> None:
    request, plan = request_and_plan
    steps = [s for s in plain(sampler).steps(request, plan=plan) if s.context.phase in ("cycle", "preserve")]
    assert [s.event for s in steps].count("replace") == 1
    assert [s.context.index for s in steps if s.event == "denoise"] == list(
        range(sampler.method.t2 - 1, -1, -1)
    )
    assert not any(s.gates for s in steps)
    rows, _, _ = record.response_rows(
        plain(sampler),
        request,
        plan,
        record.Probe(("condition", "held", "related", "rest"), 1, 0.1, "mask", 7),
    )
    flow = summary.flows(pd.DataFrame(rows))
    assert flow["one_wayness_cycle"] is None and abs(flow["one_wayness"]) < 0.5
    # Nothing is replaced after the first step, so to hold a perturbation is to make it once.
    assert flow["one_wayness"] == pytest.approx(flow["one_wayness_once"], abs=1e-6)


def test_one_wayness_tells_directions_apart(sampler, request_and_plan) -> None:
    request, plan = request_and_plan
    rows, _, _ = record.response_rows(
        sampler, request, plan, record.Probe(("condition", "held", "related", "rest"), 1, 0.1, "mask", 7)
    )
    flow = summary.flows(pd.DataFrame(rows))
    assert flow["one_wayness"] >= flow["one_wayness_once"] > 0.8
    assert perturb.one_wayness(1.0, 1.0) == 0 and perturb.one_wayness(2.0, 0.0) == 1
    assert pd.isna(perturb.one_wayness(0.0, 0.0))


def test_responses_are_root_mean_squares_per_unit() -> None:
    inside = three_regions(regions(), (8, 8)).unflatten(0, (8, 8))
    delta = torch.stack([2.0 * inside[..., 0] + 3.0 * inside[..., 2]] * 4)
    got = perturb.responses(delta, inside, strength=0.5)
    assert got["condition"] == pytest.approx((4.0, 4 * 9 * 4 / 0.25))
    assert got["related"] == pytest.approx((0.0, 0.0))
    assert got["rest"][0] == pytest.approx(6.0)


def test_noise_of_two_regions_is_one_field() -> None:
    inside = three_regions(regions(), (8, 8)).unflatten(0, (8, 8))
    parts = [perturb.region_noise(inside[..., i], 4, 0.3, 5) for i in range(3)]
    whole = perturb.region_noise(torch.ones(8, 8), 4, 0.3, 5)
    assert torch.allclose(sum(parts), whole)
    assert whole.std().item() == pytest.approx(0.3, rel=0.2)


def test_steps_are_spread_over_the_whole_run() -> None:
    assert spread(range(25), 5) == [0, 6, 12, 18, 24]
    assert spread(range(3), 9) == [0, 1, 2]
    assert spread(range(25), 1) == [0]
