"""Baselines with weights of their own: ControlNet, IP-Adapter, Textual Inversion,
DreamBooth, on small random models."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
)
from diffusers.models.embeddings import ImageProjection, IPAdapterPlusImageProjection
from PIL import Image
from safetensors.torch import save_file
from small_baselines import NEGATIVE, WORDS, pasted, plan, prepared, request
from test_sampler import moved
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from sow import build, compose
from sow.baselines.controlnet import edges
from sow.baselines.inversion import MARK, encode_with_word, place_word
from sow.baselines.personal import denoising_loss, name_concept
from sow.errors import UserError
from sow.method import noise
from sow.method.paste_back import NoPasteBack
from sow.method.seed_init import to_tensor
from sow.models.tiny import SCHEDULER
from sow.pipeline.pipeline import Pipeline
from sow.store.inputs import files_read
from sow.types import Request, Sample

FEW = ["method.num_inference_steps=3"]


def made_of(method: str, *words: str):
    return build(compose([*WORDS, f"method={method}", *FEW, *words]))


@pytest.fixture(scope="module")
def tiny():
    return build(compose([*WORDS])).backbone


def parts(backbone) -> dict:
    return {
        "vae": backbone.vae,
        "text_encoder": backbone.text_encoder,
        "tokenizer": backbone.tokenizer,
        "unet": backbone.unet,
        "scheduler": DDIMScheduler.from_config(SCHEDULER),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def sample(pipe, prompt: str, **more) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    own = {
        "height": 64,
        "width": 64,
        "num_inference_steps": 3,
        "guidance_scale": 7.5,
        "output_type": "latent",
    }
    return pipe(prompt, negative_prompt=NEGATIVE, generator=noise.generator(0), **own, **more).images


def latents(made, i: int = 0) -> torch.Tensor:
    return made.generate([request(i)], plans=[plan(i)])[0].latents


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Nothing is looked for on the hub, whenever its library was imported."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


# ControlNet


@pytest.fixture(scope="module")
def controlnet(tiny, tmp_path_factory) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ControlNetModel.from_unet(tiny.unet, conditioning_embedding_out_channels=(4, 8, 8, 8))
        for p in [*net.controlnet_down_blocks.parameters(), *net.controlnet_mid_block.parameters()]:
            torch.nn.init.normal_(p, std=0.1)  # zero as they start, they would do nothing
        torch.nn.init.normal_(net.controlnet_cond_embedding.conv_out.weight, std=0.1)
    folder = tmp_path_factory.mktemp("controlnet")
    net.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_controlnet_is_diffusers_pipeline(tiny, controlnet, eta):
    made = made_of("controlnet_canny", f"method.path={controlnet}", f"method.eta={eta}", "method.scale=0.7")
    picture = to_tensor(pasted(made))
    control = Image.fromarray((edges(picture, 100, 200).permute(1, 2, 0).numpy() * 255).astype("uint8"))
    assert 0.01 < edges(picture, 100, 200).mean() < 0.5
    pipe = StableDiffusionControlNetPipeline(
        **parts(tiny), controlnet=ControlNetModel.from_pretrained(controlnet)
    )
    theirs = sample(pipe, request().prompt, image=control, eta=eta, controlnet_conditioning_scale=0.7)
    ours = latents(made)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert moved(latents(made.variant(options=replace(made.method.options, scale=0.0))), ours) > 1e-3


def test_controlnets_batch_equals_its_singles(controlnet):
    made = made_of("controlnet_canny", f"method.path={controlnet}")
    both = made.generate([request(0), request(1)], plans=[plan(0), plan(1)])
    for i in (0, 1):
        assert moved(both[i].latents, latents(made, i)) < 1e-4


def test_a_controlnet_that_is_missing_or_does_not_fit_is_named(tiny, controlnet, tmp_path):
    with pytest.raises(UserError) as error:
        made_of("controlnet_canny")
    assert "no ControlNet is known for a UNet of 16 text channels" in one_line(error)
    for wrong in (tmp_path, "nobody/has-this-net"):
        with pytest.raises(UserError) as error:
            made_of("controlnet_canny", f"method.path={wrong}")
        assert f"cannot load the ControlNet {wrong}" in one_line(error) and "method.path" in one_line(error)
    folder = tmp_path / "other"
    ControlNetModel(
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        cross_attention_dim=32,
        norm_num_groups=8,
        conditioning_embedding_out_channels=(4, 8, 8, 8),
    ).save_pretrained(folder)
    with pytest.raises(UserError) as error:
        made_of("controlnet_canny", f"method.path={folder}")
    assert "cross_attention_dim=32 but the model 16" in one_line(error)


# IP-Adapter


def resampler(weight, hidden: int, tokens: int, width: int) -> dict[str, torch.Tensor]:
    """The image projection of a plus adapter, by its published names:
    `tokens` queries read the encoder's states."""
    ones, zeros = torch.ones, torch.zeros
    tensors = {
        "latents": weight(1, tokens, hidden),
        "proj_in.weight": weight(hidden, 16),
        "proj_in.bias": weight(hidden),
        "proj_out.weight": weight(width, hidden),
        "proj_out.bias": weight(width),
        "norm_out.weight": ones(width),
        "norm_out.bias": zeros(width),
    }
    for i in range(4):
        for name in ("0.norm1", "0.norm2", "1.0"):
            tensors |= {f"layers.{i}.{name}.weight": ones(hidden), f"layers.{i}.{name}.bias": weight(hidden)}
        tensors |= {
            f"layers.{i}.0.to_q.weight": weight(64, hidden),
            f"layers.{i}.0.to_kv.weight": weight(128, hidden),
            f"layers.{i}.0.to_out.weight": weight(hidden, 64),
            f"layers.{i}.1.1.weight": weight(4 * hidden, hidden),
            f"layers.{i}.1.3.weight": weight(hidden, 4 * hidden),
        }
    return tensors


