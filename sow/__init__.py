"""Selective One-Way Diffusion: text-vision-to-image generation on frozen latent diffusion models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sow.config.compose import Config, build, compose
    from sow.errors import UserError

__all__ = ["Config", "UserError", "build", "compose"]


def __getattr__(name: str) -> Any:
    """Import on first use: `import sow.people` needs no Hydra, and `sow.compose` needs no torch."""
    if name == "UserError":
        from sow.errors import UserError

        return UserError
    if name in __all__:
        from sow.config import compose as config

        return getattr(config, name)
    raise AttributeError(f"module 'sow' has no attribute {name!r}")
