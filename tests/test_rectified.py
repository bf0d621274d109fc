"""FlowEdit and RF-Inversion: each step against the papers' algorithms written out, and what their strengths
mean at zero and at one."""

from __future__ import annotations

import copy

import pytest
import torch
from small_baselines import config, latents, plan, prepared, request
from test_sampler import moved

from sow import build
from sow.errors import UserError

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 1.0}
STEPS = 5
SHORT = {
    "flowedit": ["method.n_max=4", "method.target_guidance=4"],
    "rf_inversion": ["method.until=0.4", "method.source_guidance=1.5"],
}


def as_flow(backbone):
    """The same network, taken for one that predicts velocities."""
    made = copy.copy(backbone)
    made.scheduler_config = FLOW
    return made


def flow_sampler(method: str, *words: str):
    """The method on the tiny UNet as a flow."""
    settings = config(method, "model.dtype=float64", *SHORT[method], *words)
    backbone = build(config("sow", "model.dtype=float64")).backbone
    return settings.method.sampler(settings, as_flow(backbone))


def velocity(made, prompt: str, scale: float):
    """V(z, t) of the network itself, guided by hand."""
    negative = made.method.guidance.negative_prompt
    backbone = made.backbone
    texts = [backbone.embed([text]) for text in (negative, prompt)]

    def v(z: torch.Tensor, t: float) -> torch.Tensor:
        u, c = (backbone.predict(z, 1000 * t, text) for text in texts)
        return u + scale * (c - u)

    return v


def draws(made, batch, count: int) -> list[torch.Tensor]:
    return [made.method.draw(batch, batch.encoded) for _ in range(count)]


def grid(made) -> list[float]:
    """1 .. 0 in even steps, as an unshifted scheduler of 1000 levels has them."""
    sigmas = list(reversed(made.method.schedule.sigmas))
    assert sigmas[0] == 1 and sigmas[-1] == 0 and len(sigmas) == STEPS + 1
    return sigmas


@pytest.mark.parametrize("n_min", [0, 2, 4])
def test_flowedit_is_its_algorithm(n_min: int) -> None:
    made = flow_sampler("flowedit", f"method.n_min={n_min}", "method.source_prompt=a gray wall")
    batch, sigmas = prepared(made), grid(made)
    x0, noises = batch.encoded, draws(made, batch, STEPS)
    source, target = velocity(made, "a gray wall", 3.5), velocity(made, request().prompt, 4.0)
    edit, sampled = x0, None
    for i in range(STEPS):
        t, s, left = sigmas[i], sigmas[i + 1], STEPS - i
        if left > 4:
            continue
        if left > n_min:
            noisy = (1 - t) * x0 + t * noises[i - 1]
            edit = edit + (s - t) * (target(edit + noisy - x0, t) - source(noisy, t))
        else:
            if sampled is None:
                sampled = edit + (1 - t) * x0 + t * noises[i - 1] - x0
            sampled = sampled + (s - t) * target(sampled, t)
    wanted = edit if sampled is None else sampled
    assert moved(latents(made), wanted) < 1e-10
    assert moved(wanted, x0) > 1e-3


def test_rf_inversion_is_its_algorithms() -> None:
    made = flow_sampler("rf_inversion")
    batch, sigmas = prepared(made), grid(made)
    x0, (noise,) = batch.encoded, draws(made, batch, 1)
    source, target = velocity(made, "", 1.5), velocity(made, request().prompt, 3.5)
    y = x0
    for s, t in zip(sigmas[::-1], sigmas[-2::-1], strict=False):
        v = source(y, s)
        y = y + (t - s) * (0.5 * v + 0.5 * (noise - y) / (1 - s))
    for i in range(STEPS):
        t, s = sigmas[i], sigmas[i + 1]
        eta = 0.9 if i < 2 else 0.0
        y = y + (s - t) * ((1 - eta) * target(y, t) + eta * (y - x0) / t)
    assert moved(latents(made), y) < 1e-10


def test_without_their_strength_they_sample_plainly() -> None:
    edit = flow_sampler("flowedit", f"method.n_max={STEPS}", f"method.n_min={STEPS}")
    inversion = flow_sampler("rf_inversion", "method.strength=0", "method.gamma=1")
    for made, scale in ((edit, 4.0), (inversion, 3.5)):  # gamma 1 ends at the draw itself
        batch, sigmas = prepared(made), grid(made)
        (x,) = draws(made, batch, 1)
        target = velocity(made, request().prompt, scale)
        for t, s in zip(sigmas, sigmas[1:], strict=False):
            x = x + (s - t) * target(x, t)
        assert moved(latents(made), x) < 1e-10


def test_at_full_strength_the_canvas_comes_back() -> None:
    made = flow_sampler("rf_inversion", "method.strength=1", "method.until=1")
    assert moved(latents(made), prepared(made).encoded) < 1e-10
    assert torch.equal(
        latents(untouched := flow_sampler("flowedit", "method.n_max=0")), prepared(untouched).encoded
    )


def batch_is_singles(made) -> None:
    """A batch of two gives what each gives alone, in as many steps as are counted."""
    both = made.generate([request(0), request(1)], plans=[plan(0), plan(1)])
    for i in (0, 1):
        assert moved(both[i].latents, latents(made, i)) < 1e-6
    assert sum(row["event"] == "denoise" for row in both[0].trace) == made.denoising_steps()


@pytest.mark.parametrize("method", ["flowedit", "rf_inversion"])
def test_a_batch_equals_its_singles(method: str) -> None:
    batch_is_singles(flow_sampler(method))


@pytest.mark.parametrize(
    ("method", "words", "cure"),
    [
        ("flowedit", ["method.n_max=6"], "method.n_max"),
        ("flowedit", ["method.n_max=2", "method.n_min=3"], "method.n_min"),
        ("rf_inversion", ["method.eta=1"], "method.eta"),
    ],
)
def test_what_they_cannot_do_is_said(method: str, words: list[str], cure: str) -> None:
    with pytest.raises(UserError, match=cure):
        flow_sampler(method, *words)


def test_models_of_another_kind_are_refused() -> None:
    settings = config("flowedit", "method.n_max=4")
    with pytest.raises(
        UserError, match=r"method=flowedit was written for rectified flows.*\(method, model\)"
    ):
        build(settings)
    backbone = as_flow(build(config("sow")).backbone)
    backbone.embedded_guidance = 3.5
    with pytest.raises(UserError, match="guidance as an input"):
        settings.method.sampler(settings, backbone)
