"""The studies of the measures through the command line, at toy size on random weights: their files, numbers
and errors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from conftest import Result
from PIL import Image

from experiments.core.finding import reduced
from experiments.core.laboratory import Laboratory, evenly
from experiments.entropy_rate import EntropyRate
from experiments.pixel_information import half_in
from sow.config.compose import compose
from sow.dynamics.axis import Axis, paper_window
from sow.dynamics.measures import levels
from sow.errors import UserError
from sow.method import noise
from sow.method.diffusion import Schedule
from sow.method.flow import RectifiedFlow
from sow.models.tiny import SCHEDULER, Tiny

Call = Callable[..., Result]
TOY = ("experiment=debug", "width=64", "height=64", "study.steps=2", "study.resamples=100")
LEVELS = "study.levels=3"
FIXED = ("one_wayness", "patching")  # studies that choose their levels themselves
STUDIES = {  # name -> (words, rows of its table, of what the headline holds)
    "entropy_rate": (
        (
            "study.images=3",
            "study.attributes=[{name: age, without: a person, given: [a child, an old person]}]",
        ),
        9,
        {"attributes", "window"},
    ),
    "pixel_information": (
        ("study.images=2", "study.texts=[{name: hat, given: a person with a hat, without: a person}]"),
        6,
        {"texts", "window"},
    ),
    "u_turn": (("study.images=4", "study.attributes=[]"), 3, {"peak", "timestep", "window", "kept"}),
    "non_locality": (("study.images=2", "study.radii=[1,2]", "study.positions=1"), 12, {"radii", "window"}),
    "sensitivity": (
        ("study.images=2", "study.positions=1", "study.probes=1"),
        12,
        {"steepest", "timestep", "longest", "shortest", "one_wayness", "window"},
    ),
    "memorisation": (
        ("study.images=2", "study.count=4", "study.held_out=2", "study.starts=3"),
        9,
        {"pictures", "speciation", "collapse", "samples", "held_out", "window"},
    ),
    "one_wayness": (
        ("study.images=2", "study.probes=1", "study.draws=1", "num_inference_steps=5"),
        20,
        {"methods", "spearman"},
    ),
    "patching": (
        ("study.images=2", "study.layers=[mid_block.attentions.0]", "study.windows=2"),
        8,
        {"layers", "windows", "most", "window"},
    ),
}


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What studies keep stays with the test."""
    monkeypatch.setenv("SOW_CACHE", str(tmp_path / "kept"))


@pytest.mark.parametrize("name", STUDIES)
def test_study(name: str, command_line: Call, run_folders: Callable[[], list[Path]]) -> None:
    """Every file is there, the tables have their rows, the same run after a kill asks the network nothing
    again."""
    words, rows, headline = STUDIES[name]
    assert command_line(*TOY, f"study={name}", *words, *(() if name in FIXED else (LEVELS,))).status == 0
    folder = run_folders()[0]
    assert Image.open(folder / f"{name}.png").width > 500 and (folder / f"{name}.pdf").is_file()
    table = pandas.read_parquet(folder / f"{name}.parquet")
    numbers = table.select_dtypes("number").drop(columns="moved_outside", errors="ignore")
    assert len(table) == rows and np.isfinite(numbers).all(axis=None)
    assert set(json.loads((folder / "headline.json").read_text())) == headline
    assert (folder / f"{name}.md").read_text().startswith("![")


def test_a_page_says_what_was_reduced() -> None:
    """Only what the whole study has more of; a size that is given stays as it is given."""
    less = "Less than with `study.full=true`: levels 8 of 24, steps 20 of 50."
    words = ["model=tiny", "study=u_turn", "study.images=5"]
    assert reduced(compose(words)) == less
    full = compose([*words, "study.full=true"])
    assert reduced(full) == "" and (full.study.images, full.study.levels) == (5, 24)


