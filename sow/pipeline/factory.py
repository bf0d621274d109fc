"""Methods under one signature: `generate(requests) -> samples`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sow.errors import UserError

if TYPE_CHECKING:
    from sow.config.compose import Config
    from sow.models.backbone import Backbone
    from sow.pipeline.pipeline import Sampler

COMPONENTS = (
    "planner position intensify seed_init inversion cycle preservation guidance modulation p_plus p_minus decay_time "
    "decay_distance gate"
).split()


@dataclass(frozen=True)
class SOW:
    """Selective and, composed of other options, Cyclic One-Way Diffusion: the groups hold every choice."""

    def sampler(self, config: Config, backbone: Backbone) -> Sampler:
        """The components of `config` on a loaded model."""
        from sow.pipeline.pipeline import Sampler

        need_plain(backbone)
        return Sampler(**arguments(config, backbone))


def arguments(config: Config, backbone: Backbone, steps: int | None = None) -> dict[str, Any]:
    """What every sampler takes from a configuration; `steps` in place of the configuration's, if any."""
    from sow.pipeline.batches import automatic_batch_size

    canvas = config.model.canvas_of(backbone, config.width, config.height)
    return {
        "backbone": backbone,
        "canvas": canvas,
        **{name: getattr(config, name) for name in COMPONENTS},
        "num_inference_steps": steps or config.num_inference_steps,
        "task": config.task.name,
        "batch_size": config.batch_size
        or automatic_batch_size(backbone, canvas, len(config.guidance.in_cycle().prompts(""))),
    }


def need_plain(backbone: Backbone) -> None:
    """Raise UserError for an inpainting checkpoint, whose UNet takes more than the latents."""
    unet = backbone.unet.config
    if unet.in_channels != unet.out_channels:
        raise UserError(
            f"the UNet takes {unet.in_channels} channels for {unet.out_channels} latents: an inpainting checkpoint serves "
            "method=sd_inpaint alone, give a plain one (model, method)"
        )
