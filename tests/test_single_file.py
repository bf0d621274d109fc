"""A model in one file, as Stable Diffusion's own code saves it, is the model in a folder; it is loaded whole
or not at all."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import original
import pytest
import torch
from original import State

from sow import compose
from sow.errors import UserError
from sow.models.pretrained import Pretrained

TEXT = {1: "cond_stage_model.transformer.text_model.", 2: "cond_stage_model.model."}


@pytest.fixture(scope="module", params=[1, 2])
def version(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module")
def file(version: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("single") / f"v{version}.safetensors"
    return original.save(place, original.tensors(version))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    """The component that loads a file; `replace(model, path=...)` takes another."""
    file = original.save(tmp_path_factory.mktemp("any") / "a.safetensors", original.tensors(1))
    return compose(["metrics=none", "model=local", "model.device=cpu", f"model.path={file}"]).model


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_one_file_is_the_same_networks_as_a_folder(model, version, tmp_path, suffix, caplog, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", None)  # nothing is asked of the hub
    file = original.save(tmp_path / f"model{suffix}", original.tensors(version))
    with caplog.at_level(logging.WARNING):
        backbone = replace(model, path=str(file)).load()
    assert "epsilon" in caplog.text and "model.prediction_type" in caplog.text
    assert "epsilon" in backbone.loaded["assumed"]
    for name, own in original.networks(version).items():
        found = getattr(backbone, name)
        assert found.state_dict().keys() == own.state_dict().keys()
        for key, value in own.state_dict().items():
            assert torch.equal(found.state_dict()[key], value), key
        told, wanted = (
            c.to_dict() if name == "text_encoder" else dict(c) for c in (found.config, own.config)
        )
        for key, value in wanted.items():
            if not key.startswith(("_", "architectures", "dtype", "torch_dtype")):
                same = told[key] == value or list(told[key]) == list(value)
                assert same, (name, key, told[key], value)
    ids = backbone.tokens(backbone.tokenizer, backbone.text_encoder, "a photo of a cat")[0].tolist()
    assert ids[:7] == [49406, 320, 1125, 539, 320, 2368, 49407]  # as CLIP's tokenizer is known to say
    assert set(ids[7:]) == {49407 if version == 1 else 0}
    assert backbone.embed(["a photo of a cat"]).shape == (1, 77, 64)


def test_the_prediction_is_what_the_user_says_and_picks_the_size(model, file, version):
    assert replace(model, path=str(file)).known(None, None)[0].width == 512
    backbone = replace(model, path=str(file), prediction_type="v_prediction").load()
    assert backbone.scheduler_config["prediction_type"] == "v_prediction"
    assert backbone.unet.config.sample_size == (64 if version == 1 else 96)
    assert "epsilon" not in backbone.loaded["assumed"]


def test_the_files_own_schedule_and_scale_are_used(model, version, tmp_path):
    state = original.tensors(version)
    betas = torch.linspace(1e-4, 2e-2, 1000)
    file = original.save(
        tmp_path / "a.safetensors", {**state, "betas": betas, "scale_factor": torch.tensor(0.25)}
    )
    backbone = replace(model, path=str(file)).load()
    assert backbone.scheduler_config["trained_betas"] == betas.tolist()
    assert backbone.vae.config.scaling_factor == 0.25


def test_the_key_holds_the_file_and_the_vocabulary(model, file):
    from sow.store.inputs import files_read

    names = {p.name for p in files_read(replace(model, path=str(file)))}
    assert names == {file.name, "bpe_simple_vocab_16e6.txt.gz"}


def drop(name: str) -> Callable[[State], State]:
    return lambda state: {k: v for k, v in state.items() if not k.endswith(name)}


def add(name: str) -> Callable[[State], State]:
    return lambda state: {**state, name: torch.zeros(2)}


def change(name: str, by: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[State], State]:
    return lambda state: {k: by(v) if k.endswith(name) else v for k, v in state.items()}


UNET, VAE = "model.diffusion_model.", "first_stage_model."
BROKEN: list[tuple[Callable[[State], State], str]] = [
    (drop("middle_block.0.in_layers.0.weight"), "1 missing .*mid_block.resnets.0.norm1.weight"),
    (drop("input_blocks.1.0.emb_layers.1.bias"), "missing .*time_emb_proj.bias"),
    (drop("out.2.weight"), "lacks the tensor 'out.2.weight'"),
    (drop("decoder.norm_out.bias"), "1 missing .*decoder.conv_norm_out.bias"),
    (add(f"{UNET}label_emb.0.0.weight"), "1 unexpected .*label_emb"),
    (add(f"{UNET}input_blocks.1.2.weight"), "1 unexpected .*input_blocks.1.2"),
    (add(f"{VAE}loss.logvar"), "1 unexpected .*loss.logvar"),
    (add("control_model.weight"), "1 unexpected .*control_model"),
    (change("out.2.bias", lambda v: v[:-1].clone()), "1 of another shape .*conv_out.bias"),
    (change("time_embed.0.weight", lambda v: v.to(torch.int32)), "time_embed.0.weight I32"),
    (change("time_embed.0.weight", lambda v: v * torch.nan), "not finite .*time_embedding.linear_1.weight"),
    (change("encoder.conv_in.bias", lambda v: v / 0), "not finite .*encoder.conv_in.bias"),
    (lambda s: {k: v for k, v in s.items() if not k.startswith(VAE)}, "lacks an autoencoder"),
    (lambda s: {k: v for k, v in s.items() if not k.startswith("cond")}, "lacks a text encoder"),
    (add("conditioner.embedders.0.weight"), "is Stable Diffusion XL"),
]


@pytest.mark.parametrize("broken, words", BROKEN, ids=[words for _, words in BROKEN])
def test_a_file_that_is_not_whole_is_one_line(model, tmp_path, broken, words):
    file = original.save(tmp_path / "a.safetensors", broken(original.tensors(1)))
    with pytest.raises(UserError, match=rf"{re.escape(str(file))}.*{words}.*model\.path") as caught:
        replace(model, path=str(file)).load()
    assert "\n" not in str(caught.value)


TEXTS: list[tuple[int, Callable[[State], State], str]] = [
    (1, drop("token_embedding.weight"), "lacks the tensor"),
    (2, drop("token_embedding.weight"), "lacks the tensor"),
    (1, drop("layers.1.mlp.fc1.bias"), "1 missing .*mlp.fc1.bias"),
    (2, drop("resblocks.1.mlp.c_fc.bias"), "1 missing .*mlp.fc1.bias"),
    (1, change("final_layer_norm.bias", lambda v: v[:-1].clone()), "another shape .*final_layer_norm.bias"),
    (2, change("ln_final.bias", lambda v: v[:-1].clone()), "another shape .*final_layer_norm.bias"),
    (1, add(f"{TEXT[1]}encoder.layers.0.extra"), "1 unexpected .*extra"),
    (2, add(f"{TEXT[2]}transformer.resblocks.0.extra"), "1 unexpected .*extra"),
    (2, add(f"{TEXT[2]}extra"), "1 unexpected .*extra"),
]


@pytest.mark.parametrize("version, broken, words", TEXTS)
def test_a_text_encoder_that_is_not_whole_is_one_line(model, tmp_path, version, broken, words):
    file = original.save(tmp_path / "a.safetensors", broken(original.tensors(version)))
    with pytest.raises(UserError, match=rf"{words}.*model\.path"):
        replace(model, path=str(file)).load()


def test_damaged_files_are_one_line_before_torch(model, file, tmp_path):
    for name, data in {
        "cut": file.read_bytes()[:-10], "head": file.read_bytes()[:100], "empty": b"", "text": b"hello " * 9,
        "json": (5).to_bytes(8, "little") + b"[1,2]",
    }.items():  # fmt: skip
        place = tmp_path / f"{name}.safetensors"
        place.write_bytes(data)
        with pytest.raises(UserError, match=rf"{place}.*model\.path"):
            replace(model, path=str(place))
    with pytest.raises(UserError, match=r"no such file: .*none.safetensors.*model\.path"):
        replace(model, path=str(tmp_path / "none.safetensors"))
    with pytest.raises(UserError, match=r"leave out model.unet_path"):
        replace(model, path=str(file), unet_path="people_flow")


class Code:
    """What a .ckpt may hold besides tensors."""

    ran: list[str] = []  # noqa: RUF012

    def __reduce__(self):
        return Code.ran.append, ("ran",)


def test_code_in_a_ckpt_is_refused_and_not_run(model, tmp_path):
    file = tmp_path / "a.ckpt"
    torch.save({"state_dict": original.tensors(1), "callbacks": Code()}, file)
    old = tmp_path / "b.ckpt"
    old.write_bytes(pickle.dumps(Code()))
    for place in (file, old):
        with pytest.raises(UserError, match=rf"{place} holds more than tensors.*safetensors.*model\.path"):
            replace(model, path=str(place)).load()
    assert not Code.ran
    (tmp_path / "c.ckpt").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"c.ckpt.*model\.path"):
        replace(model, path=str(tmp_path / "c.ckpt")).load()