def save_adapter(folder: Path, unet) -> None:
    """Adapters in both published layouts, plain (four tokens) and plus (six here),
    and a small image encoder."""
    g = noise.generator(3)
    weight = lambda *shape: noise.randn(shape, g, "cpu", torch.float32) / shape[-1] ** 0.5  # noqa: E731
    width = unet.config.cross_attention_dim
    attention = {}
    for i, name in enumerate(unet.attn_processors):
        if "attn2" in name:
            layer = unet.get_submodule(name.removesuffix(".processor"))
            for kind in ("k", "v"):
                attention[f"ip_adapter.{i}.to_{kind}_ip.weight"] = weight(layer.inner_dim, width)
    plain = {
        "proj.weight": weight(4 * width, 12),
        "proj.bias": weight(4 * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    (folder / "models").mkdir(parents=True)
    for name, projection in {"face": plain, "plus-face": resampler(weight, 8, 6, width)}.items():
        own = {f"image_proj.{n}": tensor for n, tensor in projection.items()}
        save_file(own | attention, folder / "models" / f"{name}.safetensors")
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
        projection_dim=12,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPVisionModelWithProjection(config).save_pretrained(folder / "models" / "image_encoder")


@pytest.fixture(scope="module")
def adapter(tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(folder / "own", tiny.unet)
    return folder / "own"


def adapter_words(folder: Path | str, name: str = "plus-face") -> list[str]:
    return [f"method.path={folder}", f"method.weight_name=models/{name}.safetensors"]


@pytest.mark.parametrize("name", ["face", "plus-face"])
def test_ip_adapter_is_diffusers_pipeline(tiny, adapter, name):
    before = dict(tiny.unet.attn_processors)
    made = made_of("ip_adapter", *adapter_words(adapter, name), "method.scale=0.6")
    ours = latents(made)
    assert tiny.unet.attn_processors == before  # the shared model stays without the adapter
    pipe = StableDiffusionPipeline(**{**parts(tiny), "unet": made_of_copy(tiny.unet)})
    pipe.load_ip_adapter(
        str(adapter),
        subfolder="models",
        weight_name=f"{name}.safetensors",
        image_encoder_folder="models/image_encoder",
    )
    pipe.set_ip_adapter_scale(0.6)
    face = request().conditions[0].on_gray()
    theirs = sample(pipe, request().prompt, ip_adapter_image=face)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert moved(sample(pipe, request().prompt, ip_adapter_image=Image.new("RGB", face.size)), ours) > 1e-3
    both = made.generate([request(0), request(1)], plans=[plan(0), plan(1)])
    assert moved(both[0].latents, ours) < 1e-4 and moved(both[1].latents, latents(made, 1)) < 1e-4


@pytest.mark.parametrize(
    ("name", "layer"), [("face", ImageProjection), ("plus-face", IPAdapterPlusImageProjection)]
)
def test_the_negative_branch_sees_what_the_adapters_layout_was_trained_on(adapter, name, layer):
    """Zero embeddings for the plain layout; for the plus layout the states of a picture of zeros."""
    made = made_of("ip_adapter", *adapter_words(adapter, name))
    assert isinstance(made.backbone.unet.encoder_hid_proj.image_projection_layers[0], layer)
    batch = prepared(made)
    _, more = made.method.inputs(batch, batch.denoiser, torch.zeros(2, 4, 8, 8), 0)
    negative, positive = more["added_cond_kwargs"]["image_embeds"][0].chunk(2)
    assert positive.any()
    if name == "face":
        assert negative.shape == (1, 1, 12) and not negative.any()
    else:
        with torch.no_grad():
            seen = made.method.pipe.image_encoder(torch.zeros(1, 3, 32, 32), output_hidden_states=True)
        assert negative.shape == (1, 1, 5, 16) and negative.any()
        torch.testing.assert_close(negative[0], seen.hidden_states[-2])


def made_of_copy(module):
    import copy

    return copy.deepcopy(module)


def test_an_ip_adapter_that_cannot_be_had_is_named(adapter):
    with pytest.raises(UserError) as error:
        made_of("ip_adapter")
    assert "no IP-Adapter is known for a UNet of 16 text channels" in one_line(error)
    with pytest.raises(UserError) as error:
        made_of("ip_adapter", f"method.path={adapter}", "method.weight_name=models/nothing.safetensors")
    assert "cannot load the IP-Adapter models/nothing.safetensors" in one_line(error)
    with pytest.raises(UserError) as error:
        made_of("ip_adapter", "method.weight_name=models/ip-adapter-plus-face_sd15.safetensors")
    assert "h94/IP-Adapter" in one_line(error) and "method.path" in one_line(error)


@pytest.mark.parametrize("method", ["controlnet_canny", "ip_adapter"])
def test_a_path_may_start_at_the_home_folder(controlnet, adapter, monkeypatch, method):
    """What "~" in `method.path` names is loaded, and its files count among the run's inputs."""
    folder = controlnet if method == "controlnet_canny" else adapter
    monkeypatch.setenv("HOME", str(folder.parent))
    more = [] if method == "controlnet_canny" else adapter_words("")[1:]
    config = lambda path: compose([*WORDS, f"method={method}", f"method.path='{path}'", *more])  # noqa: E731
    own = config(f"~/{folder.name}")
    assert build(own).method.options.path == f"~/{folder.name}"
    assert set(files_read(own.method)) == {f.resolve() for f in folder.rglob("*") if f.is_file()} != set()
    assert set(files_read(config("~/nothing").method)) == set()
    with pytest.raises(UserError, match="no home folder of ~nobody-of-that-name"):
        config("~nobody-of-that-name/nothing")
    with pytest.raises(UserError) as error:
        build(config("~/nothing"))
    assert "~/nothing" in one_line(error) and "method.path" in one_line(error)


# What the trained ones share


def test_the_concept_takes_the_place_of_its_noun():
    words = ["person", "man", "cat"]
    concept = lambda word: f"sks {word}"  # noqa: E731
    assert name_concept("An old person by a cat", words, concept) == "An old sks person by a cat"
    assert name_concept("A Man", words, concept) == "A sks Man"
    assert name_concept("rain", words, concept) == "sks person, rain"


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_training_loss_is_the_models_own(tiny, prediction):
    """Against diffusers' forward process and targets."""
    theirs = DDPMScheduler.from_config({**SCHEDULER, "prediction_type": prediction})
    g = noise.generator(0)
    z, e = (noise.randn((2, 4, 8, 8), g, "cpu", torch.float32) for _ in range(2))
    t, c = torch.tensor([30, 700]), tiny.embed(["a", "b"])
    ours = denoising_loss(tiny, theirs.alphas_cumprod, prediction, z, t, e, c)
    with torch.no_grad():
        out = tiny.unet(theirs.add_noise(z, e, t), t, encoder_hidden_states=c).sample
    target = e if prediction == "epsilon" else theirs.get_velocity(z, e, t)
    torch.testing.assert_close(ours, torch.nn.functional.mse_loss(out, target))


def trained(method: str, folder: Path, *words: str):
    short = ["method.steps=12", "method.train_batch=2", f"method.cache={folder}"]
    more = {
        "textual_inversion": ["method.learning_rate=0.3", "method.vectors=2"],
        "dreambooth": ["method.learning_rate=0.004", "method.class_images=2", "method.class_steps=2"],
    }
    return made_of(method, *short, *more[method], *words).method


def generated(method, asked: Request | None = None) -> Sample:
    """What a pipeline of this method makes."""
    own = Pipeline(method, None, None, None, NoPasteBack(), batch_size=1)
    return own.generate([asked or request()], plans=[plan()])[0]


def concept_loss(made, backbone, caption: str) -> float:
    """The training loss on draws of its own."""
    g = noise.generator(99)
    z = made.latents_of(request(), g)
    total = 0.0
    for _ in range(5):
        own, t, e = made.draw_training_batch(z, g)
        with torch.no_grad():
            c = backbone.embed([caption]).expand(len(own), -1, -1)
            total += float(
                denoising_loss(
                    backbone, made.schedule.alphas_cumprod, made.schedule.prediction_type, own, t, e, c
                )
            )
    return total


@pytest.mark.parametrize(
    ("method", "caption"),
    [("textual_inversion", f"a photo of {MARK}"), ("dreambooth", "a photo of sks person")],
)
def test_training_learns_once_and_leaves_the_model_alone(method, caption, tmp_path, monkeypatch):
    made = trained(method, tmp_path)
    model = made.backbone
    before = {n: p.clone() for m in (model.unet, model.text_encoder) for n, p in m.named_parameters()}
    own = made.with_concept(request())
    start = "a photo of person" if method == "textual_inversion" else caption
    assert concept_loss(made, own.backbone, caption) < concept_loss(made, model, start)
    after = {n: p for m in (model.unet, model.text_encoder) for n, p in m.named_parameters()}
    assert all(torch.equal(after[n], before[n]) and not after[n].requires_grad for n in before)

    first = generated(made)
    monkeypatch.setattr(type(made), "train", lambda self, request: pytest.fail("trained again"))
    again = generated(trained(method, tmp_path))
    assert torch.equal(again.latents, first.latents)  # found on disk
    assert again.seconds["train"] == first.seconds["train"] > 0 and "sample" in again.seconds
    # Options of the generation do not train anew.
    trained(method, tmp_path, "method.num_inference_steps=2", "method.eta=1").with_concept(request())
    monkeypatch.undo()
    keys = {
        made.key(request(0)),
        made.key(request(1)),
        trained(method, tmp_path, "method.seed=1").key(request()),
    }
    assert len(keys) == 3
    facts = made.store.get(made.key(request()))
    assert facts["options"]["steps"] == 12 and facts["loss"] > 0


def test_a_broken_training_is_done_again(tmp_path):
    made = trained("textual_inversion", tmp_path, "method.steps=1")
    made.learn(request())
    (place,) = tmp_path.rglob("*.safetensors")
    place.write_bytes(b"cut")
    assert made.learn(request()).tensors and place.stat().st_size > 3


def test_a_request_with_two_conditions_is_refused(tmp_path):
    made = trained("textual_inversion", tmp_path)
    two = Request(request().conditions * 2, "two people")
    with pytest.raises(UserError, match="2 visual conditions.*takes one"):
        generated(made, two)


# Textual Inversion


def test_the_learnt_word_reads_as_diffusers_reads_it(tiny, tmp_path):
    made = trained("textual_inversion", tmp_path, "method.steps=2").with_concept(request())
    assert made.prompts([request()], [plan()]) == [f"a {MARK} 0 in a forest"]
    words = made.concept.tensors["word.0"]
    assert words.shape == (2, 16)
    own = {
        **parts(tiny),
        "tokenizer": made_of_copy(tiny.tokenizer),
        "text_encoder": made_of_copy(tiny.text_encoder),
    }
    pipe = StableDiffusionPipeline(**own)
    pipe.load_textual_inversion({MARK: words}, token=MARK)
    theirs = sample(pipe, f"a {MARK} 0 in a forest")
    torch.testing.assert_close(generated(made).latents, theirs, rtol=1e-4, atol=1e-4)


def test_the_word_is_never_cut_off(tiny):
    ids, places = place_word(tiny.tokenizer, tiny.text_encoder, "y" * 200 + f" {MARK} tail", 3)
    assert ids.shape == (1, 77) and places.tolist() == [73, 74, 75] and ids[0, 76] == 513
    ids, places = place_word(tiny.tokenizer, tiny.text_encoder, f"{MARK} " + "y" * 200, 1)
    assert ids.shape == (1, 77) and places.tolist() == [1] and ids[0, 76] == 513
    hooks = dict(tiny.text_encoder.get_input_embeddings()._forward_hooks)
    out = encode_with_word(tiny, f"a {MARK}", [torch.zeros(1, 16)])
    assert out.shape == (1, 77, 16)
    assert tiny.text_encoder.get_input_embeddings()._forward_hooks == hooks


# DreamBooth


def test_the_loss_is_that_of_the_concept_and_lambda_times_that_of_the_class(tmp_path, monkeypatch):
    from sow.baselines import dreambooth

    made = trained("dreambooth", tmp_path, "method.steps=1", "method.prior_weight=0.7")
    calls = []

    def watched(model, alphas, prediction, z, t, e, c):
        calls.append((z, c, denoising_loss(model, alphas, prediction, z, t, e, c)))
        return calls[-1][2]

    monkeypatch.setattr(dreambooth, "denoising_loss", watched)
    _, loss = made.train(request())
    (z, c, own), (z_class, c_class, prior) = calls
    assert loss == pytest.approx(float(own) + 0.7 * float(prior), rel=1e-6)
    embeds = made.backbone.embed(["a photo of sks person", "a photo of person"])
    assert all(torch.equal(row, embeds[0]) for row in c) and all(
        torch.equal(row, embeds[1]) for row in c_class
    )
    assert all(any(torch.equal(row, own) for own in made.class_latents("person")) for row in z_class)
    torch.testing.assert_close(z, made.latents_of(request(), noise.generator(0)).expand_as(z))


def test_the_token_goes_before_the_noun(tmp_path):
    made = trained("dreambooth", tmp_path)
    assert made.prompts([request()], [plan()]) == ["a sks person 0 in a forest"]
    assert made.class_latents("person").shape == (2, 4, 8, 8)
    assert torch.equal(made.class_latents("person"), trained("dreambooth", tmp_path).class_latents("person"))


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="LoRA needs the package peft")
def test_lora_trains_and_keeps_low_rank_updates_alone(tmp_path):
    words = ["method.lora_rank=2", "method.prior_weight=0", "method.learning_rate=0.01"]
    made = trained("dreambooth", tmp_path, *words)
    own = made.with_concept(request())
    assert own.concept.tensors and all("lora_" in n for n in own.concept.tensors)
    caption = "a photo of sks person"
    assert concept_loss(made, own.backbone, caption) < concept_loss(made, made.backbone, caption)


def test_lora_without_peft_says_so(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "peft" else find(name))
    with pytest.raises(UserError, match="LoRA needs the package peft.*method.lora_rank"):
        trained("dreambooth", tmp_path, "method.lora_rank=2")


@pytest.mark.parametrize(
    ("method", "word", "key"),
    [
        ("textual_inversion", "method.steps=0", "method.steps"),
        ("textual_inversion", "method.templates=[photo]", "method.templates"),
        ("dreambooth", "method.class_images=0", "method.class_images"),
        ("dreambooth", "method.learning_rate=0", "method.learning_rate"),
        ("controlnet_canny", "method.low=300", "method.low"),
    ],
)
def test_a_bad_option_fails_on_one_line(method, word, key):
    with pytest.raises(UserError) as error:
        compose([*WORDS, f"method={method}", word])
    assert key in one_line(error)
