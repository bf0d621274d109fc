"""The judge's network: three small residual trunks, one for the whole picture and two for crops around the face.

The scene trunk reads the picture at 128 px (is there a face, a second one, where, and what surrounds it), the close trunk a crop of
the face (its attributes, identity embedding), the figure trunk a wider crop that reaches below the shoulders (hair, hat,
clothing; is the outline whole). Crops carry a fourth channel that is 1 inside the picture and 0 outside.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sow.people.captions.attributes import VOCABULARY

SIDE = 128  # pixels a side of the picture that is read
CROP = 64  # pixels a side of both crops
EMBEDDING = 64
SCENE_HEADS = ("presence", "scene", "wall_color", "weather", "style")
CLOSE_HEADS = ("age", "skin", "eyes", "expression", "glasses")
FIGURE_HEADS = ("hair", "hair_color", "hat", "clothing", "clothing_color")
GRID_STRIDE = 16


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3 x 3 convolution, batch normalisation, rectifier."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """x + two convolutions of x, rectified."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = convolution(channels, channels)
        last = nn.BatchNorm2d(channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), last)
        nn.init.zeros_(last.weight)  # identity at the start: deep trunks train at once

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class Trunk(nn.Module):
    """Stride-2 convolutions through `widths`, with `blocks[i]` residual blocks after the i-th.

    (B, inputs, s, s) in [-1, 1] -> (B, widths[-1], s / 2**len(widths), ...).
    """

    def __init__(self, inputs: int, widths: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width, count in zip(widths, blocks, strict=True):
            layers.append(convolution(inputs, width, stride=2))
            layers.extend(Residual(width) for _ in range(count))
            inputs = width
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Summary(nn.Sequential):
    """A trunk's features, squeezed to `channels` a place, flattened (places matter in a crop) and mapped to `outputs`."""

    def __init__(self, widths: tuple[int, ...], channels: int, outputs: int) -> None:
        places = (CROP // 2 ** len(widths)) ** 2
        super().__init__(
            nn.Conv2d(widths[-1], channels, 1),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(channels * places, outputs),
            nn.ReLU(inplace=True),
        )


class Heads(nn.Module):
    """One linear classifier per attribute."""

    def __init__(self, inputs: int, names: tuple[str, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({n: nn.Linear(inputs, len(VOCABULARY[n])) for n in names})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: layer(x) for name, layer in self.layers.items()}


@dataclass(frozen=True)
class Sizes:
    """Channel widths of the three trunks (each entry halves the resolution) and residual blocks after each."""

    scene: tuple[int, ...] = (16, 32, 64, 96)
    scene_blocks: tuple[int, ...] = (0, 2, 2, 2)
    close: tuple[int, ...] = (24, 48, 96, 128)
    close_blocks: tuple[int, ...] = (3, 3, 3, 1)
    figure: tuple[int, ...] = (16, 32, 64, 96)
    figure_blocks: tuple[int, ...] = (0, 1, 1, 1)


class JudgeNetwork(nn.Module):
    """All trunks and heads; the three `forward_*` methods are independent of one another."""

    def __init__(self, sizes: Sizes | None = None) -> None:
        super().__init__()
        sizes = sizes or Sizes()
        self.scene_trunk = Trunk(3, sizes.scene, sizes.scene_blocks)
        width = sizes.scene[-1]
        self.grid = nn.Sequential(convolution(width, width), nn.Conv2d(width, 5, 1))
        self.scene_heads = Heads(2 * width, SCENE_HEADS)
        self.second = nn.Linear(2 * width, 1)
        self.close_trunk = Trunk(4, sizes.close, sizes.close_blocks)
        self.close_features = Summary(sizes.close, 48, 160)
        self.close_heads = Heads(160, CLOSE_HEADS)
        self.embedding = nn.Linear(160, EMBEDDING)
        self.figure_trunk = Trunk(4, sizes.figure, sizes.figure_blocks)
        self.figure_features = Summary(sizes.figure, 32, 96)
        self.figure_heads = Heads(96, FIGURE_HEADS)
        self.whole = nn.Linear(96, 1)

    def forward_scene(self, pictures: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Pictures (B, 3, 128, 128) -> logits by attribute, logit (B,) of a second face, face grid (B, 5, 8, 8).

        The grid holds a face logit, the face centre's offset from the cell's centre in cells (x, y), and the
        logarithms of the box's width and height in fractions of the picture.
        """
        features = self.scene_trunk(pictures)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)
        return self.scene_heads(pooled), self.second(pooled)[:, 0], self.grid(features)

    def forward_close(self, crops: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Face crops (B, 4, 64, 64) -> logits by attribute, unit identity embeddings (B, 64)."""
        return self.read_close(self.describe_close(crops))

    def describe_close(self, crops: Tensor) -> Tensor:
        """Features (B, 160) of face crops."""
        return self.close_features(self.close_trunk(crops))

    def read_close(self, features: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Logits by attribute and unit embeddings of the features of face crops."""
        return self.close_heads(features), F.normalize(self.embedding(features), dim=1)

    def forward_figure(self, crops: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Figure crops (B, 4, 64, 64) -> logits by attribute, logit (B,) that the outline is whole."""
        features = self.figure_features(self.figure_trunk(crops))
        return self.figure_heads(features), self.whole(features)[:, 0]


def strongest_face(grid: Tensor) -> tuple[Tensor, Tensor]:
    """Largest face logit (B,) of a grid (B, 5, g, g) and its box (B, 4) as x, y, w, h in fractions of the picture."""
    batch, _, size, _ = grid.shape
    flat = grid.flatten(2)
    logit, cell = flat[:, 0].max(1)
    values = flat.gather(2, cell[:, None, None].expand(batch, 5, 1))[:, :, 0]
    cx = (cell % size + 0.5 + values[:, 1]) / size
    cy = (torch.div(cell, size, rounding_mode="floor") + 0.5 + values[:, 2]) / size
    w, h = values[:, 3].clamp(-5, 1).exp(), values[:, 4].clamp(-5, 1).exp()
    return logit, torch.stack([cx - w / 2, cy - h / 2, w, h], dim=1)


def parameters(network: nn.Module) -> int:
    """Number of trained values."""
    return sum(p.numel() for p in network.parameters())
