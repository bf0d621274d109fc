"""From a configuration to a pipeline: the model is loaded once per process, a method makes the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from sow.errors import UserError
from sow.pipeline.fit import check_fit
from sow.store.fingerprint import fingerprint
from sow.store.inputs import contents
from sow.types import component

if TYPE_CHECKING:
    from sow.config.compose import Config
    from sow.models.backbone import Backbone
    from sow.pipeline.cached import Cache
    from sow.pipeline.pipeline import Pipeline

COMPONENTS = (
    "inversion cycle preservation guidance modulation p_plus p_minus decay_time decay_distance gate"
).split()

_loaded: dict[str, tuple[Backbone, Cache]] = {}


def build(config: Config) -> Pipeline:
    """The pipeline of a configuration; the model is loaded once per process, and again when its files have
    changed. This imports torch."""
    from sow.pipeline.cached import Cache

    key = _model_key(config)
    if key not in _loaded:
        _quiet()
        _loaded.clear()  # two models seldom fit one device
        backbone, cache = config.model.load(), Cache()
        cache.settle(backbone)
        _loaded[key] = backbone, cache
    backbone, cache = _loaded[key]
    made = config.method.sampler(config, backbone)
    if not config.method.cached:
        return made
    cache.configure(config.cache.memory_mb << 20, config.cache.folder, config.cache.folder_mb << 20)
    return replace(made, cache=cache)


def weights_taken(config: Config) -> dict[str, Any]:
    """What was taken where the files of the configuration's model leave a choice; {} if it is not loaded."""
    found = _loaded.get(_model_key(config))
    return {} if found is None else dict(found[0].loaded)


def _model_key(config: Config) -> str:
    """What a loaded model is: its options, as they are used and not as they are told, and its files."""
    return fingerprint([config.values["model"], contents(config.model)])


def _quiet() -> None:
    """No bars for reading weights from a disk; downloads keep theirs."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    of_diffusers.disable_progress_bar()
    of_transformers.disable_progress_bar()


@component("method")
class SOW:
    """Selective and, composed of other options, Cyclic One-Way Diffusion: the groups hold every choice."""

    cached: ClassVar[bool] = True

    def check(self, config: Config) -> None:
        """Raise UserError, before anything is loaded, for options that do not fit each other or the model."""
        check_fit(config)

    def sampler(self, config: Config, backbone: Backbone) -> Pipeline:
        """The components of `config` on a loaded model."""
        return one_way(config, backbone)


def one_way(config: Config, backbone: Backbone, **more: Any) -> Pipeline:
    """The pipeline of SOW's cycles; `more` are further fields of `OneWayDiffusion`."""
    from sow.method.denoiser import Model
    from sow.method.run import OneWayDiffusion

    need_plain(backbone)
    components = {name: getattr(config, name) for name in ("seed_init", *COMPONENTS)}
    canvas = config.model.canvas_of(backbone, config.width, config.height)
    model = Model.of(backbone, config.num_inference_steps, canvas.latent_size)
    return pipeline(config, OneWayDiffusion(model, canvas, **components, **more))


def pipeline(config: Config, method: Any) -> Pipeline:
    """The pipeline of `config` with a method; nothing is cached."""
    from sow.pipeline.batches import automatic_batch_size
    from sow.pipeline.pipeline import Pipeline

    branches = len(config.guidance.in_cycle().prompts(""))
    size = config.batch_size or automatic_batch_size(method.backbone, method.canvas, branches)
    names = ("planner", "position", "intensify", "paste_back")
    parts = {name: getattr(config, name) for name in names}
    return Pipeline(method, **parts, task=config.task.name, batch_size=size)


def need_plain(backbone: Backbone) -> None:
    """Raise UserError for an inpainting checkpoint, whose UNet takes more than the latents."""
    if backbone.transformer:
        return
    unet = backbone.unet.config
    if unet.in_channels != unet.out_channels:
        raise UserError(
            f"the UNet takes {unet.in_channels} channels for {unet.out_channels} latents: an inpainting "
            "checkpoint serves method=sd_inpaint alone, give a plain one (model, method)"
        )
