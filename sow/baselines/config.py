"""The options of every baseline: the schemas of `conf/method/*.yaml`, without a tensor library."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import sow.people
from sow.errors import UserError
from sow.pipeline.factory import one_way, pipeline
from sow.pipeline.fit import check_canvas
from sow.store.files import place_of
from sow.store.inputs import hub_revision
from sow.types import Bound, component

if TYPE_CHECKING:
    from sow.config.compose import Config
    from sow.models.backbone import Backbone
    from sow.pipeline.pipeline import Pipeline


Positive = Annotated[float, Bound(gt=0)]
Weight = Annotated[float, Bound(ge=0)]
Share = Annotated[float, Bound(ge=0, le=1)]
Count = Annotated[int, Bound(ge=0)]
FromOne = Annotated[int, Bound(ge=1)]

# The embedded model's ControlNet, "people" in `ControlNetCanny.hub`.
PEOPLE = Path(sow.people.__file__).parent / "controlnet"


def local_folder(source: str | None) -> str | None:
    """The folder that `source` names, "~" being the home folder; None where it names none: a hub id, or
    nothing."""
    folder = place_of(source, "method.path") if source else None
    return str(folder) if folder is not None and folder.is_dir() else None


def named(dotted: str) -> Any:
    """The class of a dotted name; it is imported when a model is there, and torch with it."""
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


@component("method")
class Baseline:
    """What every baseline shares.

    `num_inference_steps`  DDIM steps, None = the run's own number (that of SOW)
    `eta`     0 deterministic DDIM .. 1 the noise of DDPM
    `prompt`  "user": the prompt c; "intensified": the planner's c'
    `vae`     "mode" or "sample" of the VAE's posterior
    """

    num_inference_steps: Annotated[int | None, Bound(ge=1, le=1000)]
    eta: Annotated[float, Bound(ge=0, le=1)]
    prompt: Literal["user", "intensified"]
    vae: Literal["mode", "sample"]

    cached: ClassVar[bool] = False
    engine: ClassVar[str] = ""  # module and class of the method
    flow: ClassVar[bool | None] = False  # for rectified flows, for UNets that predict noise, None = for all

    def check(self, config: Config) -> None:
        """Raise UserError, before anything is loaded, for a canvas or box that the model cannot take."""
        check_canvas(config)

    def sampler(self, config: Config, backbone: Backbone) -> Pipeline:
        """This method on a loaded model; raises UserError where the model or a file it needs is missing."""
        from sow.method.denoiser import Model

        engine = named(self.engine)
        if self.flow and not backbone.flow:
            raise UserError(
                f"method={config.choices['method']} was written for rectified flows, and this model predicts "
                "noise: take model=people_flow or another flow, or method=sow (method, model)"
            )
        if self.flow is False and (backbone.flow or backbone.transformer):
            what = "a rectified flow" if backbone.flow else "a diffusion transformer"
            raise UserError(
                f"method={config.choices['method']} was written for UNets that predict noise, and this model "
                f"is {what}: take method=sow (method, model)"
            )
        own, more = engine.loaded(self, backbone)
        canvas = config.model.canvas_of(own, config.width, config.height)
        try:
            model = Model.of(own, self.num_inference_steps or config.num_inference_steps, canvas.latent_size)
        except UserError as error:
            raise UserError(str(error).replace("(num_inference", "(method.num_inference")) from error
        return pipeline(config, engine(model, canvas, config.seed_init, config.guidance, self, **more))


@component("method")
class Inpaint(Baseline):
    """Stable Diffusion's inpainting: a UNet of 2 C + 1 channels, or a plain one with its known latents put
    back."""

    engine: ClassVar[str] = "sow.baselines.inpaint.InpaintSampler"


@component("method")
class BlendedLatent(Baseline):
    """Blended Latent Diffusion (Avrahami et al., SIGGRAPH 2023).

    `decoder_steps` steps of fine-tuning the decoder to the known pixels, 0 = none; `decoder_rate` their
    learning rate; `decoder_weight` lambda, how much known pixels count more than generated ones.
    """

    decoder_steps: Count
    decoder_rate: Positive
    decoder_weight: Positive
    engine: ClassVar[str] = "sow.baselines.inpaint.BlendedLatentSampler"


@component("method")
class RePaint(Baseline):
    """RePaint (Lugmayr et al., CVPR 2022): `jump_length` j steps are undone and done again, `resamples` r
    times in all."""

    jump_length: FromOne
    resamples: FromOne
    engine: ClassVar[str] = "sow.baselines.repaint.RePaintSampler"


@component("method")
class LanPaint(Baseline):
    """LanPaint (Zheng et al., TMLR 2025): at most `inner_steps` Langevin steps of `step_size` per noise level
    (0 = Replace), with the guided score's `weight` lambda; `ramp` where their number starts to fall, in
    shares of noise variance; none at the last `last_levels` levels."""

    inner_steps: Count
    weight: Weight
    step_size: Positive
    ramp: Annotated[float, Bound(gt=0, le=1)]
    last_levels: Count
    engine: ClassVar[str] = "sow.baselines.lanpaint.LanPaintSampler"


@component("method")
class MasaCtrl(Baseline):
    """MasaCtrl (Cao et al., ICCV 2023): the target's self-attention reads the source's keys and values.

    `first_step`, `first_layer`  share of the steps, and of the UNet's self-attention layers, that stay as
                they are; 1 = all of them, which is plain sampling
    `mask`      the condition's place attends to the condition alone, the rest to the rest
    """

    first_step: Share
    first_layer: Share
    mask: bool
    engine: ClassVar[str] = "sow.baselines.mutual.MasaCtrlSampler"


@component("method")
class MCACtrl(Baseline):
    """MCA-Ctrl (Yang et al., CVPR 2025), subject generation: the condition's place reads keys and values of
    the source, the rest its own.

    `inject_until`  share of the steps until which the source's attention itself is injected, 0 = none
    `first_step`, `first_layer`  share of the steps, and of the UNet's self-attention layers, before the local
                query; 1 = no local query
    """

    inject_until: Share
    first_step: Share
    first_layer: Share
    engine: ClassVar[str] = "sow.baselines.mutual.MCACtrlSampler"


@component("method")
class ControlNetCanny(Baseline):
    """ControlNet on Canny edges of the pasted condition.

    `path` folder or hub id of the ControlNet, None = `hub` by the width of the model's text states; `scale`
    of its residuals; `low`, `high` Canny's thresholds.
    """

    path: str | None
    hub: dict[str, str]
    scale: float
    low: float
    high: float
    engine: ClassVar[str] = "sow.baselines.controlnet.ControlNetSampler"

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise UserError(
                f"need 0 <= low <= high, got {self.low} and {self.high} (method.low, method.high)"
            )

    def files(self) -> list[str]:
        """The ControlNet's own files, where it is a folder."""
        shipped = "people" in (self.hub.values() if self.path is None else [self.path])
        folder = str(PEOPLE) if shipped else local_folder(self.path)
        return [folder] if folder else []

    def revisions(self) -> dict[str, str]:
        """The commits of the ControlNets on this disk that may be loaded."""
        sources = self.hub.values() if self.path is None else [self.path]
        found = [hub_revision(s, "config.json") for s in sources if s.count("/") == 1 and not local_folder(s)]
        return {name: commit for one in found for name, commit in one.items()}


