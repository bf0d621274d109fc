"""DreamBooth and Textual Inversion: what a training depends on, what several share,
and how one ends that cannot go on."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from small_baselines import WORDS, plan, request
from test_baselines_learned import concept_loss, generated, one_line, trained

from sow import compose
from sow.errors import UserError
from sow.method.denoiser import Model
from sow.store.fingerprint import fingerprint

NO_PRIOR = ["method.prior_weight=0"]
LORA = ["method.lora_rank=2", *NO_PRIOR, "method.learning_rate=0.01"]


def asking(prompt: str, i: int = 0):
    return replace(request(i), prompt=prompt)


# The noun


def test_the_prompts_own_noun_is_trained_kept_and_sampled(tmp_path, monkeypatch):
    made = trained("dreambooth", tmp_path, "method.steps=1")
    child = asking("A Child by a person's house")
    embedded = []
    embed = type(made.backbone).embed
    monkeypatch.setattr(
        type(made.backbone), "embed", lambda self, texts: embedded.extend(texts) or embed(self, texts)
    )
    made.train(child)
    captions = {text for text in embedded if "photo" in text}
    assert captions == {"a photo of child", "a photo of sks child"}
    assert made.prompts([child], [plan()]) == ["A sks child by a person's house"]
    assert made.class_key("child") in made.store and made.class_key("person") not in made.store
    # The token never goes before a noun that was not trained: the planner's words name another, or the prompt
    # none.
    intensified = replace(made, options=replace(made.options, prompt="intensified"))
    assert intensified.prompts([child], [plan()]) == ["sks child, an old person 0"]
    assert made.prompts([asking("a senior by a lake")], [plan()]) == ["sks person, a senior by a lake"]
    assert made.noun(asking("a senior by a lake")) == "person"


def test_a_training_belongs_to_its_noun_and_to_no_other_word_of_the_prompt(tmp_path):
    made = trained("dreambooth", tmp_path)
    key = made.key(asking("a person in a forest"))
    assert key == made.key(asking("An old PERSON at sea")) == made.key(asking("rain"))
    assert key != made.key(asking("a child in a forest"))
    word = trained("textual_inversion", tmp_path)  # learnt apart from any noun
    assert word.key(asking("a person")) == word.key(asking("a child"))


# What a training depends on


def changed(made, part: str):
    """The sampler on a model of which one part, or one number of the noise schedule, is another."""
    own = copy.copy(made.backbone)
    if part in ("prediction_type", "beta_end"):
        value = {"prediction_type": "v_prediction", "beta_end": 0.02}[part]
        own.scheduler_config = {**own.scheduler_config, part: value}
    else:
        module = copy.deepcopy(getattr(own, part))
        next(module.parameters()).data[0] += 1
        setattr(own, part, module)
    return replace(made, model=Model.of(own, made.schedule.steps))


@pytest.mark.parametrize("part", ["vae", "unet", "text_encoder", "prediction_type", "beta_end"])
def test_another_model_shares_nothing(tmp_path, part):
    for method in ("dreambooth", "textual_inversion"):
        made = trained(method, tmp_path)
        assert changed(made, part).key(request()) != made.key(request())
    made = trained("dreambooth", tmp_path)
    if part != "vae":  # class pictures are drawn and kept as latents
        assert changed(made, part).class_key("person") != made.class_key("person")


def test_guidance_counts_where_it_draws_class_pictures(tmp_path):
    def keys(method, *words):
        return {trained(method, tmp_path, *words, f"guidance.scale={s}").key(request()) for s in (3, 7.5)}

    assert len(keys("dreambooth")) == 2
    assert len(keys("dreambooth", *NO_PRIOR)) == 1
    assert len(keys("textual_inversion")) == 1
    folders = {trained("dreambooth", tmp_path, f"guidance.scale={s}").class_key("cat") for s in (3, 7.5)}
    assert len(folders) == 2


# Class pictures


class Bars:
    """In place of tqdm: every bar's arguments and how far it went."""

    def __init__(self):
        self.seen = []

    def __call__(self, *iterable, **options):
        self.seen.append(options)
        self.options = options
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False

    def update(self, n):
        self.options["initial"] += n


