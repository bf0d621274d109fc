"""Modulated attention against a materialised float64 oracle, the gate and the decays against hand-made
values."""

import itertools
import math

import pytest
import torch

from sow.attention import block
from sow.attention.decay import DistanceDecay, NoDistanceDecay, TimeDecay, gamma
from sow.attention.gate import AlwaysOpen, RegionGate, nearest_count, r_c
from sow.attention.modulation import Modulation, Strength, modulated_attention
from sow.attention.modulator import Modulator
from sow.attention.regions import SampleRegions, buckets, layer_sizes, nearest
from sow.attention.split import attention_with_lse, merge
from sow.method import noise

HEIGHT, WIDTH, HEADS, DIM = 8, 6, 3, 5
FAR = DistanceDecay(10, 0.3, "box")


def draw(seed: int, *shape: int, dtype=torch.float64) -> torch.Tensor:
    return noise.randn(shape, noise.generator(seed), "cpu", dtype)


def region(*boxes: tuple[int, int, int, int], related=(0, 4, 6, 4)) -> SampleRegions:
    """Regions from boxes (x, y, w, h) in tokens."""
    maps = torch.zeros((len(boxes), HEIGHT, WIDTH), dtype=torch.bool)
    for i, (x, y, w, h) in enumerate(boxes):
        maps[i, y : y + h, x : x + w] = True
    cr = torch.zeros((HEIGHT, WIDTH), dtype=torch.bool)
    x, y, w, h = related
    cr[y : y + h, x : x + w] = True
    centers = torch.tensor(
        [[(y + h / 2) / HEIGHT, (x + w / 2) / WIDTH] for x, y, w, h in boxes], dtype=torch.float64
    )
    return SampleRegions(maps, cr & ~maps.any(0), centers)


def gate(tau=0.1, queries="related", score="logits", scope="layer", min_points=0):
    return RegionGate(tau, queries, score, scope, min_points, 0.2)


