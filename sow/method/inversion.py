"""DDIM inversion of the canvas and of each visual condition (Algorithm 1, line 5)."""

from __future__ import annotations

from typing import Annotated, Literal

from sow.errors import UserError
from sow.types import Bound, component


@component("inversion")
class Inversion:
    """How pictures become latents at the noise levels of the cycle.

    `guidance_scale`, `negative_prompt`, `prompt`  guidance during the inversion (A1)
    `levels`     "aligned": x_k ends at the level where the sampler reads it; "official": one level above
                 (COW's code)
    `condition`  "alone": the crop is inverted by itself; "canvas": cut from the canvas's inversion (A2)
    `vae`        "mode" or "sample" of the VAE's posterior (A17)
    """

    guidance_scale: Annotated[float, Bound(ge=0)]
    negative_prompt: str
    prompt: Literal["intensified", "user", "empty"]
    levels: Literal["aligned", "official"]
    condition: Literal["alone", "canvas"]
    vae: Literal["mode", "sample"]

    @property
    def official(self) -> bool:
        """Whether inverted states lie at the levels of COW's published code, one above the sampler's."""
        return self.levels == "official"

    def check_start(self, start: str) -> None:
        """Raise UserError where the cycles start from noise (`seed_init.start`) and v is to come from a
        canvas."""
        if start == "noise" and self.condition == "canvas":
            raise UserError(
                "seed_init=none starts from noise and has no canvas to invert: take "
                "inversion.condition=alone "
                "(seed_init, inversion.condition)"
            )

    def choose_prompt(self, user: str, intensified: str) -> str:
        """The prompt that guides the inversion (A1)."""
        return {"intensified": intensified, "user": user, "empty": ""}[self.prompt]
