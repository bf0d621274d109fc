"""Visual condition preservation: the last stage of Algorithm 1, where t3 and eta trade fidelity to the two
conditions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Literal

from sow.errors import UserError
from sow.method.cycle import Cycle, Unit, scale_of
from sow.types import Bound, component

log = logging.getLogger(__name__)


@component("preservation")
class Preservation:
    """Algorithm 1, lines 20-26, and the task settings of Sec. V.

    `t3`             states x_{t3} that are replaced before their denoising, in the cycle's unit; empty =
                     none; None = `calibrated_t3`, in `calibrated_unit`, moved with t1 when t1 is not
                     `calibrated_t1` (A7)
    `eta`            stochasticity of the sampler here, 0 .. 1
    `prompt`         "user" = c (Algorithm 1, line 23), "intensified" = c' (A8)
    """

    t3: list[float] | None
    calibrated_t3: list[float]
    calibrated_t1: float
    eta: Annotated[float, Bound(ge=0, le=1)]
    prompt: Literal["user", "intensified"]
    calibrated_unit: Unit = "steps"

    def positions(self, cycle: Cycle) -> list[float]:
        """The t3 in the cycle's unit; raises UserError for calibrated ones that are in another."""
        if self.t3 is not None:
            return self.t3
        if cycle.unit != self.calibrated_unit:
            raise UserError(
                f"t1 and t2 are given as {cycle.unit}, the calibrated t3 as {self.calibrated_unit}: give "
                "preservation.t3=[...] (preservation.t3, cycle.unit)"
            )
        scale = list(self.calibrated_t3)
        if cycle.t1 == self.calibrated_t1:
            return scale
        moved = sorted({self.moved(t, cycle) for t in scale}, reverse=True)
        if moved != scale:
            log.info("t3 %s moved to %s with t1=%g", scale, moved, cycle.t1)
        return moved

    def moved(self, t: float, cycle: Cycle) -> float:
        """A calibrated t3 as far from clean, beside t1, as it was: in proportion, whole steps from 1 on, or
        at the same distance in log SNR (A7)."""
        if cycle.unit == "log_snr":
            return t + cycle.t1 - self.calibrated_t1
        scaled = t * cycle.t1 / self.calibrated_t1
        return float(max(1, int(scaled))) if cycle.unit == "steps" else scaled

    def resolve(
        self, cycle: Cycle, num_inference_steps: int, sigmas: Sequence[float] = ()
    ) -> tuple[int, ...]:
        """The t3 as steps of K, latest state first; raises UserError for an explicit t3 that does not lie
        in 1 .. t1 - 1.

        Calibrated ones that K is too small to tell from t1 are left out: the cycles have replaced x_{t1}
        already.
        """
        scale = self.positions(cycle)
        for t in scale:
            if cycle.unit == "log_snr":
                if t <= cycle.t1:
                    raise UserError(
                        f"need t3 > t1 as log SNR, got t3={t:g}, t1={cycle.t1:g} (preservation.t3, cycle.t1)"
                    )
            elif t <= 0:
                raise UserError(f"need t3 > 0, got {t:g} (preservation.t3)")
            elif t >= cycle.t1:
                raise UserError(
                    f"need 0 < t3 < t1, got t3={t:g}, t1={cycle.t1:g}: lower t3 or raise t1 "
                    "(preservation.t3, cycle.t1)"
                )
        t1 = cycle.state(cycle.t1, num_inference_steps, sigmas)
        steps = sorted({cycle.state(t, num_inference_steps, sigmas) for t in scale}, reverse=True)
        if self.t3 is not None and len(steps) < len(scale):
            raise UserError(
                f"t3={scale} {scale_of(cycle)} fall on {len(steps)} steps of "
                f"num_inference_steps={num_inference_steps}: give each once (preservation.t3)"
            )
        if self.t3 is None:
            steps = [step for step in steps if step < t1]
        elif steps and steps[0] >= t1:
            raise UserError(
                f"t3={max(scale):g} and t1={cycle.t1:g} {scale_of(cycle)} fall on the same step {t1} of "
                f"num_inference_steps={num_inference_steps}: lower t3 or take more steps (preservation.t3, "
                "num_inference_steps)"
            )
        if steps and steps[-1] < 1:
            raise UserError(
                f"num_inference_steps={num_inference_steps} is too small: t3={scale} {scale_of(cycle)} falls "
                f"on step {steps[-1]}; take more steps (num_inference_steps, preservation.t3)"
            )
        return tuple(steps)
