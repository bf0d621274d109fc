"""Low-rank updates are merged into the weights: W + s alpha / r B A, all of them or none; a new instance is
one more row."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import save_tiny
from safetensors.torch import save_file
from test_sampler import SHORT, TINY, latents

from sow import compose
from sow.errors import UserError
from sow.method import noise
from sow.models import lora
from sow.models.pretrained import Pretrained

pytest.importorskip("peft")

State = dict[str, torch.Tensor]
RANK = 2
ALPHAS = {"unet": 3.0, "text_encoder": 1.0}
UNET = [
    f"{block}.attentions.0.transformer_blocks.0.{layer}"
    for block in ("down_blocks.0", "mid_block", "up_blocks.1")
    for layer in ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_k", "ff.net.0.proj")
]
TEXT = [f"encoder.layers.0.{n}" for n in ("self_attn.q_proj", "self_attn.out_proj", "mlp.fc1")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    place = save_tiny(tmp_path_factory.mktemp("checkpoint"))
    words = ["metrics=none", "model=local", "model.device=cpu", f"model.path={place}", "model.dtype=float32"]
    return compose(words).model


@pytest.fixture(scope="module")
def plain(model: Pretrained) -> Any:
    return model.load()


Factors = dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]]


def factors(backbone: Any, seed: int = 0) -> Factors:
    """B and A of each layer, by network and name."""
    found = {}
    for part, names in (("unet", UNET), ("text_encoder", TEXT)):
        modules = {n.removeprefix("text_model."): m for n, m in getattr(backbone, part).named_modules()}
        for i, name in enumerate(names):
            rows, columns = modules[name].weight.shape
            draw = noise.generator(seed + i)
            a, b = (noise.randn(s, draw, "cpu", torch.float32) for s in ((RANK, columns), (rows, RANK)))
            found[part, name] = b, a
    return found


def peft(found: Factors) -> State:
    state = {}
    for (part, name), (b, a) in found.items():
        inner = f"text_model.{name}" if part == "text_encoder" else name
        state |= {f"{part}.{inner}.lora_A.weight": a, f"{part}.{inner}.lora_B.weight": b}
    return state


def kohya(found: Factors) -> State:
    state = {}
    for (part, name), (b, a) in found.items():
        head = "lora_unet_" if part == "unet" else "lora_te_text_model_"
        name = head + name.replace(".", "_")
        state |= {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b}
        state[f"{name}.alpha"] = torch.tensor(ALPHAS[part])
    return state


def mixed(found: Factors) -> State:
    """Kohya's format, where the alphas of one network differ from layer to layer."""
    state = kohya(found)
    for i, name in enumerate(sorted(n for n in state if n.endswith(".alpha"))):
        state[name] = torch.tensor(float(i + 1))
    return state


def scale_of(state: State, part: str, name: str) -> float:
    head = "lora_unet_" if part == "unet" else "lora_te_text_model_"
    alpha = state.get(f"{head}{name.replace('.', '_')}.alpha")
    return 1.0 if alpha is None else float(alpha) / RANK


def weights(backbone: Any) -> State:
    return {
        f"{part}.{n.removeprefix('text_model.')}": v.clone()
        for part in ("unet", "text_encoder", "vae")
        for n, v in getattr(backbone, part).state_dict().items()
    }


def expected(backbone: Any, found: Factors, state: State, scale: float) -> State:
    made = weights(backbone)
    for (part, name), (b, a) in found.items():
        made[f"{part}.{name}.weight"] += scale * scale_of(state, part, name) * b @ a
    return made


def with_lora(model: Pretrained, *files: Path, scale: Any = (1.0,)) -> Pretrained:
    return replace(model, lora=[str(f) for f in files], lora_scale=list(scale))


