"""A model is loaded whole or not at all: tensors and files that do not fit are one line; a new instance is
one more row."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints import save_tiny
from safetensors.torch import load_file, save_file

from sow import compose
from sow.errors import UserError
from sow.models.pretrained import Pretrained
from sow.store import checksums

State = dict[str, torch.Tensor]
HIDDEN = "text_model.encoder.layers.0.mlp.fc1.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Pretrained:
    return compose(["metrics=none", "model=local", "model.device=cpu", f"model.path={folder}"]).model


def drop(name: str) -> Callable[[State], State]:
    return lambda state: {k: v for k, v in state.items() if not k.endswith(name)}


def rename(name: str, new: str) -> Callable[[State], State]:
    return lambda state: {k.replace(name, new): v for k, v in state.items()}


def cut(name: str) -> Callable[[State], State]:
    return lambda state: {k: v[:-1].clone() if k.endswith(name) else v for k, v in state.items()}


def add(name: str) -> Callable[[State], State]:
    return lambda state: {**state, name: torch.zeros(2)}


BROKEN: list[tuple[str, Callable[[State], State], str]] = [
    ("text_encoder", drop("fc1.weight"), "1 missing .*fc1.weight"),
    ("text_encoder", rename("layers.0.mlp", "layers.0.ffn"), "4 missing .*4 unexpected .*ffn"),
    ("text_encoder", cut("fc2.bias"), "of another shape .*fc2.bias"),
    ("text_encoder", add("classifier.weight"), "1 unexpected .*classifier.weight"),
    ("text_encoder", drop("token_embedding.weight"), "1 missing .*token_embedding"),
    ("unet", drop("conv_in.weight"), "1 missing .*conv_in.weight"),
    ("unet", rename("mid_block", "middle"), "missing .*mid_block.*unexpected .*middle"),
    ("unet", cut("conv_out.weight"), "of another shape .*conv_out.weight"),
    ("unet", add("lora.up.weight"), "1 unexpected .*lora.up.weight"),
    ("vae", drop("decoder.conv_out.bias"), "1 missing .*decoder.conv_out.bias"),
    ("vae", rename("encoder.", "enc."), "missing .*encoder.*unexpected .*enc"),
    ("vae", add("loss.logvar"), "1 unexpected .*loss.logvar"),
]


@pytest.mark.parametrize("part, change, words", BROKEN)
def test_tensors_that_do_not_fit_are_one_line(folder, model, tmp_path, part, change, words):
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    file = next((place / part).glob("*.safetensors"))
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"{place}/{part} do not fit.*{words}.*model.path") as caught:
        replace(model, path=str(place)).load()
    assert "\n" not in str(caught.value)


def cast(name: str, kind: torch.dtype) -> Callable[[State], State]:
    return lambda state: {k: v.to(kind) if k.endswith(name) else v for k, v in state.items()}


KINDS: list[tuple[str, Callable[[State], State], str]] = [
    ("text_encoder", cast("token_embedding.weight", torch.int32), "1 tensors.*token_embedding.weight I32"),
    ("unet", cast("conv_in.weight", torch.bool), "conv_in.weight BOOL"),
    ("unet", cast("conv_in.weight", torch.complex64), "conv_in.weight C64"),
    ("unet", cast("to_q.weight", torch.int8), "to_q.weight I8"),
    ("vae", cast("decoder.conv_out.weight", torch.uint8), "decoder.conv_out.weight U8"),
    ("vae", cast("conv_out.bias", torch.int64), "2 tensors.*conv_out.bias I64"),
    ("unet", cast("weight", torch.int16), "I16.*, \\.\\."),
]


@pytest.mark.parametrize("part, change, words", KINDS)
def test_tensors_that_are_no_floats_are_refused_by_name(folder, model, tmp_path, part, change, words):
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    file = next((place / part).glob("*.safetensors"))
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"{file} has .*{words}.*model.path") as caught:
        replace(model, path=str(place)).load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_floats_of_any_size_are_weights(folder, model, tmp_path, kind):
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    file = next((place / "unet").glob("*.safetensors"))
    save_file(cast("conv_in.weight", kind)(load_file(file)), file, metadata={"format": "pt"})
    found = replace(model, path=str(place)).load().unet.conv_in.weight
    assert torch.equal(found, load_file(file)["conv_in.weight"].to(found.dtype))


def test_a_file_beside_that_is_not_loaded_is_not_looked_at(folder, model, tmp_path):
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    other = {"a": torch.zeros(2, dtype=torch.int32)}
    for name in ("diffusion_pytorch_model.non_ema", "other"):
        save_file(other, place / "unet" / f"{name}.safetensors")
    replace(model, path=str(place)).load()
    save_file(other, place / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(UserError, match="286 missing.*model.path"):
        replace(model, path=str(place), variant="fp16").load()


# Variants and sharded files. A row is the files of the UNet, and which of them are taken.

UNET_FILE = "diffusion_pytorch_model"
VARIANTS: list[tuple[dict[str, int], str | None, str, list[str]]] = [
    ({"fp16": 1}, None, "fp16", ["fp16"]),
    ({"": 1, "fp16": 1}, None, "plain", ["plain", "fp16"]),
    ({"": 1, "fp16": 1}, "fp16", "fp16", ["plain", "fp16"]),
    ({"": 3}, None, "plain", ["plain"]),
    ({"fp16": 2}, None, "fp16", ["fp16"]),
    ({"": 1, "fp16": 2}, None, "plain", ["plain", "fp16"]),
    ({"fp16": 1, "bf16": 1}, None, "fp16", ["bf16", "fp16"]),
    ({"ema": 1}, None, "ema", ["ema"]),
]


def save_variant(place: Path, state: State, variant: str, shards: int) -> None:
    """Files of a variant, with its own value in one bias, by which it is known; with an index if sharded."""
    mark = torch.full_like(state["conv_in.bias"], {"": 1.0, "fp16": 2.0}.get(variant, 3.0))
    state = {**state, "conv_in.bias": mark}
    middle = f".{variant}" if variant else ""
    if shards == 1:
        save_file(state, place / f"{UNET_FILE}{middle}.safetensors", metadata={"format": "pt"})
        return
    names = sorted(state)
    told = {}
    for i in range(shards):
        name = f"{UNET_FILE}{middle}-{i + 1:05}-of-{shards:05}.safetensors"
        part = {n: state[n] for n in names[i::shards]}
        save_file(part, place / name, metadata={"format": "pt"})
        told |= dict.fromkeys(part, name)
    index = f"{UNET_FILE}.safetensors.index{middle}.json"
    (place / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": told}))


def with_variants(folder: Path, place: Path, files: dict[str, int]) -> Path:
    shutil.copytree(folder, place)
    own = place / "unet" / f"{UNET_FILE}.safetensors"
    state = load_file(own)
    own.unlink()
    for variant, shards in files.items():
        save_variant(place / "unet", state, variant, shards)
    return place


@pytest.mark.parametrize("files, wanted, taken, there", VARIANTS)
def test_the_variant_that_is_taken_is_found_said_and_kept(
    folder, model, tmp_path, caplog, files, wanted, taken, there
):
    place = with_variants(folder, tmp_path / "model", files)
    if wanted is not None:
        for part in ("vae", "text_encoder"):
            (file,) = (place / part).glob("*.safetensors")
            file.rename(file.with_suffix(f".{wanted}.safetensors"))
    backbone = replace(model, path=str(place), variant=wanted).load()
    mark = {"plain": 1.0, "fp16": 2.0}.get(taken, 3.0)
    assert backbone.unet.conv_in.bias.unique().tolist() == [mark]
    (found,) = [f for f in backbone.loaded["files"] if f["part"] == "unet"]
    assert found["variant"] == taken and sorted(found["there"]) == sorted(there)
    assert {f["part"] for f in backbone.loaded["files"]} == {"unet", "vae", "text_encoder"}
    said = [r.message for r in caplog.records if "weights as" in r.message]
    assert len(said) == (wanted is None and len(there) > 1)
    assert all(f"{taken} ones are taken" in line for line in said)


def test_variants_without_a_plain_or_an_fp16_file_are_asked_for(folder, model, tmp_path):
    place = with_variants(folder, tmp_path / "model", {"ema": 1, "bf16": 1})
    with pytest.raises(UserError, match=r"unet holds the variants bf16, ema.*model\.variant"):
        replace(model, path=str(place)).load()


def test_a_shard_that_is_gone_or_cut_is_one_line(folder, model, tmp_path):
    place = with_variants(folder, tmp_path / "model", {"": 3})
    (second,) = (place / "unet").glob("*-00002-of-*")
    second.write_bytes(second.read_bytes()[:-50])
    for _ in range(2):
        with pytest.raises(UserError, match=rf"{place}.*model\.path") as caught:
            replace(model, path=str(place)).load()
        assert "\n" not in str(caught.value)
        second.unlink(missing_ok=True)


def test_the_manifest_says_what_was_taken(folder, tmp_path, command_line, outputs):
    place = with_variants(folder, tmp_path / "model", {"": 1, "fp16": 1})
    words = ["experiment=debug", "cycle.cycles=1", "model=local", "condition=person", "condition.size=64"]
    result = command_line(*words, "model.device=cpu", f"model.path={place}")
    assert result.status == 0, result.err
    manifest = json.loads((outputs / "latest" / "manifest.json").read_text())
    (found,) = [f for f in manifest["weights"]["files"] if f["part"] == "unet"]
    assert found["variant"] == "plain" and "fp16" in found["there"]


NOT_FINITE = [("unet", "conv_in.weight", torch.nan), ("vae", "decoder.conv_in.bias", torch.inf)]


@pytest.mark.parametrize("part, name, value", [*NOT_FINITE, ("text_encoder", "fc1.weight", -torch.inf)])
def test_weights_that_are_not_finite_are_refused_by_name(folder, model, tmp_path, part, name, value):
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    file = next((place / part).glob("*.safetensors"))
    state = load_file(file)
    key = next(k for k in state if k.endswith(name))
    state[key].view(-1)[0] = value
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"{place}/{part} are not finite in float32: 1 tensors .*{name}"):
        replace(model, path=str(place)).load()


def test_weights_beyond_half_precision_are_named_with_the_cure(folder, model, tmp_path):
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    file = next((place / "unet").glob("*.safetensors"))
    state = load_file(file)
    save_file({**state, "conv_in.bias": state["conv_in.bias"] + 1e5}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"not finite in float16.*conv_in.bias.*model\.dtype=float32"):
        replace(model, path=str(place), dtype="float16").load()
    replace(model, path=str(place)).load()


# Tokenizers. A row changes the folder of one that was saved in CLIP's two files.


def two_files(place: Path) -> None:
    """The tokenizer as older checkpoints have it: a vocabulary and its merges, one of them here."""
    found = json.loads((place / "tokenizer.json").read_text())["model"]["vocab"]
    made = found.pop("<|startoftext|>"), found.pop("<|endoftext|>")
    vocab = {**found, "ab": made[0]}
    (place / "vocab.json").write_text(json.dumps({**vocab, "<|startoftext|>": made[1], "<|endoftext|>": 514}))
    (place / "merges.txt").write_text("#version: 0.2\na b\n")
    (place / "tokenizer.json").unlink()


def without(*names: str) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        for name in names:
            (place / name).unlink()

    return change


def rewritten(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    return lambda place: (place / name).write_text(change((place / name).read_text())) and None


def shorter(vocab: str) -> str:
    return json.dumps({k: v for k, v in json.loads(vocab).items() if not 100 <= v < 110})


def doubled(vocab: str) -> str:
    return json.dumps({k: v - (v == 7) for k, v in json.loads(vocab).items()})


def longer(vocab: str) -> str:
    return json.dumps({**json.loads(vocab), "zz": 515})


TOKENIZERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "an empty folder": (
        without("vocab.json", "merges.txt", "tokenizer_config.json"),
        "lacks tokenizer/tokenizer_config.json",
    ),
    "no vocabulary": (without("vocab.json"), "model.path"),
    "no merges": (without("merges.txt"), "model.path"),
    "neither": (without("vocab.json", "merges.txt"), "2 of the 515 tokens"),
    "no settings": (without("tokenizer_config.json"), "lacks tokenizer/tokenizer_config.json"),
    "merges cut at a line": (rewritten("merges.txt", lambda t: t[: t.index("\n") + 1]), "no pair.*1 .*ab"),
    "merges cut in a line": (rewritten("merges.txt", lambda t: t[:-3]), "model.path"),
    "empty merges": (rewritten("merges.txt", lambda t: ""), "no pair.*1 .*ab"),
    "a vocabulary with a hole": (rewritten("vocab.json", shorter), "505 of the 515"),
    "two tokens of one number": (rewritten("vocab.json", doubled), "514 of the 515"),
    "a vocabulary cut short": (rewritten("vocab.json", lambda t: t[: len(t) // 2]), "model.path"),
    "an empty vocabulary": (rewritten("vocab.json", lambda t: "{}"), "model.path"),
    "a token too many": (rewritten("vocab.json", longer), "516 tokens.*vocab_size=515"),
}


@pytest.fixture(scope="module")
def with_merges(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint with a tokenizer in two files and a text encoder that knows one token more."""
    place = tmp_path_factory.mktemp("merges") / "model"
    shutil.copytree(folder, place)
    two_files(place / "tokenizer")
    file = place / "text_encoder" / "model.safetensors"
    grown = {
        k: torch.cat([v, v[:1]]) if k.endswith("token_embedding.weight") else v
        for k, v in load_file(file).items()
    }
    save_file(grown, file, metadata={"format": "pt"})
    config = place / "text_encoder" / "config.json"
    told = {**json.loads(config.read_text()), "vocab_size": 515, "bos_token_id": 513, "eos_token_id": 514}
    config.write_text(json.dumps(told))
    return place


