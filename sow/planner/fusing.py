"""Prompt intensification in words: recognised attributes fused into the user's sentence,
whose own words win."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from sow.planner.tokens import token_count

# Most salient first: what does not fit the text encoder is dropped from the end.
SALIENCE = ("age", "expression", "hair", "glasses", "hat", "skin", "eyes", "clothing")
_ADJECTIVE = {"neutral": "calm"}
_NOUN = re.compile(
    r"\b(?P<noun>person|man|woman|lady|gentleman|guy|adult|senior|someone|kid|child|toddler|boy|girl|people|men|women|children|kids)\b"
    r"(?!'s)",
    re.I,
)
_GROWN = {"man", "woman", "lady", "gentleman", "guy", "adult", "senior", "men", "women"}
_PLURAL = {"people", "men", "women", "children", "kids"}
_OWN_ARTICLE = re.compile(r"\b(?P<article>an?) (?P<own>(?:(?!(?:an?|of) )[\w-]+ ){0,2})$", re.IGNORECASE)
# Nouns that another word must not stand before ("a happy someone").
_BARE = {"someone"}


def fuse(
    prompt: str, people: Sequence[Mapping[str, str]], max_tokens: int, tokenizer: str | None = None
) -> tuple[str, list[dict[str, str]]]:
    """c' and, for each person, the attributes that went into it.

    `people` holds the recognised attributes of each condition, surest knowledge only. Attributes that the
    prompt itself names stay as the user wrote them. c' has at most `max_tokens` tokens (of `tokenizer`, see
    `token_count`); it is the prompt itself when nothing fits.
    """
    from sow.people.captions.captions import parse

    named = parse(prompt)
    wanted = [_uncontradicted(p, named, prompt) for p in people]
    for kept in range(len(SALIENCE), 0, -1):
        chosen = [{k: v for k, v in w.items() if _group(k) in SALIENCE[:kept]} for w in wanted]
        text = _written(prompt, chosen)
        if token_count(text, tokenizer) <= max_tokens:
            return text, chosen if text != prompt else [{} for _ in people]
    return prompt, [{} for _ in people]


def _group(field: str) -> str:
    return {"hair_color": "hair", "clothing_color": "clothing"}.get(field, field)


def _uncontradicted(found: Mapping[str, str], named: Mapping[str, str], prompt: str) -> dict[str, str]:
    out = {k: v for k, v in found.items() if k not in named and _group(k) in SALIENCE}
    if named.get("presence") == "nobody":
        return {}
    noun = _NOUN.search(prompt)
    if noun and noun["noun"].lower() in _GROWN and out.get("age") == "child":
        del out["age"]
    if "sunglasses" in (named.get("glasses"), out.get("glasses")):
        out.pop("eyes", None)  # not to be seen behind them
    if "bald" in (named.get("hair"), found.get("hair")):
        out.pop("hair_color", None)
    return out


def _written(prompt: str, people: Sequence[Mapping[str, str]]) -> str:
    if not any(people):
        return prompt
    nouns = list(_NOUN.finditer(prompt))
    singular = [m for m in nouns if m["noun"].lower() not in _PLURAL]
    if len(people) == 1 and singular:
        return _into(prompt, singular[0], people[0])
    if len(people) > 1 and len(singular) >= len(people):
        text = prompt
        for match, person in reversed(
            list(zip(singular, people, strict=False))
        ):  # from the end: offsets stay true
            text = _into(text, match, person)
        return text
    one = [_phrase(p) for p in people if p]
    text, end = (prompt[:-1], ".") if prompt.endswith(".") else (prompt, "")
    if len(people) == 1:
        return f"{text}, {one[0]}{end}"
    return f"{text}, one is " + ", another is ".join(one) + end


def _into(prompt: str, match: re.Match[str], person: Mapping[str, str]) -> str:
    """The sentence with the attributes around its subject's noun."""
    if not person:
        return prompt
    before, after = prompt[: match.start()], prompt[match.end() :]
    adjectives, noun, features = _parts(person, match["noun"])
    article = _OWN_ARTICLE.search(before)
    if article:
        subject = _article(" ".join([*adjectives, article["own"] + noun]))
        capital = article["article"][0].isupper()
        before = before[: article.start()]
    else:
        subject = " ".join([*adjectives, noun.lower() if adjectives else noun])
        capital = not before.strip() and match["noun"][0].isupper()
    subject = subject[0].upper() + subject[1:] if capital else subject
    if not features:
        return f"{before}{subject}{after}"
    own_with = re.match(r" with (?!whom|which)", after)
    if own_with:  # "a kid with a safari hat": one list instead of two
        return f"{before}{subject} with {', '.join(features)} and {after[own_with.end() :]}"
    return f"{before}{subject} with {_join(features)}{after}"


def _phrase(person: Mapping[str, str]) -> str:
    adjectives, noun, features = _parts(person, "person")
    return _article(" ".join([*adjectives, noun])) + (f" with {_join(features)}" if features else "")


def _parts(person: Mapping[str, str], noun: str) -> tuple[list[str], str, list[str]]:
    """Adjectives before the noun, the noun, and features after it."""
    from sow.people.captions.attributes import Attributes
    from sow.people.captions.captions import describe

    attributes = Attributes(**person)
    adjectives = []
    if "expression" in person:
        adjectives.append(_ADJECTIVE.get(person["expression"], person["expression"]))
    age = person.get("age")
    if age == "child":
        noun = "child" if noun.lower() == "person" else noun
    elif age == "old" or (age == "adult" and noun.lower() not in _GROWN):
        adjectives.append(age)
    if noun.lower() in _BARE:
        adjectives = []
    features = []
    for group in SALIENCE[2:]:
        names = [k for k in person if _group(k) == group]
        text = describe(attributes, names) if names else ""
        if text:
            counted = group == "hat" or text.endswith(("head", "haircut")) or "clothing" in names
            features.append(_article(text) if counted else text)
    return adjectives, noun, features


def _article(noun: str) -> str:
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


def _join(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
