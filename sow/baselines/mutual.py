"""MasaCtrl (Cao et al., ICCV 2023, arXiv 2304.08465) and MCA-Ctrl (Yang et al., CVPR 2025, arXiv 2505.01428):
a target image whose self-attention reads keys and values of a source image that is denoised beside it.

The source is the canvas with the conditions pasted, inverted by DDIM under the empty prompt.

Notation
    s, x         latents of source and target; s*_k the inversion's states
    Q, K, V      queries, keys and values of a self-attention layer; index s of the source, none of the target
    M            1 where the condition lies; source and target have it at the same place
    At(q,k,v;M)  softmax(q k^T / sqrt(d)) v over the keys inside M alone

MasaCtrl (its mutual self-attention): from step S and layer L on, the target's attention is At(Q, K_s, V_s),
the source's own stays. With `mask` (its mask-guided one) it is
    M At(Q, K_s, V_s; M) + (1 - M) At(Q, K_s, V_s; 1 - M).
The target starts where the source does, at s*_K, and the source is denoised under the empty prompt.

MCA-Ctrl, its subject generation from a text: the target starts from noise, the source stands at s*_k of each
step, under the target's own prompt. In its steps of self-attention global injection (SAGI), in all layers,
    M At(Q_s, K_s, V_s; M) + (1 - M) At(Q, K, V; 1 - M);
in the others self-attention local query (SALQ), from step S and layer L on,
    M At(Q, K_s, V_s; M) + (1 - M) At(Q, K, V; 1 - M).
The authors find M from cross-attention and a segmenter; here the plan says where the condition lies.

The equations follow the authors' code as well as the papers, whose own numbering could not be looked up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sow.attention.regions import layer_sizes, nearest
from sow.baselines.processor import attended
from sow.baselines.sampler import BaselineSampler, Prepared
from sow.method.denoiser import Denoiser
from sow.method.guidance import ClassifierFree
from sow.types import Step, StepContext

Mode = Literal["own", "mutual", "masked", "inject", "query"]
PLACES = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}  # order in which the latents pass a UNet


def within(q: Tensor, k: Tensor, v: Tensor, keys: Tensor) -> Tensor:
    """At(q, k, v; keys): attention of `q` (B, H, N, d) over those of `k`, `v` (B, H, L, d) that `keys` (B, L)
    bool allows.

    Over all of them where it allows none: a coarse layer may have no token of a small condition.
    """
    allowed = keys | ~keys.any(-1, keepdim=True)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed[:, None, None])


def combined(mode: Mode, source: Sequence[Tensor], target: Sequence[Tensor], M: Tensor) -> Tensor:
    """The target's self-attention (B, H, N, d) from (q, k, v) of source and target and `M` (B, N) bool, by
    the equations above: "own" is stock attention, "mutual" and "masked" MasaCtrl's, "inject" SAGI, "query"
    SALQ."""
    (q_s, k_s, v_s), (q, k, v) = source, target
    if mode == "own":
        return F.scaled_dot_product_attention(q, k, v)
    if mode == "mutual":
        return F.scaled_dot_product_attention(q, k_s, v_s)
    if mode == "masked":
        inside, outside = within(q, k_s, v_s, M), within(q, k_s, v_s, ~M)
    else:
        inside = within(q_s if mode == "inject" else q, k_s, v_s, M)
        outside = within(q, k, v, ~M)
    return torch.where(M[:, None, :, None], inside, outside)


def self_attention_layers(unet: Any) -> list[str]:
    """Names of a UNet's self-attention processors in the order in which the latents pass them."""
    names = [name for name in unet.attn_processors if name.endswith("attn1.processor")]
    return sorted(names, key=lambda name: PLACES[name.partition(".")[0]])


@dataclass
class Exchange:
    """The self-attention of one step's layers: rows are branches x (source B, target B); `M` (B, 1, h, w)."""

    mode: Mode
    M: Tensor
    masks: dict[int, Tensor] = field(default_factory=dict)

    def mask(self, tokens: int) -> Tensor:
        """M of a layer with so many tokens, (B, tokens) bool."""
        if tokens not in self.masks:
            size = layer_sizes(*self.M.shape[-2:])[tokens]
            self.masks[tokens] = nearest(self.M[:, 0], *size).flatten(1)
        return self.masks[tokens]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, cross: bool) -> Tensor:
        rows = len(self.M)
        split = [x.unflatten(0, (-1, 2, rows)) for x in (q, k, v)]
        out = []
        for branch in range(split[0].shape[0]):
            source, target = ([x[branch, i] for x in split] for i in (0, 1))
            M = self.mask(q.shape[2])
            out += [F.scaled_dot_product_attention(*source), combined(self.mode, source, target, M)]
        return torch.cat(out)


