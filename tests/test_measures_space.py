"""Measures in space against closed forms: U-turns, non-locality, sensitivity."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from covering import HELD, MANY, REPEATS, covered, covered_means, normal
from torch import nn

from sow.dynamics.measures import gaussian, levels, non_locality, sensitivity, u_turn
from sow.method import noise

FIELD = gaussian.GaussianField.exponential(12, 12, 2.0)
SMALL = gaussian.GaussianField.exponential(6, 6, 1.0)


def turned(level: float, count: int, field: gaussian.GaussianField) -> tuple[torch.Tensor, torch.Tensor]:
    """Fields and what exact U-turns make of them."""
    x0 = field.sample(count, noise.generator(0))
    x = levels.noised(x0, level, normal(x0.shape, 1))
    return x0, field.resample(x, level, noise.generator(2))


@pytest.mark.parametrize("level", [-1.0, 1.0])
def test_susceptibility_of_a_field(level):
    """Signed changes of 12000 fields: chi within 5 % of the posterior spectrum at zero over its mean; 120
    cover it."""
    before, after = turned(level, REPEATS * 120, SMALL)
    spectrum = SMALL.posterior_spectrum(level)
    truth = float(spectrum[0, 0] / spectrum.mean())
    s = (after - before)[:, 0].numpy()
    assert u_turn.susceptibility(s) == pytest.approx(truth, rel=0.05)
    assert covered(s, truth, u_turn.susceptibility) >= HELD


def test_susceptibility_of_squared_changes():
    """Changes as `changes` gives them: for Gaussian ones the covariance of squares is twice the square of
    theirs."""
    before, after = turned(0.0, 20000, SMALL)
    square = u_turn.changes(before, after, root=False)
    covariance = SMALL.change_covariance(0.0)
    truth = float((covariance**2).sum() / covariance[0, 0] ** 2)
    assert u_turn.susceptibility(square) == pytest.approx(truth, rel=0.05)
    torch.testing.assert_close(u_turn.changes(before, after), square.sqrt())


def test_susceptibility_counts_what_changes_as_one():
    """Blocks of four equal patches: 4; independent patches: 1; nothing: nan."""
    alone = normal((4000, 4, 4)).numpy()
    assert u_turn.susceptibility(alone) == pytest.approx(1, rel=0.1)
    blocks = np.kron(alone[:, :2, :2], np.ones((1, 2, 2)))
    assert u_turn.susceptibility(blocks) == pytest.approx(4, rel=0.1)
    assert math.isnan(u_turn.susceptibility(np.ones((5, 2, 2))))


def test_patches_are_means_of_their_pixels():
    before, after = torch.zeros(1, 2, 5, 4), torch.zeros(1, 2, 5, 4)
    after[0, 0, 0, 0] = 4
    expected = torch.tensor([[[math.sqrt(16 / 8), 0], [0, 0]]])
    torch.testing.assert_close(u_turn.changes(before, after, 2), expected)


def test_correlation_length_of_a_field():
    """6000 changes at a level without information: xi within 5 % of the covariance's own 2; rows of 60 cover
    it."""
    before, after = turned(-12.0, REPEATS * 60, FIELD)
    s = (after - before)[:, 0].numpy()
    assert u_turn.length_of(s, torus=True) == pytest.approx(2, rel=0.05)
    rows = s[:, ::3]

    def xi(own):
        return u_turn.length_of(own.reshape(-1, 1, 12), torus=True)

    assert covered(rows, 2.0, xi) >= HELD


def test_correlation_is_the_covariance_by_distance():
    """On a torus and between borders: a few distances against numpy's covariance, pair by pair."""
    s = np.cumsum(normal((60, 3, 4)).numpy(), 2)
    matrix = np.cov(s.reshape(60, -1).T)
    place = np.array([(r, c) for r in range(3) for c in range(4)])
    for torus in (False, True):
        off = np.abs(place[:, None] - place[None])
        if torus:
            off = np.minimum(off, np.array([3, 4]) - off)
        apart = np.hypot(*np.moveaxis(off, -1, 0))
        distance, correlation = u_turn.correlation(s, torus)
        np.testing.assert_allclose(distance, np.unique(np.round(apart, 9)), atol=1e-8)
        expected = [matrix[np.abs(apart - r) < 1e-6].mean() for r in distance]
        np.testing.assert_allclose(correlation, expected / np.diag(matrix).mean(), atol=1e-10)


def test_correlation_length_reads_an_exponential_exactly():
    r = np.arange(8.0)
    assert u_turn.correlation_length(r, np.exp(-r / 2.5)) == pytest.approx(2.5, rel=1e-12)
    assert math.isnan(u_turn.correlation_length(r, np.ones(8)))
    assert u_turn.correlation_length(r, [1.0] + [-0.1] * 7) < 0.05


