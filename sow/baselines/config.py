"""What a baseline can be told: the schemas of `conf/method/*.yaml`, without a tensor library."""

from __future__ import annotations

import importlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import sow.people
from sow.config.bounds import need_above, need_at_least, need_within
from sow.errors import UserError
from sow.pipeline.factory import arguments, need_plain

if TYPE_CHECKING:
    from sow.config.compose import Config
    from sow.models.backbone import Backbone


# The embedded model's ControlNet, "people" in `ControlNetCanny.hub`.
PEOPLE = Path(sow.people.__file__).parent / "controlnet"


def local_folder(source: str | None) -> str | None:
    """The folder that `source` names, "~" being the home folder; None where it names none: a hub id, or nothing."""
    folder = os.path.expanduser(source or "")  # a user who does not exist stays as written; pathlib raises
    return folder if os.path.isdir(folder) else None


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
        need_within(self, "method", 1, 1000, "num_inference_steps")
        need_within(self, "method", 0, 1, "eta")

    def sampler(self, config: Config, backbone: Backbone) -> Any:
        """This method on a loaded model; raises UserError where the model or a file it needs is missing."""
        module, _, name = self.engine.rpartition(".")
        engine = getattr(importlib.import_module(module), name)
        return engine(**arguments(config, backbone, self.num_inference_steps), options=self)


@dataclass(frozen=True)
class Inpaint(Baseline):
    """Stable Diffusion's inpainting: a UNet of 2 C + 1 channels, or a plain one with its known latents put back."""

    engine: ClassVar[str] = "sow.baselines.inpaint.InpaintSampler"
    _target_: str = "sow.baselines.Inpaint"


@dataclass(frozen=True)
class BlendedLatent(Baseline):
    """Blended Latent Diffusion (Avrahami et al., SIGGRAPH 2023).

    `decoder_steps` steps of fine-tuning the decoder to the known pixels, 0 = none; `decoder_rate` their learning rate;
    `decoder_weight` lambda, how much known pixels count more than generated ones.
    """

    decoder_steps: int
    decoder_rate: float
    decoder_weight: float
    engine: ClassVar[str] = "sow.baselines.inpaint.BlendedLatentSampler"
    _target_: str = "sow.baselines.BlendedLatent"

    def __post_init__(self) -> None:
        super().__post_init__()
        need_at_least(self, "method", decoder_steps=0)
        need_above(self, "method", decoder_rate=0, decoder_weight=0)


@dataclass(frozen=True)
class RePaint(Baseline):
    """RePaint (Lugmayr et al., CVPR 2022): `jump_length` j steps are undone and done again, `resamples` r times in all."""

    jump_length: int
    resamples: int
    engine: ClassVar[str] = "sow.baselines.repaint.RePaintSampler"
    _target_: str = "sow.baselines.RePaint"

    def __post_init__(self) -> None:
        super().__post_init__()
        need_at_least(self, "method", jump_length=1, resamples=1)


@dataclass(frozen=True)
class LanPaint(Baseline):
    """LanPaint (Zheng et al., TMLR 2025): `inner_steps` Langevin steps of `step_size` a noise level (0 = Replace), with
    the guided score's `weight` lambda and the `friction` Gamma of latents over their own noise scale."""

    inner_steps: int
    weight: float
    step_size: float
    friction: float
    engine: ClassVar[str] = "sow.baselines.lanpaint.LanPaintSampler"
    _target_: str = "sow.baselines.LanPaint"

    def __post_init__(self) -> None:
        super().__post_init__()
        need_at_least(self, "method", inner_steps=0, weight=0)
        need_above(self, "method", step_size=0, friction=0)


@dataclass(frozen=True)
class ControlNetCanny(Baseline):
    """ControlNet on Canny edges of the pasted condition.

    `path` folder or hub id of the ControlNet, None = `hub` by the width of the model's text states; `scale` of its
    residuals; `low`, `high` Canny's thresholds.
    """

    path: str | None
    hub: dict[str, str]
    scale: float
    low: float
    high: float
    _target_: str = "sow.baselines.ControlNetCanny"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.low <= self.high:
            raise UserError(
                f"need 0 <= low <= high, got {self.low} and {self.high} (method.low, method.high)"
            )

    def sampler(self, config: Config, backbone: Backbone) -> Any:
        from sow.baselines.controlnet import ControlNetSampler, load

        need_plain(backbone)
        net = load(self, backbone)
        values = arguments(config, backbone, self.num_inference_steps)
        return ControlNetSampler(**values, options=self, controlnet=net)

    def files(self) -> list[str]:
        """The ControlNet's own files, where it is a folder."""
        shipped = "people" in (self.hub.values() if self.path is None else [self.path])
        folder = str(PEOPLE) if shipped else local_folder(self.path)
        return [folder] if folder else []


@dataclass(frozen=True)
class IPAdapter(Baseline):
    """IP-Adapter through diffusers.

    `path` folder or hub id that holds the weights; `weight_name` their file in it, None = `hub` by the width of the
    model's text states; `image_encoder` folder of the CLIP image encoder in it; `scale` of the image's attention.
    """

    path: str
    weight_name: str | None
    hub: dict[str, str]
    image_encoder: str
    scale: float
    _target_: str = "sow.baselines.IPAdapter"

    def sampler(self, config: Config, backbone: Backbone) -> Any:
        from sow.baselines.ip_adapter import IPAdapterSampler, load

        need_plain(backbone)
        own, pipe = load(self, backbone)
        return IPAdapterSampler(**arguments(config, own, self.num_inference_steps), options=self, pipe=pipe)

    def files(self) -> list[str]:
        """The adapter's own files, where it is a folder."""
        folder = local_folder(self.path)
        return [folder] if folder else []