@dataclass(frozen=True, eq=False)
class Streams(Denoiser):
    """A denoiser of source and target together, latents (source B, target B): `sources` are the prompts of
    each source's branches."""

    sources: tuple[tuple[str, ...], ...] = ()

    @cached_property
    def embeds(self) -> Tensor:
        targets = zip(*(self.rule.prompts(p) for p in self.prompts), strict=True)
        sources = zip(*self.sources, strict=True)
        return torch.cat([self.backbone.embed([*s, *t]) for s, t in zip(sources, targets, strict=True)])


@dataclass(frozen=True, eq=False)
class MutualSampler(BaselineSampler):
    """What both share: the source's inversion, then DDIM steps of source and target in one network call."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.noise_schedule.need_signal(f"method={type(self.options).__name__.lower()}")

    def denoising_steps(self, sizes: int = 1) -> int:
        return 2 * self.schedule.steps  # the inversion's too

    def modes(self, k: int) -> tuple[Mode, Mode]:
        """How the target attends in step k: below the first layer of the exchange, and from it on."""
        raise NotImplementedError

    def source_prompts(self, prompt: str, branches: Sequence[str]) -> tuple[str, ...]:
        """The prompts of the source's branches, where the target's are `branches`."""
        raise NotImplementedError

    def done(self, k: int) -> int:
        """How many steps come before step k."""
        return self.schedule.steps - 1 - k

    def first(self, share: float, of: int) -> int:
        """The first of `of` steps or layers that a share of them leaves out."""
        return round(share * of)

    def denoise(self, batch: Prepared) -> Iterator[Step]:
        states = [batch.encoded]
        inverter = self.model.denoiser(ClassifierFree(1.0, ""), [""] * len(batch.requests))
        for k in range(self.schedule.steps):
            states.append(inverter.invert(states[-1], k))
            context = StepContext("invert_canvas", None, k, self.schedule.timesteps[k])
            yield Step(states[-1], "denoise", context)
        s, x = states[-1], self.target_start(batch, states[-1])
        yield Step(x, "start", StepContext("sample", None, self.schedule.steps))
        own = batch.denoiser
        sources = tuple(self.source_prompts(p, own.rule.prompts(p)) for p in own.prompts)
        streams = Streams(own.backbone, own.schedule, own.rule, own.prompts, sources=sources)
        for k in range(self.schedule.steps - 1, -1, -1):
            with attended(self.backbone.unet, self.exchanges(batch, k)):
                e, x0 = streams.predict(torch.cat([s, x]), k)
            e_s, e_x = e.chunk(2)
            clean_s, clean_x = (None, None) if x0 is None else x0.chunk(2)
            s = self.source_after(states, self.schedule.step(s, e_s, k, 0.0, None, clean_s)[0], k)
            x, clean = self.ddim(batch, x, e_x, k, clean_x)
            yield Step(x, "denoise", StepContext("sample", None, k, self.schedule.timesteps[k]), {}, clean)

    def exchanges(self, batch: Prepared, k: int) -> dict[str, Exchange]:
        """The layers whose self-attention is exchanged in step k."""
        names = self_attention_layers(self.backbone.unet)
        begin, (below, above) = self.first(self.options.first_layer, len(names)), self.modes(k)
        by_mode = {mode: Exchange(mode, batch.known) for mode in {below, above} - {"own"}}
        chosen = {name: below if i < begin else above for i, name in enumerate(names)}
        return {name: by_mode[mode] for name, mode in chosen.items() if mode != "own"}

    def target_start(self, batch: Prepared, inverted: Tensor) -> Tensor:
        """x_K of the target."""
        raise NotImplementedError

    def source_after(self, states: Sequence[Tensor], stepped: Tensor, k: int) -> Tensor:
        """s_k, from the source's own step or the inversion's state."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class MasaCtrlSampler(MutualSampler):
    """MasaCtrl on a real image: the canvas with the conditions pasted."""

    def modes(self, k: int) -> tuple[Mode, Mode]:
        if self.done(k) < self.first(self.options.first_step, self.schedule.steps):
            return "own", "own"
        return "own", "masked" if self.options.mask else "mutual"

    def source_prompts(self, prompt: str, branches: Sequence[str]) -> tuple[str, ...]:
        return ("",) * len(branches)

    def target_start(self, batch: Prepared, inverted: Tensor) -> Tensor:
        return inverted

    def source_after(self, states: Sequence[Tensor], stepped: Tensor, k: int) -> Tensor:
        return stepped


@dataclass(frozen=True, eq=False)
class MCACtrlSampler(MutualSampler):
    """MCA-Ctrl's subject generation."""

    def modes(self, k: int) -> tuple[Mode, Mode]:
        steps, done = self.schedule.steps, self.done(k)
        if 0 < done < self.first(self.options.inject_until, steps):  # the first step is left out
            return "inject", "inject"
        return "own", "query" if done >= self.first(self.options.first_step, steps) else "own"

    def source_prompts(self, prompt: str, branches: Sequence[str]) -> tuple[str, ...]:
        return tuple(branches)

    def target_start(self, batch: Prepared, inverted: Tensor) -> Tensor:
        return self.start(batch)

    def source_after(self, states: Sequence[Tensor], stepped: Tensor, k: int) -> Tensor:
        return states[k]
