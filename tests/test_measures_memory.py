"""Memorisation, places on a curve, and patching, against cases with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from covering import HELD, MANY, REPEATS, covered, covered_means, normal
from scipy.optimize import brentq
from torch import nn

from sow.dynamics.measures import change_points, entropy_rate, gaussian, memorisation, patching
from sow.method import noise
from sow.report.statistics import Resampling

PAIR = gaussian.TwoClasses(2.0, 0.0)
AXIS = list(np.arange(-8, 4.1, 0.5))


def test_speciation_from_the_top_eigenvalue():
    """40000 points: within 0.05 of -log Lambda; 400 cover it. Wide data (n < d) use the other Gram matrix."""
    world = gaussian.TwoClasses(2.0, 0.5)
    data = world.mixture(3).sample(REPEATS * 400, noise.generator(0)).x0
    truth = -math.log(world.top_variance)
    assert memorisation.speciation_level(data) == pytest.approx(truth, abs=0.05)
    along = data.numpy() @ np.ones(3) / 3**0.5
    assert along.var() == pytest.approx(world.top_variance, rel=0.05)

    def level(own):
        return memorisation.speciation_level(torch.from_numpy(own))

    assert covered(data, truth, level) >= HELD
    gram, index = (data[:400] @ data[:400].T).numpy(), np.arange(400)[::2].repeat(2)
    expected = memorisation.speciation_level(data[index])
    assert memorisation.speciation_of(gram, index) == pytest.approx(expected)
    wide = normal((5, 1, 4, 4))
    assert memorisation.top_variance(wide) == pytest.approx(
        float(torch.linalg.eigvalsh(wide.flatten(1).T.cov())[-1])
    )


@pytest.mark.parametrize("level", [-3.0, -1.0, 0.0])
def test_excess_entropy_of_two_points(level):
    """20000 states: within 5 % of log 2 - I(Z; x); 100 cover it."""
    data = PAIR.mixture(3).means
    starts = torch.arange(MANY * 100) % 2
    excess = memorisation.excess_entropy(data, starts, [level], normal((len(starts), 3), 1))[:, 0]
    truth = math.log(2) - PAIR.information(level)
    assert float(excess.mean()) == pytest.approx(truth, rel=0.05)
    assert covered_means(excess, truth) >= HELD


def test_collapse_of_two_points():
    """4000 states: the level at which a tenth of log 2 is left, within 0.1 of the closed form's."""
    starts = torch.arange(4000) % 2
    excess = memorisation.excess_entropy(PAIR.mixture(3).means, starts, AXIS, normal((4000, 3), 2))
    truth = brentq(lambda level: 0.9 * math.log(2) - PAIR.information(level), -8, 4)
    assert memorisation.collapse_level(AXIS, excess.mean(0), 2, 0.1) == pytest.approx(truth, abs=0.1)


def test_excess_entropy_is_what_the_data_do_not_tell_before_collapse():
    """1000 Gaussian points in 30 dimensions, 300 states: log n - I(x_0; x) within 5 %, far from the
    collapse."""
    count, dimension = 1000, 30
    data = normal((count, dimension), 3)
    excess = memorisation.excess_entropy(data, range(300), [-4.0, -3.0, 8.0], normal((300, dimension), 4))
    for i, level in enumerate((-4.0, -3.0)):
        information = dimension / 2 * math.log1p(math.exp(level))
        assert float(excess[:, i].mean()) == pytest.approx(math.log(count) - information, rel=0.05)
    assert float(excess[:, 2].mean()) == pytest.approx(0, abs=1e-6)


def test_collapse_where_the_information_of_white_data_reaches_log_n():
    """snr = n^(2/d) - 1 for d independent coordinates of variance 1."""
    field = gaussian.GaussianField(torch.ones(4, 5, dtype=torch.float64))
    axis = np.linspace(-8, 4, 400)
    found = memorisation.collapse_of_information(axis, [field.information(v) for v in axis], 500)
    assert found == pytest.approx(math.log(500 ** (2 / 20) - 1), abs=0.01)
    assert math.isnan(memorisation.collapse_of_information(axis, np.zeros(400), 500))


