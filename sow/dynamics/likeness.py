"""How alike two pictures are: mean squared error, and the cosine of their pixels or of an embedding (A20)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sow.errors import UserError

Embed = Callable[[Sequence[Image.Image]], NDArray[np.float64]]


def mse(a: Image.Image, b: Image.Image) -> float:
    """Mean squared error of pixels in [0, 1]."""
    return float(np.mean((pixels([a]) - pixels([b])) ** 2)) / 4


def pixels(images: Sequence[Image.Image]) -> NDArray[np.float64]:
    """(n, values) of pictures of one size, each value in [-1, 1]: mid-gray is zero."""
    return np.stack([np.asarray(i.convert("RGB"), np.float64).ravel() / 127.5 - 1 for i in images])


def cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine similarity row by row, (n,); nan where a row is zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def embedding(name: str, metrics: Any) -> Embed:
    """What `cosines` compares: "pixels", the embedded world's "judge", or the image features of "clip".

    Raises UserError for clip without metrics=clip.
    """
    if name == "pixels":
        return pixels
    if name == "judge":
        from sow.people.judge import load_judge
        from sow.types import Box

        judge = load_judge()
        return lambda images: np.stack(
            [r.embedding.astype(np.float64) for r in judge.read(images, [Box(0, 0, *i.size) for i in images])]
        )
    from sow.metrics.clip import ClipText

    if not isinstance(metrics, ClipText):
        raise UserError(
            "similarity=clip needs an open_clip model: take metrics=clip (study.similarity, metrics)"
        )
    return lambda images: clip_features(metrics, images)


def clip_features(metrics: Any, images: Sequence[Image.Image]) -> NDArray[np.float64]:
    """Image features (n, d) of the open_clip model of `metrics`."""
    import torch

    from sow.metrics.clip import squared
    from sow.metrics.faces import resolve_device

    model, transform, _ = metrics._load()
    device = resolve_device(metrics.device)
    with torch.no_grad():
        parts = [
            model.encode_image(
                torch.stack([transform(squared(i)) for i in images[s : s + metrics.batch_size]]).to(device)
            )
            for s in range(0, len(images), metrics.batch_size)
        ]
    return torch.cat(parts).double().cpu().numpy()
