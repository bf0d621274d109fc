"""The two processes are one in other coordinates; their variances; and that inversions return."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sow import build, compose
from sow.errors import UserError
from sow.method import noise
from sow.method.cycle import Cycle
from sow.method.denoiser import Denoiser, Model
from sow.method.diffusion import Schedule
from sow.method.flow import RectifiedFlow, added
from sow.method.process import log_snr, nearest_state
from sow.models.tiny import SCHEDULER
from sow.types import Box, Plan, Request, VisualCondition

SMALL = ["model=tiny", "model.dtype=float64", "tracker=none", "metrics=none", "cycle.cycles=2"]
SMALL += ["planner=fixed", "intensify=none", "cache.memory_mb=0", "model.canvas=[64,64]"]
GRID = RectifiedFlow((0.0, 0.2, 0.45, 0.7, 0.9, 1.0), tuple(1000 * s for s in (0.2, 0.45, 0.7, 0.9, 1.0)))
PLAN = Plan((Box(16, 8, 24, 24),), (Box(0, 24, 64, 40),), "a person", "test")


def draw(seed: int) -> torch.Tensor:
    return noise.randn((1, 4, 6, 5), noise.generator(seed), "cpu", torch.float64)


def request() -> Request:
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    face = Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC)
    return Request((VisualCondition(face),), "a person", None, 0, "0")


# An epsilon model read as a velocity model (z = x / (1 - t) has the sigma of the epsilon model's own space).


class Wrapped:
    """The velocity that a backbone's noise prediction means for a flow's state at level `sigma`."""

    def __init__(self, backbone: Any) -> None:
        self.wrapped, self.sigma = backbone, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)

    def predict(self, x: torch.Tensor, timestep: float, embeds: torch.Tensor, **more: Any) -> torch.Tensor:
        t = self.sigma
        e = self.wrapped.predict(x / ((1 - t) ** 2 + t**2) ** 0.5, timestep, embeds, **more)
        return e - (x - t * e) / (1 - t)


@dataclass(frozen=True, eq=False)
class WrappedDenoiser(Denoiser):
    """Tells the wrapped backbone which level its state is at."""

    def step(self, x: torch.Tensor, k: int, *more: Any) -> Any:
        self.backbone.sigma = self.schedule.sigmas[k + 1]  # type: ignore[attr-defined]
        return super().step(x, k, *more)

    def invert(self, x: torch.Tensor, k: int, official: bool = False) -> torch.Tensor:
        self.backbone.sigma = self.schedule.sigmas[k]  # type: ignore[attr-defined]
        return super().invert(x, k, official)


@dataclass(frozen=True, eq=False)
class WrappedModel(Model):
    def denoiser(self, *inputs: Any) -> Denoiser:
        return WrappedDenoiser(**vars(super().denoiser(*inputs)))


def both(words: list[str]) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The final latents of a run on the tiny model and as a flow, its last ones in the model's own space."""
    made = build(compose([*SMALL, *words]))
    schedule = made.model.schedule
    exact = replace(
        schedule,
        alphas_cumprod=schedule.alphas_cumprod.double(),
        final_alpha=schedule.final_alpha.double(),
    )
    flow = RectifiedFlow(exact.sigmas, exact.timesteps)
    ours = replace(made.method, model=Model(made.backbone, exact))
    theirs = replace(made.method, model=WrappedModel(Wrapped(made.backbone), flow))  # type: ignore[arg-type]
    # x_0 sits at sigma_0, a little above 0, in both: a picture's latents enter the flow's space there.
    s = flow.sigmas[0]
    scale = ((1 - s) ** 2 + s**2) ** 0.5
    if theirs.inversion.solver == "reverse":  # q(x_k | x_0) takes clean latents
        theirs = replace(theirs, inversion=replace(theirs.inversion, nudge=scale))
    found = [replace(made, method=m).generate([request()], plans=[PLAN])[0] for m in (ours, theirs)]
    opened = sum(v for r in found[0].trace for n, v in r.items() if n.startswith("gate/") and v == v)
    assert found[0].trace[-1]["index"] == found[1].trace[-1]["index"] == 0
    return found[0].latents, found[1].latents / scale, opened


