"""Training a ControlNet: it starts as no change, learns, goes on where it stopped,
and its folder is what the method takes."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import ControlNetModel

from experiments.core.study import StudyContext
from experiments.training.train_controlnet import LEVELS, Lesson, spread_out
from sow import build, compose
from sow.baselines.config import PEOPLE
from sow.errors import UserError
from sow.people.training.figures import HELD_OUT_SEEDS, TRAINING_SEEDS
from sow.runs.records import RunFolder

WORDS = [
    "model=tiny",
    "model.device=cpu",
    "metrics=none",
    "tracker=none",
    "planner=fixed",
    "study=train_controlnet",
]
SMALL = [
    "study.pictures=4",
    "study.held_out=2",
    "study.batch=2",
    "study.channels=[4,4,4,4]",
    "study.precision=float32",
]


@pytest.fixture(scope="module")
def setting():
    config = compose([*WORDS, *SMALL])
    sampler = build(config)
    pool = config.study.figures(sampler.backbone, 128, TRAINING_SEEDS, 4)
    lesson = Lesson(
        sampler.backbone, sampler.model.schedule.alphas_cumprod, sampler.model.schedule.prediction_type
    )
    return config.study, lesson, pool


def loss_of(lesson, net, batch, control):
    return lesson.losses(net, batch, control, gamma=5.0, balance=0.5)[1]


def test_a_fresh_controlnet_changes_nothing_until_its_zeros_open(setting):
    study, lesson, pool = setting
    net = study.fresh(lesson.backbone, pool)
    batch, control = study.batch_of(lesson, pool, 0)
    with torch.no_grad():
        own = loss_of(lesson, None, batch, None)
        assert loss_of(lesson, net, batch, control) == own
        torch.nn.init.constant_(net.controlnet_mid_block.weight, 0.5)
        moved = loss_of(lesson, net, batch, control)
        assert moved != own
        assert loss_of(lesson, net, batch, 1 - control) != moved  # the edges reach what lies behind the zeros


def test_layers_that_read_the_edges_pass_the_signal_on(setting):
    _, _, pool = setting
    from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding

    embedding = ControlNetConditioningEmbedding(32, 3, (16, 32, 64, 128))
    maps = pool.edges[:, :1].float() / 255
    spread_out(embedding, maps)
    with torch.no_grad():
        out = embedding(maps.expand(-1, 3, -1, -1))
    assert out.mean((0, 2, 3)).abs().max() < 0.01
    assert torch.allclose(out.std((0, 2, 3)), torch.tensor(0.5), atol=0.05)


def test_every_draw_comes_from_seed_and_step(setting):
    study, lesson, pool = setting
    (one, edges), (same, again), (other, _) = (study.batch_of(lesson, pool, k) for k in (3, 3, 4))
    assert torch.equal(one.noise, same.noise) and torch.equal(edges, again)
    assert not torch.equal(one.noise, other.noise)
    assert set(edges.unique().tolist()) == {0.0, 1.0}


def test_edges_of_the_face_alone_are_another_lesson(setting):
    study, lesson, pool = setting
    rows = [replace(study, face_only=share).batch_of(lesson, pool, 0)[1] for share in (0.0, 1.0)]
    whole, alone = (control.sum() for control in rows)
    assert 0 < alone < whole
    assert len(pool.latents) == len(pool.edges) == len(pool.attributes) == 4


def test_an_epsilon_of_a_velocity_model(setting):
    _, lesson, pool = setting
    batch, _ = setting[0].batch_of(lesson, pool, 0)
    alphas = lesson.alphas[batch.timesteps].view(-1, 1, 1, 1)

    def exact(x, t, **_):
        return (alphas**0.5 * batch.noise - (1 - alphas) ** 0.5 * batch.latents,)

    model = SimpleNamespace(unet=exact, unet_inputs=lesson.backbone.unet_inputs)
    assert loss_of(Lesson(model, lesson.alphas, "v_prediction"), None, batch, None) < 1e-8


def once(config, folder):
    folder.mkdir()
    config.study.run(StudyContext(config, RunFolder(folder)))
    return json.loads((folder / "metrics.json").read_text())


def test_training_goes_on_and_its_folder_steers_the_method(tmp_path):
    words = [*WORDS, *SMALL, f"study.folder={tmp_path / 'state'}", f"study.output={tmp_path / 'net'}"]
    steps, spent = 0, 0.0
    for name in ("first", "second"):
        config = compose([*words, f"study.minutes={spent / 60 + 0.01}"])
        numbers = once(config, tmp_path / name)
        (kept,) = (tmp_path / "state").glob("*.pt")
        state = torch.load(kept, weights_only=True)
        assert state["step"] > steps and state["spent"] > spent
        steps, spent = state["step"], state["spent"]
        assert numbers["steps"] == steps and numbers["samples"] == 2 * steps
        assert all(len(values) == len(LEVELS) for values in numbers["ratios"].values())
        assert (tmp_path / name / "controlnet.png").stat().st_size > 1000
    assert "_name_or_path" not in json.loads((tmp_path / "net" / "config.json").read_text())
    shutil.rmtree(tmp_path / "net")  # as if it had been killed before the folder was written
    numbers = once(config, tmp_path / "again")
    assert numbers["steps"] == steps and numbers["loss"] is None
    net = [f"method.path={tmp_path / 'net'}", "method=controlnet_canny", "method.num_inference_steps=1"]
    made = build(compose([*WORDS, *net]))
    assert any(p.abs().sum() > 0 for p in made.method.controlnet.controlnet_down_blocks.parameters())


def test_another_model_or_size_starts_anew(setting):
    study, lesson, _ = setting
    own = study.state(lesson.backbone)
    assert study.state(lesson.backbone) == own != replace(study, channels=[4, 4, 4, 8]).state(lesson.backbone)
    moved = SimpleNamespace(unet=copy.deepcopy(lesson.backbone.unet))
    assert study.state(moved) == own
    with torch.no_grad():
        next(moved.unet.parameters()).add_(0.01)
    assert study.state(moved) != own


def test_a_training_without_time_says_so(tmp_path):
    config = compose([*WORDS, *SMALL, "study.minutes=1e-9", f"study.folder={tmp_path / 'state'}"])
    with pytest.raises(UserError, match=r"study\.minutes"):
        once(config, tmp_path / "run")
    assert not (tmp_path / "state").exists()


def test_the_shipped_controlnet_is_small_and_knows_more_than_the_model():
    """On figures never trained on, at a level where things are placed,
    the edges tell the model what it could not know."""
    size = sum(p.stat().st_size for p in PEOPLE.rglob("*") if p.is_file())
    assert 1e6 < size < 10e6
    config = compose(["metrics=none", "tracker=none", "study=train_controlnet", "study.precision=float32"])
    sampler = build(config)
    pool = config.study.figures(sampler.backbone, 128, HELD_OUT_SEEDS + 5000, 8)
    net = ControlNetModel.from_pretrained(PEOPLE)
    lesson = Lesson(sampler.backbone, sampler.model.schedule.alphas_cumprod, "epsilon")
    ratios = config.study.measure(lesson, net, pool)
    at = LEVELS.index(850)
    assert ratios["whole picture"][at] < 0.8 and ratios["face"][at] < 0.97
    blind = replace(pool, edges=torch.zeros_like(pool.edges))
    assert config.study.measure(lesson, net, blind)["whole picture"][at] > ratios["whole picture"][at] + 0.1