def oracle(
    q,
    k,
    v,
    sample: SampleRegions,
    minus,
    plus,
    tau,
    queries,
    score,
    normalisation,
    each,
    decay=FAR,
    given=None,
):
    """Eq. 4, 5, 7, 8 on materialised float64 logits of one sample: q, k, v (H, N, d)."""
    q, k, v = q.double(), k.double(), v.double()
    a = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    axes = (-2, -1) if normalisation == "head" else (-1,)
    low, high = a.amin(axes, keepdim=True), a.amax(axes, keepdim=True)
    width = (high - low).expand(*a.shape[:2], 1)
    tilde = (a - low) / (high - low)
    points = tilde if score == "logits" else a.softmax(-1)
    conditions = sample.conditions.flatten(1)
    parts = [c for c in conditions] if each else [conditions.any(0)]
    cr = sample.related.flatten()
    place = torch.stack(
        [(torch.arange(HEIGHT * WIDTH) // WIDTH) + 0.5, (torch.arange(HEIGHT * WIDTH) % WIDTH) + 0.5], 1
    )
    size = torch.tensor([HEIGHT, WIDTH], dtype=torch.float64)
    distances = [((place - c * size) ** 2).sum(1).sqrt() for c in sample.centers]
    if not each:
        distances = [torch.stack(distances).amin(0)]
    bias = torch.zeros_like(a)
    gates, opened = [], False
    for c, distance in zip(parts, distances, strict=True):
        d = distance[cr]
        order = d.argsort(stable=True)
        if queries == "related":
            scores = points[:, cr][:, :, c].mean(-1)[:, order]
        else:
            scores = points[:, c][:, :, cr].mean(1)[:, order]
        value = r_c(scores.unsqueeze(0), 0.2).item()
        gates.append(value)
        s = math.sqrt(max(0.0, (value if given is None else given[len(gates) - 1]) - tau))
        opened |= s > 0
        p = torch.zeros(a.shape[1:], dtype=torch.float64)
        p[cr.nonzero(), c.nonzero().T] = (decay.factors(d, max(HEIGHT, WIDTH)) * plus).unsqueeze(1)
        p[c.nonzero(), (~c).nonzero().T] -= minus
        bias = bias + s * p
    modulated = (torch.stack(parts).any(0) | cr).unsqueeze(-1)
    if normalisation == "literal":
        a = torch.where(modulated & opened, tilde, a) + bias
    elif normalisation == "none":
        a = a + bias
    else:
        a = a + width * bias
    return a.softmax(-1) @ v, gates


CASES = list(
    itertools.product(
        ["row", "head", "none", "literal"],
        ["related", "condition"],
        ["logits", "softmax"],
        [False, True],
        [0.0, 0.999],
    )
)


@pytest.mark.parametrize("normalisation, queries, score, each, tau", CASES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_two_part_attention_equals_the_materialised_oracle(
    normalisation, queries, score, each, tau, dtype, tolerance
):
    samples = [region((1, 0, 2, 3), (4, 1, 2, 2)), region((0, 1, 2, 3), (3, 0, 2, 2))]
    q, k, v = (draw(i, 2, HEADS, HEIGHT * WIDTH, DIM, dtype=dtype) * 2 for i in range(3))
    (bucket,) = buckets(samples, HEIGHT, WIDTH, FAR, not each, torch.device("cpu"))
    strength = Strength(0.7, 1.3, gate(tau, queries, score), normalisation)
    out, reading = modulated_attention(q, k, v, bucket, strength, DIM**-0.5)
    for i, sample in enumerate(samples):
        expected, gates = oracle(q[i], k[i], v[i], sample, 0.7, 1.3, tau, queries, score, normalisation, each)
        assert ((out[i].double() - expected).norm() / expected.norm()).item() < tolerance
        assert reading.r_c[i].tolist() == pytest.approx(gates, rel=1e-3 if dtype == torch.float32 else 1e-9)
        assert (reading.factor[i] > 0).tolist() == [g > tau for g in gates]


@pytest.mark.parametrize("normalisation", ["row", "head", "none", "literal"])
@pytest.mark.parametrize("queries, score", [("related", "softmax"), ("condition", "logits")])
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("given", [None, (0.4, 0.2), (0.05, 0.9)])
def test_masks_of_any_shape_and_a_borrowed_gate_equal_the_oracle(normalisation, queries, score, each, given):
    """region=mask, and scope=previous: the factor is that of an R_c from the step before."""
    found = draw(7, HEIGHT, WIDTH)
    maps = torch.stack([(found > 0.8), (found < -0.8)])
    cr = (draw(8, HEIGHT, WIDTH) > 0) & ~maps.any(0)
    sample = SampleRegions(maps, cr, torch.tensor([[0.3, 0.4], [0.7, 0.2]], dtype=torch.float64))
    q, k, v = (draw(i, 1, HEADS, HEIGHT * WIDTH, DIM) * 2 for i in range(3))
    (bucket,) = buckets([sample], HEIGHT, WIDTH, FAR, not each, torch.device("cpu"))
    parts = None if given is None else given[: 2 if each else 1]
    previous = None if parts is None else torch.tensor([parts], dtype=torch.float64)
    strength = Strength(0.7, 1.3, gate(0.1, queries, score), normalisation)
    out, reading = modulated_attention(q, k, v, bucket, strength, DIM**-0.5, previous)
    expected, gates = oracle(
        q[0], k[0], v[0], sample, 0.7, 1.3, 0.1, queries, score, normalisation, each, given=parts
    )
    assert ((out[0] - expected).norm() / expected.norm()).item() < 1e-10
    assert reading.r_c[0].tolist() == pytest.approx(gates, rel=1e-9)
    used = gates if parts is None else parts
    assert reading.factor[0].tolist() == pytest.approx([max(0.0, g - 0.1) ** 0.5 for g in used])


def modulation(branches="text", resolutions=None, blocks=("down", "mid", "up"), conditions="union"):
    return Modulation("row", resolutions, list(blocks), branches, conditions, "box")


@pytest.mark.parametrize("branches", ["text", "all"])
@pytest.mark.parametrize("tau", [0.0, 0.999])
def test_modulator_equals_the_oracle_in_both_guidance_readings(branches, tau):
    samples = [region((1, 0, 2, 3)), region((0, 1, 3, 3)), region((4, 4, 2, 2), related=(0, 0, 3, 8))]
    q, k, v = (draw(i, 6, HEADS, HEIGHT * WIDTH, DIM) * 2 for i in range(3))
    modulator = Modulator(modulation(branches), gate(tau), FAR, samples, (HEIGHT, WIDTH), torch.device("cpu"))
    modulator.begin(0.7, 1.3, branches=2, text_branch=1)
    out = modulator.attend("down_blocks.0.attn1", q, k, v)
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    for row in range(6):
        expected = oracle(
            q[row], k[row], v[row], samples[row % 3], 0.7, 1.3, tau, "related", "logits", "row", False
        )[0]
        if branches == "text" and row < 3:
            expected = plain[row]
        torch.testing.assert_close(out[row], expected, rtol=1e-9, atol=1e-10)
        moved = not torch.allclose(out[row], plain[row], atol=1e-8)
        assert moved == (tau == 0.0 and (branches == "all" or row >= 3))
    (readings,) = modulator.end().values()
    assert readings[0].shape == (3, 1) and readings[0].isfinite().all()


@pytest.mark.parametrize("branches", ["text", "all"])
@pytest.mark.parametrize("conditions", ["union", "each"])
@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 8e-2)]
)
def test_a_block_of_rows_equals_two_parts(branches, conditions, dtype, tolerance, monkeypatch):
    """Batches of one and of several region sizes, gates that borrow and gates that do not."""
    single, double = [region((1, 0, 2, 3), (4, 1, 2, 2))], [region((0, 1, 2, 3), (3, 0, 2, 2))]
    other = [region((4, 4, 2, 2), (0, 7, 1, 1), related=(0, 0, 3, 8)), region((0, 0, WIDTH, HEIGHT))]
    for samples in (single, single + double, single + other, other + double + single):
        q, k, v = (draw(i, 2 * len(samples), HEADS, HEIGHT * WIDTH, DIM, dtype=dtype) * 2 for i in range(3))
        for min_points in (0, 25):
            made = []
            for elements in (0, 1 << 18):
                monkeypatch.setattr(block, "ELEMENTS", elements)
                modulator = Modulator(
                    modulation(branches, conditions=conditions),
                    gate(0.1, min_points=min_points),
                    FAR,
                    samples,
                    (HEIGHT, WIDTH),
                    torch.device("cpu"),
                )
                for _ in range(2):
                    modulator.begin(0.7, 1.3, branches=2, text_branch=1)
                    out = modulator.attend("down_blocks.0.attn1", q, k, v)
                    (readings,) = modulator.end().values()
                made.append((out, *readings))
            for parts, whole in zip(*made, strict=True):
                assert parts.dtype == whole.dtype and parts.shape == whole.shape
                torch.testing.assert_close(whole, parts, rtol=tolerance, atol=tolerance, equal_nan=True)


