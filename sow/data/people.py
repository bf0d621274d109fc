"""`data=people`: the benchmark of the embedded world, 600 groups of a rendered face and a prompt (3 settings
x 200).

Everything follows from integers fixed here, so that a group is the same wherever it is built. Reserved
ranges:

    2_000_000_000 .. 2_000_099_999   seeds of faces and prompts of this benchmark
    20_000_000 .. 20_002_999         its identities; the renderer itself draws only below 20_000_000

The trainings of the embedded world use other seeds and never these identities.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import numpy as np

from sow.data import SETTINGS, Group, Split
from sow.data.conditions import another_face, rendered
from sow.errors import UserError
from sow.store.fingerprint import sha256
from sow.types import Bound, Request, component

if TYPE_CHECKING:
    from sow.people.captions.attributes import Attributes

FIRST_SEED = 2_000_000_000
FIRST_IDENTITY = 20_000_000
PROMPTS = 100  # a setting
FACES = 2  # a prompt
VALIDATION_EVERY = 10  # one prompt in ten, with both its faces, is for validation
_PROMPT_OFFSET = 50_000
_RETRIES = 400  # room for seeds of prompts that repeat an earlier one
# What a prompt may name that a face alone does not show, by probability; scene and person are always named.
_FREE = {"clothing": 0.6, "clothing_color": 0.8, "hat": 0.4, "weather": 1.0}
_EDITS = {
    "expression": 0.42,
    "age": 0.26,
    "glasses": 0.12,
    "hair": 0.2,
}  # what the attribute setting contradicts


@dataclass(frozen=True)
class Entry:
    """What fixes one group: prompt, what it asks for, and the face's seed, identity and attributes."""

    id: str
    setting: str
    split: str
    prompt: str
    wanted: dict[str, str]
    seed: int
    identity: int
    attributes: dict[str, str]


@component("data")
class PeopleBenchmark:
    """600 groups: each prompt with two faces; `size` is the side of a condition in pixels."""

    size: Annotated[int, Bound(ge=16, le=4096)]  # a face needs that many pixels

    def groups(self, split: Split) -> list[Group]:
        """The 60 groups of `validation`, the 540 of `test`, or `all`, in order of id; UserError for another
        split.

        A condition's truth holds its attributes, identity, seed, and what the prompt asks for.
        """
        if split not in ("validation", "test", "all"):
            raise UserError(f"data split {split!r} is unknown: choose validation, test or all")
        return [
            Group(e.id, e.setting, e.split, self._request(number, e))
            for number, e in enumerate(entries())
            if split in ("all", e.split)
        ]

    def _request(self, number: int, entry: Entry) -> Request:
        from sow.people.captions.attributes import Attributes
        from sow.people.drawing.render import face_condition

        image, mask = face_condition(entry.seed, entry.identity, Attributes(**entry.attributes), self.size)
        condition = rendered(
            image,
            mask,
            name=f"person {entry.identity}",
            truth={
                "attributes": entry.attributes,
                "identity": entry.identity,
                "seed": entry.seed,
                "wanted": entry.wanted,
                "another": partial(another_face, entry.seed, entry.identity, entry.attributes, self.size),
            },
        )
        return Request((condition,), entry.prompt, task=entry.setting, seed=number, id=entry.id)


def entries() -> list[Entry]:
    """All 600 entries in order of id; a face contradicts its prompt in the attribute
    setting, and only there."""
    from sow.people.captions.attributes import with_identity

    out = []
    for k, setting in enumerate(SETTINGS):
        for i, (prompt, wanted) in enumerate(_prompts(setting, k)):
            split = "validation" if i % VALIDATION_EVERY == 0 else "test"
            for j in range(FACES):
                number = k * 1000 + i * FACES + j
                seed, identity = FIRST_SEED + number, FIRST_IDENTITY + number
                face = with_identity(_face(seed, setting, wanted), identity)
                out.append(
                    Entry(
                        f"{setting}-{i:03d}-{j}", setting, split, prompt, wanted, seed, identity, asdict(face)
                    )
                )
    return out


def manifest() -> str:
    """All entries as JSON lines: what the benchmark is, apart from the renderer's pixels."""
    return "\n".join(json.dumps(asdict(e), sort_keys=True) for e in entries()) + "\n"


def manifest_hash() -> str:
    """SHA-256 of the manifest."""
    return sha256(manifest())


def _prompts(setting: str, k: int) -> Iterator[tuple[str, dict[str, str]]]:
    """The prompts of a setting, no two alike, each with the attribute values it names."""
    from sow.people.captions.captions import caption, parse

    seen: set[str] = set()
    seeds = iter(
        range(FIRST_SEED + _PROMPT_OFFSET + k * 1000, FIRST_SEED + _PROMPT_OFFSET + k * 1000 + _RETRIES)
    )
    while len(seen) < PROMPTS:
        rng = np.random.default_rng(next(seeds))
        attributes, keep = _asked(rng, setting, len(seen))
        text = caption(attributes, rng, keep=keep)
        wanted = {name: value for name, value in parse(text).items() if name != "presence"}
        # A phrase that the parser reads otherwise would be judged by what was not asked for.
        if text in seen or any(value != getattr(attributes, name) for name, value in wanted.items()):
            continue
        if not (keep - {"presence"} <= wanted.keys() | {"hat", "glasses", "weather", "expression", "style"}):
            continue
        seen.add(text)
        yield text, wanted


def _asked(rng: np.random.Generator, setting: str, number: int) -> tuple[Attributes, set[str]]:
    """The attributes behind a prompt, and the names of those that it mentions."""
    from sow.people.captions.attributes import VOCABULARY, sample_attributes

    a = replace(sample_attributes(rng), presence="person", style="photo")
    keep = {"presence", "scene", "wall_color"} | {n for n, p in _FREE.items() if rng.random() < p}
    if a.hat == "none":
        keep.discard("hat")
    if a.weather == "clear":
        keep.discard("weather")
    if setting == "style":
        styles = VOCABULARY["style"][1:]
        a = replace(a, style=styles[number % len(styles)])
        keep.add("style")
        if a.style == "pencil sketch":
            keep.discard("clothing_color")
    if setting == "attribute":
        edit = str(rng.choice(list(_EDITS), p=list(_EDITS.values())))
        options = {
            "expression": VOCABULARY["expression"][1:],
            "age": ("child", "old"),
            "glasses": ("glasses", "sunglasses"),
            "hair": VOCABULARY["hair"],
        }[edit]
        a = replace(a, **{edit: str(rng.choice(options))})
        keep = (keep - {"hat", "clothing", "clothing_color"}) | {edit}
        if edit == "hair":
            a = replace(a, hat="none")
            keep.add("hair_color")
    return a, {n for n in keep if n in a.shown()}


def _face(seed: int, setting: str, wanted: dict[str, str]) -> Attributes:
    """A face's attributes: a photo without sunglasses or hat;
    in the attribute setting none that the prompt names."""
    from sow.people.captions.attributes import VOCABULARY, sample_attributes

    rng = np.random.default_rng(seed)
    a = replace(sample_attributes(rng), presence="person", style="photo", weather="clear", hat="none")
    if a.glasses == "sunglasses":
        a = replace(a, glasses="none")
    if setting != "attribute":
        return a
    for name in ("expression", "age", "glasses", "hair", "hair_color"):
        if name in wanted and getattr(a, name) == wanted[name]:
            others = [v for v in VOCABULARY[name] if v not in (wanted[name], "sunglasses")]
            a = replace(a, **{name: str(rng.choice(others))})
    return a
