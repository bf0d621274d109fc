"""Methods under one signature: `generate(requests) -> samples`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sow.backbone import Backbone
    from sow.config import Config
    from sow.methods.sow import Sampler

COMPONENTS = (
    "planner position intensify seed_init inversion cycle preservation guidance modulation p_plus p_minus decay_time "
    "decay_distance gate"
).split()


@dataclass(frozen=True)
class SOW:
    """Selective and, composed of other options, Cyclic One-Way Diffusion: the groups hold every choice."""

    def sampler(self, config: Config, backbone: Backbone) -> Sampler:
        """The components of `config` on a loaded model."""
        from sow.methods.sow import Sampler

        return Sampler(
            backbone=backbone,
            canvas=config.model.canvas_of(backbone, config.width, config.height),
            **{name: getattr(config, name) for name in COMPONENTS},
            num_inference_steps=config.num_inference_steps,
            task=config.task.name,
            batch_size=config.batch_size,
        )
