"""Training of the seam classifier, and its errors on renders, identities and composites that it never saw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from sow.people.judge.composites import Picture
from sow.people.seam.network import SeamNetwork, tensor, view
from sow.people.seam.reader import SeamReader
from sow.people.seam.samples import KINDS, Example, pairs, people, softened, through

BATCH = 32  # pictures that the autoencoder draws at a time
DRAWN = "drawn by the autoencoder"


@dataclass(frozen=True)
class Recipe:
    """`figures` renders that composites are made of, `redrawn` pairs that go through the autoencoder once and
    are half of every batch, `steps` of `pairs` pairs each, AdamW at `learning_rate` on a cosine schedule."""

    figures: int
    redrawn: int
    steps: int
    pairs: int
    learning_rate: float
    weight_decay: float
    seed: int


@torch.no_grad()
def autoencoded(images: list[Picture]) -> list[Picture]:
    """Pictures (128, 128, 3) encoded and decoded by the embedded model's autoencoder."""
    from sow.people.judge.redrawn import pipeline
    from sow.people.training.autoencoder import to_images
    from sow.people.training.latents import encode_shard

    vae = pipeline().vae
    out: list[Picture] = []
    for k in range(0, len(images), BATCH):
        latents = torch.from_numpy(encode_shard(vae, np.stack(images[k : k + BATCH]))).float()
        out.extend(to_images(vae.decode(latents).sample))
    return out


def train(recipe: Recipe) -> Iterator[tuple[int, float, SeamNetwork]]:
    """Step by step: its number, the loss, the network."""
    rng = np.random.default_rng([recipe.seed, 41])
    figures = people(recipe.figures, recipe.seed)
    kept = through(autoencoded, list(pairs(rng, figures, recipe.redrawn)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = SeamNetwork().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=recipe.steps)
    for step in range(1, recipe.steps + 1):
        examples = [softened(rng, e) for e in pairs(rng, figures, recipe.pairs // 2)]
        for place in rng.integers(len(kept) // 2, size=recipe.pairs - recipe.pairs // 2) if kept else ():
            examples += [softened(rng, e) for e in kept[2 * place : 2 * place + 2]]
        wanted = torch.tensor([float(bool(e.kind)) for e in examples])
        network.train()
        logits = network(tensor([view(e.image, e.mask) for e in examples]))
        loss = F.binary_cross_entropy_with_logits(logits, wanted * 0.96 + 0.02)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        rate.step()
        yield step, float(loss.detach()), network


def auc(whole: list[float], composites: list[float]) -> float:
    """The share of pairs in which the composite has the larger number, ties half."""
    a, b = np.array(whole)[:, None], np.array(composites)[None]
    return float((b > a).mean() + 0.5 * (b == a).mean())


def measure(reader: SeamReader, count: int, seed: int = 0) -> dict[str, Any]:
    """Held out: accuracy at one half, area under the ROC curve and mean probabilities over `count` whole
    renders and composites of them, as they are and through the autoencoder, then by kind."""
    rng = np.random.default_rng([seed, 43])
    found = list(pairs(rng, people(count, seed, held_out=True), count))
    report: dict[str, Any] = {"renders": count}
    for state, examples in (("as made", found), (DRAWN, through(autoencoded, found))):
        report[state] = _measured(reader, examples)
    return report


def _measured(reader: SeamReader, examples: list[Example]) -> dict[str, Any]:
    read = reader.read([e.image for e in examples], [e.mask for e in examples])
    said = [(e.kind, float(p)) for e, p in zip(examples, read, strict=True) if p is not None]
    whole = [p for kind, p in said if not kind]
    made = [p for kind, p in said if kind]
    right = [p < 0.5 for p in whole] + [p >= 0.5 for p in made]
    numbers: dict[str, Any] = {
        "accuracy": float(np.mean(right)),
        "auc": auc(whole, made),
        "whole_mean": float(np.mean(whole)),
        "composite_mean": float(np.mean(made)),
    }
    for kind in KINDS:
        own = [p for k, p in said if k == kind]
        if own:
            numbers[f"auc_{kind}"] = auc(whole, own)
    return numbers


def markdown(report: dict[str, Any]) -> str:
    """The report as a table of the model card."""
    states = [k for k in report if isinstance(report[k], dict)]
    names = {
        "accuracy": "accuracy, at one half",
        "auc": "ROC-AUC",
        "whole_mean": "mean probability of a whole render",
        "composite_mean": "mean probability of a composite",
        "auc_color": "ROC-AUC, other colours and light inside",
        "auc_other": "ROC-AUC, another person's face",
        "auc_moved": "ROC-AUC, the own face moved or scaled",
        "auc_sharpness": "ROC-AUC, inside or outside blurred",
        "auc_ring": "ROC-AUC, a ring of gray or a tint",
    }
    head = f"| {report['renders']} held-out renders and composites of them | {' | '.join(states)} |"
    lines = [head, "| --- |" + " ---: |" * len(states)]
    for name, words in names.items():
        values = [report[s].get(name) for s in states]
        lines.append(f"| {words} | {' | '.join('' if v is None else f'{v:.3f}' for v in values)} |")
    return "\n".join(lines)
