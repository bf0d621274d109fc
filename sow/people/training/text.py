"""Tokenizer and text encoder: learnt from captions alone, by naming every attribute that a caption states."""

from __future__ import annotations

import json
import pydoc_data.topics
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import nn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sow.people.captions.attributes import VOCABULARY, Attributes, sample_attributes
from sow.people.captions.captions import caption, describe, parse
from sow.people.captions.parse import parse_placement
from sow.people.captions.phrases import PLACES
from sow.people.drawing.render import scene_placement
from sow.people.training.checkpoint import LossFile, Tracker, no_tracker, pack, save_state, unpack
from sow.people.training.pace import Average, Pace
from sow.people.training.recipes import TextRecipe

START, END = "<|startoftext|>", "<|endoftext|>"
READ = VOCABULARY | {name: tuple(words) for name, words in PLACES.items()}  # what the states must tell
_SPLIT = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def english_words() -> list[str]:
    """Lower-case words of the English text that Python's standard library carries, most of them unknown to the captions."""
    text = " ".join(pydoc_data.topics.topics.values()).lower()
    return [w for w in text.replace("\n", " ").split(" ") if w.isalpha() and w.isascii()]


def prompt_of(
    attributes: Attributes,
    rng: np.random.Generator,
    framing: str = "scene",
    placement: tuple[float, float, float] | None = None,
) -> str:
    """A caption, or one time in seven the short comma-separated description that planners write."""
    if rng.random() > 1 / 7:
        return caption(attributes, rng, framing=framing, placement=placement)
    fields = [name for name in VOCABULARY if rng.random() < 0.7]
    if framing != "scene":
        fields = [
            n for n in fields if n not in ("clothing", "clothing_color", "scene", "wall_color", "weather")
        ]
    text = describe(attributes, fields)
    return text if framing == "scene" else f"close-up of a face, {text}"


