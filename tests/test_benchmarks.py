"""The benchmarks measure what they say: equal work and equal results first; no test here looks at a clock."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import growth, models, ratios, speed, work
from benchmarks.attention import calls
from benchmarks.timing import Timed, interleaved, interval, quartiles, ratio
from sow.attention.processor import SelfAttentionProcessor, self_attention
from sow.models.backbone import Backbone
from sow.report import blocks

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sampler():
    made = models.sampler("tiny", "cpu", "float32")
    return made.variant(cycle=replace(made.method.cycle, cycles=1))


@pytest.fixture(scope="module")
def requests():
    return models.requests(2)


def test_contestants_take_turns():
    order: list[str] = []
    timed = interleaved({n: lambda n=n: order.append(n) for n in "ab"}, rounds=3, device=CPU, warmup=1)
    assert order == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert {n: len(t.seconds) for n, t in timed.items()} == {"a": 3, "b": 3}
    assert all(t.peak_mib > 0 for t in timed.values())


def test_ratios_are_of_rounds():
    over, under = Timed((2.0, 9.0, 4.0), 1.0), Timed((1.0, 3.0, 1.0), 1.0)
    assert ratio(over, under) == (3.0, 2.5, 3.5)
    assert quartiles([5.0]) == (5.0, 5.0, 5.0)
    assert work.Row("x", (1.1, 1, 2), at_most=1.15).met and not work.Row("x", (3.9, 1, 2), at_least=4).met
    assert work.Row("x", (1.0, 1.0, 1.0)).met is None


def test_unequal_work_is_an_error_before_anything_is_timed():
    assert work.same_work("x", a={(8, 8): 2}, b={(8, 8): 2}) == "2 at 8x8"
    with pytest.raises(AssertionError, match="not do the same work"):
        work.same_work("x", a={(8, 8): 2}, b={(8, 8): 3})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_attention_contestants_compute_the_same(dtype):
    made = calls(CPU, dtype, latent=16)
    plain = made.plain()
    sides = (made.ours(), made.materialised(), made.materialised_text(), made.masked())
    for i, (ours, *others) in enumerate(zip(*sides, strict=True)):
        tolerance = 1e-4 if dtype == torch.float32 else 3e-2
        for theirs in others:
            assert ((ours - theirs).float().norm() / theirs.float().norm()).item() < tolerance
        assert torch.equal(ours[:1], plain[i][:1])
        if made.modulator.buckets.get(ours.shape[2]) and dtype == torch.float32:
            assert not torch.allclose(ours[1:], plain[i][1:], atol=1e-6)


def test_recorded_calls_are_those_of_a_run(sampler, requests):
    backbone = sampler.backbone
    work.forget_prompts(backbone)
    plans = sampler.plan(requests[:1])
    with work.recorded(backbone) as made:
        sampler.generate(requests[:1], plans=plans)
    modulated = [c for c in made if isinstance(c, work.Modulated)]
    assert len(modulated) == 2  # the steps of the one cycle
    assert (
        len(made) == 7 + 7 + 2 + 5 + 2 + 1 + 3
    )  # UNet calls, encodings, a decoding, prompts: c', c, the negative one
    assert "predict" not in vars(backbone)
    seen = []
    predict = modulated[0].predict

    def look(*args):
        seen.append(isinstance(self_attention(backbone.unet)[0][1].processor, SelfAttentionProcessor))
        return predict(*args)

    modulated[0].predict = look
    modulated[0]()
    assert seen == [True]
    assert not isinstance(self_attention(backbone.unet)[0][1].processor, SelfAttentionProcessor)


def test_the_compiled_step_is_the_eager_one(sampler, requests, monkeypatch):
    monkeypatch.setattr(
        Backbone, "compile", lambda self, mode: self.unet.compile(backend="eager", dynamic=False)
    )
    row = ratios.compiled_step(sampler, requests, 1, 0.75)
    assert row.work == "2 at 16x16, torch.float32" and set(row.seconds) == {"compiled", "eager"}
    assert sampler.backbone.unet._compiled_call_impl is None


def test_a_sweep_that_shares_less_than_it_should_would_show(sampler, requests):
    variants = [
        sampler.variant(preservation=replace(sampler.method.preservation, t3=[4.0], eta=e))
        for e in (0.0, 1.0)
    ]
    row = ratios.sweep(sampler, requests, 1, "two eta", variants, 0.5)
    # Two branches: 7 steps on the condition, 7 + 2 + 5 on the canvas; the second run is its preservation.
    assert row.work == "cached 14 at 8x8, 38 at 16x16; cold 28 at 8x8, 56 at 16x16"
    assert row.met in (True, False) and set(row.seconds) == {"cached", "cold"}


def test_the_command_prints_and_writes_what_it_measured(tmp_path, capsys, monkeypatch):
    out, page = tmp_path / "speed.json", tmp_path / "README.md"
    page.write_text("above\n<!-- speed-cpu:begin -->\nold\n<!-- speed-cpu:end -->\nbelow\n")
    monkeypatch.setattr(blocks, "publish", lambda name, block: blocks.write_block(page, name, block))
    monkeypatch.setattr(blocks, "published", lambda name: "old")
    words = [
        "--model",
        "tiny",
        "--latent",
        "16",
        "--long-rounds",
        "1",
        "--only",
        "attention",
        "--out",
        str(out),
        "--publish",
    ]
    rows = speed.main(words)
    report = json.loads(out.read_text())
    assert [r["name"] for r in report["rows"]] == [r.name for r in rows] and len(rows) == 4
    assert {"median", "quartiles", "expected"} <= set(capsys.readouterr().out.split())
    assert report["threads"] == torch.get_num_threads() and report["rows"][0]["met"] in (True, False)

    text = page.read_text()
    lines = [line for line in text.splitlines() if line.startswith(f"| {rows[0].name} |")]
    assert len(lines) == 1 and f"| {rows[0].value[0]:.4g} | " in lines[0] and "| >= 4.0 m" in lines[0]
    assert "old" not in text and text.startswith("above") and text.endswith("below\n")
    assert "model tiny, float32, CPU" in text and "latent 16" in text


def test_the_accelerator_needs_no_other_command():
    chosen = speed.arguments(["--device", "cuda"])
    assert (chosen.model, chosen.dtype, chosen.out.name) == ("sd21_base", "bfloat16", "speed-cuda.json")
    assert {"overhead", "options", "step", "attention", "batch", "omega", "preservation", "image"} <= set(
        speed.measurements(speed.arguments([]))
    )


def test_some_rows_published_leave_the_others_as_they_were(tmp_path):
    row = work.Row("b", (2.0, 1.5, 2.5))
    chosen = speed.arguments(["--only", "step"])
    before = speed.markdown(chosen, [work.Row("a", (1.0, 1.0, 1.0)), work.Row("b", (9.0, 9.0, 9.0))])
    after = speed.replaced(
        before, speed.markdown(chosen, [row, work.Row("c", (3.0, 3.0, 3.0))]), "a quiet machine"
    )
    rows = [line for line in after.splitlines() if line.startswith("|")]
    assert [speed.first_cell(line) for line in rows[2:]] == ["a", "b", "c"]
    assert "| 1 |" in rows[2] and "| 2 |" in rows[3] and "9" not in rows[3]
    assert "Here: model people" in after and "Apart from them: b, c; a quiet machine." in after
    again = speed.replaced(
        after, speed.markdown(chosen, [row, work.Row("c", (4.0, 4.0, 4.0))]), "a quiet machine"
    )
    assert again.count("Apart from them") == 1 and "| 4 |" in again
    page = tmp_path / "README.md"
    page.write_text("<!-- x:begin -->\n| ratio | median |\n<!-- x:end -->\n")
    assert blocks.published("x", tmp_path) == "| ratio | median |"


def test_laws_of_growth_are_those_of_the_numbers():
    line = growth.Growth("batch", "linear", (1, 2, 4, 8), (1.5, 2.0, 3.0, 5.0), (9.0,) * 4)
    assert line.law() == pytest.approx((1.0, 0.5, 1.0)) and line.words().startswith("1.00 + 0.500 n s")
    sizes = (1, 2, 4, 8, 16)
    power = growth.Growth("canvas", "power", sizes, (9.0, *(0.1 * n**3 for n in sizes[1:])), (9.0,) * 5)
    assert power.law() == pytest.approx((0.1, 3.0, 1.0)) and power.words() == "n^3.00 from 2 on"


def test_each_axis_of_growth_runs_and_is_drawn(sampler, tmp_path):
    sampler = sampler.variant(cycle=replace(sampler.method.cycle, cycles=1))
    found = [growth.measure(sampler, axis, 1, 192 if axis == "canvas" else 2) for axis in growth.AXES]
    assert [g.sizes for g in found] == [(128, 192), (1, 2), (1, 2), (1, 2)]
    growth.figure(found).savefig(tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 10_000
    assert len(growth.markdown(found, 1).splitlines()) == 2 + 4 + 2
    assert len(growth.many(8).conditions) == len({c.box for c in growth.many(8).conditions}) == 8


def test_the_interval_of_a_median_covers_it() -> None:
    g = np.random.default_rng(0)
    one = Timed((1.0,) * 25, 0.0)
    found = [interval(Timed(tuple(g.exponential(size=25)), 0.0), one) for _ in range(2000)]
    inside = np.mean([low <= np.log(2) <= high for low, high in found])
    assert 0.95 <= inside < 0.98
    assert interval(Timed((3.0, 1.0, 2.0), 0.0), Timed((1.0,) * 3, 0.0)) == (1.0, 3.0)