@dataclass(frozen=True)
class Personal(Baseline):
    """What the methods share that train on the condition before they generate.

    `steps` training steps of `train_batch` pictures; `seed` of the training's draws; `class_words` nouns that the concept
    may go with: it goes with the first that the prompt names, or with `class_words[0]` in front of a prompt that names
    none; `templates` captions of the training pictures, "{}" for the concept; `flip` mirrors half of the training
    pictures; `cache` folder of finished trainings, None = .trained below paths.outputs.
    """

    steps: int
    train_batch: int
    seed: int
    class_words: list[str]
    templates: list[str]
    flip: bool
    cache: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        need_at_least(self, "method", steps=1, train_batch=1)
        if not self.class_words or not self.templates or not all("{}" in t for t in self.templates):
            raise UserError(
                "need class_words and templates, each template with {} for the concept (method.class_words, method.templates)"
            )

    @property
    def rate(self) -> float:
        """The learning rate of the training."""
        raise NotImplementedError

    def check(self, config: Config) -> None:
        """Raise UserError, before anything is loaded, for a model that cannot be trained."""
        if getattr(config.model, "cpu_offload", False):
            raise UserError(
                "a method that trains on the condition needs the model's weights on the device: set "
                "model.cpu_offload=false (model.cpu_offload)"
            )

    def files(self) -> list[str]:
        """None: a finished training is a result of the run, not an input."""
        return []

    def sampler(self, config: Config, backbone: Backbone) -> Any:
        module, _, name = self.engine.rpartition(".")
        engine = getattr(importlib.import_module(module), name)
        need_plain(backbone)
        folder = Path(self.cache).expanduser() if self.cache else config.paths.outputs / ".trained"
        values = arguments(config, backbone, self.num_inference_steps)
        return engine(**values, options=self, folder=folder)


@dataclass(frozen=True)
class TextualInversion(Personal):
    """Textual Inversion (Gal et al., ICLR 2023): one new word, `vectors` embeddings long, that starts as `initial` and
    learns at `learning_rate`."""

    learning_rate: float
    vectors: int
    initial: str
    engine: ClassVar[str] = "sow.baselines.inversion.TextualInversionSampler"
    _target_: str = "sow.baselines.TextualInversion"

    def __post_init__(self) -> None:
        super().__post_init__()
        need_at_least(self, "method", vectors=1)
        need_above(self, "method", learning_rate=0)

    @property
    def rate(self) -> float:
        return self.learning_rate


@dataclass(frozen=True)
class DreamBooth(Personal):
    """DreamBooth (Ruiz et al., CVPR 2023): the UNet learns "`token` noun" while pictures of its own keep the noun's class.

    `learning_rate`, None = that of `learning_rates`: "all" where all weights train, "lora" where low-rank updates do;
    `prior_weight` lambda of the prior-preservation loss, 0 = none; `class_images` how many pictures of the class the
    model draws for it, in `class_steps` DDIM steps; `lora_rank` trains low-rank updates alone (needs peft), 0 = all
    weights of the UNet.
    """

    learning_rate: float | None
    learning_rates: dict[str, float]
    token: str
    prior_weight: float
    class_images: int
    class_steps: int
    lora_rank: int
    engine: ClassVar[str] = "sow.baselines.dreambooth.DreamBoothSampler"
    _target_: str = "sow.baselines.DreamBooth"

    def __post_init__(self) -> None:
        super().__post_init__()
        need_at_least(self, "method", prior_weight=0, class_steps=1, lora_rank=0)
        need_above(self, "method", learning_rate=0)
        if set(self.learning_rates) != {"all", "lora"} or not all(
            v > 0 for v in self.learning_rates.values()
        ):
            raise UserError(
                f"need rates above 0 for all and lora, got {self.learning_rates} (method.learning_rates)"
            )
        if self.prior_weight > 0:  # the loss compares with pictures of the class
            need_at_least(self, "method", class_images=1)
        if self.lora_rank and importlib.util.find_spec("peft") is None:
            raise UserError(
                "LoRA needs the package peft, the extra lora of this one: install it, or set method.lora_rank=0 (method.lora_rank)"
            )

    @property
    def rate(self) -> float:
        if self.learning_rate is not None:
            return self.learning_rate
        return self.learning_rates["lora" if self.lora_rank else "all"]


@dataclass(frozen=True)
class DenseDiffusion:
    """DenseDiffusion's attention modulation (Kim et al., ICCV 2023) in place of SOW's, in the same cycles.

    `w_self`, `w_cross` strengths in self- and cross-attention, `power` of t in lambda_t = w t^p; `clock` what t is:
    "absolute" the timestep over all trained ones, as the authors'; "cycle" over that of the cycle's first step. `subjects`
    words of the prompt whose tokens belong to the subject's segment; the first found counts, none found leaves
    cross-attention.
    """

    w_self: float
    w_cross: float
    power: float
    clock: Literal["cycle", "absolute"]
    subjects: list[str]
    _target_: str = "sow.baselines.DenseDiffusion"

    def __post_init__(self) -> None:
        need_at_least(self, "method", w_self=0, w_cross=0, power=0)

    def sampler(self, config: Config, backbone: Backbone) -> Any:
        """SOW's sampler with this modulation."""
        from sow.baselines.dense import DenseSampler

        need_plain(backbone)
        return DenseSampler(**arguments(config, backbone), options=self)
