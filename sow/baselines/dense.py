"""DenseDiffusion's attention modulation (Kim et al., ICCV 2023, arXiv 2308.12964) in SOW's cycles, in place
of Eq. 4-8.

Its section on layout-guided attention modulation, with the value-range adaptive M_pos, M_neg and the
mask-area adaptive S.

Notation
    A        logits q k^T / sqrt(d); A' = A + M
    M        lambda_t (1 - S) (R M_pos - (1 - R) M_neg)
    M_pos    max A - A, M_neg = A - min A, both over the keys of a row: A' stays within the row's own range
    R        1 where a query and a key belong together: image tokens of one segment; an image token and its
             segment's words
    S        share of the canvas that the query's segment covers
    lambda_t w t^p, t in 0 .. 1: the timestep over the length of the clock, which is all of training (the
    authors') or ends
             at the first, noisiest step of a cycle

The authors modulate the first 30 % of their 50 steps, t = 0.98 .. 0.70, lambda_t = 0.91 w .. 0.17 w with p =
5. SOW's cycles run below that (0.60 and 0.50 by default), where the authors' own clock leaves 0.08 w and 0.03
w.

Two segments cover the canvas: the subject (box_v with box_r, and the words that name it) and the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sow.attention.regions import layer_sizes, nearest
from sow.baselines.config import DenseDiffusion
from sow.baselines.processor import attended
from sow.method.components import Components
from sow.method.denoiser import Gates, Held
from sow.method.guidance import Rule
from sow.method.regions import regions_of
from sow.method.seed_init import Batch
from sow.models.backbone import Backbone
from sow.types import StepContext

ARTICLE = re.compile(r"(?:\b(?:a|an|the|one|another)\s+)(?:[\w-]+\s+){0,3}$", re.IGNORECASE)


def modulate(A: Tensor, R: Tensor, S: Tensor, strength: float) -> Tensor:
    """A' = A + M. `A` (b, H, N, L) logits; `R` (b, N, L) bool; `S` (b, N) in [0, 1]; `strength` lambda_t in
    [0, 1]."""
    low, high = A.amin(-1, keepdim=True), A.amax(-1, keepdim=True)
    M = torch.where(R[:, None], high - A, low - A)
    return A + strength * (1 - S)[:, None, :, None].to(A.dtype) * M


def subject_words(prompt: str, subjects: Sequence[str]) -> tuple[int, int] | None:
    """Place of the subject's phrase in the prompt: the first of `subjects` named, with its article and
    adjectives."""
    found = [m for s in subjects if (m := re.search(rf"\b{re.escape(s)}\b", prompt, re.IGNORECASE))]
    if not found:
        return None
    noun = min(found, key=lambda m: m.start())
    before = ARTICLE.search(prompt[: noun.start()])
    return (before.start() if before else noun.start()), noun.end()


def word_tokens(backbone: Backbone, prompt: str, subjects: Sequence[str], length: int) -> Tensor:
    """(2, length) bool: tokens of the subject's phrase, and of the other words; both empty where no subject
    is named."""
    out = torch.zeros(2, length, dtype=torch.bool)
    place = subject_words(prompt, subjects)
    if place is None:
        return out

    def count(text: str) -> int:
        return len(backbone.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    first, last, end = (1 + count(prompt[:n]) for n in (place[0], place[1], len(prompt)))
    out[1, 1 : min(end, length - 1)] = True  # the start and the end of the text belong to no segment
    out[0, first : min(last, length - 1)] = True
    out[1] &= ~out[0]
    return out


class DenseModulator:
    """Modulates self- and cross-attention of the text branch of one batch; `length` is the timestep where t =
    1."""

    def __init__(
        self,
        options: DenseDiffusion,
        subject: Tensor,
        words: Tensor,
        text_branch: int,
        length: int,
        device: torch.device,
    ) -> None:
        self.options = options
        self.rows = slice(text_branch * len(subject), (text_branch + 1) * len(subject))
        self.length = length
        self.words = words.to(device)
        self.subject: dict[int, Tensor] = {}
        for count, (height, width) in layer_sizes(*subject.shape[-2:]).items():
            self.subject[count] = nearest(subject, height, width).flatten(1).to(device)
        self.strength = (0.0, 0.0)

    def at(self, timestep: int) -> DenseModulator:
        """Set lambda_t for the UNet call at `timestep`."""
        t = (timestep / self.length) ** self.options.power
        self.strength = (self.options.w_self * t, self.options.w_cross * t)
        return self

    def attend(self, q: Tensor, k: Tensor, v: Tensor, cross: bool) -> Tensor:
        """Attention of one layer: `q` (branches x B, H, N, d), `k`, `v` (branches x B, H, L, d) -> q's
        shape."""
        out = F.scaled_dot_product_attention(q, k, v)
        subject = self.subject.get(q.shape[2])
        strength = self.strength[cross]
        if subject is None or strength == 0:
            return out
        share = subject.to(torch.float32).mean(1, keepdim=True)
        S = torch.where(subject, share, 1 - share)
        if cross:
            R = torch.where(subject[..., None], self.words[:, :1], self.words[:, 1:])[..., : k.shape[2]]
            named = self.words.flatten(1).any(1)
        else:
            R = subject[:, :, None] == subject[:, None, :]
            named = torch.ones(len(subject), dtype=torch.bool, device=q.device)
        # float32: the ranges of half-precision logits are too coarse to add to.
        wide = torch.promote_types(q.dtype, torch.float32)
        A = (q[self.rows].to(wide) @ k[self.rows].to(wide).transpose(-1, -2)) * q.shape[-1] ** -0.5
        made = modulate(A, R, S, strength).softmax(-1).to(v.dtype) @ v[self.rows]
        out[self.rows] = torch.where(named[:, None, None, None], made, out[self.rows])
        return out


@dataclass(frozen=True, eq=False)
class DenseAttention:
    """The attention of one batch's cycles, in place of SOW's own."""

    modulator: DenseModulator

    def strengths(self, context: StepContext) -> tuple[float, ...]:
        assert context.timestep is not None  # a denoising step calls the network
        return self.modulator.at(int(context.timestep)).strength

    @contextmanager
    def applied(
        self, unet: Any, rule: Rule, strengths: Sequence[float], held: Held
    ) -> Iterator[Callable[[], tuple[Gates, Held]]]:
        self.modulator.strength = (strengths[0], strengths[1])
        with attended(unet, dict.fromkeys(unet.attn_processors, self.modulator)):
            yield lambda: ({}, ())


@dataclass(frozen=True)
class DenseModulation:
    """Makes the attention of a batch from the method's options."""

    options: DenseDiffusion

    def __call__(self, method: Components, batch: Batch) -> DenseAttention:
        regions = regions_of(batch.plans, batch.placed, batch.canvas, "box")
        subject = torch.stack([r.conditions.any(0) | r.related for r in regions])
        backbone = method.backbone
        length = backbone.embed([""]).shape[1]
        words = torch.stack(
            [word_tokens(backbone, p.prompt, self.options.subjects, length) for p in batch.plans]
        )
        branch = method.guidance.in_cycle().text_branch
        return DenseAttention(
            DenseModulator(self.options, subject, words, branch, self.clock_length(method), backbone.device)
        )

    def clock_length(self, method: Components) -> int:
        """The timestep where lambda_t = w."""
        if self.options.clock == "absolute":
            return len(method.noise_schedule.alphas_cumprod)
        return int(method.noise_schedule.timesteps[method.t2 - 1])