@component("method")
class IPAdapter(Baseline):
    """IP-Adapter through diffusers.

    `path` folder or hub id that holds the weights; `weight_name` their file in it, None = `hub` by the width
    of the model's text states; `image_encoder` folder of the CLIP image encoder in it; `scale` of the image's
    attention.
    """

    path: str
    weight_name: str | None
    hub: dict[str, str]
    image_encoder: str
    scale: float
    engine: ClassVar[str] = "sow.baselines.ip_adapter.IPAdapterSampler"

    def files(self) -> list[str]:
        """The adapter's own files, where it is a folder."""
        folder = local_folder(self.path)
        return [folder] if folder else []

    def revisions(self) -> dict[str, str]:
        """The commit of the adapters on this disk."""
        if local_folder(self.path) or self.path.count("/") != 1:
            return {}
        names = [self.weight_name] if self.weight_name else list(self.hub.values())
        return {k: v for name in names for k, v in hub_revision(self.path, name).items()}


@component("method")
class Filled(Baseline):
    """A learned inpainting model through its pipeline of diffusers, with weights of its own; the run's model
    lends its canvas alone.

    `pipeline` diffusers' class; `path` folder or hub id of its weights, `revision` a commit of the hub's;
    `controlnet` those of the ControlNet that one of them needs, None for the others; `guidance` and
    `strength` as the pipeline has them, strength 1 = from noise; `controlnet_scale` of the residuals;
    `offload` keeps one part at a time on the device; `licence` and `gated` of the hub's files, said before
    they are fetched.
    """

    pipeline: Literal[
        "FluxFillPipeline",
        "FluxKontextInpaintPipeline",
        "QwenImageEditInpaintPipeline",
        "StableDiffusionControlNetInpaintPipeline",
    ]
    path: str
    revision: str | None
    controlnet: str | None
    guidance: Weight
    strength: Annotated[float, Bound(gt=0, le=1)]
    controlnet_scale: Weight
    offload: bool
    licence: str
    gated: bool
    flow: ClassVar[bool | None] = None
    engine: ClassVar[str] = "sow.baselines.fill.FillSampler"

    def __post_init__(self) -> None:
        needs = "ControlNet" in self.pipeline
        if needs != (self.controlnet is not None):
            words = "needs a ControlNet" if needs else "takes no ControlNet: set it to null"
            raise UserError(f"{self.pipeline} {words} (method.controlnet)")

    def places(self) -> list[str]:
        """Folders and hub ids of the weights."""
        return [self.path, *([self.controlnet] if self.controlnet else [])]

    def files(self) -> list[str]:
        """The weights that lie in folders."""
        return [folder for place in self.places() if (folder := local_folder(place))]

    def revisions(self) -> dict[str, str]:
        """The commits of the hub's models on this disk that may be loaded."""
        names = dict(zip(self.places(), ("model_index.json", "config.json"), strict=False))
        found = [hub_revision(p, file) for p, file in names.items() if not local_folder(p)]
        return {name: commit for one in found for name, commit in one.items()}

    def sampler(self, config: Config, backbone: Backbone) -> Pipeline:
        return super().sampler(config, backbone).variant(batch_size=1)


