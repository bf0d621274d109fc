"""The training recipe: paces, states, latents, tokens, export; and the weights that ship."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from omegaconf import OmegaConf

from experiments.training import people_evaluation, train_people
from sow.config.schema import instantiate
from sow.errors import UserError
from sow.people.captions.attributes import sample_attributes
from sow.people.captions.captions import caption, parse
from sow.people.training import export, figures, grids, pace, text
from sow.people.training.autoencoder import (
    build_autoencoder,
    psnr,
    reconstruct,
    settle_latents,
    to_images,
    to_tensor,
)
from sow.people.training.checkpoint import LossFile, load_state, no_tracker, pack, save_state, unpack
from sow.people.training.denoiser import build_denoiser, denoising_loss, noise_schedule
from sow.people.training.latents import Batch, LatentStream, encode_shard, encode_shards, head_weights
from sow.people.training.muon import Muon, orthogonalized
from sow.people.training.recipes import FigureRecipe

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "sow" / "people" / "weights"


@pytest.fixture(scope="module")
def study():
    """The study as its YAML file describes it."""
    node = OmegaConf.load(ROOT / "conf" / "study" / "train_people.yaml")
    return instantiate(OmegaConf.to_container(node, resolve=True), "study")


@pytest.fixture(scope="module")
def autoencoder(study) -> AutoencoderKL:
    recipe = dataclasses.replace(study.autoencoder, channels=(4, 4, 8, 8), latent_channels=4)
    return build_autoencoder(recipe, canvas=32).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def words(study, tmp_path_factory):
    """A small tokenizer and text encoder."""
    recipe = dataclasses.replace(study.text, vocabulary=800, captions=100, hidden=16, layers=1, heads=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "english_words", lambda: ["a", "river", "bank"] * 20)
        tokenizer = text.learn_tokenizer(recipe, tmp_path_factory.mktemp("text") / "tokenizer")
    return tokenizer, text.build_text_encoder(recipe, tokenizer).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def denoiser(study):
    recipe = dataclasses.replace(study.denoiser, channels=(8, 8), head=4, groups=4)
    return build_denoiser(recipe, latent_channels=4, text_width=16, side=4)


@pytest.fixture
def random_images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


def test_the_learning_rate_warms_up_and_ends_at_zero():
    clock = pace.Pace(minutes=1, warmup=10)
    assert clock.factor(0, 0.0) == pytest.approx(0.1)
    assert clock.factor(50, 0.5) == pytest.approx(0.5)
    assert clock.factor(50, 1.0) == 0
    late = pace.Pace(minutes=1, warmup=10, decay=0.2)
    assert [late.factor(50, s) for s in (0.5, 0.8, 1.0)] == [1, 1, 0]
    assert late.factor(50, 0.9) == pytest.approx(0.5)
    clock.spent = 59.0
    assert clock.tick() == pytest.approx(59 / 60, abs=1e-3)
    clock.spent = 61.0
    assert clock.tick() == 1.0


def test_a_clock_time_in_the_past_ends_a_stage():
    early = (pace.datetime.now() - pace.timedelta(minutes=5)).strftime("%H:%M")
    late = (pace.datetime.now() + pace.timedelta(minutes=5)).strftime("%H:%M")
    assert -360 < pace.seconds_until(early) <= -240
    assert 240 < pace.seconds_until(late) <= 300


def test_swapping_the_average_twice_changes_nothing():
    layer = torch.nn.Linear(3, 3)
    average = pace.Average(layer.parameters(), 0.9)
    with torch.no_grad():
        layer.weight += 1
    before = layer.weight.detach().clone()
    average.update(1000)
    average.swap()
    assert torch.allclose(layer.weight, before - 0.9, atol=1e-6)
    average.swap()
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("part", [None, 0.002])
@pytest.mark.parametrize("make", [lambda p: torch.optim.AdamW(p, lr=0.1), lambda p: Muon(p, 0.1)])
def test_a_resumed_run_takes_the_steps_of_an_unbroken_one(tmp_path, make, part):
    def fresh():
        model = torch.nn.Linear(4, 3)
        torch.nn.init.constant_(model.weight, 0.5)
        torch.nn.init.zeros_(model.bias)
        return model, pace.Average(model.parameters(), 0.9), make(model.parameters()), pace.Pace(1)

    def train(model, average, optimizer, steps):
        for step in steps:
            x = torch.from_numpy(np.random.default_rng(step).standard_normal((8, 4), dtype=np.float32))
            (model(x) - x[:, :3]).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            average.update(step)

    whole, broken, resumed = fresh(), fresh(), fresh()
    train(*whole[:3], range(6))
    train(*broken[:3], range(3))
    save_state(tmp_path / "state.pt", pack(*broken[:3], 3, broken[3], 24), part)
    sizes = [p.stat().st_size for p in tmp_path.iterdir()]
    assert len(sizes) == 1 if part is None else len(sizes) > 2 and max(sizes) <= part * 2**20
    assert unpack(tmp_path / "state.pt", *resumed) == (3, 24)
    train(*resumed[:3], range(3, 6))
    assert torch.allclose(whole[0].weight, resumed[0].weight, atol=1e-6)
    assert torch.allclose(whole[1].shadow[0], resumed[1].shadow[0], atol=1e-6)
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left[0] == "state.pt" and len(left) == len(sizes)
    if part:
        (tmp_path / left[2]).unlink()
        with pytest.raises(UserError, match=re.escape(left[2])):
            unpack(tmp_path / "state.pt", *fresh())


def test_a_state_in_parts_replaces_the_parts_before_it(tmp_path):
    for k in range(2):
        save_state(tmp_path / "state.pt", {"values": torch.full((900,), float(k))}, 0.002)
    assert float(load_state(tmp_path / "state.pt")["values"][0]) == 1
    assert len({p.name.split(".")[2] for p in tmp_path.iterdir() if p.name != "state.pt"}) == 1


def test_losses_are_averaged_and_appended(tmp_path):
    told = []
    losses = LossFile(tmp_path / "losses.csv", lambda values, step: told.append((step, values)))
    losses.add(loss=1.0)
    losses.add(loss=3.0)
    assert losses.write(2, seen=8) == {"loss": 2.0, "seen": 8}
    losses.add(loss=5.0)
    losses.write(3, seen=16)
    assert (tmp_path / "losses.csv").read_text().splitlines() == ["step,loss,seen", "2,2,8", "3,5,16"]
    assert [step for step, _ in told] == [2, 3]


@pytest.mark.parametrize("shape", [(8, 8), (4, 20), (20, 4)])
def test_orthogonalized_directions_have_singular_values_near_one(shape):
    matrix = torch.from_numpy(np.random.default_rng(1).standard_normal(shape, dtype=np.float32))
    values = torch.linalg.svdvals(orthogonalized(matrix, 5))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_images_survive_the_way_to_tensors_and_back(random_images):
    assert np.array_equal(to_images(to_tensor(random_images)), random_images)
    noisy = np.clip(random_images.astype(int) + 10, 0, 255).astype(np.uint8)
    assert psnr(random_images, random_images).min() == 100
    assert 27 < psnr(random_images, noisy).mean() < 30


def test_settled_latents_are_centred_and_decode_as_before(autoencoder, random_images):
    model = AutoencoderKL.from_config(autoencoder.config)
    model.load_state_dict(autoencoder.state_dict())
    model.eval().requires_grad_(False)
    before = reconstruct(model, random_images)
    settle_latents(model, random_images)
    assert psnr(before, reconstruct(model, random_images)).min() > 60
    latents = encode_shard(model, random_images).astype(np.float32) * model.config["scaling_factor"]
    assert np.abs(latents.mean(axis=(0, 2, 3))).max() < 0.01
    assert latents.std() == pytest.approx(1, abs=0.02)


def test_any_text_tokenizes_and_captions_tokenize_into_words(words):
    tokenizer, _ = words
    strange = "Déjà vu: 日本 😀 3.14, l'œuvre_x"
    ids = tokenizer(strange).input_ids
    assert tokenizer.eos_token_id not in ids[1:-1]
    assert all(part in tokenizer.decode(ids) for part in ("déjà", "日本", "😀", "œuvre"))
    rng = np.random.default_rng(3)
    lengths = [len(tokenizer(caption(sample_attributes(rng), rng)).input_ids) for _ in range(50)]
    assert max(lengths) <= tokenizer.model_max_length == 77


def test_labels_say_what_a_caption_says():
    row = dict(
        zip(
            text.READ,
            text.labels_of(["a person with red hair in a blue shirt, on the left"])[0].tolist(),
            strict=True,
        )
    )
    assert text.READ["hair_color"][row["hair_color"]] == "red"
    assert text.READ["clothing_color"][row["clothing_color"]] == "blue"
    assert text.READ["side"][row["side"]] == "left"
    assert row["scene"] == len(text.READ["scene"])


def test_the_schedule_is_that_of_stable_diffusion():
    schedule = noise_schedule()
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    assert torch.allclose(schedule.alphas_cumprod, torch.cumprod(1 - betas, 0), atol=1e-6)
    assert schedule.config["prediction_type"] == "epsilon"
    assert schedule.config["steps_offset"] == 1


def test_the_loss_is_weighted_by_clamped_signal_to_noise():
    alphas = noise_schedule().alphas_cumprod
    draw = np.random.default_rng(0).standard_normal((2, 4, 4, 4), dtype=np.float32)
    batch = Batch(
        torch.from_numpy(draw),
        torch.ones(2, 4, 4, 4),
        torch.tensor([5, 900]),
        torch.zeros(2, 1, 1),
        torch.ones(2, 1, 4, 4),
    )
    weighted, plain = denoising_loss(
        lambda x, t, c, return_dict: (torch.zeros_like(x),), batch, alphas, gamma=5.0, balance=0.0
    )
    snr = alphas[5] / (1 - alphas[5])
    assert plain == pytest.approx(1)
    assert float(weighted) == pytest.approx((5 / float(snr) + 1) / 2, rel=1e-4)
    exact, _ = denoising_loss(
        lambda x, t, c, return_dict: (batch.noise,), batch, alphas, gamma=5.0, balance=0.5
    )
    assert exact == 0


def test_a_small_head_has_its_share_of_the_loss():
    squares = torch.tensor([[0.5, 0.25, 0.74, 0.5], [0.0, 0.0, 0.0, 0.0], [0.999, 0.999, 1.0, 1.0]])
    weights = head_weights(squares, 16, 0.4)
    assert torch.allclose(weights.mean((1, 2, 3)), torch.ones(3))
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[4:8, 8:12] = True
    assert float(weights[0, 0][inside].sum() - 0.6 * 16) == pytest.approx(0.4 * 256, rel=1e-5)
    assert torch.allclose(weights[0, 0][~inside], torch.tensor(0.6))
    assert torch.equal(weights[1], torch.ones(1, 16, 16))
    assert float(weights[2].max()) == pytest.approx(0.6 + 0.4 * 256)


def test_shards_are_rendered_once_and_streamed_the_same_for_the_same_step(tmp_path, words, autoencoder):
    recipe = FigureRecipe(
        canvas=32, closeups=(16, 24), closeup_every=2, shard=2, total=4, captions=3, workers=1
    )
    paths = list(figures.render_shards(tmp_path / "figures", recipe))
    assert [p.name for p in paths] == [
        "00000-scene-32.npz", "00001-closeup-16.npz", "00002-scene-32.npz", "00003-gray-16.npz",
    ]  # fmt: skip
    assert not list(figures.render_shards(tmp_path / "figures", recipe))
    shard = figures.read_shard(paths[0])
    again = figures.render(int(shard["seeds"][1]), 32)
    assert np.array_equal(shard["images"][1], again.image)
    assert figures.attributes_of(shard["attributes"][1]) == again.attributes
    tokenizer, encoder = words
    for k in range(2):
        made = list(
            encode_shards(
                autoencoder,
                tokenizer,
                tmp_path / "figures",
                tmp_path / "latents",
                total=4,
                captions=3,
                part=(k, 2),
            )
        )
        assert len(made) == 2
    shard = figures.read_shard(tmp_path / "latents" / paths[0].name)
    assert shard["tokens"].shape == (2, 3, tokenizer.model_max_length)
    assert np.array_equal(shard["latents"], encode_shard(autoencoder, figures.read_shard(paths[0])["images"]))
    said = tokenizer.decode(shard["tokens"][1, 0], skip_special_tokens=True)
    assert parse(said).items() <= figures.attributes_of(shard["attributes"][1]).__dict__.items()
    stream = LatentStream(
        tmp_path / "latents",
        encoder,
        tokenizer,
        scale=1.0,
        batch=3,
        closeup_share=0.5,
        head_share=0.4,
        dropout=0.1,
        seed=0,
    )
    first = next(stream.run(5))
    assert stream.figures == 8
    assert torch.equal(first.latents, stream.make(5).latents)
    assert torch.equal(first.prompts, stream.make(5).prompts)
    assert {tuple(stream.make(k).latents.shape[1:]) for k in range(12)} == {(4, 4, 4), (4, 2, 2)}


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def files_of(folder: Path) -> set[str]:
    """Every file below a folder of weights that its list of checksums must name."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name not in ("CHECKSUMS", "README.md"))
    return {p.relative_to(folder).as_posix() for p in files}