@pytest.mark.parametrize("level", [-3.0, -1.0, 1.0])
def test_critical_window_of_two_classes(level):
    """20000 U-turns: P(kept) within 5 % of the closed form; 100 cover it."""
    world = gaussian.TwoClasses(2.0, 1.0)
    mixture = world.mixture(3)
    x0, classes = mixture.sample(MANY * 100, noise.generator(0))
    again = mixture.resample(levels.noised(x0, level, normal(x0.shape, 1)), level, noise.generator(2))
    kept = u_turn.kept(classes, again.classes)
    assert kept.mean() == pytest.approx(world.kept(level), rel=0.05)
    assert covered_means(kept, world.kept(level)) >= HELD
    assert u_turn.chance(classes) == pytest.approx(0.5, abs=0.01)


def kernel_of(radius: int) -> torch.Tensor:
    """A random kernel, none of whose outermost weights vanishes."""
    size = 2 * radius + 1
    return normal((size, size), radius).sign() * (0.2 + normal((size, size), radius + 50).abs())


@pytest.mark.parametrize("radius", [0, 1, 2, 3])
def test_radius_of_a_convolution_is_found_exactly(radius):
    """Also at the border: windows end where the state ends."""
    world = gaussian.Convolution(kernel_of(radius))
    x = normal((3, 2, 10, 12))
    positions = [(0, 0), (9, 11), (4, 5), (0, 6), (7, 0)]
    gaps, size = non_locality.energies(world.denoise, x, 0.0, None, range(6), positions, batch=7)
    errors = non_locality.non_locality(gaps, size)
    assert non_locality.radius_of(range(6), errors, 1e-20) == radius
    assert radius == 0 or errors[radius - 1] > 1e-3


def test_radius_of_a_deep_network_is_found_exactly():
    """Three layers, one of them dilated, with nonlinearities: 1 + 2 + 1."""
    layers = [
        nn.Conv2d(1, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 1, 3, padding=1),
    ]
    net = nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2]).double()
    for seed, parameter in enumerate(net.parameters()):
        parameter.data = normal(tuple(parameter.shape), seed)
    x, radii = normal((4, 1, 15, 15)), [2, 3, 4, 5, 6]
    gaps, size = non_locality.energies(lambda x, *_: net(x), x, 0.0, None, radii, [(7, 7), (0, 3)])
    assert non_locality.radius_of(radii, non_locality.non_locality(gaps, size), 1e-20) == 4


def test_non_locality_of_white_input():
    """8000 states: e_l within 5 % of the kernel's energy beyond l; 80 cover it."""
    world = gaussian.Convolution(kernel_of(3))
    x = normal((REPEATS * 80, 1, 11, 11), 3)
    gaps, size = non_locality.energies(world.denoise, x, 0.0, None, [1, 2], [(4, 4), (6, 7)], batch=10**6)
    for i, radius in enumerate((1, 2)):
        truth = world.non_locality(radius)
        assert non_locality.non_locality(gaps, size)[i] == pytest.approx(truth, rel=0.05)
        both = np.stack([gaps[:, i], size], 1)
        assert covered(both, truth, lambda own: own[:, 0].sum() / own[:, 1].sum(), 200) >= HELD


def test_conditions_follow_their_windows():
    """Every window is denoised under the condition of its own image, given as a list or as a tensor."""

    def denoise(x, level, condition):
        return torch.as_tensor(condition, dtype=x.dtype).reshape(-1, 1, 1, 1).expand_as(x)

    x = torch.zeros(2, 1, 5, 5)
    for condition in ([3.0, 4.0], torch.tensor([3.0, 4.0])):
        found = non_locality.local(denoise, x, 0.0, condition, 1, [(2, 2), (1, 1), (0, 0)])
        assert found[:, :, 0].tolist() == [[3.0] * 3, [4.0] * 3]
    assert non_locality.radius_of([1, 2, 3], [0.5, 0.0, 0.3], 0.1) is None


def small_net() -> nn.Module:
    """Two channels, nonlinear, not symmetric."""
    net = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 2, 3, padding=1)).double()
    for seed, parameter in enumerate(net.parameters()):
        parameter.data = normal(tuple(parameter.shape), seed + 20)
    return net