@pytest.mark.parametrize(
    "words",
    [
        ["gate.tau=0", "cycle.eta=1", "task=style"],
        ["gate.tau=0", "cycle.eta=0"],
        ["gate.tau=1", "cycle.eta=1"],
        ["gate.tau=1", "cycle.eta=0", "task=attribute", "cycle.steps=literal"],
        ["method=cow", "inversion.levels=aligned", "cycle.inject_levels=aligned"],
        ["method=cow", "inversion.levels=aligned", "cycle.inject_levels=aligned", "cycle.eta=0"],
        ["gate.tau=0", "seed_init=none"],
        ["gate.tau=0", "inversion.solver=free"],
    ],
    ids=" ".join,
)
def test_a_noise_predictor_is_the_same_model_as_a_flow(words: list[str]) -> None:
    ours, theirs, opened = both(words)
    assert (opened > 0) == ("gate.tau=0" in words)  # the comparison is one of open gates, and of shut ones
    assert ((ours - theirs).norm() / ours.norm()).item() < 1e-10


# Variances and reverses.


def test_injected_noise_composes_and_keeps_the_marginal() -> None:
    for s, t, u in ((0.0, 0.3, 0.5), (0.2, 0.45, 0.7), (0.45, 0.9, 1.0)):
        mean = (1 - u) / (1 - t) * ((1 - t) / (1 - s))
        assert mean == pytest.approx((1 - u) / (1 - s), abs=1e-12)
        twice = ((1 - u) / (1 - t) * added(s, t)) ** 2 + added(t, u) ** 2
        assert twice == pytest.approx(added(s, u) ** 2, abs=1e-12)
        assert ((1 - u) / (1 - s) * s) ** 2 + added(s, u) ** 2 == pytest.approx(u**2, abs=1e-12)
    x, n = draw(0), draw(1)
    again = GRID.inject(GRID.inject(x, 1, 2, 0 * n), 2, 4, 0 * n)
    torch.testing.assert_close(again, GRID.inject(x, 1, 4, 0 * n), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.1, 1.0])
def test_steps_reach_the_variance_of_their_level(eta: float) -> None:
    """With the true n and x0 what is left of n and what is drawn add up to sigma^2; x0 keeps its weight."""
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for k in range(GRID.steps):
        s = GRID.sigmas[k]
        of_x0, of_n, drawn = (
            GRID.step(zero, n, k, eta, z, x0)[0].item()
            for n, z, x0 in ((zero, zero, one), (one, zero, zero), (zero, one, zero))
        )
        assert of_x0 == pytest.approx(1 - s, abs=1e-12)
        assert of_n**2 + drawn**2 == pytest.approx(s**2, abs=1e-12)
        assert (drawn > 0) == (eta > 0 and k > 0)


def test_eta_one_is_the_posterior_of_the_flow() -> None:
    """q(x_s | x_t, x0) of InjectNoise's Gaussian chain: the step of DDPM in these coordinates."""
    for k in (1, 2, 3):
        s, t = GRID.sigmas[k : k + 2]
        a, r = (1 - t) / (1 - s), added(s, t)
        variance = 1 / (1 / s**2 + a**2 / r**2)
        x, x0 = draw(0), draw(1)
        n = (x - (1 - t) * x0) / t
        mean = variance * ((1 - s) * x0 / s**2 + a * x / r**2)
        torch.testing.assert_close(GRID.step(x, n, k, 1.0, 0 * x, x0)[0], mean, rtol=1e-12, atol=1e-12)
        wide = GRID.step(0 * x, 0 * x, k, 1.0, x / x, 0 * x)[0].mean().item() ** 2
        assert wide == pytest.approx(variance, abs=1e-12)


def test_inversion_then_sampling_returns_the_start() -> None:
    start = x = draw(0)
    velocities = [draw(100 + k) for k in range(GRID.steps)]
    for k in range(GRID.steps):
        x = GRID.inverted(x, velocities[k], k)
    for k in reversed(range(GRID.steps)):
        n, x0 = GRID.predicted(velocities[k], x, k)
        x, _ = GRID.step(x, n, k, x0=x0)
    torch.testing.assert_close(x, start, rtol=1e-10, atol=1e-10)


class Rotating:
    """A velocity that depends on state and level, known exactly: v = a + b t + c x."""

    device, dtype, channels, unet, flow = torch.device("cpu"), torch.float64, 4, None, True
    calls = 0

    def embed(self, prompts: Any) -> torch.Tensor:
        return torch.zeros(len(prompts), 1, 1)

    def predict(self, x: torch.Tensor, timestep: float, embeds: torch.Tensor, **more: Any) -> torch.Tensor:
        self.calls += 1
        return 0.3 + 0.8 * timestep / 1000 - 0.5 * x


