"""A sample says what it is in a line, and shows itself in a notebook."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

from sow.types import Box, Canvas, Plan, Request, Sample, VisualCondition


@pytest.mark.parametrize(("side", "shown"), [(128, 512), (256, 1024), (264, 264)])
def test_a_sample_in_a_notebook(side: int, shown: int) -> None:
    condition = VisualCondition(Image.new("RGB", (8, 8)))
    plan = Plan((Box(0, 0, 8, 8),), (Box(0, 0, 8, 8),), "a cat", "test")
    image = Image.new("RGB", (side, side), "navy")
    canvas = Canvas(side, side, 8, 45, 64)
    sample = Sample(Request((condition,), "a cat", seed=3), plan, image, torch.zeros(1, 4, 4, 4), canvas)
    assert repr(sample) == f"Sample('a cat', seed 3, {side} x {side}, 0 steps)"
    assert (sample.view is sample.image) == (side == shown)
    drawn = Image.open(io.BytesIO(sample._repr_png_()))
    assert drawn.size == (shown, shown) and drawn.getpixel((5, 5)) == (0, 0, 128)