def test_zero_strength_equals_stock_attention():
    q, k, v = (draw(i, 2, HEADS, HEIGHT * WIDTH, DIM) for i in range(3))
    modulator = Modulator(
        modulation(), gate(0.0), FAR, [region((1, 0, 2, 3))], (HEIGHT, WIDTH), torch.device("cpu")
    )
    modulator.begin(0.0, 0.0, 2, 1)
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(modulator.attend("up_blocks.0.attn1", q, k, v), plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "sample",
    [
        region((0, 0, WIDTH, HEIGHT)),  # the condition fills the canvas: nc and cr are empty
        region((2, 2, 1, 1), related=(2, 2, 1, 1)),  # cr is empty
    ],
)
def test_a_layer_with_an_empty_region_is_left_alone(sample):
    q, k, v = (draw(i, 2, HEADS, HEIGHT * WIDTH, DIM) for i in range(3))
    modulator = Modulator(modulation(), gate(0.0), FAR, [sample], (HEIGHT, WIDTH), torch.device("cpu"))
    modulator.begin(1.0, 1.0, 2, 1)
    out = modulator.attend("mid_block.attn1", q, k, v)
    assert torch.equal(out, torch.nn.functional.scaled_dot_product_attention(q, k, v))
    assert not modulator.end()


