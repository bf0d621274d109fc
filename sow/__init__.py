"""Selective One-Way Diffusion: text-vision-to-image generation on frozen latent diffusion models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sow.apps.diffusers_pipeline import SOWPipeline
    from sow.config.compose import Config, compose
    from sow.errors import UserError
    from sow.pipeline.factory import build

__all__ = ["Config", "SOWPipeline", "UserError", "build", "compose"]


def __getattr__(name: str) -> Any:
    """Import on first use: `import sow.people` needs no Hydra, and `sow.compose` needs no torch."""
    import importlib

    places = {
        "UserError": "sow.errors",
        "build": "sow.pipeline.factory",
        "SOWPipeline": "sow.apps.diffusers_pipeline",
    }
    if name in __all__:
        return getattr(importlib.import_module(places.get(name, "sow.config.compose")), name)
    raise AttributeError(f"module 'sow' has no attribute {name!r}")