def test_the_denoiser_that_has_memorised_agrees():
    """Six points: the index's entropy by I-MMSE with their exact denoiser is the excess entropy, within 5
    %."""
    points = normal((6, 3), 6)
    world = gaussian.GaussianMixture.of_points(points)
    starts = torch.arange(3000) % 6
    n = normal((3000, 3), 7)
    rate = entropy_rate.rates(world.denoise, points[starts], starts, None, AXIS, n)
    by_rate = entropy_rate.entropy(AXIS, rate, math.log(6))
    excess = memorisation.excess_entropy(points, starts, AXIS, n)
    for level in (-4.0, -2.0, -1.0):
        at = AXIS.index(level)
        assert float(by_rate[:, at].mean()) == pytest.approx(float(excess[:, at].mean()), rel=0.05)


def test_nearest_training_points():
    data = normal((50, 1, 2, 3), 8)
    samples = torch.cat([data[7:8] + 1e-3, normal((9, 1, 2, 3), 9)])
    found = memorisation.nearest(samples, data, rows=4)
    apart = np.sqrt(((samples[:, None] - data[None]) ** 2).flatten(2).sum(2).numpy())
    np.testing.assert_array_equal(found.which, apart.argmin(1))
    np.testing.assert_allclose(found.distance, apart.min(1) / 6**0.5)
    np.testing.assert_allclose(found.ratio, apart.min(1) / np.sort(apart, 1)[:, 1])
    assert found.ratio[0] < 0.01 < 0.1 < found.ratio[1:].min()
    assert float(memorisation.nearest(data[:1], data[:1].expand(2, -1, -1, -1)).ratio) == 1
    with pytest.raises(ValueError, match="two training points"):
        memorisation.nearest(samples, data[:1])


def bell(axis, middle=-1.3, width=1.1):
    return np.exp(-(((np.asarray(axis) - middle) / width) ** 2) / 2)


PLACES = {  # name -> (place, curve, where it is)
    "peak": (change_points.peak, bell, -1.3),
    "steepest": (change_points.steepest, lambda a: 1 / (1 + np.exp(-3 * (np.asarray(a) + 2.1))), -2.1),
    "crossing": (lambda a, c: change_points.crossing(a, c, 0.5), lambda a: np.asarray(a) / 8 + 0.75, -2.0),
    "gathered": (lambda a, c: change_points.gathered(a, c, 0.5), bell, -1.3),
    "noisy end": (change_points.ramp_end(0, 24), lambda a: np.clip((np.asarray(a) + 4) / 3, 0, 1), -4.0),
    "clean end": (change_points.ramp_end(1, 24), lambda a: 3 - np.clip((np.asarray(a) + 4) / 3, 0, 1), -1.0),
}


@pytest.mark.parametrize("name", PLACES)
def test_places_on_a_curve(name):
    """Within 0.1 without noise; with 30 noisy images the interval holds the place."""
    place, curve, truth = PLACES[name]
    assert place(np.array(AXIS), curve(AXIS)) == pytest.approx(truth, abs=0.1)
    values = curve(AXIS) + 0.2 * normal((REPEATS * 30, len(AXIS)), 1).numpy()
    held = 0
    for seed, own in enumerate(values.reshape(REPEATS, 30, -1)[::2]):
        found = change_points.located(place, AXIS, own, Resampling(0.95, 100, seed))
        held += found["low"] <= truth <= found["high"]
    assert held / 50 >= HELD


def test_half_maximum():
    """A bell on a flat ground: its width is 2 sqrt(2 log 2) of its own; a curve that only rises ends with
    the axis."""
    axis = np.linspace(-8, 4, 481)
    found = change_points.half_maximum(axis, 3 + 5 * bell(axis))
    half = 1.1 * math.sqrt(2 * math.log(2))
    assert found == pytest.approx((-1.3 - half, -1.3 + half), abs=0.01)
    assert change_points.half_maximum([0, 1, 2], [0, 1, 2]) == (1, 2)
    assert change_points.half_maximum([0, 1, 2], [2, 1, 0]) == (0, 1)
    assert all(math.isnan(v) for v in change_points.half_maximum([0, 1], [1, 1]))


def test_places_that_are_not_there():
    assert math.isnan(change_points.crossing([0, 1, 2], [1, 2, 3], 0.5))
    assert change_points.crossing([0, 1, 2], [1, 2, 1], 1) == 0
    assert change_points.crossing([0, 1, 2], [0, 2, 0], 1) == 0.5
    assert all(math.isnan(v) for v in change_points.ramp(AXIS, np.ones(len(AXIS))))
    assert math.isnan(change_points.gathered(AXIS, np.zeros(len(AXIS)), 0.5))
    assert change_points.peak([0, 1, 2], [3, 2, 1]) == 0
    assert math.isnan(change_points.peak([0, 1], [np.nan, np.nan]))
    assert change_points.nearest_index([0.0, 1.0, 2.0], 1.2) == 1
    with pytest.raises(ValueError, match="rising"):
        change_points.peak([1, 0], [0, 1])


