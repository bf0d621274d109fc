"""The autoencoder: stock AutoencoderKL, trained on crops of rendered figures for squared error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from tqdm import tqdm

from sow.people.training.checkpoint import (
    LossFile,
    Tracker,
    load_state,
    no_tracker,
    pack,
    save_state,
    unpack,
)
from sow.people.training.figures import read_shard, shard_paths
from sow.people.training.muon import Muon
from sow.people.training.pace import Average, Pace
from sow.people.training.recipes import AutoencoderRecipe


def build_autoencoder(recipe: AutoencoderRecipe, canvas: int = 128) -> AutoencoderKL:
    """A fresh AutoencoderKL of factor 8; weights (seeded) in float32."""
    levels = len(recipe.channels)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = AutoencoderKL(
            in_channels=3,
            out_channels=3,
            latent_channels=recipe.latent_channels,
            block_out_channels=recipe.channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=1,
            norm_num_groups=recipe.groups,
            sample_size=canvas,
        )
        _start_linear(model, recipe)
        return model


def _start_linear(model: AutoencoderKL, recipe: AutoencoderRecipe) -> None:
    """Start with silent residual branches around a norm-preserving trunk, and with nearly noiseless latents.

    torch's usual convolution shrinks its input by 1/sqrt(3), so after seven of them the trunk carries next to nothing,
    and the latents' unit noise hides the rest: the first hundreds of steps went to undoing that.
    """
    init, latent = torch.nn.init, recipe.latent_channels
    for name, layer in model.named_modules():
        if not isinstance(layer, torch.nn.Conv2d):
            continue
        assert layer.bias is not None  # all convolutions of this autoencoder have one
        fan_in = layer.weight[0].numel()
        init.zeros_(layer.bias)
        if name.endswith("conv2"):
            init.zeros_(layer.weight)
        elif "upsamplers" in name:
            init.dirac_(layer.weight)
        elif name.endswith("conv1"):
            init.normal_(layer.weight, std=(2 / fan_in) ** 0.5)
        elif name.endswith("conv_out"):
            init.normal_(layer.weight, std=fan_in**-0.5)
        elif name == "quant_conv":
            init.orthogonal_(layer.weight.data[:latent])
            init.zeros_(layer.weight.data[latent:])
            init.constant_(layer.bias.data[latent:], recipe.start_log_variance)
        else:
            init.orthogonal_(layer.weight)
            layer.weight.data *= (len(layer.weight) / layer.weight.square().sum()) ** 0.5


def to_tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    """Images (N, H, W, 3) uint8 as (N, 3, H, W) float32 in [-1, 1], channels last in memory."""
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    return x.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)


def to_images(x: torch.Tensor) -> NDArray[np.uint8]:
    """The inverse of `to_tensor`, clipped and rounded."""
    y = x.detach().float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(y.permute(0, 2, 3, 1).cpu().numpy())


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of each pair of images (N, H, W, 3) uint8, in dB (100 where equal)."""
    error = np.square(a.astype(np.float64) - b).mean(axis=(1, 2, 3)) / 255**2
    return 10 * np.log10(1 / np.maximum(error, 1e-10))


