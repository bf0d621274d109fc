"""One-wayness of whole methods on any denoiser: the paper's loops without text, guidance and modulation.

Notation (beside that of `measures.levels`)
    alphas    alpha of x_0 .. x_K, falling
    v_k       the canvas noised to state k, with one noise for all k: what Replace puts inside the region
    w         `measures.sensitivity.one_wayness` of dx_0 / dcanvas, or of the energies of finite changes

What is perturbed is the clean canvas, which every replacement repeats. Methods differ in the states that are
replaced and in how often they go from t2 to t1; of SOW this is its preservation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sow.dynamics import perturb
from sow.dynamics.measures import sensitivity
from sow.dynamics.measures.levels import level_of
from sow.method.diffusion import ddim_step, inject_noise, replace

Ask = Callable[[Tensor, float], Tensor]  # (state, log SNR) -> x_0
Noise = Callable[[int], Tensor]  # number of a draw -> standard normal like the canvas


@dataclass(frozen=True)
class Loop:
    """States that are `replaced` after the cycles, and the number of `cycles` from t2 to t1; 0 = none."""

    replaced: frozenset[int]
    cycles: int


def loops(t1: int, t2: int, cycles: int, t3: Collection[int]) -> Mapping[str, Loop]:
    """The methods that are compared, by name."""
    whole = frozenset(range(t2 + 1))
    return {
        "sampling": Loop(frozenset(), 0),
        "COW": Loop(frozenset(), cycles),
        "SOW": Loop(frozenset(t3), cycles),
        "inpainting": Loop(whole, 0),
        "RePaint": Loop(whole, cycles),
    }


@dataclass(frozen=True, eq=False)
class Method:
    """`loop` between the states t1 and t2 on the denoiser `ask`, `region` (h, w) being the condition's."""

    loop: Loop
    ask: Ask
    alphas: Sequence[Tensor]
    t1: int
    t2: int
    region: Tensor
    noise: Noise

    def __call__(self, canvas: Tensor) -> Tensor:
        """Canvas (B, C, h, w) -> x_0: noised to x_t2, cycled, denoised; gradients pass."""
        n, inside = self.noise(0), self.region

        def at(k: int) -> Tensor:
            return self.alphas[k] ** 0.5 * canvas + (1 - self.alphas[k]) ** 0.5 * n if k else canvas

        x, start = at(self.t2), self.t2
        for cycle in range(self.loop.cycles):
            x = replace(x, at(self.t2), inside)
            for k in range(self.t2, self.t1, -1):
                x = replace(self.down(x, k), at(k - 1), inside)
            if cycle < self.loop.cycles - 1:
                x = inject_noise(x, self.alphas[self.t1], self.alphas[self.t2], self.noise(1 + cycle))
            else:
                start = self.t1
        for k in range(start, 0, -1):
            x = replace(x, at(k), inside) if k in self.loop.replaced else x
            x = self.down(x, k)
        return replace(x, canvas, inside) if 0 in self.loop.replaced else x

    def down(self, x: Tensor, k: int) -> Tensor:
        """x_k -> x_{k-1}, deterministic."""
        alpha = self.alphas[k]
        x0 = self.ask(x, float(level_of(float(alpha))))
        e = (x - alpha**0.5 * x0) / (1 - alpha) ** 0.5
        return ddim_step(x, e, alpha, self.alphas[k - 1], 0.0, None, x0)[0]


def by_jacobian(method: Method, canvas: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    """Energies (region -> rest, rest -> region) per image, (B,) each, by vector-Jacobian products of random
    `probes` (P, B, C, h, w)."""
    return sensitivity.between(lambda x, *_: method(x), canvas, 0.0, None, method.region, probes)


@torch.no_grad()
def by_perturbation(
    method: Method, canvas: Tensor, strength: float, seeds: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """The same energies by finite changes of the region, and of the rest, of standard deviation `strength`;
    means over draws, one seed per image in each of `seeds`."""
    plain, inside = method(canvas), method.region.to(canvas)
    out = []
    for where, elsewhere in ((method.region, 1 - inside), (~method.region, inside)):
        energies = []
        for draw in seeds:
            deltas = [perturb.region_noise(where.cpu(), canvas.shape[1], strength, seed) for seed in draw]
            change = method(canvas + torch.cat(deltas).to(canvas)) - plain
            energies.append(((change * elsewhere) ** 2).sum((1, 2, 3)) / strength**2)
        out.append(torch.stack(energies).mean(0))
    return out[0], out[1]
