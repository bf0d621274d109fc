"""One-wayness by the Jacobian and by finite perturbations: both rank methods alike on an exact, nonlinear
denoiser."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from covering import normal
from scipy.stats import spearmanr

from sow.dynamics import perturb
from sow.dynamics.measures import gaussian, levels, sensitivity
from sow.method import noise
from sow.method.diffusion import ddim_step, inject_noise, replace

SIDE, IMAGES, DRAWS = 6, 48, 4
STRENGTH = 0.3  # study=information_flow's
ALPHAS = torch.cos(torch.linspace(0.02, 0.97, 11, dtype=torch.float64) * torch.pi / 2) ** 2  # x_0 .. x_10
T1, T2 = 5, 7
REGION = torch.zeros(SIDE, SIDE, dtype=torch.bool)
REGION[1:4, 1:4] = True
World = gaussian.GaussianMixture
Method = Callable[[World, torch.Tensor], torch.Tensor]


def smooth_classes(apart: float, variance: float) -> World:
    """Eight smooth images as classes: what one pixel says of the others is nonlinear."""
    fields = gaussian.GaussianField.exponential(SIDE, SIDE, 2.0).sample(8, noise.generator(0))
    weights, variances = (torch.full((8,), v, dtype=torch.float64) for v in (1 / 8, variance))
    return World(weights, apart * fields.flatten(1), variances)


def method(replaced: set[int], cycles: int) -> Method:
    """Canvas (B, 1, h, w) -> image: noised to x_t2, `cycles` between t1 and t2 with replacement, then down to
    x_0.

    The condition is put back at each state after the cycles that is in `replaced`.
    """

    def run(world: World, canvas: torch.Tensor) -> torch.Tensor:
        n = normal(tuple(canvas.shape), 1)

        def at(k: int) -> torch.Tensor:
            return ALPHAS[k] ** 0.5 * canvas + (1 - ALPHAS[k]) ** 0.5 * n

        def down(x: torch.Tensor, k: int) -> torch.Tensor:
            alpha = ALPHAS[k]
            level = float(levels.level_of(float(alpha)))
            x0 = world.denoise(x.flatten(1), level).reshape(x.shape)
            e = (x - alpha**0.5 * x0) / (1 - alpha) ** 0.5
            return ddim_step(x, e, alpha, ALPHAS[k - 1], 0.0, None, x0)[0]

        x, start = at(T2), T2
        for cycle in range(cycles):
            x = replace(x, at(T2), REGION)
            for k in range(T2, T1, -1):
                x = replace(down(x, k), at(k - 1), REGION)
            if cycle < cycles - 1:
                x = inject_noise(x, ALPHAS[T1], ALPHAS[T2], normal(tuple(x.shape), 2 + cycle))
            else:
                start = T1
        for k in range(start, 0, -1):
            x = replace(x, at(k), REGION) if k in replaced else x
            x = down(x, k)
        return replace(x, canvas, REGION) if 0 in replaced else x

    return run


METHODS = {
    "sampling": method(set(), 0),
    "COW": method(set(), 5),
    "SOW": method({4, 3}, 5),  # of SOW what a denoiser without attention can show: its preservation
    "inpainting": method(set(range(T2 + 1)), 0),
    "RePaint": method(set(range(T2 + 1)), 5),
}


def measured(world: World, run: Method, strength: float) -> tuple[float, float]:
    """w by vector-Jacobian products, and w by perturbing one region of each canvas DRAWS times."""
    canvas = world.sample(IMAGES, noise.generator(3)).x0.reshape(IMAGES, 1, SIDE, SIDE)
    probes = normal((8, *canvas.shape), 4)
    blocks = sensitivity.between(lambda x, *_: run(world, x), canvas, 0.0, None, REGION, probes)
    indicators = torch.stack([REGION, torch.zeros_like(REGION), ~REGION], -1)  # condition, related, rest
    plain, energies = run(world, canvas), []
    for inside, elsewhere in ((REGION, "rest"), (~REGION, "condition")):
        energy = 0.0
        for draw in range(DRAWS):
            seeds = range(draw * IMAGES, (draw + 1) * IMAGES)
            delta = torch.cat([perturb.region_noise(inside, 1, strength, seed) for seed in seeds])
            changes = run(world, canvas + delta.double()) - plain
            energy += sum(perturb.responses(change, indicators, strength)[elsewhere][1] for change in changes)
        energies.append(energy)
    return float(sensitivity.one_wayness(*(b.sum() for b in blocks))), perturb.one_wayness(*energies)


def test_both_rank_methods_alike():
    """Overlapping classes, the study's strength; replaced to the end, w = 1 by both."""
    world = smooth_classes(0.6, 0.7)
    found = {name: measured(world, run, STRENGTH) for name, run in METHODS.items()}
    by_jacobian, by_perturbation = zip(*found.values(), strict=True)
    assert found["inpainting"] == found["RePaint"] == (1, 1)
    assert len(set(by_jacobian)) == 4  # all others apart
    assert spearmanr(by_jacobian, by_perturbation).statistic == pytest.approx(1)
    assert max(map(abs, found["sampling"])) < 0.5 < min(found["COW"])


def test_small_perturbations_agree_where_classes_lie_apart():
    jacobian, perturbed = measured(smooth_classes(2.0, 0.3), METHODS["COW"], 0.1)
    assert perturbed == pytest.approx(jacobian, abs=0.02)
