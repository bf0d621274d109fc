"""The sampler's arithmetic: equal to diffusers', exactly reversible, with the variances of Eq. 1-3."""

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler

from sow.errors import UserError
from sow.method import noise
from sow.method.cycle import Cycle, on_grid
from sow.method.diffusion import Schedule, ddim_step, inject_noise, invert_step, replace
from sow.models.tiny import SCHEDULER


def draw(seed: int, dtype=torch.float64) -> torch.Tensor:
    return noise.randn((2, 4, 6, 5), noise.generator(seed), "cpu", dtype)


@pytest.mark.parametrize("steps", [10, 20, 50])
@pytest.mark.parametrize("eta", [0.0, 0.1, 1.0])
def test_sampler_step_equals_diffusers(steps, eta):
    reference = DDIMScheduler.from_config(SCHEDULER)
    reference.set_timesteps(steps)
    schedule = Schedule.from_config(SCHEDULER, steps)
    assert list(schedule.timesteps) == reference.timesteps.tolist()[::-1]
    for k in (0, 1, steps // 2, steps - 1):
        x, e, n = draw(1), draw(2), draw(3)
        ours, x0 = ddim_step(x, e, schedule.level(k + 1), schedule.level(k), eta, n)
        theirs = reference.step(e, schedule.timesteps[k], x, eta=eta, variance_noise=n)
        torch.testing.assert_close(ours, theirs.prev_sample, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(x0, theirs.pred_original_sample, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [10, 50])
def test_inversion_equals_diffusers(steps):
    reference = DDIMInverseScheduler.from_config(SCHEDULER)
    reference.set_timesteps(steps)
    schedule = Schedule.from_config(SCHEDULER, steps)
    for k in (0, 1, steps // 2, steps - 1):
        x, e = draw(1), draw(2)
        ours = invert_step(x, e, schedule.level(k), schedule.level(k + 1))
        theirs = reference.step(e, int(reference.timesteps[k]), x).prev_sample
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [10, 20, 50])
def test_inversion_then_sampling_returns_the_start(steps):
    schedule = Schedule.from_config(SCHEDULER, steps)
    start = x = draw(0)
    eps = [draw(100 + k) for k in range(steps)]
    for k in range(steps):
        x = invert_step(x, eps[k], schedule.level(k), schedule.level(k + 1))
    for k in reversed(range(steps)):
        x, _ = ddim_step(x, eps[k], schedule.level(k + 1), schedule.level(k))
    assert (x - start).norm() / start.norm() < 1e-10


def test_injected_noise_has_the_variance_of_equation_2():
    schedule = Schedule.from_config(SCHEDULER, 10)
    a1, a2 = schedule.level(5), schedule.level(7)
    assert schedule.timesteps[4] == 401 and schedule.timesteps[6] == 601
    wide = noise.randn((1, 4, 128, 128), noise.generator(5), "cpu", torch.float64)
    out = inject_noise(torch.zeros_like(wide), a1, a2, wide)
    assert out.var().item() == pytest.approx(1 - (a2 / a1).item(), rel=0.02)
    # A state of unit variance per level keeps the marginal of its new level.
    assert (a2 / a1 * (1 - a1) + 1 - a2 / a1).item() == pytest.approx(1 - a2.item(), rel=1e-5)
    assert torch.equal(schedule.inject(torch.zeros_like(wide), 5, 7, wide), out)
    official = [
        schedule.level(k, official=Cycle(5, 7, 1, 1.0, "official", "fitted").official) for k in (5, 7)
    ]
    assert [a.item() for a in official] == [schedule.alphas_cumprod[t].item() for t in (501, 701)]


def test_replace_touches_nothing_outside_the_mask():
    x, v = draw(1), draw(2)
    mask = torch.zeros((2, 1, 6, 5), dtype=torch.bool)
    mask[0, 0, 1:3, 2:4] = True
    out = replace(x, v, mask)
    wide = mask.expand_as(x)
    assert torch.equal(out[wide], v[wide]) and torch.equal(out[~wide], x[~wide])


def test_positions_scale_as_the_published_code_scales_them():
    assert [on_grid(7, k) for k in (10, 20, 50, 90)] == [7, 14, 35, 62]
    with pytest.raises(UserError, match="need 0 < t1 < t2 <= 10 steps, got t1=7, t2=5"):
        Cycle(7, 5, 10, 1.0, "aligned", "fitted")
    with pytest.raises(UserError, match="num_inference_steps"):
        Cycle(5, 5.5, 10, 1.0, "aligned", "fitted").resolve(10)
    with pytest.raises(UserError, match="num_inference_steps"):
        Schedule.from_config(SCHEDULER, 2000)


def test_velocity_models_are_read_as_noise():
    schedule = Schedule.from_config({**SCHEDULER, "prediction_type": "v_prediction"}, 10)
    x0, e = draw(1), draw(2)
    alpha = schedule.alphas_cumprod[schedule.timesteps[3]].double()
    x = alpha**0.5 * x0 + (1 - alpha) ** 0.5 * e
    v = alpha**0.5 * e - (1 - alpha) ** 0.5 * x0
    torch.testing.assert_close(schedule.epsilon(v, x, 3), e, rtol=1e-6, atol=1e-6)


def test_noise_is_the_same_in_every_precision_and_alone():
    shape = (1, 4, 3, 3)
    double = noise.randn(shape, noise.generator(3), "cpu", torch.float64)
    single = noise.randn(shape, noise.generator(3), "cpu", torch.float32)
    assert torch.equal(double.float(), single)
    draws = [noise.integers(2, 4, noise.generator(s)) for s in range(40)]
    assert set(draws) == {2, 3, 4}
