"""Personalize Anything (Feng et al., 2025, arXiv 2503.12590): a subject's tokens take the place of the
image's own while the layout forms, and are read beside them afterwards.

Notation
    t            level of a step, 1 noise .. 0 clean
    r, x         latents of the reference and of the target; r stands at the states of the canvas's inversion
    X_r, X       tokens that enter a layer's attention, and their queries, keys and values
    M            1 where the conditions lie, in the tokens of a layer

Timestep-adaptive token replacement. While t > tau
    X <- (1 - M) X + M P(X_r) before queries, keys and values are made of them, and later
    attention of X to [X; text; X_r in M], each token at its own place.
Patch perturbation P shuffles X_r within windows of `window` x `window` tokens inside M, 1 = not at all.

Reference and target lie at the same place of the canvas here, so that a token's position in the rotary
embedding stays what it was; the authors move it with the token. Queries, keys and values are made of a token
alone, and so replacing those is replacing it. The authors' mask augmentation by 5 pixels, which is less than
a token, is left out. The settings are those of the authors' published demonstration of in- and outpainting,
which neither shuffles nor reads beside; the paper's numbering of equations could not be looked up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sow.baselines.config import FromOne, Share
from sow.baselines.mutual import Streams
from sow.baselines.rectified import FlowBaseline, FlowSampler
from sow.baselines.sampler import Prepared
from sow.baselines.tokens import Attend, Place, image_attention, softmax
from sow.errors import UserError
from sow.types import Step, StepContext, component


@component("method")
class PersonalizeAnything(FlowBaseline):
    """`tau` noise level above which tokens are replaced, 1 = never; `concatenate` whether they are read
    beside the image's own below it; `window` tokens on a side within which they are shuffled, odd."""

    tau: Share
    concatenate: bool
    window: FromOne
    engine: ClassVar[str] = f"{__name__}.PersonalizeAnythingSampler"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window % 2 == 0:
            raise UserError(
                f"a window of {self.window} tokens has no middle: take an odd one (method.window)"
            )


def shuffled(scores: Tensor, mask: Tensor, window: int) -> Tensor:
    """P as places: for each of the tokens (h, w) where the one lies that takes its place, (h w,) int64.

    The grid is cut into windows, and within each the tokens of `mask` (h, w) bool are put in the order of
    their `scores` (h, w).
    """
    height, width = mask.shape
    places = torch.arange(height * width)
    grid, inside = places.view(height, width), mask
    for top in range(0, height, window):
        for left in range(0, width, window):
            cut = slice(top, top + window), slice(left, left + window)
            own = grid[cut][inside[cut]].clone()
            places[own] = own[scores[cut][inside[cut]].argsort()]
    return places


@dataclass(frozen=True, eq=False)
class Injection:
    """One step's attention; rows are branches x (reference B, target B). `scores` (B, 1, h, w) order the
    shuffles, `replaces` whether tokens are replaced, else they are read beside the target's own."""

    place: Place
    scores: Tensor
    window: int
    replaces: bool

    def attend(self, layer: str, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        """Attention of the reference as it is and of the target as the equations have it."""
        n = self.place.tokens(k.shape[2])
        M = self.place.mask(n)
        rows = torch.arange(len(q)).unflatten(0, (-1, 2, len(M)))
        reference, target = (rows[:, i].flatten() for i in (0, 1))
        if self.replaces:
            q, k, v = (self._replaced(x, reference, target, n, M) for x in (q, k, v))
            return softmax(q, k, v, options)
        return self._beside(q, k, v, reference, target, n, M, options)

    def _replaced(self, x: Tensor, reference: Tensor, target: Tensor, n: int, M: Tensor) -> Tensor:
        x = x.clone()
        image = self.place.image(x, n)
        for i, (r, t) in enumerate(zip(reference.tolist(), target.tolist(), strict=True)):
            own, places = M[i % len(M)], self.places(i % len(M), n)
            image[t][:, own] = image[r][:, places[own]]
        return x

    def places(self, i: int, n: int) -> Tensor:
        """P of picture i in a layer of n tokens."""
        size = self.place.size(n)
        scores = F.interpolate(self.scores[i : i + 1], size, mode="nearest")[0, 0]
        return shuffled(scores, self.place.mask(n)[i].view(size), self.window)

    def _beside(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        reference: Tensor,
        target: Tensor,
        n: int,
        M: Tensor,
        options: dict[str, Any],
    ) -> Tensor:
        out = softmax(q, k, v, options)
        known = options.get("attn_mask")
        seen = torch.ones(len(target), 1, 1, k.shape[2], dtype=torch.bool, device=k.device)
        if known is not None:
            seen = known[target] if len(known) == len(q) else known.expand_as(seen)
        more = M.repeat(len(target) // len(M), 1)[:, None, None].to(k.device)
        keys, values = (torch.cat([x[target], self.place.image(x, n)[reference]], 2) for x in (k, v))
        mask = torch.cat([seen, more], -1)
        out[target] = softmax(q[target], keys, values, {**options, "attn_mask": mask})
        return out


@dataclass(frozen=True, eq=False)
class PersonalizeAnythingSampler(FlowSampler):
    """Personalize Anything with the canvas, the conditions pasted on it, for a reference."""

    def denoising_steps(self, sizes: int = 1) -> int:
        return 2 * self.schedule.steps  # the inversion's too

    def denoise(self, batch: Prepared) -> Iterator[Step]:
        source, target = self.denoisers(batch)
        states = [batch.encoded]
        for k in range(self.schedule.steps):
            step = self.inverted(source, states[-1], k)
            states.append(step.latents)
            yield step
        x = self.start(batch)
        yield Step(x, "start", StepContext("sample", None, self.schedule.steps))
        words = tuple((self.options.source_prompt,) * len(target.rule.prompts(p)) for p in target.prompts)
        both = Streams(target.backbone, target.schedule, target.rule, target.prompts, sources=words)
        place = Place(batch.known.cpu(), self.backbone.unet)
        for k in range(self.schedule.steps - 1, -1, -1):
            t, s = self.levels(k)
            if (attend := self.attention(batch, place, t)) is None:
                v = target.output(x, k)
            else:
                with image_attention(self.backbone.unet, attend):
                    v = both.output(torch.cat([states[k + 1], x]), k).chunk(2)[1]
            x, clean = x + (s - t) * v, x - t * v
            yield self.sampled(x, k, clean)

    def attention(self, batch: Prepared, place: Place, t: float) -> Attend | None:
        """What the step from level t reads of the reference; None where it reads nothing."""
        replaces = t > self.options.tau
        if not replaces and not self.options.concatenate:
            return None
        scores = torch.zeros(place.M.shape, dtype=torch.float32)
        if replaces and self.options.window > 1:
            scores = self.draw(batch, batch.encoded)[:, :1].float().cpu()
        return Injection(place, scores, self.options.window, replaces).attend