@pytest.mark.parametrize("form", [peft, kohya, mixed], ids=lambda f: f.__name__)
@pytest.mark.parametrize("scale", [1.0, -0.5])
def test_the_weights_are_those_of_the_formula(model, plain, tmp_path, form, scale):
    found = factors(plain)
    state = form(found)
    save_file(state, tmp_path / "a.safetensors")
    made = with_lora(model, tmp_path / "a.safetensors", scale=[scale]).load()
    wanted = expected(plain, found, state, scale)
    own = weights(made)
    assert own.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(own[name], value, rtol=1e-5, atol=1e-5, msg=name)
    assert made.loaded["lora"] == [
        {"file": str(tmp_path / "a.safetensors"), "scale": scale, "layers": len(UNET + TEXT)}
    ]
    names = {type(m).__module__ for part in (made.unet, made.text_encoder) for m in part.modules()}
    assert not any("peft" in name for name in names)
    assert not any(p.requires_grad for p in made.unet.parameters())


def test_a_scale_of_zero_changes_no_bit(model, plain, tmp_path):
    save_file(peft(factors(plain)), tmp_path / "a.safetensors")
    own = weights(with_lora(model, tmp_path / "a.safetensors", scale=[0.0]).load())
    assert all(
        torch.equal(own[n].view(torch.int32), v.view(torch.int32))
        for n, v in weights(plain).items()
        if v.dtype == torch.float32
    )


