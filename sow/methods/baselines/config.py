"""What a baseline can be told: the schemas of `conf/method/*.yaml`, without a tensor library."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sow.errors import UserError
from sow.methods import arguments, need_plain

if TYPE_CHECKING:
    from sow.backbone import Backbone
    from sow.config import Config


@dataclass(frozen=True)
class Baseline:
    """What every baseline shares.

    `num_inference_steps`  DDIM steps, None = the run's own number (that of SOW)
    `eta`     0 deterministic DDIM .. 1 the noise of DDPM
    `prompt`  "user": the prompt c; "intensified": the planner's c'
    `vae`     "mode" or "sample" of the VAE's posterior
    `paste`   lay the condition's own pixels over the finished picture, inside its mask
    """

    num_inference_steps: int | None
    eta: float
    prompt: Literal["user", "intensified"]
    vae: Literal["mode", "sample"]
    paste: bool

    engine: ClassVar[str] = ""  # module and class of the sampler

    def __post_init__(self) -> None:
        steps = self.num_inference_steps
        if steps is not None and not 1 <= steps <= 1000:
            raise UserError(
                f"need 1 <= num_inference_steps <= 1000, got {steps} (method.num_inference_steps)"
            )
        if not 0 <= self.eta <= 1:
            raise UserError(f"need 0 <= eta <= 1, got {self.eta} (method.eta)")

    def sampler(self, config: Config, backbone: Backbone) -> Any:
        """This method on a loaded model; raises UserError where the model or a file it needs is missing."""
        module, _, name = self.engine.rpartition(".")
        engine = getattr(importlib.import_module(module), name)
        return engine(**arguments(config, backbone, self.num_inference_steps), options=self)


@dataclass(frozen=True)
class Inpaint(Baseline):
    """Stable Diffusion's inpainting: a UNet of 2 C + 1 channels, or a plain one with its known latents put back."""

    engine: ClassVar[str] = "sow.methods.baselines.inpaint.InpaintSampler"
    _target_: str = "sow.methods.baselines.Inpaint"


@dataclass(frozen=True)
class BlendedLatent(Baseline):
    """Blended Latent Diffusion (Avrahami et al., SIGGRAPH 2023).

    `decoder_steps` steps of fine-tuning the decoder to the known pixels, 0 = none; `decoder_rate` their learning rate;
    `decoder_weight` lambda, how much known pixels count more than generated ones.
    """

    decoder_steps: int
    decoder_rate: float
    decoder_weight: float
    engine: ClassVar[str] = "sow.methods.baselines.inpaint.BlendedLatentSampler"
    _target_: str = "sow.methods.baselines.BlendedLatent"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoder_steps < 0:
            raise UserError(f"need decoder_steps >= 0, got {self.decoder_steps} (method.decoder_steps)")
        for name in ("decoder_rate", "decoder_weight"):
            if getattr(self, name) <= 0:
                raise UserError(f"need {name} > 0, got {getattr(self, name)} (method.{name})")


@dataclass(frozen=True)
class RePaint(Baseline):
    """RePaint (Lugmayr et al., CVPR 2022): `jump_length` j steps are undone and done again, `resamples` r times in all."""

    jump_length: int
    resamples: int
    engine: ClassVar[str] = "sow.methods.baselines.repaint.RePaintSampler"
    _target_: str = "sow.methods.baselines.RePaint"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("jump_length", "resamples"):
            if getattr(self, name) < 1:
                raise UserError(f"need {name} >= 1, got {getattr(self, name)} (method.{name})")


@dataclass(frozen=True)
class LanPaint(Baseline):
    """LanPaint (Zheng et al., TMLR 2025): `inner_steps` Langevin steps of `step_size` a noise level, with the guided
    score's `weight` lambda and `friction`."""

    inner_steps: int
    weight: float
    step_size: float
    friction: float
    engine: ClassVar[str] = "sow.methods.baselines.lanpaint.LanPaintSampler"
    _target_: str = "sow.methods.baselines.LanPaint"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner_steps < 0 or self.weight < 0:
            raise UserError(
                f"need inner_steps >= 0 and weight >= 0, got {self.inner_steps} and {self.weight} (method.inner_steps, "
                "method.weight)"
            )
        for name in ("step_size", "friction"):
            if getattr(self, name) <= 0:
                raise UserError(f"need {name} > 0, got {getattr(self, name)} (method.{name})")


@dataclass(frozen=True)
class DenseDiffusion:
    """DenseDiffusion's attention modulation (Kim et al., ICCV 2023) in place of SOW's, in the same cycles.

    `w_self`, `w_cross` strengths in self- and cross-attention, `power` of t in lambda_t = w t^p. `subjects` words of
    the prompt whose tokens belong to the subject's segment; the first found counts, none found leaves cross-attention.
    """

    w_self: float
    w_cross: float
    power: float
    subjects: list[str]
    _target_: str = "sow.methods.baselines.DenseDiffusion"

    def __post_init__(self) -> None:
        for name in ("w_self", "w_cross", "power"):
            if getattr(self, name) < 0:
                raise UserError(f"need {name} >= 0, got {getattr(self, name)} (method.{name})")

    def sampler(self, config: Config, backbone: Backbone) -> Any:
        """SOW's sampler with this modulation."""
        from sow.methods.baselines.dense import DenseSampler

        need_plain(backbone)
        return DenseSampler(**arguments(config, backbone), options=self)
