"""Latents of the rendered figures on disk, and the batches that the noise predictor trains on."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from sow.people.drawing.render import head_square, scene_placement
from sow.people.training.autoencoder import to_tensor
from sow.people.training.figures import attributes_of, read_shard, write_arrays
from sow.people.training.text import prompt_of, tokenize


@torch.no_grad()
def encode_shard(model: AutoencoderKL, images: NDArray[np.uint8], batch: int = 32) -> NDArray[np.float16]:
    """Latent means (N, C, h, w) of images (N, H, W, 3) uint8, not scaled."""
    parts = [
        model.encode(to_tensor(images[k : k + batch])).latent_dist.mean for k in range(0, len(images), batch)
    ]
    return torch.cat(parts).contiguous().numpy().astype(np.float16)


def encode_shards(model: AutoencoderKL, figures: Path, latents: Path, *, total: int) -> Iterator[Path]:
    """Encode figure shards as they appear until `total` are done; latents (N, C, h, w) float16 beside the attributes."""
    done = {p.name for p in latents.glob("*.npz")}
    bar = tqdm(desc="latents", total=total, initial=len(done), unit="shard")
    while len(done) < total:
        fresh = [p for p in sorted(figures.glob("*.npz")) if p.name not in done]
        if not fresh:
            time.sleep(2)
        for path in fresh:
            shard = read_shard(path)
            values = encode_shard(model, shard["images"])
            write_arrays(
                latents / path.name, latents=values, attributes=shard["attributes"], seeds=shard["seeds"]
            )
            done.add(path.name)
            bar.update()
            yield latents / path.name


@dataclass(frozen=True)
class Batch:
    """One step's inputs: scaled latents, noise (B, C, h, w), timesteps (B,) and prompt embeddings (B, L, D).

    `weights` (B, 1, h, w), mean one a picture: how much each latent counts in the loss.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    prompts: torch.Tensor
    weights: torch.Tensor


def head_weights(square: tuple[float, float, float, float] | None, side: int, share: float) -> torch.Tensor:
    """Weights (1, side, side) of mean one: `share` of them on the latents that the head's square touches, the rest on all.

    `square` is (x0, y0, x1, y1) in shares of the canvas; None, or a share of 0, leaves the weights equal.
    """
    weights = torch.full((1, side, side), 1.0 - share if square else 1.0)
    if square:
        x0, y0 = (int(v * side) for v in square[:2])
        x1, y1 = (max(math.ceil(v * side), low + 1) for v, low in zip(square[2:], (x0, y0), strict=True))
        weights[:, y0:y1, x0:x1] += share * side * side / ((y1 - y0) * (x1 - x0))
    return weights


class LatentStream:
    """Batches from a folder that keeps filling, made by a thread of its own so that captions cost the trainer nothing.

    A batch is drawn from (seed, step) and what the folder holds at that moment; captions are written anew each time.
    """

    def __init__(
        self,
        folder: Path,
        encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        *,
        scale: float,
        batch: int,
        closeup_share: float,
        head_share: float,
        dropout: float,
        seed: int,
    ) -> None:
        self.folder, self.encoder, self.tokenizer = folder, encoder, tokenizer
        self.scale, self.size, self.closeup_share, self.dropout = scale, batch, closeup_share, dropout
        self.head_share, self.seed = head_share, seed
        self.scenes: list[tuple[NDArray, NDArray, NDArray]] = []
        self.closeups: list[tuple[NDArray, NDArray, NDArray]] = []
        self.names: set[str] = set()
        self._queue: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=4)
        self._stop = threading.Event()

    @property
    def figures(self) -> int:
        """Figures at hand."""
        return sum(len(a) for _, a, _ in [*self.scenes, *self.closeups])

    def refresh(self) -> None:
        """Take in the shards that have appeared."""
        for path in sorted(self.folder.glob("*.npz")):
            if path.name not in self.names:
                shard = read_shard(path)
                kind = self.scenes if path.name.split("-")[1] == "scene" else self.closeups
                kind.append((shard["latents"], shard["attributes"], shard["seeds"]))
                self.names.add(path.name)

    def make(self, step: int) -> Batch:
        """The batch of one step."""
        rng = np.random.default_rng([self.seed, 2, step])
        close = bool(self.closeups) and rng.random() < self.closeup_share
        if close:  # one shard a batch: its close-ups share a size
            pool = [self.closeups[int(rng.integers(len(self.closeups)))]]
        else:
            pool = self.scenes
        latents, texts, weights = [], [], []
        for _ in range(self.size):
            values, rows, seeds = pool[int(rng.integers(len(pool)))]
            k = int(rng.integers(len(values)))
            latents.append(values[k])
            drop = rng.random() < self.dropout
            attributes, seed = attributes_of(rows[k]), int(seeds[k])
            if drop:
                texts.append("")
            elif close:
                texts.append(prompt_of(attributes, rng, "closeup"))
            else:
                texts.append(prompt_of(attributes, rng, placement=scene_placement(seed)))
            square = None if close or attributes.presence == "nobody" else head_square(seed)
            weights.append(head_weights(square, values.shape[-1], self.head_share))
        x = torch.from_numpy(np.stack(latents).astype(np.float32)) / self.scale
        noise = torch.from_numpy(rng.standard_normal(tuple(x.shape), dtype=np.float32))
        times = (
            (rng.permutation(self.size) + rng.random(self.size)) / self.size * 1000
        )  # stratified: every step sees all levels
        with torch.no_grad():
            prompts = self.encoder(input_ids=tokenize(self.tokenizer, texts)).last_hidden_state
        return Batch(x, noise, torch.from_numpy(times.astype(np.int64)), prompts, torch.stack(weights))

    def run(self, start: int) -> Generator[Batch, None, None]:
        """Batches of steps `start`, `start` + 1, ... made ahead by a thread; close the generator to end it."""
        self._stop.clear()
        thread = threading.Thread(target=self._fill, args=(start,), daemon=True)
        thread.start()
        try:
            while True:
                item = self._queue.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._stop.set()

    def _fill(self, step: int) -> None:
        try:
            torch.set_num_threads(1)
            while not self._stop.is_set():
                if step % 100 == 0 or not self.scenes:
                    self.refresh()
                if not self.scenes:
                    time.sleep(2)
                    continue
                batch = self.make(step)
                while not self._stop.is_set():
                    try:
                        self._queue.put(batch, timeout=1)
                        break
                    except queue.Full:
                        continue
                step += 1
        except BaseException as error:  # the trainer re-raises it
            self._queue.put(error)