def test_an_export_loads_as_a_pipeline_and_matches_its_checksums(tmp_path, autoencoder, words, denoiser):
    tokenizer, encoder = words
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "README.md").write_text("card")
    (folder / "CHECKSUMS").write_text("stale")
    export.export_weights(folder, autoencoder, encoder, tokenizer, denoiser)
    assert (folder / "README.md").read_text() == "card"
    assert [p.name for p in tmp_path.iterdir()] == ["weights"]
    listed = dict(reversed(line.split("  ")) for line in (folder / "CHECKSUMS").read_text().splitlines())
    assert listed == {name: sha256(folder / name) for name in listed}
    assert set(listed) == files_of(folder)
    pipeline = export.load_pipeline(folder)
    for mine, theirs in zip(denoiser.parameters(), pipeline.unet.parameters(), strict=True):
        assert torch.equal(mine.half().float(), theirs)
    prompt, _ = pipeline.encode_prompt(["a person"], "cpu", 1, False)
    direct = encoder(input_ids=text.tokenize(tokenizer, ["a person"])).last_hidden_state
    assert torch.allclose(prompt, direct, atol=0.05)


def test_every_phase_runs_on_what_the_phase_before_left(tmp_path, study, monkeypatch):
    monkeypatch.setattr(text, "english_words", lambda: ["a", "river", "bank"] * 20)
    short = {"minutes": 0.004, "batch": 2}
    small = {"channels": (4, 4, 8, 8), "latent_channels": 4, "crop": 32} | short
    tiny = dataclasses.replace(
        study,
        folder=str(tmp_path / "work"),
        output=str(tmp_path / "weights"),
        grid_minutes=1000.0,
        figures=FigureRecipe(
            canvas=128, closeups=(48,), closeup_every=2, shard=3, total=2, captions=2, workers=1
        ),
        text=dataclasses.replace(
            study.text, vocabulary=800, captions=50, hidden=16, layers=1, heads=2, **short
        ),
        autoencoder=dataclasses.replace(study.autoencoder, **small),
        decoder=dataclasses.replace(study.decoder, **small),
        denoiser=dataclasses.replace(
            study.denoiser, channels=(8, 8), head=4, groups=4, compile=False, **short
        ),
    )
    train_people._render(tiny)
    for phase in ("text", "autoencoder"):
        getattr(tiny, "_" + phase)(no_tracker)
    train_people._encode(tiny)
    for phase in ("decoder", "denoiser", "export"):
        getattr(tiny, "_" + phase)(no_tracker)
    first, tuned = (AutoencoderKL.from_pretrained(tmp_path / "work" / name) for name in ("vae", "vae_tuned"))
    assert all(
        torch.equal(a, b) for a, b in zip(first.encoder.parameters(), tuned.encoder.parameters(), strict=True)
    )
    pipeline = export.load_pipeline(tmp_path / "weights")
    picture = grids.sample(pipeline, ["a person"], [0], steps=2)
    assert picture.shape == (1, 128, 128, 3)
    assert np.array_equal(picture, grids.sample(pipeline, ["a person"], [0], steps=2))
    images = figures.held_out_images(2, 48, "gray")
    assert people_evaluation.round_trip(pipeline, images, ["a face"] * 2, steps=2).shape == images.shape
    flow = dataclasses.replace(tiny.denoiser, predicts="velocity")
    dataclasses.replace(tiny, output=str(tmp_path / "flow"), denoiser=flow)._export(no_tracker)
    for other in (
        export.load_pipeline(tmp_path / "flow"),
        export.load_pipeline(tmp_path / "weights", tmp_path / "flow"),
    ):
        drawn = grids.sample(other, ["a person"], [0], steps=2)
        assert isinstance(other.scheduler, FlowMatchEulerDiscreteScheduler)
        assert not np.array_equal(picture, drawn)


