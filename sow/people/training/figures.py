"""Rendered training figures on disk, in shards that one process writes while others read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sow.people.captions.attributes import VOCABULARY, Attributes
from sow.people.drawing.render import render
from sow.people.training.recipes import FigureRecipe
from sow.store.files import atomic_write

TRAINING_SEEDS = 1_000_000_000  # training figures are rendered from this seed on; held-out ones from below it
HELD_OUT_SEEDS = 900_000_000
FIELDS = tuple(field.name for field in fields(Attributes))


def attribute_row(attributes: Attributes) -> list[int]:
    """Class index of every field, shown or not, in the dataclass's order."""
    return [VOCABULARY[name].index(getattr(attributes, name)) for name in FIELDS]


def attributes_of(row: NDArray[np.integer]) -> Attributes:
    """The attributes that `attribute_row` packed."""
    return Attributes(**{name: VOCABULARY[name][int(k)] for name, k in zip(FIELDS, row, strict=True)})


def shard_path(folder: Path, recipe: FigureRecipe, index: int) -> Path:
    """Where shard `index` lies; its name tells framing and side."""
    framing, side = recipe.layout(index)
    return folder / f"{index:05d}-{framing}-{side}.npz"


def shard_paths(folder: Path, part: tuple[int, int] = (0, 1)) -> list[Path]:
    """The shards of a folder in order, or those of part k of n."""
    return [p for p in sorted(folder.glob("*.npz")) if int(p.name[:5]) % part[1] == part[0]]


def write_arrays(path: Path, **arrays: NDArray) -> None:
    """Write an .npz of which a reader never meets half."""
    with atomic_write(path) as part, part.open("wb") as file:
        np.savez(file, **cast(dict[str, Any], arrays))  # numpy takes every name for its own allow_pickle


def render_shards(folder: Path, recipe: FigureRecipe, part: tuple[int, int] = (0, 1)) -> Iterator[Path]:
    """Render the missing shards of part k of n in order; images (N, s, s, 3) uint8,
    attributes (N, fields) int8, seeds (N,) int64."""
    for index in tqdm(range(part[0], recipe.total, part[1]), desc="figures", unit="shard"):
        path = shard_path(folder, recipe, index)
        if path.exists():
            continue
        framing, side = recipe.layout(index)
        seeds = TRAINING_SEEDS + np.arange(index * recipe.shard, (index + 1) * recipe.shard, dtype=np.int64)
        pictures = [render(int(seed), side, framing=framing) for seed in seeds]
        write_arrays(
            path,
            images=np.stack([p.image for p in pictures]),
            attributes=np.array([attribute_row(p.attributes) for p in pictures], dtype=np.int8),
            seeds=seeds,
        )
        yield path


def read_shard(path: Path) -> dict[str, NDArray]:
    """The arrays of a shard."""
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def held_out_images(count: int, side: int = 128, framing: str = "scene") -> NDArray[np.uint8]:
    """`count` renders (N, side, side, 3) uint8 that no training shard holds."""
    return np.stack([render(HELD_OUT_SEEDS + k, side, framing=framing).image for k in range(count)])
