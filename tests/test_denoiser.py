"""The guided prediction on a backbone whose answers are known, and what a cache around it tells apart."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sow.errors import UserError
from sow.method import noise
from sow.method.denoiser import Denoiser, Model
from sow.method.diffusion import Schedule
from sow.method.guidance import ClassifierFree, Regional
from sow.models.tiny import SCHEDULER
from sow.pipeline.cached import Cache, CachedModel

STEPS = 5
FREE, PLAIN = ClassifierFree(3.0, "bad"), ClassifierFree(1.0, "")
REGIONAL = Regional(2.0, "bad", "suppressed words", "enhanced", "")


class Known:
    """Predicts the length of each row's prompt, plus `slope` times the latents."""

    def __init__(self, slope: float = 0.0) -> None:
        self.slope, self.calls = slope, 0
        self.device, self.dtype, self.channels, self.unet = torch.device("cpu"), torch.float64, 4, None

    def embed(self, prompts: Any) -> torch.Tensor:
        return torch.tensor([float(len(p)) for p in prompts]).view(-1, 1, 1)

    def predict(self, x: torch.Tensor, timestep: int, embeds: torch.Tensor, **more: Any) -> torch.Tensor:
        self.calls += 1
        return self.slope * x + embeds.unsqueeze(-1).to(x) + more.get("added", 0.0)


def model(slope: float = 0.0) -> Model:
    return Model(Known(slope), Schedule.from_config(SCHEDULER, STEPS))  # type: ignore[arg-type]


def latents(seed: int = 0) -> torch.Tensor:
    return noise.randn((2, 4, 3, 3), noise.generator(seed), "cpu", torch.float64)


def test_guidance_weighs_the_branches_of_each_row():
    x, prompts = latents(), ["a", "four"]
    c = torch.tensor([1.0, 4.0]).view(2, 1, 1, 1).expand_as(x).double()
    torch.testing.assert_close(model().denoiser(FREE, prompts).epsilon(x, 2), 3 + 3 * (c - 3))
    torch.testing.assert_close(model().denoiser(PLAIN, prompts).epsilon(x, 2), c)
    M = torch.zeros(2, 1, 3, 3, dtype=torch.bool)
    M[:, :, 1] = True
    u = 3 + (~M) * (len("suppressed words") - len("enhanced"))
    torch.testing.assert_close(model().denoiser(REGIONAL, prompts).epsilon(x, 2, M), u + 2 * (c - u))
    everywhere = model().denoiser(REGIONAL, prompts).epsilon(x, 2)
    assert torch.equal(everywhere, model().denoiser(REGIONAL, prompts).epsilon(x, 2, torch.zeros_like(M)))


def test_inputs_say_what_the_network_sees():
    def inputs(denoiser: Denoiser, rows: torch.Tensor, k: int) -> tuple[torch.Tensor, dict[str, Any]]:
        return 2 * rows, {"added": float(k)}

    plain = model(1.0).denoiser(PLAIN, ["", ""])
    x = latents()
    torch.testing.assert_close(replace(plain, inputs=inputs).epsilon(x, 3), 2 * x + 3)


def test_inversion_and_steps_return_to_the_start():
    denoiser = model().denoiser(FREE, ["one", "another"])
    x = start = latents()
    for k in range(STEPS):
        x = denoiser.invert(x, k)
    for k in reversed(range(STEPS)):
        x, *_ = denoiser.step(x, k)
    torch.testing.assert_close(x, start, rtol=1e-10, atol=1e-10)


def test_a_move_is_found_by_all_that_decides_it_and_by_nothing_else():
    cache = Cache()
    cache.configure(1 << 20, None)
    known = Known(0.5)
    cached = CachedModel(known, Schedule.from_config(SCHEDULER, STEPS), cache)  # type: ignore[arg-type]
    denoiser, x, n = cached.denoiser(FREE, ["a", "b"]), latents(), latents(1)
    first = denoiser.step(x, 2, None, 0.5, n)
    again = cached.denoiser(FREE, ["a", "b"]).step(x.clone(), 2, None, 0.5, n.clone())
    assert known.calls == 1 and torch.equal(first[0], again[0])
    others = [
        lambda: denoiser.step(x, 3, None, 0.5, n),
        lambda: denoiser.step(x, 2, None, 0.4, n),
        lambda: denoiser.step(x, 2, None, 0.5, n + 1),
        lambda: denoiser.step(x + 1e-15, 2, None, 0.5, n),
        lambda: denoiser.step(x, 2, None, 0.5, n, (1.0,)),
        lambda: denoiser.invert(x, 2),
        lambda: denoiser.invert(x, 2, True),
        lambda: cached.denoiser(FREE, ["a", "c"]).step(x, 2, None, 0.5, n),
        lambda: cached.denoiser(PLAIN, ["a", "b"]).step(x, 2, None, 0.5, n),
        lambda: replace(denoiser, schedule=Schedule.from_config(SCHEDULER, 4)).step(x, 2, None, 0.5, n),
    ]
    for calls, move in enumerate(others, 2):
        move()
        move()
        assert known.calls == calls
    watched = replace(denoiser, inputs=lambda denoiser, rows, k: (rows, {}))  # has no content: never found
    watched.step(x, 2)
    watched.step(x, 2)
    assert known.calls == len(others) + 3


def test_studies_of_the_cycles_name_a_method_without_them():
    from sow.dynamics.perturb import cyclic

    with pytest.raises(UserError, match="SimpleNamespace has no cycles: take method=sow"):
        cyclic(SimpleNamespace(method=SimpleNamespace()))  # type: ignore[arg-type]
