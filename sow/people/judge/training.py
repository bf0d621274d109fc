"""Training of the judge: one optimiser over three trunks, fresh renders, weights averaged, resumable by the clock."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sow.people.judge.network import JudgeNetwork
from sow.people.judge.samples import SHAPE, Batch, Pool, batch_of
from sow.people.training.checkpoint import load_state, save_state

EMPHASIS = {"eyes": 3.0, "age": 1.5, "hair": 2.0}  # small or subtle details get a larger share of the loss


@dataclass(frozen=True)
class Recipe:
    """Sizes of a batch and of the pool, and the optimiser's numbers; `queue` past embeddings serve as
    negatives, `scene_share` of a batch goes through the scene trunk."""

    pairs: int
    broken: int
    empty: int
    redrawn: int
    identities: int
    views: int
    scenes: int
    refresh: int
    learning_rate: float
    weight_decay: float
    warmup: int
    average: float
    scene_share: float
    queue: int
    contrast: float


def cross_entropy(logits: dict[str, Tensor], labels: dict[str, Tensor]) -> Tensor:
    """Mean over attributes of the cross entropy over the known labels (-1 is unknown), the hardest ones emphasised."""
    terms = [
        EMPHASIS.get(n, 1.0) * F.cross_entropy(logits[n], labels[n], ignore_index=-1, label_smoothing=0.02)
        for n in logits
        if bool((labels[n] >= 0).any())
    ]
    return torch.stack(terms).mean()


def grid_loss(grid: Tensor, wanted: Tensor, where: Tensor) -> Tensor:
    """Penalty-reduced focal loss of the face heat plus L1 of offsets and log sizes around each face."""
    logit, target = grid[:, 0], wanted[:, 0]
    p = torch.sigmoid(logit).clamp(1e-5, 1 - 1e-5)
    positive = target >= 1.0
    heat = torch.where(
        positive, -((1 - p) ** 2) * p.log(), -((1 - target) ** 4) * p**2 * (1 - p).log()
    ).sum() / positive.sum().clamp(min=1)
    shape = (grid[:, 1:] - wanted[:, 1:]).abs().sum(1)[where].mean()
    return heat + shape


def contrastive(
    embedding: Tensor,
    identity: Tensor,
    queue: Tensor,
    queue_identity: Tensor,
    tau: float,
) -> Tensor:
    """Supervised contrastive loss of unit embeddings (B, d) against the batch and a queue of past ones."""
    everything = torch.cat([embedding, queue])
    names = torch.cat([identity, queue_identity])
    logits = embedding @ everything.T / tau
    own = torch.zeros_like(logits, dtype=torch.bool)
    own.fill_diagonal_(True)
    logits = logits.masked_fill(own, -1e9)
    same = (identity[:, None] == names[None, :]) & ~own & (identity >= 0)[:, None]
    log_p = logits - torch.logsumexp(logits, 1, keepdim=True)
    count = same.sum(1)
    chosen = count > 0
    return -((log_p * same).sum(1)[chosen] / count[chosen]).mean()


def _drawn(recipe: Recipe, seed: int) -> Iterator[Batch]:
    pool = Pool(seed, recipe.identities, recipe.views, recipe.scenes, redrawn=100 * recipe.redrawn)
    while True:
        pool.refresh(recipe.refresh, 1)
        yield batch_of(pool.figures(recipe.pairs, recipe.broken, recipe.empty, recipe.redrawn), pool.rng)


def _draw(recipe: Recipe, seed: int, queue: torch.multiprocessing.Queue) -> None:
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for batch in _drawn(recipe, seed):
        queue.put(batch)


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on another device."""
    values: dict[str, Any] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, dict):
            values[field.name] = {name: labels.to(device) for name, labels in value.items()}
        else:
            values[field.name] = value.to(device)
    return Batch(**values)


