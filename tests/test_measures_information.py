"""Information measures against closed forms: entropy rate of an attribute,
information pixel by pixel, the worlds themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from covering import HELD, MANY, covered_means, normal

from sow.dynamics.measures import entropy_rate, gaussian, levels, pixel_information
from sow.method import noise

WORLD = gaussian.TwoClasses(half=2.0, variance=1.0)
AXIS = list(np.arange(-8, 3.1, 0.5))
ESTIMATORS = ("gap", "errors")


@pytest.fixture(scope="module")
def two_classes() -> dict[str, torch.Tensor]:
    """Rates (20000, L) of the class of the two-class world in 4 dimensions, per estimator."""
    mixture = WORLD.mixture(4)
    x0, classes = mixture.sample(MANY * 100, noise.generator(0))
    n = normal(x0.shape, 1)
    return {
        e: entropy_rate.rates(mixture.denoise, x0, classes, None, AXIS, n, e)  # type: ignore[arg-type]
        for e in ESTIMATORS
    }


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_entropy_rate_of_two_classes(two_classes, estimator):
    """20000 images: rate and entropy within 5 % of the closed form; intervals of 100 images hold it."""
    rate = two_classes[estimator]
    for level in (-2.0, -1.0, 0.0):
        own = rate[:, AXIS.index(level)]
        assert float(own.mean()) == pytest.approx(WORLD.rate(level), rel=0.05)
        assert covered_means(own, WORLD.rate(level)) >= HELD
    entropy = entropy_rate.entropy(AXIS, rate, math.log(2))
    for level in (-4.0, -2.0, -1.0):
        truth = math.log(2) - WORLD.information(level)
        own = entropy[:, AXIS.index(level)]
        assert float(own.mean()) == pytest.approx(truth, rel=0.05)
        assert covered_means(own, truth) >= HELD


def test_all_of_an_attribute_is_told_in_the_end(two_classes):
    """Separate classes: the information over all levels is H[Z], for an exact denoiser."""
    far = gaussian.TwoClasses(half=8.0, variance=1.0)
    mixture = far.mixture(3)
    x0, classes = mixture.sample(4000, noise.generator(2))
    axis = list(np.arange(-12, 4.1, 0.25))
    rate = entropy_rate.rates(mixture.denoise, x0, classes, None, axis, normal(x0.shape, 3))
    prior = entropy_rate.prior_entropy([3, 3])
    assert prior == pytest.approx(math.log(2), rel=1e-12)
    assert entropy_rate.saturated(axis, rate, prior) == pytest.approx(1, rel=0.05)


def test_chance_falls_with_the_root_of_the_sample(two_classes):
    """Standard deviations over repeats of 100 and of 400 images lie a factor of two apart."""
    rate = two_classes["gap"][:, AXIS.index(-1.0)].numpy()
    few, many = rate.reshape(-1, 100).mean(1).std(), rate.reshape(-1, 400).mean(1).std()
    assert 1.4 < few / many < 2.8


def test_the_gap_is_less_noisy_than_the_errors(two_classes):
    at = AXIS.index(-1.0)
    assert two_classes["gap"][:, at].std() < two_classes["errors"][:, at].std()


def test_a_denoiser_that_is_not_exact_shows():
    """Shrunk predictions: the two estimators, equal for an exact denoiser, part."""
    mixture = WORLD.mixture(4)
    x0, classes = mixture.sample(20000, noise.generator(5))
    n = normal(x0.shape, 6)

    def shrunk(x, level, condition):
        return 0.6 * mixture.denoise(x, level, condition)

    gap, errors = (
        float(entropy_rate.rates(shrunk, x0, classes, None, [-1.0], n, e).mean())  # type: ignore[arg-type]
        for e in ESTIMATORS
    )
    assert gap < 0.6 * errors


def test_what_is_known_without_the_attribute_is_not_counted():
    """Asked beyond itself, a class adds nothing."""
    mixture = WORLD.mixture(4)
    x0, classes = mixture.sample(10, noise.generator(0))
    rate = entropy_rate.rates(mixture.denoise, x0, classes, classes, AXIS, normal(x0.shape))
    assert rate.shape == (10, len(AXIS)) and float(rate.abs().max()) == 0


@pytest.fixture(scope="module")
def channel() -> gaussian.GaussianChannel:
    """A 3 x 3 image of one channel, of which some pixels are told much and one nothing."""
    gain = torch.tensor([[0.0, 0.3, 0.6], [1.0, 1.5, 2.0], [0.8, 0.4, 1.2]], dtype=torch.float64)
    return gaussian.GaussianChannel(gain[None], torch.full((1, 3, 3), 0.5, dtype=torch.float64))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_pixel_information_of_a_gaussian_channel(channel, estimator):
    """20000 images: every pixel's information within 5 % or 0.02 nats; intervals of 100 images hold it."""
    x0, y = channel.sample(MANY * 100, noise.generator(7))
    rate = pixel_information.rates(channel.denoise, x0, y, None, AXIS, normal(x0.shape, 8), estimator)
    maps = pixel_information.map_of(AXIS, rate)
    truth = channel.information(AXIS[-1])[0]
    assert maps.shape == (len(x0), 3, 3)
    torch.testing.assert_close(maps.mean(0), truth, rtol=0.05, atol=0.02)
    for row, column in ((0, 2), (1, 1), (2, 0)):
        assert covered_means(maps[:, row, column], float(truth[row, column])) >= HELD


