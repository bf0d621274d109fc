"""Captions of drawn pictures in varied English, and fixed short descriptions.

Every phrase that `caption` and `describe` write is one that `parse` reads as the same value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from sow.people.captions.attributes import Attributes
from sow.people.captions.parse import parse
from sow.people.captions.phrases import (
    FULL,
    KEEP,
    KEEP_FULL,
    PHRASES,
    PLACED,
    PLACES,
    SHORT,
    STYLE_PREFIX,
    STYLE_SUFFIX,
)

__all__ = ["caption", "describe", "parse", "placement_words"]


def caption(
    attributes: Attributes,
    rng: np.random.Generator,
    *,
    keep: Iterable[str] | None = None,
    framing: str = "scene",
    placement: tuple[float, float, float] | None = None,
) -> str:
    """One English caption of a picture, naming nearly all that it shows or a random share of it.

    `keep` names the fields to mention, all of them and no others; by default most captions are full, some of
    a few words, and in those between each field has its own probability. `framing` other than "scene" gives a
    caption of a close-up, without clothes. With `placement`, the head's centre (x, y) and height in shares of
    the canvas, some captions say where the person is or how large.
    """
    shown = attributes.shown()
    mentioned = _mentioned(shown, rng) if keep is None else set(keep) & set(shown)
    if framing != "scene":
        mentioned -= {"clothing", "clothing_color", "scene", "wall_color", "weather"}

    def pick(options: Sequence[str]) -> str:
        return options[int(rng.integers(len(options)))]

    if attributes.presence == "nobody":
        core = _empty_core(attributes, mentioned, pick)
    else:
        core = _person_core(attributes, mentioned, pick, rng)
        if framing != "scene":
            core = (
                pick(
                    (
                        "a close-up of the face of ",
                        "a close-up portrait of ",
                        "the face of ",
                    )
                )
                + core
            )
    text = _styled(core, attributes, mentioned, pick)
    places = placement_words(placement) if placement and attributes.presence == "person" else {}
    if places and rng.random() < PLACED:
        text += ", " + ", ".join(pick(PLACES[n][v]) for n, v in places.items())
    if rng.random() < 0.5:
        text = text[0].upper() + text[1:]
    return text + "." if rng.random() < 0.35 else text


def _mentioned(shown: Sequence[str], rng: np.random.Generator) -> set[str]:
    u = rng.random()
    if u < FULL:
        return {n for n in shown if rng.random() < KEEP_FULL}
    kept = {n for n in shown if rng.random() < KEEP.get(n, 1.0)}
    return kept & {str(n) for n in rng.choice(list(shown), 3)} if u > 1 - SHORT else kept


def placement_words(placement: tuple[float, float, float]) -> dict[str, str]:
    """ "side" and "size" of a placement (x, y, head height; shares of the canvas), where they stand out."""
    x, _, height = placement
    words = {}
    if abs(x - 0.5) > 0.07:
        words["side"] = "left" if x < 0.5 else "right"
    if abs(height - 0.46) > 0.05:
        words["size"] = "small" if height < 0.46 else "large"
    return words


def _styled(core: str, a: Attributes, mentioned: set[str], pick: Callable[[Sequence[str]], str]) -> str:
    if "style" not in mentioned:
        return core
    if a.style == "photo":
        return pick((pick(STYLE_PREFIX["photo"]) + " ", "", "")) + core
    if pick("ab") == "a":
        return f"{pick(STYLE_PREFIX[a.style])} {core}"
    return f"{core}, {pick(STYLE_SUFFIX[a.style])}"


def _empty_core(a: Attributes, mentioned: set[str], pick: Callable[[Sequence[str]], str]) -> str:
    if a.scene == "plain wall":
        color = f" {a.wall_color}" if "wall_color" in mentioned else ""
        return pick(
            (
                f"a plain{color} wall",
                f"an empty{color} wall",
                _article(f"{color} wall".strip()),
            )
        )
    place = pick(PHRASES["empty"][a.scene])
    rain = " in the rain" if a.weather == "rain" and "weather" in mentioned else ""
    return (
        pick(
            (
                f"an empty {place}",
                f"{_article(place)} with nobody",
                f"{_article(place)} without people",
            )
        )
        + rain
    )


def _person_core(
    a: Attributes,
    mentioned: set[str],
    pick: Callable[[Sequence[str]], str],
    rng: np.random.Generator,
) -> str:
    noun = pick(PHRASES["age"][a.age]) if "age" in mentioned else "person"
    features: list[str] = []
    wearing: list[str] = []
    front = ""
    if "expression" in mentioned:
        if pick("ab") == "a":
            front = pick(PHRASES["expression_adjective"][a.expression]) + " "
        else:
            features.append(pick(PHRASES["expression_with"][a.expression]))
    hair = _hair_phrase(a, mentioned, pick)
    features += [hair] if hair else []
    features += [pick(PHRASES[n][getattr(a, n)]) for n in ("skin", "eyes") if n in mentioned]
    if a.glasses != "none" and "glasses" in mentioned:
        (features if pick("ab") == "a" else wearing).append(pick(PHRASES["glasses"][a.glasses]))
    if a.hat != "none" and "hat" in mentioned:
        hat = pick(PHRASES["hat_wearing"][a.hat])
        (features if pick("ab") == "a" else wearing).append(hat)
    dress = _clothes_phrase(a, mentioned, pick)
    in_clothes = ""
    if dress and pick("ab") == "a":
        in_clothes = f" in {dress}"
    elif dress:
        wearing.append(dress)
    features = [features[i] for i in rng.permutation(len(features))]
    parts = [f" with {_join(features)}"] if features else []
    parts += [f" wearing {_join(wearing)}"] if wearing else []
    where = ""
    if "scene" in mentioned:
        color = f" {a.wall_color}" if "wall_color" in mentioned else ""
        where += " " + pick(PHRASES["scene"][a.scene]).format(c=color)
    if a.weather == "rain" and "weather" in mentioned:
        where += pick((" in the rain", " on a rainy day"))
    body = _article(front + noun) + in_clothes + "".join(parts[i] for i in rng.permutation(len(parts)))
    if where and not (mentioned & {"style"}) and rng.random() < 0.3:
        return f"{where.strip()}, {body}"
    return body + where


def _hair_phrase(a: Attributes, mentioned: set[str], pick: Callable[[Sequence[str]], str]) -> str:
    color = f" {a.hair_color}" if "hair_color" in mentioned else ""
    if "hair" in mentioned:
        text = pick(PHRASES["hair"][a.hair]).format(c=color).strip()
        return _article(text[2:]) if text.startswith("a ") else text
    return f"{color.strip()} hair" if color else ""


def _clothes_phrase(a: Attributes, mentioned: set[str], pick: Callable[[Sequence[str]], str]) -> str:
    color = f"{a.clothing_color} " if "clothing_color" in mentioned else ""
    if "clothing" in mentioned:
        return _article(color + pick(PHRASES["clothing"][a.clothing]))
    return f"{color}clothes" if color else ""


def _article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def _join(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def describe(attributes: Attributes, fields: Iterable[str]) -> str:
    """Short fixed phrases for the given fields, e.g. "long red hair, glasses"; "" if none apply."""
    asked, shown, out = set(fields), set(attributes.shown()), []
    a, use = attributes, asked & shown
    color = f"{a.hair_color} " if "hair_color" in use else ""
    cloth = f"{a.clothing_color} " if "clothing_color" in use else ""
    hair = {
        "bald": "bald head",
        "bun": f"{color}hair in a bun",
        "bob": f"{color}bob haircut",
    }
    if "presence" in use and a.presence == "nobody":
        out.append("nobody")
    if "age" in use:
        out.append({"child": "child", "adult": "adult", "old": "old person"}[a.age])
    if "expression" in use:
        out.append(f"{a.expression} expression")
    if "skin" in use:
        out.append(f"{a.skin} skin")
    if "eyes" in use:
        out.append(f"{a.eyes} eyes")
    if "hair" in use:
        out.append(hair.get(a.hair, f"{a.hair} {color}hair"))
    elif color:
        out.append(f"{color}hair")
    if "glasses" in use and a.glasses != "none":
        out.append(a.glasses)
    if "hat" in use and a.hat != "none":
        out.append(a.hat)
    if "clothing" in use:
        out.append(cloth + a.clothing)
    elif cloth:
        out.append(f"{cloth}clothes")
    if "scene" in use:
        wall = f"{a.wall_color} wall" if "wall_color" in use else "plain wall"
        out.append(wall if a.scene == "plain wall" else a.scene)
    if "weather" in use and a.weather == "rain":
        out.append("rain")
    if "style" in use:
        out.append(a.style)
    return ", ".join(out)