def test_a_tokenizer_in_two_files_is_whole(with_merges, model):
    tokenizer = replace(model, path=str(with_merges)).load().tokenizer
    assert "ab" in tokenizer.tokenize("abba") and len(tokenizer) == 515


@pytest.mark.parametrize("what", TOKENIZERS)
def test_a_tokenizer_is_loaded_whole_or_not_at_all(with_merges, model, tmp_path, what):
    change, words = TOKENIZERS[what]
    place = tmp_path / "model"
    shutil.copytree(with_merges, place)
    change(place / "tokenizer")
    with pytest.raises(UserError, match=f"{words}.*model.path" if words != "model.path" else words) as caught:
        replace(model, path=str(place)).load()
    assert "\n" not in str(caught.value) and str(place) in str(caught.value)


def test_counted_positions_of_older_files_are_no_tensor_too_many(folder, model, tmp_path):
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    file = place / "text_encoder" / "model.safetensors"
    positions = {"text_model.embeddings.position_ids": torch.arange(77).view(1, -1)}
    save_file({**load_file(file), **positions}, file, metadata={"format": "pt"})
    replace(model, path=str(place)).load()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_file_cut_short_is_one_line(folder, model, tmp_path, part):
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    file = next((place / part).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot load the model in .*model.path") as caught:
        replace(model, path=str(place)).load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "file",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "unet/config.json",
        "tokenizer/tokenizer_config.json",
    ],
)
def test_a_flipped_bit_is_found_where_checksums_lie_beside(folder, model, tmp_path, file):
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    checksums.write_checksums(place)
    replace(model, path=str(place)).load()
    flip(place / file)
    with pytest.raises(UserError, match=f"{place / file} is damaged or was changed.*model.path"):
        replace(model, path=str(place)).load()