def test_a_one_token_box_is_modulated_and_a_mixed_batch_keeps_both():
    samples = [region((2, 2, 1, 1)), region((0, 0, WIDTH, HEIGHT))]
    q, k, v = (draw(i, 4, HEADS, HEIGHT * WIDTH, DIM) for i in range(3))
    modulator = Modulator(modulation(), gate(0.0), FAR, samples, (HEIGHT, WIDTH), torch.device("cpu"))
    modulator.begin(1.0, 1.0, 2, 1)
    out = modulator.attend("mid_block.attn1", q, k, v)
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert not torch.allclose(out[2], plain[2]) and torch.allclose(out[3], plain[3], atol=1e-12)
    (value,) = (r for r, _ in modulator.end().values())
    assert value[0].isfinite() and value[1].isnan()


@pytest.mark.parametrize("m", range(1, 33))
def test_gate_of_uniform_attention(m):
    assert r_c(torch.ones(2, 4, m), 0.2).tolist() == pytest.approx([math.ceil(m / 5) / m] * 2)
    assert nearest_count(m, 0.2) == -(-m // 5)


def test_constant_rows_normalise_to_one():
    sample = region((1, 0, 2, 3))
    (bucket,) = buckets([sample], HEIGHT, WIDTH, FAR, True, torch.device("cpu"))
    q, k, v = (
        torch.zeros(1, HEADS, 48, DIM),
        draw(1, 1, HEADS, 48, DIM).float(),
        draw(2, 1, HEADS, 48, DIM).float(),
    )
    for queries in ("related", "condition"):
        _, reading = modulated_attention(q, k, v, bucket, Strength(1, 1, gate(0.1, queries), "row"), 1.0)
        m = bucket.rows_r.shape[1]
        assert reading.r_c.item() == pytest.approx(math.ceil(m / 5) / m)


def test_gate_factors():
    value = torch.tensor([0.2, 0.273, 0.5, float("nan")])
    assert gate(0.273).factor(value).tolist() == pytest.approx([0, 0, math.sqrt(0.227), 0], abs=1e-4)
    one = AlwaysOpen("one", 0.273, "related", "logits", "layer", 8, 0.2)
    root = AlwaysOpen("sqrt", 0.273, "related", "logits", "layer", 8, 0.2)
    assert one.factor(value).tolist() == [1] * 4
    assert root.factor(value).tolist() == pytest.approx([math.sqrt(0.727)] * 4)


def test_small_layers_borrow_the_gate_of_the_step_before():
    sample = region((1, 0, 2, 3))
    q, k, v = (draw(i, 2, HEADS, 48, DIM) for i in range(3))
    small = [x[:, :, :12] for x in (q, k, v)]
    own = Modulator(modulation(), gate(0.0), FAR, [sample], (HEIGHT, WIDTH), torch.device("cpu"))
    shy = Modulator(
        modulation(), gate(0.0, min_points=8), FAR, [sample], (HEIGHT, WIDTH), torch.device("cpu")
    )
    plain = torch.nn.functional.scaled_dot_product_attention(*small)
    for modulator in (own, shy):
        modulator.begin(1.0, 1.0, 2, 1)
        first = modulator.attend("down_blocks.1.attn1", *small)
        modulator.attend("up_blocks.0.attn1", q, k, v)
        reading = modulator.end()
        # With nothing to borrow yet the small layer's gate stays shut.
        assert torch.allclose(first, plain, atol=1e-12) == (modulator is shy)
        modulator.begin(1.0, 1.0, 2, 1)
        second = modulator.attend("down_blocks.1.attn1", *small)
        assert not torch.allclose(second, plain, atol=1e-9)
        factor = modulator.end()["down_blocks.1.attn1"][1].item()
        finest = reading["up_blocks.0.attn1"][0].item()
        assert (factor == pytest.approx(math.sqrt(finest))) == (modulator is shy)


def test_layers_are_chosen_by_block_and_resolution():
    sample = region((1, 0, 2, 3))
    q, k, v = (draw(i, 2, HEADS, 48, DIM) for i in range(3))
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    for chosen, moved in (
        (modulation(blocks=["up"]), False),
        (modulation(blocks=["down"]), True),
        (modulation(resolutions=[4]), False),
        (modulation(resolutions=[8]), True),
    ):
        modulator = Modulator(chosen, gate(0.0), FAR, [sample], (HEIGHT, WIDTH), torch.device("cpu"))
        modulator.begin(1.0, 1.0, 2, 1)
        assert (not torch.equal(modulator.attend("down_blocks.0.attn1", q, k, v), plain)) == moved


def test_decay_values():
    rows = {
        0.5: [1, 0.988, 0.951, 0.891, 0.809, 0.707, 0.588, 0.454, 0.309, 0.156, 0],
        0.8: [1, 0.980, 0.923, 0.831, 0.712, 0.574, 0.427, 0.283, 0.153, 0.051, 0],
        0.3: [1, 0.993, 0.970, 0.933, 0.881, 0.812, 0.727, 0.623, 0.494, 0.329, 0],
    }
    for a, expected in rows.items():
        assert [gamma(x, 10, a) for x in range(11)] == pytest.approx(expected, abs=6e-4)
    assert gamma(15, 10, 0.5) == 0  # no bouncing back past T
    time = TimeDecay(10, 0.5, 0.8, "cycle")
    assert time.factors(3, 1, 10, 2) == pytest.approx((gamma(3, 10, 0.5), gamma(3, 10, 0.8)))
    assert time.factors(10, 0, 20, 2) == pytest.approx((gamma(10, 20, 0.5), gamma(10, 20, 0.8)))
    assert TimeDecay(10, 0.5, 0.8, "cycle_from_one").factors(3, 0, 10, 2)[0] == gamma(4, 10, 0.5)
    assert TimeDecay(10, 0.5, 0.8, "step").factors(3, 1, 10, 2)[0] == pytest.approx(gamma(7, 20, 0.5))


def test_distance_decay_units():
    d = torch.tensor([0.0, 2.0, 4.0])
    expected = {"box": [0, 5, 10], "grid16": [0, 4, 8], "token": [0, 2, 4]}
    for unit, x in expected.items():
        values = DistanceDecay(10, 0.3, unit).factors(d, grid=8).tolist()
        assert values == pytest.approx([gamma(t, 10, 0.3) for t in x], abs=1e-6)
    assert NoDistanceDecay().factors(d, 8).tolist() == [1, 1, 1]


def test_merging_disjoint_keys_is_plain_attention():
    q, k, v = (draw(i, 1, 2, 9, 4) for i in range(3))
    parts = [
        attention_with_lse(q, k[:, :, s], v[:, :, s], 0.5) for s in (slice(0, 1), slice(1, 4), slice(4, 9))
    ]
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=0.5)
    torch.testing.assert_close(merge(*zip(*parts, strict=True)), expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="no keys"):
        attention_with_lse(q, k[:, :, :0], v[:, :, :0], 0.5)