def killed_after(monkeypatch, made, count: int) -> list[int]:
    """`_draw_class` that is interrupted when `count` pictures are drawn; the numbers that were asked for."""
    asked: list[int] = []
    draw = type(made)._draw_class

    def drawing(self, texts, numbers):
        if len(asked) >= count:
            raise KeyboardInterrupt
        asked.extend(numbers)
        return draw(self, texts, numbers)

    monkeypatch.setattr(type(made), "_draw_class", drawing)
    return asked


def test_class_pictures_go_on_after_a_kill(tmp_path, monkeypatch):
    words = ["method.class_images=5", "method.class_steps=1", "method.train_batch=1"]
    whole = trained("dreambooth", tmp_path / "whole", *words).class_latents("person")
    made = trained("dreambooth", tmp_path / "cut", *words)
    with monkeypatch.context() as patch:
        asked = killed_after(patch, made, 4)
        with pytest.raises(KeyboardInterrupt):
            made.class_latents("person")
        assert asked == [0, 1, 2, 3]
    key = made.class_key("person")
    one = [fingerprint([key, i]) for i in range(5)]
    for i in range(4):
        made.store.put(one[i], {**made.store.get(one[i]), "seconds": 100.0 * (i + 1)})
    (cut,) = (tmp_path / "cut").rglob(f"{one[2]}.*")
    cut.write_bytes(b"cut")
    bars = Bars()
    monkeypatch.setattr("tqdm.tqdm", bars)
    asked = killed_after(monkeypatch, made, 99)
    assert torch.equal(made.class_latents("person"), whole)
    assert asked == [2, 4]
    (bar,) = bars.seen
    assert (bar["total"], bar["initial"], bar["disable"]) == (5, 5, None) and "person" in bar["desc"]
    seconds = made.recall(key).seconds
    assert 700 < seconds < 800  # 100 + 200 + 400 from before the kill, and the two that were drawn now
    assert not any(name in made.store for name in one)
    monkeypatch.setattr(type(made), "_draw_class", lambda *a: pytest.fail("drawn again"))
    assert torch.equal(made.class_latents("person"), whole)


def class_pictures_of(made, seconds: float) -> None:
    """Draw the class's pictures as in `seconds`."""
    made.class_latents("person")
    key = made.class_key("person")
    made.store.put(key, {**made.store.get(key), "seconds": seconds})


def test_the_first_training_counts_the_class_pictures_once(tmp_path, monkeypatch):
    made = trained("dreambooth", tmp_path, "method.steps=1")
    class_pictures_of(made, 1000.0)  # and the run is killed, before any training

    def interrupted(*arguments, **facts):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # killed in the training
        patch.setattr(type(made), "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made.learn(request(0))
    with monkeypatch.context() as patch:  # killed when all was done but the saving
        patch.setattr(type(made), "keep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made.learn(request(0))
    assert made.learn(request(1)).seconds > 1000
    assert made.learn(request(0)).seconds < 1000
    assert made.learn(request(1)).seconds > 1000  # from the folder
    plain = trained("dreambooth", tmp_path, "method.steps=1", *NO_PRIOR)
    assert plain.learn(request(0)).seconds < 1000


def test_a_first_training_counts_pictures_that_it_drew_itself(tmp_path, monkeypatch):
    made = trained("dreambooth", tmp_path, "method.steps=1")
    clock = iter(range(10**6))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))  # one second a look
    first, second = (made.learn(request(i)).seconds for i in (0, 1))
    assert (first, second) == (2.0, 1.0)  # one batch of class pictures, and the training


# LoRA and the learning rate


