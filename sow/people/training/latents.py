"""Latents of the rendered figures on disk, and the batches that the noise predictor trains on."""

from __future__ import annotations

import time
from collections.abc import Iterator
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
from sow.people.training.figures import attributes_of, read_shard, shard_paths, write_arrays
from sow.people.training.text import prompt_of, tokenize


@torch.no_grad()
def encode_shard(model: AutoencoderKL, images: NDArray[np.uint8], batch: int = 32) -> NDArray[np.float16]:
    """Latent means (N, C, h, w) of images (N, H, W, 3) uint8, not scaled; on the model's device."""
    parts = [
        model.encode(to_tensor(images[k : k + batch]).to(model.device)).latent_dist.mean
        for k in range(0, len(images), batch)
    ]
    return torch.cat(parts).contiguous().cpu().numpy().astype(np.float16)


def caption_shard(
    tokenizer: CLIPTokenizer, attributes: NDArray, seeds: NDArray, framing: str, captions: int
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """`captions` captions of every figure as tokens (N, captions, L), and the squares (N, 4) of the heads.

    A square is (x0, y0, x1, y1) in shares of the canvas; zeros where there is no head, or nothing else.
    """
    tokens, squares = [], []
    for row, seed in zip(attributes, seeds, strict=True):
        shown, rng = attributes_of(row), np.random.default_rng([int(seed), 5])
        if framing == "scene":
            place = scene_placement(int(seed))
            texts = [prompt_of(shown, rng, placement=place) for _ in range(captions)]
        else:
            texts = [prompt_of(shown, rng, "closeup") for _ in range(captions)]
        tokens.append(tokenize(tokenizer, texts).numpy())
        alone = framing != "scene" or shown.presence == "nobody"
        squares.append((0.0, 0.0, 0.0, 0.0) if alone else head_square(int(seed)))
    return np.stack(tokens).astype(np.int16), np.array(squares, dtype=np.float32)


def encode_shards(
    model: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    figures: Path,
    latents: Path,
    *,
    total: int,
    captions: int,
    part: tuple[int, int] = (0, 1),
) -> Iterator[Path]:
    """Encode figure shards as they appear until `total` are done; this process takes part k of n, every n-th shard.

    A shard holds latents (N, C, h, w) float16, attributes, seeds, and what `caption_shard` returns.
    """
    wanted = len(range(part[0], total, part[1]))
    done = {p.name for p in shard_paths(latents, part)}
    bar = tqdm(desc="latents", total=wanted, initial=len(done), unit="shard")
    while len(done) < wanted:
        fresh = [p for p in shard_paths(figures, part) if p.name not in done]
        if not fresh:
            time.sleep(2)
        for path in fresh:
            shard = read_shard(path)
            attributes, seeds = shard["attributes"], shard["seeds"]
            tokens, squares = caption_shard(tokenizer, attributes, seeds, path.name.split("-")[1], captions)
            write_arrays(
                latents / path.name, latents=encode_shard(model, shard["images"]),
                attributes=attributes, seeds=seeds, tokens=tokens, squares=squares,
            )  # fmt: skip
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


def head_weights(squares: torch.Tensor, side: int, share: float) -> torch.Tensor:
    """Weights (B, 1, side, side) of mean one: `share` of them on the latents that a head's square touches, the rest on all.

    `squares` (B, 4) as `caption_shard` returns them; where one is empty, or for a share of 0, the weights are equal.
    """
    low = (squares[:, :2] * side).long()
    high = torch.maximum((squares[:, 2:] * side).ceil().long(), low + 1)
    at = torch.arange(side, device=squares.device)
    x, y = ((at >= low[:, k, None]) & (at < high[:, k, None]) for k in range(2))
    inside = (y[:, :, None] & x[:, None, :])[:, None].float()
    area = inside.sum((2, 3), keepdim=True).clamp(min=1)
    there = (squares[:, 2:] > squares[:, :2]).all(1).view(-1, 1, 1, 1)
    return torch.where(there, 1 - share + share * side * side / area * inside, torch.ones_like(inside))


@dataclass
class Kept:
    """Figures of one side on the trainer's device: latents (N, C, h, w), tokens (N, captions, L), squares (N, 4)."""

    latents: torch.Tensor
    tokens: torch.Tensor
    squares: torch.Tensor

    def __len__(self) -> int:
        return len(self.latents)

    def add(self, more: list[Kept]) -> Kept:
        """These figures and those."""
        columns = zip(*((k.latents, k.tokens, k.squares) for k in (self, *more)), strict=True)
        return Kept(*(torch.cat(column) for column in columns))


class LatentStream:
    """Batches from a folder that keeps filling, drawn and described by the text encoder on its device.

    A batch is drawn from (seed, step) and what the folder holds at that moment.
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
        device: str = "cpu",
    ) -> None:
        self.folder, self.encoder, self.device = folder, encoder.to(device), torch.device(device)
        self.scale, self.size, self.closeup_share, self.dropout = scale, batch, closeup_share, dropout
        self.head_share, self.seed = head_share, seed
        self.empty = tokenize(tokenizer, [""])[0].to(self.device)
        self.scenes: dict[int, Kept] = {}
        self.closeups: dict[int, Kept] = {}
        self.names: set[str] = set()

    @property
    def figures(self) -> int:
        """Figures at hand."""
        return sum(len(k) for k in [*self.scenes.values(), *self.closeups.values()])

    def refresh(self) -> None:
        """Take in the shards that have appeared."""
        fresh: dict[tuple[bool, int], list[Kept]] = {}
        for path in shard_paths(self.folder):
            if path.name not in self.names:
                shard = read_shard(path)
                scene = path.name.split("-")[1] == "scene"
                kept = Kept(
                    *(torch.from_numpy(shard[k]).to(self.device) for k in ("latents", "tokens", "squares"))
                )
                fresh.setdefault((scene, kept.latents.shape[-1]), []).append(kept)
                self.names.add(path.name)
        for (scene, side), kept_ones in fresh.items():
            pool = self.scenes if scene else self.closeups
            first, more = (pool[side], kept_ones) if side in pool else (kept_ones[0], kept_ones[1:])
            pool[side] = first.add(more) if more else first

    def make(self, step: int) -> Batch:
        """The batch of one step; its pictures share a size."""
        rng = np.random.default_rng([self.seed, 2, step])
        draw = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        close = bool(self.closeups) and rng.random() < self.closeup_share
        pool = self.closeups if close else self.scenes
        sizes = np.array([len(k) for k in pool.values()], dtype=np.float64)
        kept = list(pool.values())[int(rng.choice(len(pool), p=sizes / sizes.sum()))]

        def uniform(*shape: int) -> torch.Tensor:
            return torch.rand(shape, generator=draw, device=self.device)

        rows = (uniform(self.size) * len(kept)).long().clamp(max=len(kept) - 1)
        which = (uniform(self.size) * kept.tokens.shape[1]).long().clamp(max=kept.tokens.shape[1] - 1)
        tokens = kept.tokens[rows, which].long()
        tokens = torch.where(uniform(self.size, 1) < self.dropout, self.empty, tokens)
        x = kept.latents[rows].float() / self.scale
        noise = torch.randn(x.shape, generator=draw, device=self.device)
        order = torch.randperm(self.size, generator=draw, device=self.device)
        times = (order + uniform(self.size)) / self.size * 1000  # stratified: every step sees all levels
        with torch.no_grad():
            prompts = self.encoder(input_ids=tokens).last_hidden_state
        weights = head_weights(kept.squares[rows], x.shape[-1], self.head_share)
        return Batch(x, noise, times.long().clamp(max=999), prompts.float(), weights)

    def run(self, start: int) -> Iterator[Batch]:
        """Batches of steps `start`, `start` + 1, ...; waits for the first scenes."""
        step = start
        while True:
            if step % 100 == 0 or not self.scenes:
                self.refresh()
            if not self.scenes:
                time.sleep(2)
                continue
            yield self.make(step)
            step += 1
