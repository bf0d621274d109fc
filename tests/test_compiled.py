"""Modulated attention under torch.compile: one graph for all strengths and cycles,
no break, the results of eager."""

from __future__ import annotations

from shutil import which

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from sow.attention import block
from sow.attention.decay import DistanceDecay
from sow.attention.gate import RegionGate
from sow.attention.modulation import Modulation
from sow.attention.modulator import Modulator
from sow.attention.processor import modulated
from sow.attention.regions import SampleRegions
from sow.method import noise
from sow.models.tiny import Tiny

CPU = torch.device("cpu")
SIDE = 8
STRENGTHS = ((0.7, 1.3), (0.3, 0.2), (0.0, 0.0), (2.0, 5.0))  # cycle after cycle


@pytest.fixture(autouse=True)
def fresh():
    """No graph of another test."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def draw(seed: int, *shape: int) -> Tensor:
    return noise.randn(shape, noise.generator(seed), "cpu", torch.float32)


def regions(x: int = 2, width: int = 3, y: int = 1) -> SampleRegions:
    """A condition of `width` x 3 tokens, the lower part of the canvas related to it."""
    c = torch.zeros((1, SIDE, SIDE), dtype=torch.bool)
    c[0, y : y + 3, x : x + width] = True
    related = torch.zeros((SIDE, SIDE), dtype=torch.bool)
    related[3:, 1:7] = True
    center = torch.tensor([[(y + 1.5) / SIDE, (x + width / 2) / SIDE]], dtype=torch.float64)
    return SampleRegions(c, related & ~c[0], center)


def modulator(samples=None, **chosen) -> Modulator:
    """Gates open from R_c = 0.1 on."""
    words = {"queries": "related", "score": "logits", "scope": "layer", "min_points": 8} | {
        k: v for k, v in chosen.items() if k not in ("normalisation", "conditions")
    }
    modulation = Modulation(
        chosen.get("normalisation", "row"),
        None,
        ["down", "mid", "up"],
        "text",
        chosen.get("conditions", "union"),
        "box",
    )
    gate = RegionGate(tau=0.1, fraction=0.2, **words)
    made = Modulator(
        modulation, gate, DistanceDecay(10, 0.3, "box"), samples or [regions()], (SIDE, SIDE), CPU
    )
    made.prepare(torch.float32, compiled=True)
    return made


def attended(call, own: Modulator, layers: Tensor) -> list[tuple[Tensor, dict]]:
    """Outputs and readings of a call for each pair of strengths, from a modulator without a past."""
    own.previous = {}
    found = []
    with torch.no_grad():
        for minus, plus in STRENGTHS:
            own.begin(minus, plus, 2, 1)
            out = call(layers)
            found.append((out, own.end()))
    return found


@pytest.mark.parametrize(
    "elements, chosen",
    [
        (1 << 18, {}),  # the block of a small layer
        (0, {}),  # two parts
        (1 << 18, {"scope": "previous"}),
        (0, {"scope": "previous", "score": "softmax", "queries": "condition"}),
        (0, {"normalisation": "head"}),
    ],
)
def test_one_graph_serves_all_strengths(elements, chosen, monkeypatch):
    monkeypatch.setattr(block, "ELEMENTS", elements)
    own = modulator(**chosen)
    layers = draw(0, 3, 2, 2, SIDE * SIDE, 4) * 2

    def call(layers: Tensor) -> Tensor:
        small = own.attend("up_blocks.0.attn1", *layers[:, :, :, :16])  # borrows where its points are few
        return torch.cat([own.attend("down_blocks.0.attn1", *layers), small], 2)

    compiled = torch.compile(call, backend="aot_eager", dynamic=False, fullgraph=True)
    for (out, readings), (plain, others) in zip(
        attended(compiled, own, layers), attended(call, own, layers), strict=True
    ):
        torch.testing.assert_close(out, plain, rtol=1e-6, atol=1e-6)
        assert readings.keys() == others.keys()
        for name in others:
            torch.testing.assert_close(readings[name], others[name], rtol=1e-6, atol=1e-6, equal_nan=True)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_samples_of_several_region_sizes_are_in_the_graph(monkeypatch):
    samples = [regions(), regions(width=2), regions(x=3), regions(width=SIDE, x=0)]
    for elements in (0, 1 << 18):
        monkeypatch.setattr(block, "ELEMENTS", elements)
        own = modulator(samples)
        layers = draw(0, 3, 2 * len(samples), 2, SIDE * SIDE, 4) * 2

        def call(layers: Tensor, own=own) -> Tensor:
            return own.attend("down_blocks.0.attn1", *layers)

        compiled = torch.compile(call, backend="eager", dynamic=False, fullgraph=True)
        for (out, _), (plain, _) in zip(
            attended(compiled, own, layers), attended(call, own, layers), strict=True
        ):
            torch.testing.assert_close(out, plain, rtol=1e-6, atol=1e-6)
    assert counters["stats"]["unique_graphs"] == 2  # one a path


BOXES = (regions(), regions(width=2), regions(x=3), regions(width=4), regions(x=1, width=5))


def two_layers(own: list[Modulator]):
    """A layer in two parts and a small one as a block, of the modulator that is in `own` by then."""

    def call(layers: Tensor) -> Tensor:
        small = own[0].attend("up_blocks.0.attn1", *layers[:, :, :, :16])
        return torch.cat([own[0].attend("down_blocks.0.attn1", *layers), small], 2)

    return call


@pytest.mark.parametrize(
    "backend",
    ["eager", pytest.param("inductor", marks=pytest.mark.skipif(not which("g++"), reason="no g++"))],
)
def test_one_graph_serves_regions_of_all_sizes(backend, monkeypatch):
    """As few recompilations as possible: another request is another modulator with boxes of its own."""
    monkeypatch.setattr(block, "ELEMENTS", 1 << 10)
    layers = draw(0, 3, 2, 2, SIDE * SIDE, 4) * 2
    own: list[Modulator] = []
    call = two_layers(own)
    compiled = torch.compile(call, backend=backend, dynamic=False, fullgraph=True)
    for box in BOXES:
        own[:] = [modulator([box])]
        sizes = [
            bucket.rows.numel() * 2 * n <= block.ELEMENTS for n in (64, 16) for bucket in own[0].buckets[n]
        ]
        assert sizes == [False, True]
        for (out, readings), (plain, others) in zip(
            attended(compiled, own[0], layers), attended(call, own[0], layers), strict=True
        ):
            torch.testing.assert_close(out, plain, rtol=1e-5, atol=1e-5)
            for name in others:
                torch.testing.assert_close(readings[name], others[name], rtol=1e-5, atol=1e-5, equal_nan=True)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


@pytest.fixture
def backbone():
    """The tiny model with one block down and one up:
    tracing a layer takes longer than running all of them."""
    from diffusers import UNet2DConditionModel

    made = Tiny("float32", "cpu", [64, 64], [180, 256], 0).load()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made.unet = UNet2DConditionModel(
            sample_size=SIDE,
            block_out_channels=(8,),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
            mid_block_type=None,
            attention_head_dim=2,
            cross_attention_dim=16,
            norm_num_groups=4,
        ).eval()
    return made


def test_a_compiled_network_is_modulated_in_one_graph(backbone):
    own = modulator()
    x, embeds = draw(0, 2, 4, SIDE, SIDE), backbone.embed(["a", "b"])

    def cycles() -> list[Tensor]:
        own.previous = {}
        made = []
        for cycle, (minus, plus) in enumerate(STRENGTHS):
            with modulated(backbone.unet, own):
                own.begin(minus, plus, 2, 1)
                made.append(backbone.predict(x, 501 - 100 * cycle, embeds))
                assert own.end()
        return made

    plain = cycles()
    backbone.compile(backend="eager", fullgraph=True)
    for ours, theirs in zip(cycles(), plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    torch.testing.assert_close(backbone.predict(x, 301, embeds), backbone.predict(x, 301, embeds))
    assert counters["stats"]["unique_graphs"] == 2  # and one without modulation
