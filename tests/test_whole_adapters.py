"""ControlNets and IP-Adapters are loaded whole, as finite floating-point numbers, or not at all, in whatever
file they come; a new instance is one more row."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from safetensors.torch import load_file, save_file
from small_baselines import WORDS
from test_baselines_learned import save_adapter
from test_whole_models import State, add, cast, cut, drop, rename

from sow import build, compose
from sow.baselines import ip_adapter
from sow.errors import UserError
from sow.models.loading import load_whole

KINDS = ["safetensors", "bin"]
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def tiny():
    return build(compose(WORDS)).backbone


@pytest.fixture(scope="module")
def net(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = ControlNetModel.from_unet(tiny.unet, conditioning_embedding_out_channels=(4, 8, 8, 8))
    made.save_pretrained(tmp_path_factory.mktemp("net") / "own")
    return next(Path(tmp_path_factory.getbasetemp()).glob("net*/own"))


@pytest.fixture(scope="module")
def adapter(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "own"
    save_adapter(folder, tiny.unet)
    return folder


def with_value(name: str, value: float) -> Callable[[State], State]:
    def change(state: State) -> State:
        for key in (k for k in state if k.endswith(name)):
            state[key].view(-1)[-1:] = value
        return state

    return change


def all_of(name: str, value: float) -> Callable[[State], State]:
    return lambda state: {k: torch.full_like(v, value) if k.endswith(name) else v for k, v in state.items()}


def write(file: Path, state: State, kind: str, nested: bool = False) -> None:
    """The tensors in a file of this kind beside `file`, which goes."""
    file.unlink()
    if kind == "safetensors":
        save_file(state, file, metadata={"format": "pt"})
        return
    held: dict[str, object] = dict(state)
    if nested:  # as the adapters are published
        groups = {k.partition(".")[0] for k in state}
        held = {
            g: {k.removeprefix(f"{g}."): v for k, v in state.items() if k.startswith(f"{g}.")} for g in groups
        }
    torch.save(held, file.with_suffix(".bin"))


# A row: what is changed in the weights, and the words that name it.

NETS: list[tuple[Callable[[State], State], str]] = [
    (cast("conv_in.weight", torch.int32), "conv_in.weight (I32|torch.int32)"),
    (cast("conv_in.bias", torch.int8), "conv_in.bias (I8|torch.int8)"),
    (cast("time_embedding.linear_1.weight", torch.bool), "linear_1.weight (BOOL|torch.bool)"),
    (cast("to_q.weight", torch.uint8), "to_q.weight (U8|torch.uint8)"),
    (cast("conv_in.weight", torch.complex64), "conv_in.weight (C64|torch.complex64)"),
    (drop("conv_in.bias"), "missing \\(.*conv_in.bias"),
    (cut("conv_in.bias"), "of another shape \\(.*conv_in.bias"),
    (add("lora.up.weight"), "1 unexpected \\(lora.up.weight"),
    (rename("controlnet_mid_block", "middle"), "missing .*unexpected .*middle"),
    (with_value("conv_in.weight", NAN), "not finite in float32.*conv_in.weight"),
    (with_value("to_out.0.bias", -INF), "not finite in float32.*to_out.0.bias"),
    (all_of("norm.weight", INF), "not finite in float32.*norm.weight"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change, words", NETS, ids=lambda v: v[:40] if isinstance(v, str) else "")
def test_a_controlnet_is_whole_or_refused(net, tmp_path, change, words, kind):
    place = tmp_path / "net"
    shutil.copytree(net, place)
    file = next(place.glob("*.safetensors"))
    write(file, change(load_file(file)), kind)
    with pytest.raises(UserError, match=rf"{place}.*{words}.*method.path") as caught:
        load_whole(ControlNetModel, str(place), "method.path")
    assert "\n" not in str(caught.value)


ADAPTERS: list[tuple[Callable[[State], State], str]] = [
    (cast("1.to_k_ip.weight", torch.int32), "1.to_k_ip.weight (I32|torch.int32)"),
    (cast("proj.weight", torch.int8), "proj.weight (I8|torch.int8)"),
    (cast("to_v_ip.weight", torch.bool), "to_v_ip.weight (BOOL|torch.bool)"),
    (cast("norm.bias", torch.int64), "norm.bias (I64|torch.int64)"),
    (drop("1.to_k_ip.weight"), "2 missing \\(ip_adapter.1.to_k_ip.weight, ip_adapter.11"),
    (drop("proj.bias"), "proj.*bias|image_embeds.bias"),
    (cut("1.to_v_ip.weight"), "to_v_ip"),
    (add("ip_adapter.99.to_k_ip.weight"), "1 unexpected \\(ip_adapter.99.to_k_ip.weight"),
    (add("ip_adapter.1.to_q_lora.down.weight"), "1 unexpected \\(ip_adapter.1.to_q_lora"),
    (add("image_proj.more"), "more"),
    (add("controlnet.conv"), "1 unexpected \\(controlnet.conv"),
    (rename("image_proj.proj", "image_proj.image_embeds"), "it lacks 'proj.0.weight'"),
    (all_of("1.to_k_ip.weight", NAN), "not finite in float32.*ip_adapter.1.to_k_ip.weight"),
    (with_value("3.to_v_ip.weight", INF), "not finite in float32.*ip_adapter.3.to_v_ip.weight"),
    (with_value("norm.weight", NAN), "not finite in float32.*image_proj.norm.weight"),
]


@lru_cache
def options() -> Any:
    return compose([*WORDS, "method=ip_adapter"]).method


def loaded(tiny, folder: Path, name: str):
    return ip_adapter.load(replace(options(), path=str(folder), weight_name=f"models/{name}"), tiny)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change, words", ADAPTERS, ids=lambda v: v[:40] if isinstance(v, str) else "")
def test_an_ip_adapter_is_whole_or_refused(tiny, adapter, tmp_path, change, words, kind):
    shutil.copytree(adapter, tmp_path / "own")
    file = tmp_path / "own" / "models" / "face.safetensors"
    write(file, change(load_file(file)), kind, nested=True)
    with pytest.raises(UserError, match=rf"face.*({words}).*method.weight_name") as caught:
        loaded(tiny, tmp_path / "own", f"face.{kind}")
    assert "\n" not in str(caught.value)


def test_two_names_of_one_tensor_are_refused(tiny, adapter, tmp_path):
    shutil.copytree(adapter, tmp_path / "own")
    file = tmp_path / "own" / "models" / "plus-face.safetensors"
    state = load_file(file)
    state["image_proj.layers.0.attn.to_q.weight"] = state["image_proj.layers.0.0.to_q.weight"].clone()
    save_file(state, file)
    with pytest.raises(UserError, match=r"plus-face.*method.weight_name"):
        loaded(tiny, tmp_path / "own", file.name)


@pytest.mark.parametrize("name", ["face", "plus-face"])
def test_the_same_tensors_in_both_files_are_the_same_adapter(tiny, adapter, tmp_path, name):
    shutil.copytree(adapter, tmp_path / "own")
    file = tmp_path / "own" / "models" / f"{name}.safetensors"
    one, _ = loaded(tiny, tmp_path / "own", file.name)
    write(file, load_file(file), "bin", nested=True)
    other, _ = loaded(tiny, tmp_path / "own", f"{name}.bin")
    theirs = other.unet.state_dict()
    assert all(torch.equal(v, theirs[n]) for n, v in one.unet.state_dict().items())


# The image encoder. A row: fields of its configuration, and the words that name them.

ENCODERS: list[tuple[dict[str, object], str]] = [
    ({"model_type": "siglip_vision_model"}, "model_type"),
    ({"hidden_size": "16"}, 'hidden_size="16"'),
    ({"num_hidden_layers": None}, "num_hidden_layers=null"),
    ({"patch_size": [16, 16]}, "patch_size"),
    ({"image_size": 32.5}, "image_size=32.5"),
    ({"layer_norm_eps": "small"}, "layer_norm_eps"),
    ({"hidden_act": 7}, "hidden_act=7"),
    ({"projection_dim": True}, "projection_dim=true"),
    ({"foo": 1}, "foo=1"),
    ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ({"model_type": "clip", "vision_config": {"hidden_size": {}}}, "hidden_size"),
]


@pytest.mark.parametrize("changes, words", ENCODERS, ids=lambda value: str(value)[:60])
def test_an_image_encoder_that_is_not_understood_is_refused(tiny, adapter, tmp_path, changes, words):
    shutil.copytree(adapter, tmp_path / "own")
    file = tmp_path / "own" / "models" / "image_encoder" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(UserError, match=rf"{file}.*{words}.*\(method.image_encoder\)") as caught:
        loaded(tiny, tmp_path / "own", "face.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change, words",
    [
        (cast("class_embedding", torch.int16), "class_embedding I16"),
        (with_value("post_layernorm.weight", NAN), "not finite.*post_layernorm.weight"),
        (drop("visual_projection.weight"), "1 missing .*visual_projection.weight"),
        (add("logit_scale"), "1 unexpected .*logit_scale"),
    ],
)
def test_an_image_encoder_is_whole_or_refused(tiny, adapter, tmp_path, change, words):
    shutil.copytree(adapter, tmp_path / "own")
    file = next((tmp_path / "own" / "models" / "image_encoder").glob("*.safetensors"))
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"image_encoder.*{words}.*method.image_encoder"):
        loaded(tiny, tmp_path / "own", "face.safetensors")


# A ControlNet's configuration.


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"in_channels": "4"}, "in_channels"),
        ({"block_out_channels": 32}, "block_out_channels=32"),
        ({"conditioning_channels": None}, "conditioning_channels=null"),
        ({"flip_sin_to_cos": "yes"}, "flip_sin_to_cos"),
        ({"cross_attention_dim": {}}, "cross_attention_dim"),
        ({"conditioning_embedding_out_channels": ["a"]}, "conditioning_embedding_out_channels"),
        ({"norm_eps": []}, "norm_eps"),
    ],
    ids=str,
)
def test_a_controlnet_of_wrong_types_is_refused(net, tmp_path, changes, words):
    place = tmp_path / "net"
    shutil.copytree(net, place)
    config = place / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    with pytest.raises(UserError, match=rf"{config} has {words}.*\(method.path\)") as caught:
        load_whole(ControlNetModel, str(place), "method.path")
    assert "\n" not in str(caught.value)
