"""DDIM inversion of the canvas and of each visual condition (Algorithm 1, line 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sow.config.bounds import need_at_least, need_one_of

if TYPE_CHECKING:
    from torch import Tensor

    from sow.method.diffusion import Schedule

CHOICES = {
    "prompt": ("intensified", "user", "empty"),
    "levels": ("aligned", "official"),
    "condition": ("alone", "canvas"),
    "vae": ("mode", "sample"),
}


@dataclass(frozen=True)
class Inversion:
    """How pictures become latents at the noise levels of the cycle.

    `guidance_scale`, `negative_prompt`, `prompt`  guidance during the inversion (A1)
    `levels`     "aligned": x_k ends at the level where the sampler reads it; "official": one level above (COW's code)
    `condition`  "alone": the crop is inverted by itself; "canvas": cut from the canvas's inversion (A2)
    `vae`        "mode" or "sample" of the VAE's posterior (A17)
    """

    guidance_scale: float
    negative_prompt: str
    prompt: str
    levels: str
    condition: str
    vae: str
    _target_: str = "sow.method.inversion.Inversion"

    def __post_init__(self) -> None:
        need_one_of(self, "inversion", **CHOICES)
        need_at_least(self, "inversion", guidance_scale=0)

    def step_levels(self, schedule: Schedule, k: int) -> tuple[Tensor, Tensor]:
        """The levels between which inversion step k (x_k -> x_{k+1}) moves."""
        if self.levels == "official":
            return schedule.official_level(k), schedule.official_level(k + 1)
        return schedule.level(k), schedule.level(k + 1)

    def choose_prompt(self, user: str, intensified: str) -> str:
        """The prompt that guides the inversion (A1)."""
        return {"intensified": intensified, "user": user, "empty": ""}[self.prompt]