def full_jacobian(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """(B, h w of the output, h w of the input): norms over channels, by autograd's own Jacobian, image by
    image."""
    rows = []
    for own in x:
        jacobian = torch.autograd.functional.jacobian(lambda v: net(v[None])[0], own)
        rows.append((jacobian**2).sum((0, 3)).sqrt().flatten(0, 1).flatten(1))
    return torch.stack(rows)


def test_fields_are_rows_of_the_full_jacobian():
    net, x = small_net(), normal((3, 2, 5, 6), 9)
    positions = [(0, 0), (2, 3), (4, 5)]
    found = sensitivity.fields(lambda x, *_: net(x), x, 0.0, None, positions)
    rows = full_jacobian(net, x)[:, [r * 6 + c for r, c in positions]]
    torch.testing.assert_close(found.flatten(2), rows)


def test_blocks_are_those_of_the_full_jacobian():
    """Probes of 400 draws: both energies within 5 %; one probe per unit, 40 units: intervals hold the
    truth."""
    net, x = small_net(), normal((1, 2, 5, 6), 9)
    region = torch.zeros(5, 6, dtype=torch.bool)
    region[1:4, :3] = True
    square = full_jacobian(net, x)[0] ** 2
    inside = region.flatten()
    forth, back = float(square[~inside][:, inside].sum()), float(square[inside][:, ~inside].sum())
    many = x.expand(MANY * 40, -1, -1, -1)
    found = sensitivity.between(lambda x, *_: net(x), many, 0.0, None, region, normal((1, *many.shape), 1))
    for energy, truth in zip(found, (forth, back), strict=True):
        assert float(energy.mean()) == pytest.approx(truth, rel=0.05)
        assert covered_means(energy, truth) >= HELD
    signs = normal((400, 1, 2, 5, 6), 2).sign()
    both = sensitivity.between(lambda x, *_: net(x), x, 0.0, None, region[None, None], signs)
    assert [float(b) for b in both] == pytest.approx([forth, back], rel=0.05)


def test_mixture_jacobian_is_the_closed_form():
    mixture = gaussian.TwoClasses(2.0, 0.7).mixture(6)
    x = normal((4, 6), 3)

    def denoise(images, level, condition):
        return mixture.denoise(images.flatten(1), level).reshape(images.shape)

    positions = [(0, c) for c in range(6)]
    found = sensitivity.fields(denoise, x[:, None, None], -0.5, None, positions)
    torch.testing.assert_close(found[:, :, 0], mixture.jacobian(x, -0.5).abs())


def test_an_exact_denoiser_is_not_one_way_and_a_one_way_one_is():
    """w = 0 within chance for the Wiener filter, 1 where the right half reads the left one and not the
    reverse."""
    x = normal((50, 1, 12, 12), 5)
    region = torch.zeros(12, 12, dtype=torch.bool)
    region[:, :4] = True
    probes = normal((8, *x.shape), 6)
    forth, back = sensitivity.between(FIELD.denoise, x, 0.0, None, region, probes)
    assert abs(float(sensitivity.one_wayness(forth.mean(), back.mean()))) < 0.05

    def one_way(x, level, condition):
        return (
            FIELD.denoise(torch.where(region, x, 0 * x), level) * region + FIELD.denoise(x, level) * ~region
        )

    assert (sensitivity.one_wayness(*sensitivity.between(one_way, x, 0.0, None, region, probes)) == 1).all()


@pytest.mark.parametrize("level", [-2.0, 1.0])
def test_reach_of_the_wiener_filter(level):
    """Exact for the filter itself; within 5 % from 20000 samples of the field, whose borders join."""
    positions = [(0, 0), (3, 5)]
    field = sensitivity.fields(SMALL.denoise, normal((2, 1, 6, 6)), level, None, positions)
    found = sensitivity.reach(field, positions, torus=True)
    torch.testing.assert_close(found, torch.full((2,), SMALL.reach(level), dtype=torch.float64))
    estimate = sensitivity.wiener_fields(SMALL.sample(20000, noise.generator(1)), level, positions)[None]
    assert float(sensitivity.reach(estimate, positions, torus=True)) == pytest.approx(
        SMALL.reach(level), rel=0.05
    )


def test_wiener_fields_are_the_formula():
    """Two channels: the norm over channel pairs of sqrt(a) C (a C + 1 - a)^-1, from the sample covariance."""
    data = normal((40, 2, 2, 3), 4) @ normal((3, 3), 5)
    covariance = data.flatten(1).T.cov()
    alpha = levels.alpha_of(0.3)
    wiener = (
        alpha**0.5 * covariance @ torch.linalg.inv(alpha * covariance + (1 - alpha) * torch.eye(12).double())
    )
    expected = (wiener.reshape(2, 6, 2, 6) ** 2).sum((0, 2)).sqrt()
    found = sensitivity.wiener_fields(data, 0.3, [(r, c) for r in range(2) for c in range(3)])
    torch.testing.assert_close(found.flatten(1), expected)


def test_profile_and_reach_by_hand():
    field = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    field[0, 0, 1, 1], field[0, 0, 1, 2] = 1, 0.5
    assert float(sensitivity.reach(field, [(1, 1)])) == pytest.approx(0.5 / 1.5)
    assert sensitivity.profile(field, [(1, 1)])[0].tolist() == pytest.approx([1, 0.5 / 8])
