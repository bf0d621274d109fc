"""DDIM inversion of the canvas and of each visual condition (Algorithm 1, line 5)."""

from __future__ import annotations

from typing import Annotated, Literal

from sow.errors import UserError
from sow.method.flow import RectifiedFlow
from sow.method.process import Process
from sow.types import Bound, component


@component("inversion")
class Inversion:
    """How pictures become latents at the noise levels of the cycle.

    `guidance_scale`, `negative_prompt`, `prompt`  guidance during the inversion (A1)
    `levels`     "aligned": x_k ends at the level where the sampler reads it; "official": one level above
                 (COW's code)
    `condition`  "alone": the crop is inverted by itself; "canvas": cut from the canvas's inversion (A2)
    `vae`        "mode" or "sample" of the VAE's posterior (A17)
    `solver`     "reverse": the sampler's own steps undone; "midpoint": a flow's, by the midpoint rule with
                 the velocity of the step before (2412.07517); "free": without a network, x_k = q(x_k | x_0)
                 with one noise a picture
    `nudge`      factor of the clean latents before they are inverted (latent nudging, 2411.14430)
    """

    guidance_scale: Annotated[float, Bound(ge=0)]
    negative_prompt: str
    prompt: Literal["intensified", "user", "empty"]
    levels: Literal["aligned", "official"]
    condition: Literal["alone", "canvas"]
    vae: Literal["mode", "sample"]
    solver: Literal["reverse", "midpoint", "free"] = "reverse"
    nudge: Annotated[float, Bound(gt=0)] = 1.0

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

    def check_process(self, process: Process) -> None:
        """Raise UserError for the midpoint rule on a model that predicts noise."""
        if self.solver == "midpoint" and not isinstance(process, RectifiedFlow):
            raise UserError(
                "the midpoint rule follows the velocity of a rectified flow, and this model's process is "
                "variance-preserving: take inversion.solver=reverse (inversion.solver)"
            )

    def check_positions(self, transformer: bool) -> None:
        """Raise UserError for a crop inverted alone by a transformer, at whose origin it would lie (A2)."""
        if transformer and self.condition == "alone" and self.solver != "free":
            raise UserError(
                "a crop inverted alone lies at the origin of a transformer's positions, not where it is "
                "placed: take inversion=flow or inversion.condition=canvas (inversion.condition)"
            )

    def calls(self, states: int) -> int:
        """How many steps with a network call an inversion x_0 -> x_states takes."""
        return 0 if self.solver == "free" else states

    def choose_prompt(self, user: str, intensified: str) -> str:
        """The prompt that guides the inversion (A1)."""
        return {"intensified": intensified, "user": user, "empty": ""}[self.prompt]
