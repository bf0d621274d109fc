"""RePaint jumps as its algorithm does, on diffusers' own predictions."""

from __future__ import annotations

import copy

import torch
from diffusers import (
    RePaintScheduler,
)
from small_baselines import (
    config,
    latents,
    prepared,
    sampler,
)

from sow import build
from sow.baselines.repaint import jumps
from sow.method import noise
from sow.models.tiny import SCHEDULER


def test_repaint_is_diffusers_scheduler_on_the_same_predictions():
    """One training step a sampling step, where diffusers' undo is one draw as ours is."""
    settings = config(
        "repaint",
        "method.num_inference_steps=12",
        "method.eta=0",
        "method.jump_length=3",
        "method.resamples=3",
    )
    backbone = copy.copy(build(settings).backbone)
    backbone.scheduler_config = {
        **SCHEDULER,
        "num_train_timesteps": 12,
        "steps_offset": 0,
        "set_alpha_to_one": True,
    }
    made = settings.method.sampler(settings, backbone)
    reference = RePaintScheduler(12, 0.00085, 0.012, "scaled_linear", eta=0.0, clip_sample=False)
    reference.set_timesteps(12, 3, 3)
    batch = prepared(made)
    x, above = made.method.start(batch), 12
    for state in made.method.visited[1:]:
        if state > above:
            x = reference.undo_step(x, above, batch.generators[0])
        else:
            e = made.method.epsilon(batch, x, state)
            x = reference.step(
                e, state, x, batch.latents, batch.known.float(), batch.generators[0], return_dict=False
            )[0]
        above = state
    torch.testing.assert_close(latents(made), x, rtol=1e-4, atol=1e-4)


def test_repaint_jumps_as_its_algorithm_does():
    # Algorithm 1: with j = 1 and U resamplings every state but x_0 and x_T is left r - 1 times upwards.
    assert jumps(3, 1, 2) == [3, 2, 3, 2, 1, 2, 1, 0]
    assert jumps(4, 2, 2) == [4, 3, 2, 1, 2, 3, 2, 1, 0]
    assert jumps(5, 10, 10) == [5, 4, 3, 2, 1, 0]
    for steps, length, resamples in [(50, 10, 10), (250, 10, 10), (20, 5, 3)]:
        visited = jumps(steps, length, resamples)
        falls = sum(b < a for a, b in zip(visited, visited[1:], strict=False))
        places = len(range(1, steps - length + 1, length))
        assert falls == steps + places * length * (resamples - 1) and visited[-1] == 0


def test_repaint_draws_the_unknown_part_from_the_ddpm_posterior():
    """Eq. 8b: with eta = 1 the step's standard deviation is that of q(x_{t-1} | x_t, x_0)."""
    made = sampler("repaint")
    batch = prepared(made)
    zero = torch.zeros(1, 4, 8, 8)
    same = noise.generator(0).set_state(batch.generators[0].get_state())
    draw = noise.randn((1, 4, 8, 8), same, "cpu", zero.dtype)
    x, _ = made.method.ddim(batch, zero, zero, 3)
    high, low = made.model.schedule.level(4), made.model.schedule.level(3)
    beta = 1 - high / low
    torch.testing.assert_close(x, ((1 - low) / (1 - high) * beta) ** 0.5 * draw)
