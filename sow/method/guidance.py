"""Guidance: which prompts a UNet call runs and how their noise predictions become one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sow.config.bounds import need_at_least

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """One way to guide: `prompts` for a text prompt (one branch each), the index of its `text_branch`, and `combine`,
    which maps the branches' predictions, each (B, C, h, w), and the condition mask (B, 1, h, w) to one prediction."""

    prompts: Callable[[str], tuple[str, ...]]
    text_branch: int
    combine: Callable[[Sequence[Tensor], Tensor], Tensor]


def classifier_free(scale: float, negative_prompt: str) -> Rule:
    """eps = u + scale (c - u); scale 1 needs no negative branch and runs none."""
    if scale == 1:
        return Rule(lambda prompt: (prompt,), 0, lambda e, mask: e[0])
    return Rule(lambda prompt: (negative_prompt, prompt), 1, lambda e, mask: e[0] + scale * (e[1] - e[0]))


def regional(scale: float, negative_prompt: str, suppress: str, enhance: str) -> Rule:
    """COW's guidance outside the condition: u' = u + (1 - M)(s - d); eps = u' + scale (c - u')."""

    def combine(e: Sequence[Tensor], mask: Tensor) -> Tensor:
        u, c, s, d = e
        u = u + (1 - mask.to(u.dtype)) * (s - d)
        return u + scale * (c - u)

    return Rule(lambda prompt: (negative_prompt, prompt, suppress, enhance), 1, combine)


@dataclass(frozen=True)
class ClassifierFree:
    """Classifier-free guidance, the same in the cycles and in preservation (Sec. V: 7.5 and a negative prompt)."""

    scale: float
    negative_prompt: str
    _target_: str = "sow.method.guidance.ClassifierFree"

    def __post_init__(self) -> None:
        need_at_least(self, "guidance", scale=0)

    def in_cycle(self) -> Rule:
        return classifier_free(self.scale, self.negative_prompt)

    def in_preservation(self) -> Rule:
        return classifier_free(self.scale, self.negative_prompt)


@dataclass(frozen=True)
class Regional:
    """The published COW code's guidance: four branches in the cycles, an empty negative prompt in preservation."""

    scale: float
    negative_prompt: str
    suppress_prompt: str
    enhance_prompt: str
    preserve_negative_prompt: str
    _target_: str = "sow.method.guidance.Regional"

    def __post_init__(self) -> None:
        need_at_least(self, "guidance", scale=0)

    def in_cycle(self) -> Rule:
        return regional(self.scale, self.negative_prompt, self.suppress_prompt, self.enhance_prompt)

    def in_preservation(self) -> Rule:
        return classifier_free(self.scale, self.preserve_negative_prompt)