class Branches(nn.Module):
    """y = 2 a(x) + 3 b(x) with a, b the identity, and c a branch whose output is a tuple of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Identity(), nn.Identity()

    def forward(self, x):
        return 2 * self.a(x) + 3 * self.b(x)


class Tokens(nn.Module):
    """Identity on tokens (B, h w, C), with something beside them."""

    def forward(self, x):
        return x, "beside"


def test_what_a_patched_branch_moves():
    """2 / 5 and 3 / 5 of the way; a region moves its own pixels only; after the block nothing is patched."""
    model = Branches()
    own, other = normal((2, 1, 4, 4)), normal((2, 1, 4, 4), 1)

    def run(tape):
        tape.step = 0
        return model(own)

    with patching.recorded(model, ["a", "b"]) as source:
        source.step = 0
        theirs = model(other)
    ours = model(own)
    outcomes = patching.trace(run, model, source, {"a": [("a", 0)], "b": [("b", 0)], "late": [("b", 0)]})
    torch.testing.assert_close(patching.moved(ours, theirs, outcomes["a"]), torch.full((2,), 0.4).double())
    torch.testing.assert_close(patching.moved(ours, theirs, outcomes["b"]), torch.full((2,), 0.6).double())
    assert float(patching.moved_off(ours, theirs, outcomes["a"]).max()) < 1e-12
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[:, :4] = True
    part = patching.trace(run, model, source, {0: [("a", 0), ("b", 0)]}, region)[0]
    small = patching.region_of(region, part)
    torch.testing.assert_close(part, torch.where(small, theirs, ours))
    assert float(patching.moved(ours, theirs, part, ~small[0, 0]).max()) == 0
    assert float(patching.moved_off(ours, theirs, part).min()) > 0.1
    torch.testing.assert_close(model(own), ours, rtol=0, atol=0)


def test_only_the_named_step_is_patched():
    """A run of three steps that adds its activation each time: one patched step moves a third."""
    model = nn.Sequential(nn.Identity())
    own, other = torch.zeros(1, 2), torch.ones(1, 2)

    def walk(value, tape):
        total = 0
        for tape.step in range(3):
            total = total + model(value)
        return total

    with patching.recorded(model, ["0"]) as source:
        theirs = walk(other, source)
    assert set(source.activations) == {("0", 0), ("0", 1), ("0", 2)}
    out = patching.trace(lambda tape: walk(own, tape), model, source, {1: [("0", 1)]})
    assert float(patching.moved(walk(own, patching.Tape()), theirs, out[1])) == pytest.approx(1 / 3)


def test_tokens_are_a_grid_of_the_canvas():
    """Tokens of a 2 x 4 grid inside a tuple: the left half of a 16 x 32 canvas is their left half."""
    model = nn.Sequential(Tokens())
    region = torch.zeros(16, 32, dtype=torch.bool)
    region[:, :16] = True
    with patching.recorded(model, ["0"]) as source:
        model(torch.ones(1, 8, 3))
    with patching.patched(model, source, [("0", None)], region):
        out, beside = model(torch.zeros(1, 8, 3))
    assert beside == "beside" and out[0, :, 0].reshape(2, 4).tolist() == [[1, 1, 0, 0]] * 2
    with pytest.raises(ValueError, match="no grid of tokens"):
        patching.region_of(region, torch.zeros(1, 7, 3))


def test_patching_refuses_and_cleans_up():
    model = nn.Sequential(nn.Identity())
    with patching.recorded(model, ["0"]) as source, pytest.raises(ValueError, match="ran twice"):
        model(torch.ones(1))
        model(torch.ones(1))
    with pytest.raises(ValueError, match="no module b"), patching.recorded(model, ["b"]):
        pass
    with pytest.raises(ValueError, match="no activation of 0 in step 5"):
        patching.trace(lambda tape: tape, model, source, {0: [("0", 5)]})
    with pytest.raises(ValueError, match="in the other run"), patching.patched(model, source, [("0", None)]):
        model(torch.ones(2))
    assert not model[0]._forward_hooks
