"""Benchmark data: groups of visual conditions and a prompt, in settings and splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from sow.types import Request

Split = Literal["validation", "test", "all"]
SETTINGS = ("normal", "attribute", "style")


@dataclass(frozen=True, eq=False)
class Group:
    """One group of a benchmark: an id that is stable for ever, its setting and split,
    and the request it makes."""

    id: str
    setting: str
    split: str
    request: Request


@runtime_checkable
class Data(Protocol):
    """Where the groups of a benchmark come from."""

    def groups(self, split: Split) -> list[Group]:
        """The groups of a split, in a fixed order; raises UserError for an unknown split or missing files."""
        ...
