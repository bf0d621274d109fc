"""Batches: rows of their own boxes and gates, as large as memory allows, halved where it does not."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from PIL import Image

from sow import build, compose
from sow.errors import UserError
from sow.method import noise
from sow.pipeline import batches
from sow.types import Box, Plan, Request, VisualCondition

WORDS = [
    "model=tiny",
    "model.dtype=float64",
    "model.device=cpu",
    "planner=fixed",
    "intensify=none",
    "metrics=none",
    "calibration.cycles=1",
    "gate.tau=0",
    "cache.memory_mb=0",
]


def requests(count: int) -> list[Request]:
    gray = Image.new("RGB", (64, 64), (90, 120, 60))
    return [Request((VisualCondition(gray),), f"person {i}", seed=i, id=str(i)) for i in range(count)]


def plans(count: int) -> list[Plan]:
    """Boxes of two sizes, in three places, so that regions differ in size and in place."""
    sides = [48 + 16 * (i % 2) for i in range(count)]
    return [
        Plan((Box(8 * i, 8, side, side),), (Box(0, 72, 128, 56 - 8 * (i % 3)),), f"person {i} walks", "test")
        for i, side in enumerate(sides)
    ]


@pytest.fixture(scope="module")
def sampler():
    return build(compose(WORDS))


def test_rows_of_a_mixed_batch_are_their_own(sampler):
    own = replace(sampler, batch_size=5)
    together = own.generate(requests(5), plans=plans(5))
    for i in (0, 3, 4):
        alone = sampler.generate(requests(5)[i : i + 1], plans=plans(5)[i : i + 1])[0]
        assert ((together[i].latents - alone.latents).norm() / alone.latents.norm()).item() < 1e-6
        for row, expected in zip(gates(together[i]), gates(alone), strict=True):
            assert row == pytest.approx(expected, rel=1e-6, nan_ok=True) and any(v > 0 for v in row.values())


def gates(sample) -> list[dict[str, float]]:
    """What the gates read in each step of the cycles."""
    steps = [row for row in sample.trace if row["phase"] == "cycle" and row["event"] == "denoise"]
    return [{k: v for k, v in row.items() if k.startswith(("r_c/", "gate/"))} for row in steps]


@pytest.fixture
def small_memory(sampler, monkeypatch):
    """The UNet runs out of memory with more than four rows; returns the sizes that were tried."""
    tried: list[int] = []
    original = sampler.backbone.predict

    def predict(latents, *args, **kwargs):
        tried.append(len(latents))
        if len(latents) > limit[0]:
            raise torch.OutOfMemoryError("tried to allocate 1 TiB")
        return original(latents, *args, **kwargs)

    limit = [4]
    monkeypatch.setattr(sampler.backbone, "predict", predict)
    return tried, limit


def test_a_batch_that_memory_does_not_hold_is_halved(sampler, small_memory, caplog):
    tried, _ = small_memory
    caplog.set_level(logging.WARNING)
    samples = replace(sampler, batch_size=5).generate(requests(5), plans=plans(5))
    assert [s.request.id for s in samples] == [str(i) for i in range(5)]
    assert max(tried) > 4 and [r.getMessage() for r in caplog.records if "going on with 2" in r.getMessage()]
    alone = sampler.generate(requests(5)[4:], plans=plans(5)[4:])[0]
    assert ((samples[4].latents - alone.latents).norm() / alone.latents.norm()).item() < 1e-6


def test_one_request_that_does_not_fit_is_an_error_with_a_cure(sampler, small_memory):
    small_memory[1][0] = 1
    with pytest.raises(UserError, match="out of memory with one request of 128 x 128.*vae_tiling"):
        sampler.generate(requests(2), plans=plans(2))


def test_other_errors_are_not_taken_for_memory(sampler, monkeypatch):
    def predict(*args, **kwargs):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(sampler.backbone, "predict", predict)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        sampler.generate(requests(1), plans=plans(1))
    assert batches.out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert batches.out_of_memory(MemoryError()) and not batches.out_of_memory(ValueError("allocate memory"))


def test_the_automatic_size_follows_free_memory(sampler, monkeypatch):
    sizes = []
    for free in (0, 2**23, 2**24, 2**25, 2**40):
        monkeypatch.setattr(batches, "free_memory", lambda device, free=free: free)
        sizes.append(batches.automatic_batch_size(sampler.backbone, sampler.canvas, branches=2))
    assert sizes == sorted(sizes) and sizes[0] == 1 and sizes[-1] == batches.LARGEST and len(set(sizes)) > 2
    assert batches.automatic_batch_size(sampler.backbone, sampler.canvas, 4) <= batches.LARGEST
    monkeypatch.undo()
    assert batches.free_memory(torch.device("cpu")) > 2**20
    made = build(compose([*WORDS, "batch_size=null"]))
    assert 1 <= made.batch_size <= batches.LARGEST
    with pytest.raises(UserError, match="1 <= batch_size <= 1024"):
        compose([*WORDS, "batch_size=0"])


def test_noise_of_a_request_does_not_depend_on_its_batch(sampler):
    shape, device = (1, 4, 8, 8), torch.device("cpu")
    both = noise.batch(shape, [noise.generator(1), noise.generator(2)], device, torch.float64)
    assert torch.equal(both[1:], sampler.model.draw(shape[2:], [noise.generator(2)]))
    assert torch.equal(both[1:], noise.randn(shape, noise.generator(2), "cpu", torch.float64))
