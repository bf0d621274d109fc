"""Training a ControlNet: it starts as no change, learns, goes on where it stopped, and its folder is what the method takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from experiments.study import StudyContext
from sow import build, compose
from sow.records import RunFolder

WORDS = [
    "model=tiny",
    "model.device=cpu",
    "metrics=none",
    "tracker=none",
    "planner=fixed",
    "study=train_controlnet",
]
SMALL = ["study.pictures=3", "study.batch=2", "study.channels=[4,4,4,4]", "study.learning_rate=1e-3"]


@pytest.fixture(scope="module")
def setting():
    config = compose([*WORDS, *SMALL])
    sampler = build(config)
    return config.study, sampler, config.study.figures(sampler.backbone, 128)


def test_a_fresh_controlnet_changes_nothing(setting):
    study, sampler, pool = setting
    from diffusers import ControlNetModel

    net = ControlNetModel.from_unet(sampler.backbone.unet, conditioning_embedding_out_channels=(4, 4, 4, 4))
    alphas = sampler.schedule.alphas_cumprod
    with torch.no_grad():
        ours = study.loss(net, sampler.backbone, alphas, "epsilon", pool, 0)
        net.controlnet_cond_embedding.conv_in.weight.mul_(2)  # what reads the edges is behind zeros
        assert study.loss(net, sampler.backbone, alphas, "epsilon", pool, 0) == ours
        torch.nn.init.constant_(net.controlnet_mid_block.weight, 0.5)
        moved = study.loss(net, sampler.backbone, alphas, "epsilon", pool, 0)
        again = study.loss(net, sampler.backbone, alphas, "epsilon", pool, 0)
    assert moved == again != ours
    assert len(pool.latents) == len(pool.edges) == len(pool.attributes) == 3
    assert 0 < (pool.edges > 0).float().mean() < 0.5 and pool.faces[1].any()


def test_edges_of_the_face_alone_are_another_lesson(setting):
    study, sampler, pool = setting
    seen = []

    def net(noisy, t, *, controlnet_cond, **_):
        seen.append(controlnet_cond)
        raise StopIteration

    for share in (0.0, 1.0):
        with pytest.raises(StopIteration):
            alphas = sampler.schedule.alphas_cumprod
            replace(study, face_only=share).loss(net, sampler.backbone, alphas, "epsilon", pool, 0)
    whole, alone = seen
    assert 0 < alone.sum() < whole.sum() and bool((alone <= whole).all())


def test_training_goes_on_and_its_folder_steers_the_method(setting, tmp_path):
    words = [*WORDS, *SMALL, f"study.folder={tmp_path / 'state'}", f"study.output={tmp_path / 'net'}"]
    steps, spent = 0, 0.0
    for name in ("first", "second"):
        config = compose([*words, f"study.minutes={spent / 60 + 0.001}"])
        (tmp_path / name).mkdir()
        config.study.run(StudyContext(config, RunFolder(tmp_path / name)))
        state = torch.load(tmp_path / "state" / "state.pt", weights_only=True)
        assert state["step"] > steps and state["spent"] > spent
        steps, spent = state["step"], state["spent"]
    net = [f"method.path={tmp_path / 'net'}", "method=controlnet_canny", "method.num_inference_steps=1"]
    made = build(compose([*WORDS, *net]))
    assert any(p.abs().sum() > 0 for p in made.controlnet.controlnet_down_blocks.parameters())