def test_lora_draws_from_the_trainings_seed(tmp_path):
    pytest.importorskip("peft")
    weights = []
    for i, seed in enumerate([0, 0, 1]):
        made = trained("dreambooth", tmp_path / str(i), *LORA, f"method.seed={seed}")
        torch.manual_seed(i)
        before = torch.get_rng_state()
        weights.append(made.learn(request()).tensors)
        made.equip(made.learn(request()))
        assert torch.equal(torch.get_rng_state(), before)
    a, b, c = weights
    assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
    first = {n: v for n, v in c.items() if "lora_A" in n}
    assert first and all(
        (a[n] - v).abs().max() > 0.1 for n, v in first.items()
    )  # the gaussian, not only its training


def test_a_lora_training_is_found_again(tmp_path):
    pytest.importorskip("peft")
    made = trained("dreambooth", tmp_path, *LORA)
    first = generated(made).latents
    again = trained("dreambooth", tmp_path, *LORA).with_concept(request())
    assert torch.equal(generated(again).latents, first)
    caption = "a photo of sks person"
    assert concept_loss(made, again.backbone, caption) < concept_loss(made, made.backbone, caption)


def test_the_learning_rate_is_the_authors_unless_given(tmp_path, monkeypatch):
    rates = []
    adam = torch.optim.AdamW
    monkeypatch.setattr("torch.optim.AdamW", lambda w, lr, **more: rates.append(lr) or adam(w, lr=lr, **more))
    quick = ["method.steps=1", *NO_PRIOR]

    def train(*words):
        made = trained("dreambooth", tmp_path, *quick, *words)
        made.train(request())
        return made.key(request())

    null = train("method.learning_rate=null")
    assert null == train("method.learning_rate=5e-6") != train("method.learning_rate=1e-5")
    assert rates == [5e-6, 5e-6, 1e-5]
    pytest.importorskip("peft")
    train("method.learning_rate=null", "method.lora_rank=1")
    train("method.learning_rate=0.002", "method.lora_rank=1")
    assert rates[3:] == [1e-4, 0.002]


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("method.learning_rate=0", "method.learning_rate"),
        ("method.learning_rate=-1e-4", "method.learning_rate"),
        ("method.learning_rates.lora=0", "method.learning_rates"),
    ],
)
def test_a_rate_is_above_zero(word, key):
    with pytest.raises(UserError) as error:
        compose([*WORDS, "method=dreambooth", word])
    assert f"({key})" in one_line(error)


def test_the_tables_rate_is_the_one_its_note_states():
    row = compose([*WORDS, "experiment=table1"]).study.rows["dreambooth"]
    overrides = row["overrides"] if isinstance(row, dict) else row.overrides
    note = row["note"] if isinstance(row, dict) else row.note
    (rate,) = [w.partition("=")[2] for w in overrides if w.startswith("method.learning_rate=")]
    assert float(rate) > 5e-6 and f"learning rate of {rate}" in note


# What a device does not hold


@pytest.mark.parametrize("method", ["dreambooth", "textual_inversion"])
@pytest.mark.parametrize("where", ["train", "equip"])
def test_a_training_that_memory_does_not_hold_ends_in_one_line(tmp_path, monkeypatch, method, where):
    made = trained(method, tmp_path, "method.steps=1")

    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it.")

    monkeypatch.setattr(type(made), where, full)
    with pytest.raises(UserError) as error:
        generated(made)
    text = one_line(error)
    assert "out of memory" in text and "method.train_batch=2" in text
    assert ("method.lora_rank" in text) == (method == "dreambooth")
    assert error.value.__context__ is None  # the tensors of the traceback are let go


def test_another_error_of_a_training_stays_itself(tmp_path, monkeypatch):
    made = trained("dreambooth", tmp_path)
    monkeypatch.setattr(type(made), "train", lambda self, request: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        generated(made)


@pytest.mark.parametrize("method", ["dreambooth", "textual_inversion"])
def test_a_model_kept_on_the_cpu_is_refused_before_it_is_loaded(method):
    offloaded = ["model=sd21_base", "model.cpu_offload=true"]
    with pytest.raises(UserError) as error:
        compose([*offloaded, f"method={method}"])
    assert "model.cpu_offload=false (model.cpu_offload)" in one_line(error)
    compose([*offloaded, "method=sd_inpaint"])
    compose(["model=sd21_base", f"method={method}"])
