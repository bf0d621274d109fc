"""The methods that the paper compares with and today's rivals, each on the same plans, boxes and canvas as
SOW.

The dataclasses here are what `conf/method/*.yaml` describe; none imports torch before its sampler is built.
"""

from __future__ import annotations

from sow.baselines.config import (
    Baseline,
    BlendedLatent,
    ControlNetCanny,
    DenseDiffusion,
    DreamBooth,
    Filled,
    Inpaint,
    IPAdapter,
    LanPaint,
    MasaCtrl,
    MCACtrl,
    Personal,
    RePaint,
    TextualInversion,
)

__all__ = [
    "Baseline",
    "BlendedLatent",
    "ControlNetCanny",
    "DenseDiffusion",
    "DreamBooth",
    "Filled",
    "IPAdapter",
    "Inpaint",
    "LanPaint",
    "MCACtrl",
    "MasaCtrl",
    "Personal",
    "RePaint",
    "TextualInversion",
]
