"""A metric sees the whole picture, whatever its shape."""

from __future__ import annotations

from types import SimpleNamespace
from uuid import uuid4

import numpy as np
import pytest
import torch
from PIL import Image

from sow.metrics.clip import ClipText, squared


def cropping(image: Image.Image) -> torch.Tensor:
    """What open_clip's transform does: the shorter side to 32, the middle of the longer one."""
    ratio = 32 / min(image.size)
    small = image.resize((round(image.width * ratio), round(image.height * ratio)))
    left, top = (small.width - 32) // 2, (small.height - 32) // 2
    pixels = np.asarray(small.crop((left, top, left + 32, top + 32)), np.float32)
    return torch.from_numpy(pixels.copy()).flatten()


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (64, 96), (160, 32), (48, 200), (128, 64)])
@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_every_edge_of_the_canvas_changes_the_text_similarity(monkeypatch, tmp_path, size, side):
    model = SimpleNamespace(encode_image=lambda x: x, encode_text=lambda x: torch.ones(len(x), 32 * 32 * 3))
    words = lambda prompts: torch.zeros(len(prompts), 1)
    monkeypatch.setattr(ClipText, "_load", lambda self: (model, cropping, words))
    monkeypatch.setattr(ClipText, "_instrument", lambda self: [uuid4().hex])
    plain = Image.new("RGB", size, (200, 30, 60))
    marked = plain.copy()
    w, h = size
    box = {
        "left": (0, 0, w // 8, h),
        "right": (w - w // 8, 0, w, h),
        "top": (0, 0, w, h // 8),
        "bottom": (0, h - h // 8, w, h),
    }[side]
    marked.paste((10, 250, 250), box)
    samples = [SimpleNamespace(image=i, request=SimpleNamespace(prompt="a cat")) for i in (plain, marked)]
    first, second = ClipText("ViT-B-32", "tag", None, "cpu", 2).measure(samples)
    assert abs(first["text_similarity"] - second["text_similarity"]) > 1e-4


@pytest.mark.parametrize(
    "size", [(64, 64), (97, 64), (64, 31), (1, 400), (400, 1), (333, 777), (512, 256), (2, 2)]
)
def test_the_square_holds_every_pixel_and_a_square_is_left_alone(size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8))
    square = squared(image)
    left, top = (square.width - size[0]) // 2, (square.height - size[1]) // 2
    assert square.width == square.height == max(size)
    assert square.crop((left, top, left + size[0], top + size[1])).tobytes() == image.tobytes()
    assert (square is image) == (size[0] == size[1])


def test_the_column_says_so():
    assert "padded" in ClipText.COLUMNS["text_similarity"]