def test_a_pixel_of_which_nothing_is_told(channel):
    x0, y = channel.sample(20, noise.generator(9))
    rate = pixel_information.rates(channel.denoise, x0, y, None, AXIS, normal(x0.shape, 10))
    assert float(rate[:, :, 0, 0, 0].abs().max()) == 0 < float(rate[:, :, 0, 0, 1].max())


def test_integral_of_a_known_rate():
    """exp(level) integrates to itself, the part below the first level included."""
    axis = list(np.linspace(-6, 1, 400))
    rate = torch.tensor(axis, dtype=torch.float64).exp()[None]
    torch.testing.assert_close(pixel_information.integral(axis, rate), rate, rtol=1e-4, atol=0)
    with pytest.raises(ValueError, match="rise"):
        pixel_information.integral([0.0, -1.0], rate[:, :2])
    with pytest.raises(ValueError, match="gap or errors"):
        pixel_information.rates(lambda x, *_: x, rate, None, None, [0.0], rate, "sum")  # type: ignore


def test_closed_forms_agree_with_each_other():
    """The rate is the slope of the information; the kept share goes from one half to one;
    a posterior adds up."""
    for level in (-3.0, -1.0, 0.5):
        slope = (WORLD.information(level + 1e-4) - WORLD.information(level - 1e-4)) / 2e-4
        assert WORLD.rate(level) == pytest.approx(slope, rel=1e-5)
    assert WORLD.kept(-20) == pytest.approx(0.5, abs=1e-3) and WORLD.kept(20) > 0.95
    mixture = WORLD.mixture(4)
    x = levels.noised(mixture.sample(50, noise.generator(0)).x0, -1.0, normal((50, 4), 1))
    weights = mixture.posterior(x, -1.0)
    torch.testing.assert_close(weights.sum(1), torch.ones(50, dtype=torch.float64))
    by_class = [mixture.denoise(x, -1.0, [k] * 50) for k in (0, 1)]
    expected = weights[:, :1] * by_class[0] + weights[:, 1:] * by_class[1]
    torch.testing.assert_close(mixture.denoise(x, -1.0), expected)


def test_speciation_is_where_the_middle_turns_unstable():
    """At the stated level the score's slope along m at x = 0 changes sign."""
    mixture = WORLD.mixture(4)
    along = torch.full((4,), 0.5, dtype=torch.float64)

    def slope(level: float) -> float:
        alpha = levels.alpha_of(level)
        jacobian = mixture.jacobian(torch.zeros(1, 4, dtype=torch.float64), level)[0]
        return float(along @ (alpha**0.5 * jacobian) @ along - 1) / (1 - alpha)

    assert slope(WORLD.speciation - 0.01) < 0 < slope(WORLD.speciation + 0.01)
    assert math.isnan(gaussian.TwoClasses(0.5, 1.0).speciation)


def test_resampling_is_exact():
    """A draw from p(x_0 | x) has the marginal law of x_0 again: first two moments of 40000 draws."""
    mixture = gaussian.GaussianMixture(
        torch.tensor([0.2, 0.8], dtype=torch.float64),
        torch.tensor([[2.0, 0.0], [-1.0, 1.0]], dtype=torch.float64),
        torch.tensor([0.1, 1.5], dtype=torch.float64),
    )
    x0 = mixture.sample(40000, noise.generator(0)).x0
    again = mixture.resample(levels.noised(x0, 0.0, normal(x0.shape, 1)), 0.0, noise.generator(2)).x0
    torch.testing.assert_close(again.mean(0), x0.mean(0), atol=0.03, rtol=0)
    torch.testing.assert_close(again.T.cov(), x0.T.cov(), atol=0.06, rtol=0)


def test_the_axis():
    alphas = np.linspace(0.999, 0.005, 1000)
    assert levels.alpha_of(float(levels.level_of(0.3))) == pytest.approx(0.3, rel=1e-12)
    assert levels.alpha_of(-800.0) == 0 and levels.alpha_of(800.0) == 1
    found = levels.timestep_of(levels.level_of(alphas[[10, 500]]), alphas)
    np.testing.assert_allclose(found, [10, 500], atol=1e-6)
    assert np.isnan(levels.timestep_of([50.0], alphas)).all()
    with pytest.raises(ValueError, match="between 0 and 1"):
        levels.level_of([0.5, 1.0])


def test_a_noise_prediction_is_a_denoiser():
    mixture = WORLD.mixture(4)

    def epsilon(x, level, condition):
        alpha = levels.alpha_of(level)
        return (x - alpha**0.5 * mixture.denoise(x, level, condition)) / (1 - alpha) ** 0.5

    x = normal((5, 4))
    torch.testing.assert_close(levels.from_epsilon(epsilon)(x, -0.7, None), mixture.denoise(x, -0.7))


def test_noise_belongs_to_its_image():
    """The noise of an image does not depend on its batch; one generator per image is needed."""
    x0 = torch.zeros(3, 1, 2, 2)
    three = levels.draw_like(x0, [noise.generator(s) for s in (4, 5, 6)])
    torch.testing.assert_close(three[1:2], levels.draw_like(x0[:1], [noise.generator(5)]), rtol=0, atol=0)
    with pytest.raises(ValueError, match="one generator per image"):
        levels.draw_like(x0, [noise.generator(1)])
