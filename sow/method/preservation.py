"""Visual condition preservation: the last stage of Algorithm 1, where t3 and eta trade fidelity to the two
conditions."""

from __future__ import annotations

import logging
from typing import Annotated, Literal

from sow.errors import UserError
from sow.method.cycle import Cycle, on_grid
from sow.types import Bound, component

log = logging.getLogger(__name__)


@component("preservation")
class Preservation:
    """Algorithm 1, lines 20-26, and the task settings of Sec. V.

    `t3`             states x_{t3} that are replaced before their denoising, on the K = 10 scale; empty =
                     none; None = `calibrated_t3`, moved with t1 when t1 is not `calibrated_t1` (A7)
    `eta`            stochasticity of the sampler here, 0 .. 1
    `prompt`         "user" = c (Algorithm 1, line 23), "intensified" = c' (A8)
    """

    t3: Annotated[list[float] | None, Bound(gt=0)]
    calibrated_t3: Annotated[list[float], Bound(gt=0)]
    calibrated_t1: float
    eta: Annotated[float, Bound(ge=0, le=1)]
    prompt: Literal["user", "intensified"]

    def resolve(self, cycle: Cycle, num_inference_steps: int) -> tuple[int, ...]:
        """The t3 as steps of K, latest state first; raises UserError for an explicit t3 that does not lie
        in 1 .. t1 - 1.

        Calibrated ones that K is too small to tell from t1 are left out: the cycles have replaced x_{t1}
        already.
        """
        scale = self.t3
        if scale is None:
            scale = list(self.calibrated_t3)
            if cycle.t1 != self.calibrated_t1:
                moved = sorted({max(1, int(t * cycle.t1 / self.calibrated_t1)) for t in scale}, reverse=True)
                log.info("t3 %s moved to %s with t1=%g", scale, moved, cycle.t1)
                scale = [float(t) for t in moved]
        for t in scale:
            if t >= cycle.t1:
                raise UserError(
                    f"need 0 < t3 < t1, got t3={t:g}, t1={cycle.t1:g}: lower t3 or raise t1 "
                    "(preservation.t3, cycle.t1)"
                )
        t1 = on_grid(cycle.t1, num_inference_steps)
        steps = sorted({on_grid(t, num_inference_steps) for t in scale}, reverse=True)
        if self.t3 is None:
            steps = [step for step in steps if step < t1]
        elif steps and steps[0] >= t1:
            raise UserError(
                f"t3={max(scale):g} and t1={cycle.t1:g} of 10 fall on the same step {t1} of "
                f"num_inference_steps={num_inference_steps}: lower t3 or take more steps (preservation.t3, "
                "num_inference_steps)"
            )
        if steps and steps[-1] < 1:
            raise UserError(
                f"num_inference_steps={num_inference_steps} is too small: t3={scale} of 10 falls on step "
                f"{steps[-1]}; take more steps (num_inference_steps, preservation.t3)"
            )
        return tuple(steps)