def learn_tokenizer(recipe: TextRecipe, folder: Path) -> CLIPTokenizer:
    """Learn byte-level merges, write CLIP's files (vocab.json, merges.txt) and load them back; any text tokenizes."""
    rng = np.random.default_rng([recipe.seed, 0])
    texts = [prompt_of(sample_attributes(rng), rng) for _ in range(recipe.captions)]
    learner = Tokenizer(BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    size = (
        recipe.vocabulary - len(letters) - 2
    )  # the letters that end a word come on top of the learnt tokens
    trainer = BpeTrainer(
        vocab_size=size,
        initial_alphabet=letters,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator([*texts, " ".join(english_words())], trainer)
    model = json.loads(learner.to_str())["model"]
    tokens = list(
        dict.fromkeys(
            [
                *letters,
                *(letter + "</w>" for letter in letters),
                *model["vocab"],
                START,
                END,
            ]
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    names = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    settings = names | {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": recipe.length,
        "do_lower_case": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(names, indent=2) + "\n")
    return CLIPTokenizer.from_pretrained(folder)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str], length: int | None = None) -> torch.Tensor:
    """Token ids (N, length) int64, cut and padded as Stable Diffusion's pipeline does."""
    length = length or tokenizer.model_max_length
    return tokenizer(
        texts,
        padding="max_length",
        max_length=length,
        truncation=True,
        return_tensors="pt",
    ).input_ids


def build_text_encoder(recipe: TextRecipe, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A fresh CLIPTextModel; weights (seeded) in float32."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=4 * recipe.hidden,
        projection_dim=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=recipe.length,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        return CLIPTextModel(config)


class AttributeReader(nn.Module):
    """Text encoder with two readers per attribute and place: attention over all tokens, and the end token; "unsaid" is the last class.

    Both must name the value, so each word's state carries what it belongs to and the end token carries everything.
    """

    def __init__(self, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.config.hidden_size
        self.query = nn.Parameter(torch.zeros(len(READ), width))
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.from_tokens = nn.ModuleList(nn.Linear(width, len(v) + 1) for v in READ.values())
        self.from_end = nn.ModuleList(nn.Linear(width, len(v) + 1) for v in READ.values())

    def forward(self, ids: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Token ids (N, L) to the two logits (N, classes + 1) of each attribute."""
        out = self.encoder(input_ids=ids)
        states = out.last_hidden_state
        weights = (self.query @ self.key(states).transpose(1, 2) / states.shape[-1] ** 0.5).softmax(-1)
        pooled = weights @ self.value(states)  # (N, attributes, width)
        heads = zip(self.from_tokens, self.from_end, strict=True)
        return [(a(pooled[:, k]), b(out.pooler_output)) for k, (a, b) in enumerate(heads)]


def labels_of(texts: list[str]) -> torch.Tensor:
    """Class index (N, attributes and places) that each text states, the number of classes where it says nothing."""
    rows = []
    for text in texts:
        said = parse(text) | parse_placement(text)
        rows.append([v.index(said[n]) if n in said else len(v) for n, v in READ.items()])
    return torch.tensor(rows)


def text_batch(recipe: TextRecipe, words: list[str], rng: np.random.Generator) -> list[str]:
    """Captions of fresh attributes; some empty, some with foreign words before and after."""
    texts = []
    for _ in range(recipe.batch):
        framing = "closeup" if rng.random() < 0.15 else "scene"
        place = scene_placement(int(rng.integers(2**31))) if framing == "scene" else None
        text = "" if rng.random() < recipe.empty else prompt_of(sample_attributes(rng), rng, framing, place)
        if rng.random() < recipe.noise:
            at = int(rng.integers(len(words) - 16))
            extra = words[at : at + 1 + int(rng.integers(8))]
            text = " ".join([*extra, text] if rng.random() < 0.4 else [text, *extra])
        texts.append(text)
    return texts


def train_text_encoder(recipe: TextRecipe, work: Path, track: Tracker = no_tracker) -> Path:
    """Train until the budget is spent; returns the folder with tokenizer/ and text_encoder/ (the average's weights)."""
    torch.set_num_threads(recipe.threads)
    if recipe.start is None:
        tokenizer = learn_tokenizer(recipe, work / "tokenizer")
        encoder = build_text_encoder(recipe, tokenizer)
    else:
        shutil.copytree(Path(recipe.start) / "tokenizer", work / "tokenizer", dirs_exist_ok=True)
        tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
        encoder = CLIPTextModel.from_pretrained(Path(recipe.start) / "text_encoder", dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = AttributeReader(encoder)
    nn.init.normal_(model.query, std=1.0, generator=torch.Generator().manual_seed(recipe.seed))
    average = Average(model.parameters(), recipe.average)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=0.01,
    )
    pace = Pace(recipe.minutes, recipe.until, recipe.warmup)
    path, words = work / "state.pt", english_words()
    step, seen = unpack(path, model, average, optimizer, pace)
    losses = LossFile(work / "losses.csv", track)
    saved = time.monotonic()
    bar = tqdm(desc="text encoder", initial=step, unit="step", mininterval=5)
    while (share := pace.tick()) < 1:
        rng = np.random.default_rng([recipe.seed, 1, step])
        texts = text_batch(recipe, words, rng)
        full = rng.random() < 0.2  # mostly short paddings: the states at later positions need far fewer steps
        ids = tokenize(tokenizer, texts, None if full else int(rng.integers(40, 52)))
        labels = labels_of(texts)
        loss, right = _reading_loss(model(ids), labels)
        optimizer.param_groups[0]["lr"] = recipe.learning_rate * pace.factor(step, share)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(step)
        step, seen = step + 1, seen + recipe.batch
        losses.add(loss=loss.item(), right=right)
        bar.update()
        if step % 50 == 0:
            row = losses.write(step, share=share, seen=seen)
            bar.set_postfix(loss=f"{row['loss']:.4f}", right=f"{row['right']:.4f}")
        if time.monotonic() - saved > 60:
            save_state(path, pack(model, average, optimizer, step, pace, seen))
            saved = time.monotonic()
    save_state(path, pack(model, average, optimizer, step, pace, seen))
    average.swap()
    model.encoder.save_pretrained(work / "text_encoder")
    return work


def _reading_loss(
    logits: list[tuple[torch.Tensor, torch.Tensor]], labels: torch.Tensor
) -> tuple[torch.Tensor, float]:
    loss, right = torch.zeros(()), 0.0
    for k, pair in enumerate(logits):
        for values in pair:
            loss = loss + nn.functional.cross_entropy(values, labels[:, k])
            right += (values.argmax(-1) == labels[:, k]).float().mean().item()
    return loss / (2 * len(logits)), right / (2 * len(logits))


def encode_texts(
    encoder: CLIPTextModel, tokenizer: CLIPTokenizer, texts: list[str], batch: int = 64
) -> Iterator[torch.Tensor]:
    """Prompt embeddings (N, length, hidden) float32, batch by batch."""
    with torch.no_grad():
        for start in range(0, len(texts), batch):
            yield encoder(input_ids=tokenize(tokenizer, texts[start : start + batch])).last_hidden_state