def test_the_study_names_what_is_wrong(study):
    with pytest.raises(UserError, match="study.phases"):
        dataclasses.replace(study, phases=["cook"])
    with pytest.raises(UserError, match="study.denoiser.channels"):
        dataclasses.replace(study.denoiser, head=7)


def test_shipped_weights_are_whole_small_and_in_small_shards():
    listed = dict(reversed(line.split("  ")) for line in (WEIGHTS / "CHECKSUMS").read_text().splitlines())
    assert listed == {name: sha256(WEIGHTS / name) for name in listed}
    assert set(listed) == files_of(WEIGHTS)
    sizes = [p.stat().st_size for p in WEIGHTS.rglob("*") if p.is_file()]
    assert sum(sizes) < 40e6
    assert max(sizes) <= 16 * 2**20


def test_the_evaluation_becomes_tables() -> None:
    some = {"mean": 0.5, "standard_error": 0.05, "n": 100}
    inverted = some | {"against_decoded": 30.0}
    sample = {"text": dict.fromkeys(people_evaluation.JUDGED, some), "faces": some, "one_face": some}
    empty = sample | {"faces": people_evaluation.share([])}
    lines = people_evaluation.markdown(
        {
            "autoencoder_psnr": dict.fromkeys(("scene", "closeup", "gray"), some),
            "mtcnn": {"renders": some, "decoded": some},
            "inversion_psnr": {"scene": inverted},
            "samples": {"renders": sample, "10 steps": empty},
        }
    ).splitlines()
    assert "| hair color | 50.0 % ± 5.0 (n = 100) | 50.0 % ± 5.0 (n = 100) |" in lines
    assert "| MTCNN finds a face | 50.0 % ± 5.0 (n = 100) |  |" in lines
    alone = people_evaluation.markdown({"samples": {"renders": sample}})
    assert alone.startswith("| held-out captions | renders |")
    assert people_evaluation.one_face([], []) == people_evaluation.share([])
