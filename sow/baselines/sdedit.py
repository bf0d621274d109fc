"""SDEdit (Meng et al., ICLR 2022, arXiv 2108.01073) in the latent space of a text-to-image model.

The picture with the condition pasted is noised to an intermediate level and denoised from there
(Algorithm 1): no pixel is kept, only what the noise has left of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from sow.baselines.config import Baseline
from sow.baselines.sampler import BaselineSampler, Prepared
from sow.types import Bound, component


@component("method")
class SDEdit(Baseline):
    """`strength` is t_0, the share of the chain that is gone through: 1 leaves nothing of the picture."""

    strength: Annotated[float, Bound(gt=0, le=1)]
    engine: ClassVar[str] = f"{__name__}.SDEditSampler"


@dataclass(frozen=True, eq=False)
class SDEditSampler(BaselineSampler):
    """The chain starts at x_{t_0} of the pasted picture."""

    @property
    def first_state(self) -> int:
        return max(1, int(self.options.strength * self.schedule.steps))  # as diffusers counts

    def start(self, batch: Prepared) -> Tensor:
        x = batch.encoded
        return self.schedule.noised(x, self.first_state, self.draw(batch, x))
