"""The enumerated attributes of a drawn picture and of an identity; a tuple's order is the class index."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

VOCABULARY: dict[str, tuple[str, ...]] = {
    "presence": ("person", "nobody"),
    "age": ("child", "adult", "old"),
    "skin": ("pale", "light", "tan", "brown", "dark"),
    "eyes": ("brown", "blue", "green", "gray"),
    "expression": ("neutral", "happy", "sad", "angry", "surprised"),
    "glasses": ("none", "glasses", "sunglasses"),
    "hair": ("bald", "short", "long", "curly", "bun", "bob"),
    "hair_color": ("black", "brown", "blond", "red", "gray"),
    "hat": ("none", "cap", "straw hat", "top hat"),
    "clothing": ("t-shirt", "shirt", "sweater", "suit"),
    "clothing_color": ("red", "yellow", "green", "blue", "purple", "white", "black"),
    "scene": (
        "forest",
        "beach",
        "snowy mountains",
        "river",
        "formal hall",
        "car show",
        "savanna",
        "plain wall",
    ),
    "wall_color": ("white", "gray", "red", "green", "blue"),
    "weather": ("clear", "rain"),
    "style": ("photo", "pencil sketch", "oil painting"),
}

PERSON_FIELDS = (
    "age",
    "skin",
    "eyes",
    "expression",
    "glasses",
    "hair",
    "hair_color",
    "hat",
    "clothing",
    "clothing_color",
)
IDENTITY_FIELDS = ("skin", "eyes")
OUTDOORS = ("forest", "beach", "snowy mountains", "river", "savanna")

_WEIGHTS: dict[str, tuple[float, ...]] = {
    "presence": (0.95, 0.05),
    "age": (0.28, 0.42, 0.30),
    "expression": (0.24, 0.22, 0.18, 0.18, 0.18),
    "glasses": (0.66, 0.23, 0.11),
    "hair": (0.10, 0.20, 0.20, 0.19, 0.15, 0.16),
    "hat": (0.76, 0.09, 0.09, 0.06),
    "style": (0.80, 0.10, 0.10),
}
_HAIR_COLOR_BY_AGE = {
    "child": (0.25, 0.27, 0.25, 0.21, 0.02),
    "adult": (0.25, 0.25, 0.20, 0.18, 0.12),
    "old": (0.09, 0.09, 0.09, 0.08, 0.65),
}


@dataclass(frozen=True)
class Attributes:
    """What one picture shows, as values of `VOCABULARY`; fields that `shown()` leaves out have no meaning.

    Raises ValueError for a value outside the vocabulary.
    """

    presence: str = "person"
    age: str = "adult"
    skin: str = "light"
    eyes: str = "brown"
    expression: str = "neutral"
    glasses: str = "none"
    hair: str = "short"
    hair_color: str = "brown"
    hat: str = "none"
    clothing: str = "t-shirt"
    clothing_color: str = "blue"
    scene: str = "plain wall"
    wall_color: str = "gray"
    weather: str = "clear"
    style: str = "photo"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value not in VOCABULARY[field.name]:
                raise ValueError(f"{field.name}={value!r} is not one of {VOCABULARY[field.name]}")

    def shown(self) -> tuple[str, ...]:
        """Names of the fields that the picture shows, in the vocabulary's order."""
        hidden: set[str] = set()
        if self.presence == "nobody":
            hidden.update(PERSON_FIELDS)
        if self.glasses == "sunglasses":
            hidden.add("eyes")
        if self.hair == "bald":
            hidden.add("hair_color")
        if self.scene != "plain wall":
            hidden.add("wall_color")
        return tuple(name for name in VOCABULARY if name not in hidden)

    def indices(self) -> dict[str, int]:
        """Class index of each field, -1 where the field is not shown."""
        shown = self.shown()
        return {n: VOCABULARY[n].index(getattr(self, n)) if n in shown else -1 for n in VOCABULARY}


def identity_categories(identity: int) -> dict[str, str]:
    """Skin tone and eye colour of an identity (they repeat with period 20 over the integers)."""
    skins, eyes = VOCABULARY["skin"], VOCABULARY["eyes"]
    return {
        "skin": skins[identity % len(skins)],
        "eyes": eyes[identity // len(skins) % len(eyes)],
    }


def sample_identity(rng: np.random.Generator, attributes: Attributes | None = None) -> int:
    """An identity seed in [0, 2e7), agreeing with the skin and eyes of `attributes` where given."""
    base = int(rng.integers(0, 1_000_000))
    if attributes is None:
        return base * 20 + int(rng.integers(0, 20))
    skins, eyes = VOCABULARY["skin"], VOCABULARY["eyes"]
    return base * 20 + eyes.index(attributes.eyes) * len(skins) + skins.index(attributes.skin)


def with_identity(attributes: Attributes, identity: int) -> Attributes:
    """The attributes with skin and eyes replaced by those of the identity."""
    return replace(attributes, **identity_categories(identity))


def sample_attributes(rng: np.random.Generator) -> Attributes:
    """Draw the attributes of one picture; about 5 % show nobody (most often walls), few have rain."""
    values = {name: _pick(rng, options, _WEIGHTS.get(name)) for name, options in VOCABULARY.items()}
    values["hair_color"] = _pick(rng, VOCABULARY["hair_color"], _HAIR_COLOR_BY_AGE[values["age"]])
    if values["presence"] == "nobody" and rng.random() < 0.35:
        values["scene"] = "plain wall"
    rainy = rng.random() < 0.05
    values["weather"] = "rain" if rainy and values["scene"] in OUTDOORS else "clear"
    return Attributes(**values)


def _pick(
    rng: np.random.Generator,
    options: tuple[str, ...],
    weights: tuple[float, ...] | None,
) -> str:
    if weights is None:
        return options[int(rng.integers(len(options)))]
    u = rng.random()
    for option, weight in zip(options, weights, strict=True):
        u -= weight
        if u < 0:
            return option
    return options[-1]
