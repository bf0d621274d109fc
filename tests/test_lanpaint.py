"""LanPaint's step is exact, follows its authors' scheme, and samples the unknown given the known."""

from __future__ import annotations

from dataclasses import replace
from math import exp, sqrt

import pytest
import torch
from small_baselines import (
    plan,
    prepared,
    request,
    sampler,
)

from sow.baselines.inpaint import InpaintSampler
from sow.baselines.lanpaint import LanPaintSampler, drift
from sow.method import noise
from sow.method.diffusion import replace as put


def test_lanpaints_drift_is_an_exact_step():
    z, n, A, C = (torch.tensor(v, dtype=torch.float64) for v in (0.7, 0.0, 3.0, 2.0))
    # Two half steps are one step, and the stationary law, mean C / A and variance 1 / A, stays what it is.
    half = drift(drift(z, A, C, 0.15, n), A, C, 0.15, n)
    torch.testing.assert_close(half, drift(z, A, C, 0.3, n))
    one = torch.ones_like(z)
    spread = drift(n, A, n, 0.3, one)
    kept = drift(one, A, n, 0.3, n)
    assert float(spread**2 + kept**2 / A) == pytest.approx(1 / 3)
    assert float(drift(C / A, A, C, 0.3, n)) == pytest.approx(2 / 3)
    # A short step is Euler's.
    assert float(drift(z, A, C, 1e-6, n) - z) == pytest.approx(1e-6 * (2.0 - 3.0 * 0.7), rel=1e-4)


def test_lanpaint_steps_as_its_authors_do():
    """Two steps of a level, latent by latent in plain numbers, from the paper's scores and the authors'
    scheme."""
    made = sampler("lanpaint", "model.dtype=float64", "method.weight=3", "method.ramp=0.5")
    batch, k = prepared(made), 2
    alpha = float(made.model.schedule.level(k + 1))
    time = 0.2 * max(1 - alpha, 0.5)
    g = batch.generators[0]
    x = noise.randn((1, 4, 8, 8), g, "cpu", torch.float64)
    same = noise.generator(0).set_state(g.get_state())
    draws = [noise.randn((1, 4, 8, 8), same, "cpu", torch.float64).flatten().tolist() for _ in range(3)]
    method = made.method

    def force(z, e, y_0, known):
        score = -e / sqrt(1 - alpha)
        if not known:
            return z / (1 - alpha) + score
        big = 4.0 * (sqrt(alpha) * y_0 - z) / (1 - alpha) - 3.0 * score
        return 4.0 * z / (1 - alpha) + big

    def move(z, A, C, t, n):
        return exp(-A * t) * z + (1 - exp(-A * t)) / A * C + sqrt((1 - exp(-2 * A * t)) / A) * n

    held = batch.known.expand_as(x).flatten().tolist()
    y_0 = batch.encoded.flatten().tolist()
    A = [(4.0 if m else 1.0) / (1 - alpha) for m in held]
    e = method.epsilon(batch, x, k).flatten().tolist()
    z = x.flatten().tolist()
    C = [force(*v) for v in zip(z, e, y_0, held, strict=True)]
    z = [move(*v) for v in zip(z, A, C, [time] * len(z), draws[0], strict=True)]
    first, kept = method.think(batch, x, None, k)
    torch.testing.assert_close(first.flatten(), torch.tensor(z, dtype=x.dtype), rtol=1e-5, atol=1e-5)

    z = [move(*v) for v in zip(first.flatten().tolist(), A, C, [time / 2] * len(z), draws[1], strict=True)]
    here = torch.tensor(z, dtype=x.dtype).view_as(x)
    e = method.epsilon(batch, here, k).flatten().tolist()
    new = [force(*v) for v in zip(z, e, y_0, held, strict=True)]
    z = [v + (b - a) * time for v, a, b in zip(z, C, new, strict=True)]
    z = [move(*v) for v in zip(z, A, C, [time / 2] * len(z), draws[2], strict=True)]
    second, kept = method.think(batch, first, kept, k)
    torch.testing.assert_close(second.flatten(), torch.tensor(z, dtype=x.dtype), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kept.flatten(), torch.tensor(new, dtype=x.dtype), rtol=1e-5, atol=1e-5)


def test_lanpaints_langevin_steps_become_fewer():
    made = sampler("lanpaint").method
    counts = [made.inner_steps(k) for k in range(5)]
    levels = [float(1 - made.schedule.level(k + 1)) for k in range(5)]
    assert counts == [0, *(round(5 * share) for share in levels[1:])] and counts[-1] == 5
    assert made.denoising_steps() == 5 + sum(counts)
    early = sampler("lanpaint", "method.ramp=0.1", "method.last_levels=0").method
    assert [early.inner_steps(k) for k in range(5)] == [round(5 * min(1, s / 0.1)) for s in levels]


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
    made = sampler("lanpaint", "method.inner_steps=2", "method.ramp=1e-3", "method.last_levels=0")
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
    score is exact in the limit of a large weight and of short steps only, so mean and variance of the right
    half are held to 15 %.
    """
    r = 0.8
    made = sampler("lanpaint", "method.weight=50", "method.step_size=0.01")
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
    x, force = noise.randn((1, 4, 40, 40), batch.generators[0], "cpu", torch.float32), None
    seen = []
    for i in range(1000):
        x, force = exact.think(batch, x, force, k)
        if i >= 400 and i % 20 == 0:
            seen.append(x[..., 20:])
    values = torch.stack(seen)
    # p(x_t | y_0 = 1): x_0 ~ N(r, 1 - r^2), noised.
    mean, variance = alpha**0.5 * r, alpha * (1 - r**2) + 1 - alpha
    assert float(values.mean()) == pytest.approx(mean, rel=0.15)
    assert float(values.var()) == pytest.approx(variance, rel=0.15)
