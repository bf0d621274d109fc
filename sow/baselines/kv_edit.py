"""KV-Edit (Zhu et al., 2025, arXiv 2502.17363): what is kept stays as keys and values of the inversion.

Its authors keep a background and draw a subject; here the conditions are kept and all else is drawn.

Notation
    t, s         levels of step k, t = sigma_{k+1} and s = sigma_k; 0 clean .. 1 noise
    x0, x_k      latents of the canvas with the conditions pasted, and the states of its inversion
    z            latents on their way; N standard normal latents
    M            1 where the conditions lie, in latents and in the tokens of a layer
    K*, V*       keys and values of the tokens in M that step k of the inversion left
    V(z)         the velocity, noise - clean, at the level of z

Inversion, the steps from the clean end but the `skip` noisiest ones:
    x_{k+1} = x_k + (t - s) V(x_k, source), keeping K*, V* of each layer.
Back, from z = x_K, or re-initialised z = t N + (1 - t) x_K:
    z <- z + (s - t) V(z, target), where a token outside M attends by
    softmax(q [K; K*]^T / sqrt(d)) [V; V*], K and V those of the tokens outside M (and of the text),
and in M z stands at x_k, in the end at x0.

In a transformer nothing else reads the tokens in M, so that the result is that of leaving them out, as the
authors do. A UNet's convolutions read them too. The equations follow the paper and its authors' published
code, where K*, V* of a step are those of the inversion's call at s; the paper's own numbering could not be
looked up. Their attention mask of the inversion, an option for removing things, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from sow.baselines.config import Count, Share
from sow.baselines.rectified import FlowBaseline, FlowSampler
from sow.baselines.sampler import Prepared
from sow.baselines.tokens import Attend, Place, image_attention, softmax
from sow.errors import UserError
from sow.method.diffusion import replace
from sow.types import Step, StepContext, component


@component("method")
class KVEdit(FlowBaseline):
    """`skip` noisiest steps are left out; `reinitialize` starts what is drawn from noise and not from the
    inverted canvas; `until` share of the steps in which the condition is kept, 1 = the authors', 0 with
    `reinitialize` and no `skip` = plain sampling."""

    skip: Count
    reinitialize: bool
    until: Share
    engine: ClassVar[str] = f"{__name__}.KVEditSampler"


@dataclass
class Kept:
    """Keys and values of the conditions' tokens by step and layer, a pair of (H, m, d) for each row."""

    place: Place
    store: dict[tuple[int, str], list[tuple[Tensor, Tensor]]] = field(default_factory=dict)

    def keeping(self, k: int) -> Attend:
        """Attention as it is, whose keys and values are kept for step k."""

        def attend(layer: str, q: Tensor, key: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
            n = self.place.tokens(key.shape[2])
            M = self.place.mask(n)
            images = [self.place.image(x, n) for x in (key, v)]
            rows = range(len(key))
            self.store[k, layer] = [tuple(x[r, :, M[r % len(M)]] for x in images) for r in rows]  # type: ignore[misc]
            return softmax(q, key, v, options)

        return attend

    def reading(self, k: int) -> Attend:
        """Attention with what step k kept in the place of the conditions' own keys and values."""

        def attend(layer: str, q: Tensor, key: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
            n = self.place.tokens(key.shape[2])
            M, kept = self.place.mask(n), self.store[k, layer]
            key, v = key.clone(), v.clone()
            for r in range(len(key)):
                own = r if len(kept) == len(key) else len(kept) - len(M) + r % len(M)  # the prompt's branch
                for x, values in zip((key, v), kept[own], strict=True):
                    self.place.image(x, n)[r][:, M[r % len(M)]] = values
            return softmax(q, key, v, options)

        return attend


@dataclass(frozen=True, eq=False)
class KVEditSampler(FlowSampler):
    """KV-Edit of the canvas with the conditions pasted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.options.skip >= self.schedule.steps:
            raise UserError(
                f"skip={self.options.skip} leaves none of {self.schedule.steps} steps: lower it, or raise "
                "num_inference_steps (method.skip, method.num_inference_steps)"
            )

    @property
    def first_state(self) -> int:
        return self.schedule.steps - self.options.skip

    def denoising_steps(self, sizes: int = 1) -> int:
        return 2 * self.first_state  # the inversion's too

    def denoise(self, batch: Prepared) -> Iterator[Step]:
        source, target = self.denoisers(batch)
        network, M = self.backbone.unet, batch.known
        kept = Kept(Place(M.cpu(), network))
        states = [batch.encoded]
        for k in range(self.first_state):
            with image_attention(network, kept.keeping(k)):
                step = self.inverted(source, states[-1], k)
            states.append(step.latents)
            yield step
        z = self.beginning(batch, states[-1])
        yield Step(z, "start", StepContext("sample", None, self.first_state))
        for k in range(self.first_state - 1, -1, -1):
            t, s = self.levels(k)
            keeps = self.first_state - 1 - k < round(self.options.until * self.first_state)
            z = replace(z, states[k + 1], M) if keeps else z
            with image_attention(network, kept.reading(k)) if keeps else nullcontext():
                v = target.output(z, k)
            z, clean = z + (s - t) * v, z - t * v
            z = replace(z, states[k], M) if keeps else z
            yield self.sampled(z, k, clean)

    def beginning(self, batch: Prepared, inverted: Tensor) -> Tensor:
        """z of the first step, (B, C, h, w)."""
        if not self.options.reinitialize:
            return inverted
        t = self.process.sigmas[self.first_state]
        return t * self.draw(batch, inverted) + (1 - t) * inverted