def test_maps_shrink_by_nearest_and_sizes_follow_the_unet():
    maps = torch.arange(16).reshape(4, 4) % 2 == 0
    assert torch.equal(nearest(maps, 2, 2), maps[::2, ::2])
    assert layer_sizes(5, 7) == {35: (5, 7), 12: (3, 4), 4: (2, 2), 1: (1, 1)}


def pair(width: int, height: int, first, second, related) -> SampleRegions:
    """Two conditions at latents of `width` x `height`, from boxes (x, y, w, h) in latents."""
    maps = torch.zeros((2, height, width), dtype=torch.bool)
    centers = []
    for i, (x, y, w, h) in enumerate((first, second)):
        maps[i, y : y + h, x : x + w] = True
        centers.append([(y + h / 2) / height, (x + w / 2) / width])
    cr = torch.zeros((height, width), dtype=torch.bool)
    x, y, w, h = related
    cr[y : y + h, x : x + w] = True
    return SampleRegions(maps, cr & ~maps.any(0), torch.tensor(centers, dtype=torch.float64))


@pytest.mark.parametrize("scope, min_points", [("layer", 99), ("previous", 0)])
def test_a_condition_that_vanishes_in_a_layer_lends_no_other_its_gate(scope, min_points):
    """The first condition, one latent wide, has no token at half the size: what the second borrows is its
    own R_c."""
    sample = pair(8, 8, (1, 1, 1, 1), (4, 0, 2, 2), (0, 4, 8, 4))
    own = Modulator(
        modulation(conditions="each"),
        gate(0.2, scope=scope, min_points=min_points),
        FAR,
        [sample],
        (8, 8),
        torch.device("cpu"),
    )
    (coarse,) = own.buckets[16]
    assert coarse.numbers == (1,) and own.buckets[64][0].numbers == (0, 1)
    own.previous[1] = torch.tensor([[0.9, 0.3]], dtype=torch.float64)
    own.begin(0.7, 1.3, branches=2, text_branch=1)
    assert own.borrowed(1, coarse).tolist() == [[0.3]]
    q, k, v = (draw(i, 2, HEADS, 16, DIM) for i in range(3))
    own.attend("mid_block.attn1", q, k, v)
    r_c_of, factor = own.readings["mid_block.attn1"][1][1]
    assert r_c_of.shape == (1, 2) and r_c_of[0, 0].isnan() and r_c_of[0, 1].isfinite()
    assert factor[0, 0].isnan() and factor[0, 1].item() == pytest.approx((0.3 - 0.2) ** 0.5)


@pytest.mark.parametrize("unit", ["box", "grid16", "token"])
def test_distances_are_those_on_the_canvas_where_a_side_is_odd(unit):
    """At 9 x 6 latents a layer of 5 x 3 tokens has tokens of 1.8 x 2 latents: equally far on the canvas
    decays equally."""
    sample = pair(9, 6, (3, 2, 2, 1), (3, 2, 2, 1), (0, 0, 9, 6))
    ((layer,),) = [buckets([sample], 3, 5, DistanceDecay(10, 0.3, unit), True, torch.device("cpu"))]
    y, x = (layer.rows_r[0] // 5 + 0.5) * 2, (layer.rows_r[0] % 5 + 0.5) * 1.8
    on_canvas = ((y - 2.5) ** 2 + (x - 4.0) ** 2).sqrt()
    near = layer.near[0][0]
    order = on_canvas.argsort(stable=True)
    assert torch.equal(layer.order[0][0], order)
    assert (near[order].diff() <= 1e-12).all()
    scale = {"box": 10 / on_canvas.max(), "grid16": 16 / 9, "token": 1 / 1.8}[unit]
    assert near.tolist() == pytest.approx([gamma(d * float(scale), 10, 0.3) for d in on_canvas.tolist()])