class CropPool:
    """Random crops from the newest and random older shards of a folder that keeps filling."""

    def __init__(self, folder: Path, recipe: AutoencoderRecipe) -> None:
        self.folder, self.recipe = folder, recipe
        self.scenes: dict[Path, NDArray[np.uint8]] = {}
        self.closeups: dict[Path, NDArray[np.uint8]] = {}
        self.refresh(np.random.default_rng(recipe.seed))

    def refresh(self, rng: np.random.Generator) -> None:
        """Take in one unseen shard of each kind and drop a random old one where the pool is full."""
        while True:
            for mark, pool in (("-scene-", self.scenes), (f"-{self.recipe.crop}.", self.closeups)):
                shards = [p for p in shard_paths(self.folder) if mark in p.name]
                fresh = [p for p in shards if p not in pool]
                if fresh:
                    if len(pool) >= self.recipe.pool:
                        pool.pop(list(pool)[int(rng.integers(len(pool)))])
                    path = fresh[int(rng.integers(len(fresh)))]
                    pool[path] = read_shard(path)["images"]
            if self.scenes:
                return
            time.sleep(2)

    def batch(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """A batch of crops (B, crop, crop, 3) uint8."""
        size, crops = self.recipe.crop, []
        scenes, closeups = list(self.scenes.values()), list(self.closeups.values())
        for _ in range(self.recipe.batch):
            pool = closeups if closeups and rng.random() < self.recipe.closeup_share else scenes
            images = pool[int(rng.integers(len(pool)))]
            image = images[int(rng.integers(len(images)))]
            y, x = (int(rng.integers(0, side - size + 1)) for side in image.shape[:2])
            crop = image[y : y + size, x : x + size]
            crops.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
        return np.stack(crops)


class FeatureLoss:
    """How far the judge's trunks tell a picture from its reconstruction.

    The mean over the stages of the scene and the close trunk of |f(x) - f(y)| / |f(x)|, so that what the judge reads
    (eyes, mouths, outlines) counts beside the pixels.
    """

    def __init__(self, device: str = "cpu") -> None:
        from sow.people.judge import load_judge

        network = load_judge().network.to(device)
        self.trunks = (network.scene_trunk, network.close_trunk)

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Scalar for pictures (B, 3, H, W) in [-1, 1]; the gradient reaches `y` alone."""
        terms = []
        for trunk in self.trunks:
            inside = next(trunk.parameters()).shape[1] == 4  # crops carry where the picture is
            a, b = (torch.cat((z, torch.ones_like(z[:, :1])), 1) if inside else z for z in (x, y))
            for layer in trunk.layers:
                with torch.no_grad():
                    a = layer(a)
                b = layer(b)
                terms.append((a - b).abs().mean() / a.abs().mean())
        return torch.stack(terms).mean()


def train_autoencoder(
    recipe: AutoencoderRecipe,
    figures: Path,
    work: Path,
    held_out: NDArray[np.uint8],
    track: Tracker = no_tracker,
) -> Path:
    """Train until the budget is spent and return the checkpoint; minimises ||x - y||^2 + l1 |x - y| + kl KL(q(z|x) || N(0, 1))
    + features `FeatureLoss`."""
    torch.set_num_threads(recipe.threads)
    model = AutoencoderKL.from_pretrained(recipe.start) if recipe.start else build_autoencoder(recipe)
    model = torch.nn.Module.to(model.train(), recipe.device).to(memory_format=torch.channels_last)
    if recipe.decoder_only:
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
    weights = [p for p in model.parameters() if p.requires_grad]
    average = Average(weights, recipe.average)
    optimizer = Muon(weights, recipe.learning_rate)
    pace = Pace(recipe.minutes, recipe.until, recipe.warmup)
    path = work / "state.pt"
    step, seen = unpack(path, model, average, optimizer, pace)
    losses = LossFile(work / "losses.csv", track)
    pool = CropPool(figures, recipe)
    features = FeatureLoss(recipe.device) if recipe.features else None
    saved = time.monotonic()
    bar = tqdm(desc="autoencoder", initial=step, unit="step", mininterval=5)
    while (share := pace.tick()) < 1:
        rng = np.random.default_rng([recipe.seed, 1, step])
        if step % 50 == 49:
            pool.refresh(rng)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * pace.factor(step, share)
        values = _step(model, to_tensor(pool.batch(rng)).to(recipe.device), recipe, rng, features)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(step)
        step, seen = step + 1, seen + recipe.batch
        losses.add(**values)
        bar.update()
        if step % 100 == 0:
            average.swap()
            quality = float(psnr(held_out, reconstruct(model, held_out)).mean())
            average.swap()
            row = losses.write(step, psnr=quality, share=share, seen=seen)
            bar.set_postfix(mse=f"{row['mse']:.4f}", psnr=f"{quality:.2f}")
        if time.monotonic() - saved > 120:
            save_state(path, pack(model, average, optimizer, step, pace, seen))
            saved = time.monotonic()
    save_state(path, pack(model, average, optimizer, step, pace, seen))
    return path


def _step(
    model: AutoencoderKL,
    x: torch.Tensor,
    recipe: AutoencoderRecipe,
    rng: np.random.Generator,
    features: FeatureLoss | None,
) -> dict[str, torch.Tensor]:
    with torch.set_grad_enabled(not recipe.decoder_only):
        posterior = model.encode(x).latent_dist
    noise = torch.from_numpy(rng.standard_normal(tuple(posterior.mean.shape), dtype=np.float32)).to(x.device)
    y = model.decode(posterior.mean + posterior.std * noise).sample
    mse = (x - y).square().mean()
    divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
    loss = mse + recipe.l1 * (x - y).abs().mean() + recipe.kl * divergence
    if features is not None:
        loss = loss + recipe.features * features(x, y)
    loss.backward()
    return {
        "mse": mse.detach(),
        "kl": divergence.detach(),
        "psnr_crop": 10 * torch.log10(4 / mse.detach()),
    }


def load_average(path: Path, recipe: AutoencoderRecipe) -> AutoencoderKL:
    """The averaged model of a training checkpoint, for use."""
    model = AutoencoderKL.from_pretrained(recipe.start) if recipe.start else build_autoencoder(recipe)
    if recipe.decoder_only:
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
    state = load_state(path)
    with torch.no_grad():
        weights = [p for p in model.parameters() if p.requires_grad]
        for mine, theirs in zip(weights, state["average"], strict=True):
            mine.copy_(theirs)
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@torch.no_grad()
def settle_latents(model: AutoencoderKL, images: NDArray[np.uint8], batch: int = 32) -> AutoencoderKL:
    """Centre each latent channel and set the scaling factor, as the pipeline has no place for a shift.

    The channel means over `images` move from quant_conv's bias into post_quant_conv's, so that decode(encode(x)) stays
    what it was; `scaling_factor` becomes 1 / the standard deviation of all values.
    """
    parts = [
        model.encode(to_tensor(images[k : k + batch])).latent_dist.mean for k in range(0, len(images), batch)
    ]
    latents = torch.cat(parts)
    center = latents.mean(dim=(0, 2, 3))
    model.quant_conv.bias.data[: len(center)] -= center
    model.post_quant_conv.bias.data += model.post_quant_conv.weight[:, :, 0, 0] @ center
    spread = (latents - center[:, None, None]).square().mean().sqrt()
    model.register_to_config(scaling_factor=1 / float(spread))
    return model


@torch.no_grad()
def reconstruct(model: AutoencoderKL, images: NDArray[np.uint8], batch: int = 16) -> NDArray[np.uint8]:
    """Decode the latent means of images (N, H, W, 3) uint8."""
    return np.concatenate(list(_reconstructed(model, images, batch)))


def _reconstructed(
    model: AutoencoderKL, images: NDArray[np.uint8], batch: int
) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(images), batch):
        yield to_images(
            model.decode(
                model.encode(to_tensor(images[start : start + batch]).to(model.device)).latent_dist.mean
            ).sample
        )