def test_a_listed_file_that_is_gone_is_named(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"1234")
    checksums.write_checksums(tmp_path)
    (tmp_path / "a.bin").unlink()
    with pytest.raises(UserError, match="cannot read .*a.bin"):
        checksums.check_files(tmp_path, "model.path")


def test_a_file_is_read_once_for_each_modification(tmp_path, monkeypatch):
    (tmp_path / "a.bin").write_bytes(b"1234")
    checksums.write_checksums(tmp_path)
    checksums.check_files(tmp_path, "model.path")
    monkeypatch.setattr("hashlib.file_digest", None)  # nothing is read again
    checksums.check_files(tmp_path, "model.path")


def test_what_ships_is_what_its_lists_say():
    import sow.people

    room = Path(sow.people.__file__).parent
    for name in ("weights", "judge", "controlnet", "weights_flow"):
        assert (room / name / checksums.LIST).is_file()
        checksums.check_files(room / name, name)


def test_another_unet_stands_in_place_of_the_models_own(tmp_path):
    flow = compose(["model=people_flow", "tracker=none"]).model
    assert {flow.unet_folder(), flow.folder()} == set(flow.files())
    backbone = flow.load()
    assert backbone.scheduler_config["_class_name"] == "FlowMatchEulerDiscreteScheduler"
    file = flow.unet_folder() / "unet" / "diffusion_pytorch_model.safetensors"
    assert torch.equal(backbone.unet.conv_in.weight, load_file(file)["conv_in.weight"].float())
    other = tmp_path / "flow"
    shutil.copytree(flow.unet_folder(), other)
    words = ["model=people", f"model.unet_path={other}", "tracker=none"]
    flip(other / "unet" / file.name)
    with pytest.raises(UserError, match=r"is damaged or was changed.*model\.unet_path"):
        compose(words).model.load()
    shutil.rmtree(other / "scheduler")
    with pytest.raises(UserError, match=r"lacks scheduler.*model\.unet_path"):
        compose(words)
    shutil.rmtree(other)
    with pytest.raises(UserError, match=r"no such folder.*model\.unet_path"):
        compose(words)


