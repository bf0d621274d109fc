"""One-wayness by the Jacobian and by finite perturbations: both rank methods alike on an exact, nonlinear
denoiser."""

from __future__ import annotations

import pytest
import torch
from covering import normal
from scipy.stats import spearmanr

from sow.dynamics import one_way
from sow.dynamics.measures import gaussian, sensitivity
from sow.method import noise

SIDE, IMAGES, DRAWS = 6, 48, 4
STRENGTH = 0.3  # study=information_flow's
ALPHAS = torch.cos(torch.linspace(0.02, 0.97, 11, dtype=torch.float64) * torch.pi / 2) ** 2  # x_0 .. x_10
T1, T2 = 5, 7
REGION = torch.zeros(SIDE, SIDE, dtype=torch.bool)
REGION[1:4, 1:4] = True
World = gaussian.GaussianMixture
METHODS = one_way.loops(T1, T2, 5, (4, 3))


def smooth_classes(apart: float, variance: float) -> World:
    """Eight smooth images as classes: what one pixel says of the others is nonlinear."""
    fields = gaussian.GaussianField.exponential(SIDE, SIDE, 2.0).sample(8, noise.generator(0))
    weights, variances = (torch.full((8,), v, dtype=torch.float64) for v in (1 / 8, variance))
    return World(weights, apart * fields.flatten(1), variances)


def measured(world: World, name: str, strength: float) -> tuple[float, float]:
    """w by vector-Jacobian products, and w by perturbing one region of each canvas DRAWS times."""
    canvas = world.sample(IMAGES, noise.generator(3)).x0.reshape(IMAGES, 1, SIDE, SIDE)

    def ask(x: torch.Tensor, level: float) -> torch.Tensor:
        return world.denoise(x.flatten(1), level).reshape(x.shape)

    def drawn(number: int) -> torch.Tensor:
        return normal(tuple(canvas.shape), 1 + number)

    run = one_way.Method(METHODS[name], ask, list(ALPHAS), T1, T2, REGION, drawn)
    seeds = [range(draw * IMAGES, (draw + 1) * IMAGES) for draw in range(DRAWS)]
    both = (
        one_way.by_jacobian(run, canvas, normal((8, *canvas.shape), 4)),
        one_way.by_perturbation(run, canvas, strength, seeds),
    )
    by_jacobian, by_perturbation = (float(sensitivity.one_wayness(*(b.sum() for b in w))) for w in both)
    return by_jacobian, by_perturbation


def test_both_rank_methods_alike():
    """Overlapping classes, the study's strength; replaced to the end, w = 1 by both."""
    world = smooth_classes(0.6, 0.7)
    found = {name: measured(world, name, STRENGTH) for name in METHODS}
    by_jacobian, by_perturbation = zip(*found.values(), strict=True)
    assert found["inpainting"] == found["RePaint"] == (1, 1)
    assert len(set(by_jacobian)) == 4  # all others apart
    assert spearmanr(by_jacobian, by_perturbation).statistic == pytest.approx(1)
    assert max(map(abs, found["sampling"])) < 0.5 < min(found["COW"])


def test_small_perturbations_agree_where_classes_lie_apart():
    jacobian, perturbed = measured(smooth_classes(2.0, 0.3), "COW", 0.1)
    assert perturbed == pytest.approx(jacobian, abs=0.02)