@component("method")
class Personal(Baseline):
    """What the methods share that train on the condition before they generate.

    `steps` training steps of `train_batch` pictures; `seed` of the training's draws; `class_words` nouns that
    the concept may go with: it goes with the first that the prompt names, or with `class_words[0]` in front
    of a prompt that names none; `templates` captions of the training pictures, "{}" for the concept; `flip`
    mirrors half of the training pictures; `cache` folder of finished trainings, None = .trained below
    paths.outputs.
    """

    steps: FromOne
    train_batch: FromOne
    seed: int
    class_words: list[str]
    templates: list[str]
    flip: bool
    cache: str | None

    def __post_init__(self) -> None:
        if not self.class_words or not self.templates or not all("{}" in t for t in self.templates):
            raise UserError(
                "need class_words and templates, each template with {} for the concept "
                "(method.class_words, method.templates)"
            )

    @property
    def rate(self) -> float:
        """The learning rate of the training."""
        raise NotImplementedError

    def check(self, config: Config) -> None:
        """Raise UserError, before anything is loaded, for a model that cannot be trained."""
        super().check(config)
        if getattr(config.model, "cpu_offload", False):
            raise UserError(
                "a method that trains on the condition needs the model's weights on the device: set "
                "model.cpu_offload=false (model.cpu_offload)"
            )

    def files(self) -> list[str]:
        """None: a finished training is a result of the run, not an input."""
        return []

    def sampler(self, config: Config, backbone: Backbone) -> Pipeline:
        folder = place_of(self.cache, "method.cache") if self.cache else config.paths.outputs / ".trained"
        return super().sampler(config, backbone).variant(folder=folder, batch_size=1)


@component("method")
class TextualInversion(Personal):
    """Textual Inversion (Gal et al., ICLR 2023): one new word, `vectors` embeddings long, that starts as
    `initial` and learns at `learning_rate`."""

    learning_rate: Positive
    vectors: FromOne
    initial: str
    engine: ClassVar[str] = "sow.baselines.inversion.TextualInversionSampler"

    @property
    def rate(self) -> float:
        return self.learning_rate


@component("method")
class DreamBooth(Personal):
    """DreamBooth (Ruiz et al., CVPR 2023): the UNet learns "`token` noun" while pictures of its own keep the
    noun's class.

    `learning_rate`, None = that of `learning_rates`: "all" where all weights train, "lora" where low-rank
    updates do; `prior_weight` lambda of the prior-preservation loss, 0 = none; `class_images` how many
    pictures of the class the model draws for it, in `class_steps` DDIM steps; `lora_rank` trains low-rank
    updates alone (needs peft), 0 = all weights of the UNet.
    """

    learning_rate: Annotated[float | None, Bound(gt=0)]
    learning_rates: dict[Literal["all", "lora"], Positive]
    token: str
    prior_weight: Weight
    class_images: int
    class_steps: FromOne
    lora_rank: Count
    engine: ClassVar[str] = "sow.baselines.dreambooth.DreamBoothSampler"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.learning_rates) < 2:
            raise UserError(f"need rates for all and lora, got {self.learning_rates} (method.learning_rates)")
        if self.prior_weight > 0 and self.class_images < 1:  # the loss compares with pictures of the class
            raise UserError(f"need class_images >= 1, got {self.class_images} (method.class_images)")
        if self.lora_rank and importlib.util.find_spec("peft") is None:
            raise UserError(
                "LoRA needs the package peft, the extra lora of this one: install it, or set "
                "method.lora_rank=0 (method.lora_rank)"
            )

    @property
    def rate(self) -> float:
        if self.learning_rate is not None:
            return self.learning_rate
        return self.learning_rates["lora" if self.lora_rank else "all"]


@component("method")
class DenseDiffusion:
    """DenseDiffusion's attention modulation (Kim et al., ICCV 2023) in place of SOW's, in the same cycles.

    `w_self`, `w_cross` strengths in self- and cross-attention, `power` of t in lambda_t = w t^p; `clock` what
    t is: "absolute" the timestep over all trained ones, as the authors'; "cycle" over that of the cycle's
    first step. `subjects` words of the prompt whose tokens belong to the subject's segment; the first found
    counts, none found leaves cross-attention.
    """

    w_self: Weight
    w_cross: Weight
    power: Weight
    clock: Literal["cycle", "absolute"]
    subjects: list[str]
    cached: ClassVar[bool] = False
    engine: ClassVar[str] = "sow.baselines.dense.DenseModulation"

    def check(self, config: Config) -> None:
        """Raise UserError, before anything is loaded, for a canvas or box that the model cannot take."""
        check_canvas(config)

    def sampler(self, config: Config, backbone: Backbone) -> Pipeline:
        """SOW's cycles with this attention."""
        return one_way(config, backbone, attention=named(self.engine)(self))