def test_a_damaged_judge_is_not_asked(tmp_path):
    from sow.people.judge.reader import WEIGHTS, load_judge

    for name in (WEIGHTS.name, checksums.LIST):
        shutil.copy(WEIGHTS.with_name(name), tmp_path / name)
    flip(tmp_path / WEIGHTS.name)
    with pytest.raises(UserError, match="is damaged or was changed.*metrics=people"):
        load_judge(tmp_path / WEIGHTS.name)


@pytest.mark.parametrize("change, words", [(drop("bias"), "missing"), (add("more"), "1 unexpected .*more")])
def test_a_judge_that_does_not_fit_is_not_asked(tmp_path, change, words):
    from sow.people.judge.reader import WEIGHTS, load_judge

    save_file(change(load_file(WEIGHTS)), tmp_path / "weights.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"do not fit their model.*{words}.*metrics=people"):
        load_judge(tmp_path / "weights.safetensors")


def test_a_controlnet_is_loaded_whole(tmp_path):
    from diffusers import ControlNetModel

    import sow.people
    from sow.models.loading import load_whole

    shipped = Path(sow.people.__file__).parent / "controlnet"
    for file in shipped.iterdir():
        shutil.copy(file, tmp_path / file.name)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(drop("conv_in.bias")(load_file(file)), file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"do not fit.*missing \(.*conv_in.bias.*method.path"):
        load_whole(ControlNetModel, str(tmp_path), "method.path")


def flip(file: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
