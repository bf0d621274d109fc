"""Guidance: which prompts a network call runs and how their noise predictions become one.

Notation
    u, c     noise predictions under the negative prompt and under the prompt
    s, d     the same under the prompts that regional guidance suppresses and enhances outside the condition
    M        (B, 1, h, w) the condition's mask
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Protocol

from sow.types import Bound, component

if TYPE_CHECKING:
    from torch import Tensor


class Rule(Protocol):
    """One way to guide."""

    @property
    def text_branch(self) -> int:
        """Which of the branches runs the prompt itself."""
        ...

    def prompts(self, prompt: str) -> tuple[str, ...]:
        """What the branches run for a text prompt, one per branch."""
        ...

    def combine(self, e: Sequence[Tensor], M: Tensor | None) -> Tensor:
        """One prediction from those of the branches, each (B, C, h, w); no `M` means no condition
        anywhere."""
        ...


@component("guidance")
class ClassifierFree:
    """eps = u + scale (c - u), the same in the cycles and in preservation (Sec. V: 7.5 and a negative
    prompt).

    Scale 1 needs no negative branch and runs none.
    """

    scale: Annotated[float, Bound(ge=0)]
    negative_prompt: str

    @property
    def text_branch(self) -> int:
        return 0 if self.scale == 1 else 1

    def prompts(self, prompt: str) -> tuple[str, ...]:
        return (prompt,) if self.scale == 1 else (self.negative_prompt, prompt)

    def combine(self, e: Sequence[Tensor], M: Tensor | None) -> Tensor:
        return e[0] if self.scale == 1 else e[0] + self.scale * (e[1] - e[0])

    def in_cycle(self) -> Rule:
        return self

    def in_preservation(self) -> Rule:
        return self


@component("guidance")
class Regional:
    """The published COW code's guidance: four branches in the cycles, an empty negative prompt in
    preservation.

    In the cycles u' = u + (1 - M) (s - d) and eps = u' + scale (c - u').
    """

    scale: Annotated[float, Bound(ge=0)]
    negative_prompt: str
    suppress_prompt: str
    enhance_prompt: str
    preserve_negative_prompt: str

    @property
    def text_branch(self) -> int:
        return 1

    def prompts(self, prompt: str) -> tuple[str, ...]:
        return self.negative_prompt, prompt, self.suppress_prompt, self.enhance_prompt

    def combine(self, e: Sequence[Tensor], M: Tensor | None) -> Tensor:
        u, c, s, d = e
        u = u + (s - d if M is None else (1 - M.to(u.dtype)) * (s - d))
        return u + self.scale * (c - u)

    def in_cycle(self) -> Rule:
        return self

    def in_preservation(self) -> Rule:
        return ClassifierFree(self.scale, self.preserve_negative_prompt)