def test_two_updates_add_each_with_its_scale_and_half_precision_rounds_once(model, plain, tmp_path):
    one, two = factors(plain), factors(plain, seed=50)
    for name, found in (("a", one), ("b", two)):
        save_file(peft(found), tmp_path / f"{name}.safetensors")
    files = (tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    made = weights(with_lora(model, *files, scale=[0.5, 2.0]).load())
    both = {
        k: (torch.cat([0.5 * b, 2.0 * two[k][0]], 1), torch.cat([a, two[k][1]])) for k, (b, a) in one.items()
    }
    for name, value in expected(plain, both, {}, 1.0).items():
        torch.testing.assert_close(made[name], value, rtol=1e-5, atol=1e-5, msg=name)
    half = replace(with_lora(model, files[0]), dtype="bfloat16").load()
    start = replace(model, dtype="bfloat16").load()
    for (part, name), (b, a) in one.items():
        found = weights(half)[f"{part}.{name}.weight"]
        wanted = weights(start)[f"{part}.{name}.weight"].float() + b @ a
        torch.testing.assert_close(found, wanted.to(torch.bfloat16), rtol=0, atol=0)


def test_modulated_attention_sees_the_merged_weights(model, plain, tmp_path):
    """SOW on a model with LoRA is SOW on a model whose weights were merged by hand."""
    from sow.config.compose import compose as composed
    from sow.pipeline import factory

    found = {k: (0.1 * b, a) for k, (b, a) in factors(plain).items()}
    save_file(peft(found), tmp_path / "a.safetensors")
    words = [*TINY, SHORT, "gate.tau=0", "model=local", f"model.path={model.path}", "model.dtype=float32"]
    config = composed([*(w for w in words if w != "model=tiny"), "width=128", "height=128"])
    hand = model.load()
    for (part, name), (b, a) in found.items():
        modules = {n.removeprefix("text_model."): m for n, m in getattr(hand, part).named_modules()}
        modules[name].weight += b @ a
    backbones = (with_lora(model, tmp_path / "a.safetensors").load(), hand, plain)
    made = [latents(factory.one_way(config, backbone)) for backbone in backbones]
    torch.testing.assert_close(made[0], made[1], rtol=1e-5, atol=1e-5)
    assert (made[0] - made[2]).abs().max() > 1e-3


# Files that are refused, by their tensors' names.


def drop(end: str) -> Callable[[State], State]:
    return lambda s: {k: v for k, v in s.items() if not k.endswith(end)}


def rename(old: str, new: str) -> Callable[[State], State]:
    return lambda s: {k.replace(old, new): v for k, v in s.items()}


def by(end: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[State], State]:
    return lambda s: {k: change(v) if k.endswith(end) else v for k, v in s.items()}


REFUSED: list[tuple[Callable[[Factors], State], Callable[[State], State], str]] = [
    (peft, rename("mid_block", "middle"), "12 unexpected .*unet.middle"),
    (peft, rename("text_encoder.", "text_encoder_2."), "6 unexpected .*text_encoder_2"),
    (peft, rename("fc1", "fc9"), "2 unexpected .*text_encoder.*fc9"),
    (kohya, rename("mid_block", "middle"), "middle|unexpected"),
    (kohya, rename("lora_te_", "lora_xx_"), "lora_xx_|unexpected"),
    (
        peft,
        drop("mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight"),
        "1 missing .*to_q.lora_B",
    ),
    (kohya, drop("fc1.lora_up.weight"), "1 missing .*fc1.lora_up"),
    (kohya, drop("fc1.lora_down.weight"), "2 unexpected|1 unexpected .*fc1.lora_up"),
    (peft, by("fc1.lora_A.weight", lambda v: v[:, :-1].clone()), "1 of another shape .*fc1.lora_A"),
    (peft, by("fc1.lora_A.weight", lambda v: v[:-1].clone()), "1 of another shape .*fc1.lora_A"),
    (peft, by("to_q.lora_B.weight", lambda v: v[:-1].clone()), "3 of another shape .*to_q.lora_B"),
    (peft, by("fc1.lora_A.weight", lambda v: v * torch.nan), "not finite in float32: 1 tensors .*fc1.lora_A"),
    (peft, by("fc1.lora_B.weight", lambda v: v / 0), "not finite in float32: 1 tensors .*fc1.lora_B"),
    (kohya, by("fc1.alpha", lambda v: v * torch.nan), "merged are not finite in float32: .*fc1.weight"),
    (kohya, by("to_q.alpha", lambda v: v / 0), "merged are not finite in float32: .*to_q.weight"),
    (peft, by("fc1.lora_A.weight", lambda v: v * 1e38), "merged are not finite in float32: .*fc1.weight"),
    (peft, by("fc1.lora_B.weight", lambda v: v.to(torch.int8)), "no floating-point .*fc1.lora_B.* I8"),
    (
        kohya,
        lambda s: {**s, "lora_unet_mid_block_attentions_0_proj_in.dora_scale": torch.ones(3)},
        "dora_scale",
    ),
    (
        kohya,
        lambda s: {**s, "lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": torch.ones(3)},
        "hada_w1_a",
    ),
    (peft, lambda s: {"unet.conv_in.weight": torch.ones(3)}, "holds no low-rank update"),
]


@pytest.mark.parametrize("form, change, words", REFUSED, ids=[words[:40] for _, _, words in REFUSED])
def test_what_fits_no_layer_is_refused_by_name(model, plain, tmp_path, form, change, words):
    file = tmp_path / "a.safetensors"
    save_file(change(form(factors(plain))), file)
    with pytest.raises(UserError, match=rf"{file}.*({words}).*model\.lora") as caught:
        with_lora(model, file).load()
    assert "\n" not in str(caught.value)


SETTINGS = {
    **{f"unet.{k}": v for k, v in (("r", RANK), ("lora_alpha", 6), ("peft_type", "LORA"), ("bias", "none"))},
    "unet.target_modules": ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj"],
    "unet.lora_dropout": 0.5,
    "unet.init_lora_weights": "gaussian",
}
SET: list[
    tuple[Any, bool, str | float]
] = [  # settings, of a UNet alone, and the UNet's alpha / r or the error
    (SETTINGS, False, 3.0),
    ({k.removeprefix("unet."): v for k, v in SETTINGS.items()}, True, 3.0),
    ({"unet.use_rslora": True, **SETTINGS}, False, 6 / 2**0.5),
    ({}, False, 1.0),
    ({**SETTINGS, "unet.use_dora": True}, False, r"unet\.use_dora=true: a plain low-rank update"),
    ({**SETTINGS, "unet.lora_bias": True}, False, r"unet\.lora_bias=true"),
    ({**SETTINGS, "unet.bias": "all"}, False, r'unet\.bias="all"'),
    ({**SETTINGS, "unet.init_lora_weights": "pissa"}, False, r'unet\.init_lora_weights="pissa"'),
    ({**SETTINGS, "unet.peft_type": "LOHA"}, False, r'unet\.peft_type="LOHA"'),
    ({**SETTINGS, "unet.rotate": 2}, False, r"unet\.rotate=2"),
    ([1, 2], False, "settings that are no JSON object"),
]


@pytest.mark.parametrize("settings, unet_alone, wanted", SET, ids=[str(wanted) for *_, wanted in SET])
def test_settings_beside_the_tensors_are_honoured_or_refused(
    model, plain, tmp_path, settings, unet_alone, wanted
):
    file, found = tmp_path / "a.safetensors", factors(plain)
    if unet_alone:
        found = {k: v for k, v in found.items() if k[0] == "unet"}
    state = {k.removeprefix("unet.") if unet_alone else k: v for k, v in peft(found).items()}
    save_file(state, file, metadata={"lora_adapter_metadata": json.dumps(settings), "format": "pt"})
    if isinstance(wanted, str):
        with pytest.raises(UserError, match=rf"{file}.*{wanted}.*model\.lora"):
            with_lora(model, file).load()
        return
    scaled = {k: ((wanted if k[0] == "unet" else 1.0) * b, a) for k, (b, a) in found.items()}
    own = weights(with_lora(model, file).load())
    for name, value in expected(plain, scaled, {}, 1.0).items():
        torch.testing.assert_close(own[name], value, rtol=1e-5, atol=1e-5, msg=name)


def test_files_and_scales_are_checked_before_torch(model, plain, tmp_path, monkeypatch):
    file = tmp_path / "a.safetensors"
    save_file(peft(factors(plain)), file)
    (tmp_path / "a.bin").write_bytes(b"x")
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:-9])
    for files, scales, words in (
        ([tmp_path / "none.safetensors"], [1.0], "no such file"),
        ([tmp_path / "a.bin"], [1.0], "no .safetensors file"),
        ([tmp_path / "cut.safetensors"], [1.0], "cut short"),
        ([file, file, file], [1.0, 2.0], "3 LoRAs have 2 scales"),
        ([file], [], "1 LoRAs have 0 scales"),
    ):
        with pytest.raises(UserError, match=rf"{words}.*model\.lora"):
            with_lora(model, *files, scale=scales)
    find = lora.importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "peft" else find(name))
    with pytest.raises(UserError, match=r"needs the package peft, the extra lora.*model\.lora"):
        with_lora(model, file)


def test_the_key_holds_the_file(model, plain, tmp_path):
    from sow.store.inputs import contents

    file = tmp_path / lora.IN_A_FOLDER
    save_file(peft(factors(plain)), file)
    before = contents(with_lora(model, tmp_path))  # a folder means diffusers' file in it
    save_file(peft(factors(plain, seed=9)), file)
    after = contents(with_lora(model, tmp_path))
    assert before != after and lora.IN_A_FOLDER in json.dumps(after)


def test_the_command_line_takes_a_list_of_files(model, plain, tmp_path):
    file = tmp_path / "a, b (1).safetensors"
    save_file(peft(factors(plain)), file)
    words = ["metrics=none", "model=local", f"model.path={model.path}", f"model.lora=['{file}']"]
    assert compose([*words, "model.lora_scale=[0.5]"]).model.lora == [str(file)]


def test_diffusers_own_words_are_not_printed(model, plain, tmp_path, caplog):
    state = {k: v for k, v in peft(factors(plain)).items() if k.startswith("unet")}
    save_file(state, tmp_path / "a.safetensors")
    with caplog.at_level(logging.WARNING):
        with_lora(model, tmp_path / "a.safetensors").load()
    assert not caplog.text