def test_a_killed_study_goes_on(command_line: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured before is found again: the run after a kill asks the network for nothing, a forced
    one for all."""
    words = (*TOY, LEVELS, "study=entropy_rate", *STUDIES["entropy_rate"][0])
    ask, asked = Laboratory._predicted, []
    monkeypatch.setattr(Laboratory, "_predicted", lambda *a: asked.append(1) or ask(*a))
    with monkeypatch.context() as late:
        late.setattr(EntropyRate, "headline", lambda *a: (_ for _ in ()).throw(UserError("killed")))
        assert command_line(*words).status == 1
    before = len(asked)
    assert before > 0 and command_line(*words).status == 0 and len(asked) == before
    assert command_line(*words, "force=true").status == 0 and len(asked) == 2 * before


BAD = [
    ("entropy_rate", "study.attributes=[{name: age, without: a, given: [a child]}]", "two or more different"),
    ("pixel_information", "study.texts=[{name: hat, given: a hat}]", "study.texts"),
    ("u_turn", "study.attributes=[mood]", "mood is unknown"),
    ("u_turn", "study.patch=9", "study.patch"),
    ("non_locality", "study.radii=[99]", "study.radii"),
    ("sensitivity", "study.prompts=[]", "study.prompts"),
    ("entropy_rate", "study.levels=2000", "study.levels"),
    ("memorisation", "study.starts=9000", "study.starts"),
    ("memorisation", "study.training=nowhere", "nowhere holds 0 pictures"),
    ("patching", "study.layers=[nose] study.windows=1", "study.layers"),
    ("patching", "study.regions=[up]", "got 'up'"),
    ("patching", "study.windows=9", "study.windows"),
]


@pytest.mark.parametrize("name, word, message", BAD)
def test_bad_input_is_one_line(name: str, word: str, message: str, command_line: Call) -> None:
    result = command_line(*TOY, f"study={name}", *re.split(" (?=study)", word))
    assert result.status == 1 and message in result.err and len(result.err.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def lab() -> Laboratory:
    """A toy model in float64 at three levels."""
    backbone = Tiny(canvas=[64, 64], condition_size=[180, 256], seed=0, dtype="float64", device="cpu").load()
    schedule = Schedule.from_config(backbone.scheduler_config, 4)
    return Laboratory(backbone, schedule, (900, 500, 100), (8, 8), 2)


def test_the_denoiser_is_the_models(lab: Laboratory) -> None:
    """x_0 from the backbone's own prediction, whatever the batch; gradients reach the states."""
    x, prompts = lab.noise([1, 2, 3]), ["a hat", "", "a person"]
    level = lab.levels[1]
    e = lab.backbone.predict(x, 500, lab.backbone.embed(prompts))
    alpha = levels.alpha_of(level)
    expected = (x - (1 - alpha) ** 0.5 * e) / alpha**0.5
    torch.testing.assert_close(lab.denoise(x, level, prompts), expected, rtol=1e-5, atol=1e-5)
    state = x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(lab.denoise(state, level, None).sum(), state)
    assert float(gradient.abs().max()) > 0
    assert lab.levels == sorted(lab.levels)


def test_images_belong_to_their_seeds(lab: Laboratory) -> None:
    """A sample and a U-turn do not depend on their batch; a U-turn from hardly any noise changes hardly
    anything."""
    both = lab.samples(["a hat", "a person"], [5, 6])
    torch.testing.assert_close(lab.samples(["a person"], [6]), both[1:], rtol=1e-6, atol=1e-6)
    x = levels.noised(both, lab.levels[0], lab.noise([7, 8]))
    ends = lab.resample(x, lab.levels[0], ["a hat", "a person"], [9, 10])
    torch.testing.assert_close(
        lab.resample(x[1:], lab.levels[0], ["a person"], [10]), ends[1:], rtol=1e-6, atol=1e-6
    )


def test_small_things() -> None:
    assert evenly((8, 12), 4) == [(2, 4), (2, 7), (5, 4), (5, 7)]
    assert half_in([[8, 1], [1, 1]]) == 0.25 and np.isnan(half_in([[0.0]]))


class Exact:
    """A backbone whose clean latents are standard normal: its posterior mean is sqrt(alpha) x, told as a
    velocity or as noise."""

    def __init__(self, axis: Axis) -> None:
        self.axis, self.flow = axis, isinstance(axis.process, RectifiedFlow)

    def call(self, x: torch.Tensor, t: float, embeds: torch.Tensor) -> torch.Tensor:
        alpha = float(self.axis.alpha(t))
        if not self.flow:
            return (1 - alpha) ** 0.5 * x
        sigma = t / self.axis.total
        x = x / ((1 - sigma) ** 2 + sigma**2) ** 0.5
        return (1 - alpha) ** 0.5 * x - alpha**0.5 * x


@pytest.mark.parametrize("kind", ["noise", "flow"])
def test_one_axis_for_both_processes(kind: str) -> None:
    """A flow and a noise predictor of the same world give the same x_0 at the same log SNR."""
    sigmas = tuple(k / 10 for k in range(11))
    flow = RectifiedFlow(sigmas, tuple(1000 * s for s in sigmas[1:]))
    axis = Axis(flow if kind == "flow" else Schedule.from_config(SCHEDULER, 10))
    x = levels.draw_like(torch.zeros(3, 2, 4, 4, dtype=torch.float64), [noise.generator(i) for i in range(3)])
    for level in (-3.0, 0.0, 2.5):
        t = axis.timestep(level)
        n, x0 = axis.predicted(Exact(axis), x, t, torch.zeros(3))  # type: ignore[arg-type]
        alpha = float(axis.alpha(t))
        assert axis.level(t) == pytest.approx(level, abs=0.02)
        torch.testing.assert_close(x0, alpha**0.5 * x, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(alpha**0.5 * x0 + (1 - alpha) ** 0.5 * n, x, rtol=1e-5, atol=1e-6)
    states = [axis.state(k) for k in range(11)]
    assert states == sorted(states, reverse=True) and states[0] == axis.known.max()
    assert axis.level(700) == pytest.approx(paper_window()[0]) or kind == "flow"
