"""LanPaint's step is exact, and samples the unknown given the known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_baselines import (
    config,
    plan,
    prepared,
    request,
    sampler,
)

from sow.baselines.inpaint import InpaintSampler
from sow.baselines.lanpaint import LanPaintSampler, oscillator
from sow.method import noise
from sow.method.diffusion import replace as put


def test_lanpaints_oscillator_is_an_exact_step():
    for stiffness, friction in [(1.0, 15.0), (17.0, 15.0), (17.0, 2.0)]:
        E, L = oscillator(stiffness, friction, 0.3)
        # Two half steps are one step, and the stationary law stays what it is.
        half_E, half_L = oscillator(stiffness, friction, 0.15)
        torch.testing.assert_close(half_E @ half_E, E)
        torch.testing.assert_close(half_E @ half_L @ half_L.T @ half_E.T + half_L @ half_L.T, L @ L.T)
        stationary = torch.diag(torch.tensor([1 / stiffness, 1.0], dtype=torch.float64))
        torch.testing.assert_close(E @ stationary @ E.T + L @ L.T, stationary)
    # With large friction it is plain Langevin dynamics of time t / friction.
    E, L = oscillator(2.0, 1e4, 1e4 * 0.3)
    assert E[0, 0].item() == pytest.approx(float(torch.tensor(-0.6).exp()), rel=1e-3)
    assert (L[0, 0] ** 2).item() == pytest.approx(0.5 * (1 - float(torch.tensor(-1.2).exp())), rel=1e-3)


def test_lanpaints_default_friction_is_the_authors_dynamics():
    """Theirs, in x: dx = q dt, dq = -G A x dt - G q dt over h (1 - alpha),
    with G = 15^2 h / 0.2 / (h (1 - alpha))."""
    options = config("lanpaint").method
    h, alpha = 0.2, 0.37
    assert options.step_size == h
    G = 15**2 * h / 0.2 / (h * (1 - alpha))
    for stiffness in (1.0, 1.0 + options.weight):
        theirs = torch.tensor([[0.0, 1.0], [-G * stiffness / (1 - alpha), -G]], dtype=torch.float64)
        E = torch.linalg.matrix_exp(theirs * h * (1 - alpha))
        ours, _ = oscillator(stiffness, options.friction, options.step_size * options.friction)
        # Both velocities in the unit in which they are standard normal at rest: u = x / sqrt(1 - alpha), v =
        # q / sqrt(G).
        units = torch.diag(torch.tensor([(1 - alpha) ** -0.5, G**-0.5], dtype=torch.float64))
        torch.testing.assert_close(ours, units @ E @ units.inverse(), rtol=1e-4, atol=1e-7)


class FromReplaced(InpaintSampler):
    """Replace whose first step sees the known part at its own noise level, not as noise alone."""

    def start(self, batch):
        x = super().start(batch)
        return put(x, self.schedule.noised(batch.latents, self.schedule.steps, x), batch.known)


def test_lanpaint_without_langevin_steps_is_replace():
    made = sampler("lanpaint", "method.inner_steps=0")
    plain = sampler("sd_inpaint", "method.eta=0", "method.vae=mode")
    reference = replace(plain, method=FromReplaced(**vars(plain.method)))
    ours, theirs = (
        [s.latents for s in m.steps(request(), plan=plan()) if s.event == "denoise"]
        for m in (made, reference)
    )
    held = prepared(made).known
    assert len(ours) == len(theirs) == 5
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.masked_fill(held, 0), b.masked_fill(held, 0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[-1], theirs[-1], rtol=1e-5, atol=1e-5)


def test_lanpaint_tells_each_level_and_each_prediction_what_is_known():
    made = sampler("lanpaint", "method.inner_steps=2")
    batch = prepared(made)
    held = batch.known.expand_as(batch.latents)
    calls, stepped = {}, {}

    class Watched(LanPaintSampler):
        def epsilon(self, batch, x, k):
            calls.setdefault(k, []).append(x)
            return super().epsilon(batch, x, k)

        def ddim(self, batch, x, e, k):
            stepped[k] = super().ddim(batch, x, e, k)
            return stepped[k]

    steps = list(Watched(**vars(made.method)).denoise(batch))
    noise_of_chain = steps[0].latents
    denoised = [s.denoised for s in steps if s.denoised is not None]
    assert len(denoised) == 5 and [len(c) for c in calls.values()] == [3] * 5
    for x0 in denoised:
        assert torch.equal(x0[held], batch.latents[held]) and not torch.equal(x0[~held], batch.latents[~held])
    for k, seen in calls.items():
        level = made.model.schedule.noised(batch.latents, k + 1, noise_of_chain)
        assert torch.equal(seen[0][held], level[held])
        assert not torch.allclose(seen[1][held], level[held])  # then it moves
        # The step itself goes to y_0, not to the x_0 that the model predicts there.
        torch.testing.assert_close(stepped[k][1][held], batch.latents[held], rtol=1e-4, atol=1e-4)


def test_lanpaint_samples_the_unknown_given_the_known():
    """Correlated Gaussian latents, whose exact score is known: known neighbours must be felt in the unknown
    half.

    Each channel's pixel pairs (left, right) have correlation r; the left half is known to be 1. The guided
    score is exact in the limit of a large weight only, so mean and variance of the right half are held to 15
    %.
    """
    r = 0.8
    made = sampler("lanpaint", "method.weight=50", "method.step_size=0.05")
    batch = prepared(made)
    known = torch.zeros(1, 1, 40, 40, dtype=torch.bool)
    known[..., :20] = True
    batch = replace(batch, latents=torch.ones(1, 4, 40, 40), known=known)
    k = 2
    alpha = float(made.model.schedule.level(k + 1))
    # Covariance of a noised pair: alpha C + (1 - alpha) I.
    inverse = torch.linalg.inv(torch.tensor([[1.0, alpha * r], [alpha * r, 1.0]]))

    class Exact(LanPaintSampler):
        def epsilon(self, batch, x, k):
            left, right = x[..., :20], x[..., 20:]
            score = -torch.cat(
                [inverse[0, 0] * left + inverse[0, 1] * right, inverse[1, 0] * left + inverse[1, 1] * right],
                dim=-1,
            )
            return -((1 - alpha) ** 0.5) * score

    exact = Exact(**vars(made.method))
    g = batch.generators[0]
    x, p = (noise.randn((1, 4, 40, 40), g, "cpu", torch.float32) for _ in range(2))
    seen = []
    for i in range(400):
        x, p = exact.think(batch, x, p, k)
        if i >= 200 and i % 10 == 0:
            seen.append(x[..., 20:])
    values = torch.stack(seen)
    # p(x_t | y_0 = 1): x_0 ~ N(r, 1 - r^2), noised.
    mean, variance = alpha**0.5 * r, alpha * (1 - r**2) + 1 - alpha
    assert float(values.mean()) == pytest.approx(mean, rel=0.15)
    assert float(values.var()) == pytest.approx(variance, rel=0.15)