def test_the_midpoint_rule_is_closer_at_one_call_a_step() -> None:
    from sow.method.guidance import ClassifierFree

    def reach(steps: int, midpoint: bool) -> float:
        sigmas = tuple(0.8 * k / steps for k in range(steps + 1))
        backbone = Rotating()
        model = Model(backbone, RectifiedFlow(sigmas, tuple(1000 * s for s in sigmas[1:])))  # type: ignore
        denoiser, v = model.denoiser(ClassifierFree(1.0, ""), [""]), None
        x = torch.ones(1, 4, 1, 1, dtype=torch.float64)
        for k in range(steps):
            if midpoint:
                x, v = denoiser.invert_midpoint(x, k, v)
            else:
                x = denoiser.invert(x, k)
        assert backbone.calls == steps + midpoint
        # dx/dt = 0.3 + 0.8 t - 0.5 x from x(0) = 1.
        exact = 0.6 - 3.2 + 1.6 * 0.8 + (1 - 0.6 + 3.2) * np.exp(-0.4)
        return abs(x.mean().item() - exact)

    assert reach(8, True) < 0.1 * reach(8, False)
    assert reach(8, True) / reach(16, True) > 3  # second order
    assert 1.7 < reach(8, False) / reach(16, False) < 2.3  # first order


# Positions as levels.


def test_levels_name_states() -> None:
    schedule = Schedule.from_config(SCHEDULER, 10)
    assert [round(schedule.sigmas[k], 2) for k in (5, 6, 7, 8)] == [0.54, 0.62, 0.70, 0.77]
    for k in range(1, 11):
        assert nearest_state(schedule.sigmas[k], "sigma", schedule.sigmas) == k
        assert nearest_state(log_snr(schedule.sigmas[k]), "log_snr", schedule.sigmas) == k
        alpha = schedule.level(k).item()
        assert log_snr(schedule.sigmas[k]) == pytest.approx(np.log(alpha / (1 - alpha)), abs=1e-5)
    same = Cycle(0.54, 0.7, 1, 1.0, "aligned", "fitted", "sigma")
    assert same.resolve(10, schedule.sigmas) == Cycle(5, 7, 1, 1.0, "aligned", "fitted").resolve(10)
    ratios = log_snr(0.54), log_snr(0.7)
    assert Cycle(*ratios, 1, 1.0, "aligned", "fitted", "log_snr").resolve(10, schedule.sigmas) == (5, 7)


def test_a_run_by_levels_is_the_run_by_steps() -> None:
    by_steps = build(compose([*SMALL, "cycle.cycles=1"]))
    words = ["calibration.unit=sigma", "calibration.t1=0.54", "calibration.t2=0.7"]
    words += ["calibration.preservation.normal.t3=[0.46,0.38]"]
    by_levels = build(compose([*SMALL, "cycle.cycles=1", *words]))
    assert (by_levels.method.t1, by_levels.method.t2, by_levels.method.t3) == (5, 7, (4, 3))
    ours, theirs = (m.generate([request()], plans=[PLAN])[0].latents for m in (by_steps, by_levels))
    assert torch.equal(ours, theirs)
    moved = build(compose([*SMALL, *words, "cycle.t1=0.46"]))
    assert moved.method.t1 == 4 and moved.method.t3 == (3,)  # 0.39 and 0.32, both nearest to x_3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cycle.unit=sigma", "cycle.t1=5"], "0 < t1 < t2 <= 1 as sigma, got t1=5"),
        (["cycle.unit=log_snr", "cycle.t1=-1", "cycle.t2=1"], "need t1 > t2 as log SNR"),
        (
            ["cycle.unit=sigma", "cycle.t1=0.54", "cycle.t2=0.7"],
            "calibrated t3 as steps: give preservation.t3",
        ),
        (
            ["cycle.unit=sigma", "cycle.t1=0.54", "cycle.t2=0.55", "preservation.t3=[0.4]"],
            "fall on steps 5 and 5",
        ),
        (["cycle.unit=sigma", "cycle.t1=0.5", "cycle.t2=0.7", "preservation.t3=[0.6]"], "need 0 < t3 < t1"),
        (["inversion=flow_midpoint"], "midpoint rule follows the velocity of a rectified flow"),
    ],
    ids=str,
)
def test_positions_that_cannot_be_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(compose([*SMALL, *words]))