class Trainer:
    """The state of a training: network, average, optimiser, pool, queue of embeddings."""

    def __init__(
        self,
        recipe: Recipe,
        seed: int,
        folder: Path | None = None,
        network: JudgeNetwork | None = None,
        device: str = "cpu",
        workers: int = 0,
    ) -> None:
        self.recipe, self.seed, self.folder = recipe, seed, folder
        self.device, self.workers = torch.device(device), workers
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = network or JudgeNetwork()
        self.network = self.network.to(self.device).to(memory_format=torch.channels_last)
        # Only in training: the numbers behind an identity teach the features where to look.
        self.shape = nn.Linear(self.network.embedding.in_features, len(SHAPE) + 3).to(self.device)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            [*self.network.parameters(), *self.shape.parameters()],
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
        )
        self.step, self.spent = 0, 0.0
        self.queue: list[tuple[Tensor, Tensor]] = []
        if folder is not None and (folder / "state.pt").is_file():
            self._resume(folder / "state.pt")

    def batches(self) -> Generator[Batch, None, None]:
        """Batches of fresh renders, drawn here or by `workers` processes; a resumed training draws others."""
        seed = self.seed + 1 + self.step // 100
        if not self.workers:
            yield from _drawn(self.recipe, seed)
        made = torch.multiprocessing.get_context("spawn")
        queue: torch.multiprocessing.Queue = made.Queue(maxsize=2 * self.workers)
        drawing = [
            made.Process(target=_draw, args=(self.recipe, seed + 7 * k + 7, queue), daemon=True)
            for k in range(self.workers)
        ]
        for process in drawing:
            process.start()
        try:
            while True:
                try:
                    yield queue.get(timeout=5)
                except Empty:
                    ended = [p.exitcode for p in drawing if p.exitcode is not None]
                    if ended:
                        raise RuntimeError(
                            f"a process that draws batches ended with status {ended[0]}"
                        ) from None
        finally:
            for process in drawing:
                process.kill()

    def _resume(self, path: Path) -> None:
        state = load_state(path)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.shape.load_state_dict(state["shape"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.spent = state["step"], state["spent"]

    def save(self) -> None:
        """The state in place of the old one, so that a kill never leaves half a file."""
        assert self.folder is not None
        state = {
            "network": self.network.state_dict(), "average": self.average.state_dict(), "shape": self.shape.state_dict(),
            "optimizer": self.optimizer.state_dict(), "step": self.step, "spent": self.spent,
        }  # fmt: skip
        save_state(self.folder / "state.pt", state)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Every term of the loss on a batch; remembers the embeddings as negatives for later batches."""
        # The scene trunk costs most and learns fastest: a random share of the pictures is enough for it.
        count = len(batch.pictures)
        rng = np.random.default_rng([self.seed, self.step])
        some = torch.from_numpy(rng.permutation(count)[: max(2, round(self.recipe.scene_share * count))]).to(
            self.device
        )
        scene, second, grid = self.network.forward_scene(
            batch.pictures[some].contiguous(memory_format=torch.channels_last)
        )
        features = self.network.describe_close(batch.close)
        close, embedding = self.network.read_close(features)
        figure, whole = self.network.forward_figure(batch.figure)
        known = batch.whole >= 0
        people = batch.identity >= 0
        old, names = (
            zip(*self.queue, strict=True) if self.queue else ((embedding[:0],), (batch.identity[:0],))
        )
        terms = {
            "scene": 2.0 * cross_entropy(scene, {n: v[some] for n, v in batch.scene_labels.items()}),
            "second": F.binary_cross_entropy_with_logits(second, batch.second[some] * 0.96 + 0.02),
            "face": 0.5 * grid_loss(grid, batch.grid[some], batch.grid_mask[some]),
            "close": 3.0 * cross_entropy(close, batch.close_labels),
            "shape": 10 * F.mse_loss(self.shape(features)[people], batch.shape[people]),
            "figure": cross_entropy(figure, batch.figure_labels),
            "whole": F.binary_cross_entropy_with_logits(
                whole[known], batch.whole[known].float() * 0.96 + 0.02
            ),
            "identity": contrastive(
                embedding[people],
                batch.identity[people],
                torch.cat(old).detach(),
                torch.cat(names),
                self.recipe.contrast,
            ),
        }
        self.queue.append((embedding[people].detach(), batch.identity[people]))
        while sum(len(q[1]) for q in self.queue) > self.recipe.queue:
            self.queue.pop(0)
        return terms

    def train_step(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """One step of AdamW at the cosine schedule's `progress` in [0, 1]; returns the loss terms."""
        r = self.recipe
        batch = moved(batch, self.device)
        rate = (
            r.learning_rate
            * min(1.0, (self.step + 1) / r.warmup)
            * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * progress)))
        )
        for group in self.optimizer.param_groups:
            group["lr"] = float(rate)
        self.network.train()
        terms = self.losses(batch)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        self.step += 1
        self._average()
        return {name: value.detach() for name, value in terms.items()}

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(self.recipe.average, (1 + self.step) / (10 + self.step))
        for mean, value in zip(
            self.average.state_dict().values(),
            self.network.state_dict().values(),
            strict=True,
        ):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - keep)
            else:
                mean.copy_(value)

    def run(
        self, seconds: float, clock: Callable[[], float] = time.process_time, save_every: float = 120.0
    ) -> Iterator[tuple[int, float, dict[str, Tensor]]]:
        """Train until `seconds` of `clock` in all (earlier runs included) are spent; yields step, progress, loss terms.

        By default the clock is the process's own, so that a busy machine delays a training but does not shorten it.
        """
        last = saved = clock()
        batches = self.batches()
        last = clock()
        while self.spent < seconds:
            progress = min(1.0, self.spent / seconds)
            terms = self.train_step(next(batches), progress)
            now = clock()
            self.spent += now - last
            last = now
            if self.folder is not None and now - saved > save_every:
                self.save()
                saved = now
            yield self.step, progress, terms
        batches.close()
        if self.folder is not None:
            self.save()
