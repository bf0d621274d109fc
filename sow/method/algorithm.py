"""Algorithm 1, steps 2 and 3: cyclic one-way diffusion, then visual condition preservation.

Notation
    x        latents of the canvas (B, C, h, w); x_k is state k, step k maps x_{k+1} -> x_k
    v[k]     the conditions' inverted latents at state k, laid on the canvas; M (B, 1, h, w) their mask
    t1, t2   ends of the cycle, t3 the states replaced in preservation, N the number of cycles; all steps of K
    p_a      denoising with guided attention (Eq. 8, gated by R_c); p_s stochastic denoising
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from sow.method import diffusion
from sow.types import Step, StepContext

Denoise = Callable[[Tensor, StepContext], tuple[Tensor, Tensor, Mapping[str, Any]]]


def selective_one_way_diffusion(
    x: Tensor,
    v: Mapping[int, Tensor],
    M: Tensor,
    *,
    t1: int,
    t2: int,
    t3: tuple[int, ...],
    N: int,
    inject_first: bool,
    literal: bool,
    timesteps: tuple[float, ...],
    p_a: Denoise,
    p_s: Denoise,
    inject: Callable[[Tensor], Tensor],
    replace: Callable[[Tensor, Tensor, Tensor], Tensor] = diffusion.replace,
) -> Iterator[Step]:
    """Yields every event of the two stages; the last step's latents are x_0.

    `x` is x_{t2}, or with `inject_first` the state a cycle ends at (A6). `literal` runs the pseudo-code's
    extra step per cycle (A3). `p_a` and `p_s` return x_k, the predicted x_0 and the gates' readings of step
    k at `context.index`;
    `replace(x, v, M)` lays v on x.
    """
    end = t1 - 1 if literal else t1
    yield Step(x, "start", StepContext("cycle", 0, end if inject_first else t2))
    for cycle in range(N):  # line 7
        if cycle > 0 or inject_first:
            x = inject(x)  # line 17
            yield Step(x, "inject", StepContext("cycle", cycle, t2))
        for k in range(t2 - 1, end - 1, -1):  # line 8
            x = replace(x, v[k + 1], M)  # line 9
            yield Step(x, "replace", StepContext("cycle", cycle, k + 1))
            context = StepContext("cycle", cycle, k, timesteps[k])
            x, x0, gates = p_a(x, context)  # lines 10-15
            yield Step(x, "denoise", context, gates, x0)
        if not literal:
            x = replace(x, v[t1], M)  # line 9 at t1
            yield Step(x, "replace", StepContext("cycle", cycle, t1))
    yield Step(x, "start", StepContext("preserve", None, end))
    for k in range(end - 1, -1, -1):  # line 20
        if k + 1 in t3:  # line 21
            x = replace(x, v[k + 1], M)  # line 22
            yield Step(x, "replace", StepContext("preserve", None, k + 1))
        context = StepContext("preserve", None, k, timesteps[k])
        x, x0, gates = p_s(x, context)  # lines 23, 25
        yield Step(x, "denoise", context, gates, x0)
