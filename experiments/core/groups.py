"""Some groups of the data, and an image of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .recompose import with_words

if TYPE_CHECKING:
    from sow.config.compose import Config
    from sow.data import Group
    from sow.types import Sample


def first_of_each(groups: Sequence[Group], limit: int | None) -> list[Group]:
    """`limit` groups in all, taken from the settings in turn, each setting's in order."""
    settings = list(dict.fromkeys(g.setting for g in groups))
    seen = dict.fromkeys(settings, 0)
    turns: dict[str, tuple[int, int]] = {}
    for group in groups:
        turns[group.id] = (seen[group.setting], settings.index(group.setting))
        seen[group.setting] += 1
    chosen = set(sorted(turns, key=turns.__getitem__)[:limit])
    return [g for s in settings for g in groups if g.setting == s and g.id in chosen]


def evenly(groups: Sequence[Group], count: int) -> list[Group]:
    """At most `count` of `groups`, evenly spread from the first on."""
    count = min(count, len(groups))
    return [groups[i * len(groups) // count] for i in range(count)]


def generate_groups(config: Config, groups: Sequence[Group], words: Sequence[str] = ()) -> list[Sample]:
    """Samples of the groups in their order, each setting by a sampler composed for it with `words`."""
    from sow.pipeline.factory import build

    found: dict[str, Sample] = {}
    for setting in dict.fromkeys(g.setting for g in groups):
        mine = [g.request for g in groups if g.setting == setting]
        sampler = build(with_words(config, [*words, f"task={setting}"]))
        found |= {r.id: s for r, s in zip(mine, sampler.generate(mine), strict=True)}
    return [replace(found[g.request.id], request=g.request) for g in groups]
