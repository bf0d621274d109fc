"""RePaint (Lugmayr et al., CVPR 2022) in the latent space of a text-to-image model.

Notation
    x_0      latents of the picture with the condition pasted; M 1 where it lies
    j, r     jump length and number of resamplings (Sec. 4.2, Appendix "jump length")
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from sow.baselines.sampler import BaselineSampler, Prepared
from sow.method.diffusion import replace
from sow.types import Step, StepContext


def jumps(steps: int, length: int, resamples: int) -> list[int]:
    """The states that RePaint visits, from x_steps down to x_0: a fall denoises one step, a rise diffuses one
    forward.

    From each of the states 1, 1 + j, 1 + 2 j, .. it jumps j states up again, r - 1 times; with j = 1 that is
    the inner loop of Algorithm 1, which never leaves x_0 either.
    """
    left = dict.fromkeys(range(1, steps - length + 1, length), resamples - 1)
    state, visited = steps, [steps]
    while state > 0:
        state -= 1
        visited.append(state)
        if left.get(state, 0) > 0:
            left[state] -= 1
            visited += range(state + 1, state + length + 1)
            state += length
    return visited


@dataclass(frozen=True, eq=False)
class RePaintSampler(BaselineSampler):
    """Algorithm 1: known latents drawn from q(x_{t-1} | x_0), unknown ones denoised, and resampled by
    jumps."""

    @property
    def visited(self) -> list[int]:
        """The states of the whole chain."""
        return jumps(self.schedule.steps, self.options.jump_length, self.options.resamples)

    def denoising_steps(self, sizes: int = 1) -> int:
        return sum(b < a for a, b in pairwise(self.visited))

    def denoise(self, batch: Prepared) -> Iterator[Step]:
        x = self.start(batch)
        yield Step(x, "start", StepContext("sample", None, self.schedule.steps))
        for above, state in pairwise(self.visited):
            if state > above:  # line 10: x_t ~ N(sqrt(1 - beta) x_{t-1}, beta)
                x = self.schedule.inject(x, above, state, self.draw(batch, x))
                yield Step(x, "inject", StepContext("sample", None, state))
                continue
            known = batch.encoded
            if state > 0:  # lines 4 and 5, Eq. 8a
                known = self.schedule.noised(known, state, self.draw(batch, x))
            e, x0 = self.predict(batch, x, state)
            x, x0 = self.ddim(batch, x, e, state, x0)  # lines 6 and 7, Eq. 8b
            x = replace(x, known, batch.known)  # line 8, Eq. 8c
            yield Step(
                x, "denoise", StepContext("sample", None, state, self.schedule.timesteps[state]), {}, x0
            )
