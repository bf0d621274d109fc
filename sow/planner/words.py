"""Where the prompt's own words want the subject: on the left, far away, close-up."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sow.planner.base import fit_size, place
from sow.types import Box, Canvas, Request

# A side word counts in a phrase of place, and not where it names a hand, a verb ("left the house") or a part
# of a thing.
_PREPOSITION = r"(?:on|at|in|to|from|toward|towards|along|near)(?: the| its| his| her| their)?(?: \w+)?? "
_FRAME = r"(?:image|picture|frame|photo|photograph|canvas|scene|view|shot|composition)"
_BODY = r"(?! (?:hand|arm|leg|foot|eye|ear|shoulder|cheek|knee|wrist|hands|arms))"
_AREA = r"(?:[- ](?:side|half|third|corner|edge|part|hand side))"
_SIDES = {
    "left": (0.08, None),
    "right": (0.92, None),
    "top": (None, 0.0),
    "upper": (None, 0.0),
    "bottom": (None, 1.0),
    "lower": (None, 1.0),
}
_SIDE = re.compile(
    rf"\b(?:(?P<pre>{_PREPOSITION})?(?P<first>left|right|top|upper|bottom|lower)"
    rf"(?:[- ](?P<second>left|right|top|bottom))?{_BODY}(?P<area>{_AREA})?)(?P<of> of(?: the)? (?:\w+))?",
    re.IGNORECASE,
)
_MIDDLE = re.compile(
    rf"\b(?:in|at|to) the (?:very )?(?:center|centre|middle)(?! of (?!the {_FRAME}))"
    r"|\bcentered\b|\bcentred\b",
    re.I,
)
_FAR = re.compile(
    r"\b(?:far away|far off|from afar|in the (?:far )?distance|distant|full[- ]body|full[- ]length|wide[- "
    r"]shot|wide[- ]angle"
    r"|long[- ]shot|tiny figure|small figure)\b",
    re.I,
)
_NEAR = re.compile(
    r"\b(?:close[- ]?up|closeup|up close|head ?shot|portrait|in the foreground|selfie)\b", re.I
)
# After one of these a new thing is spoken of, whose place is not the subject's ("with a tree on the left").
_OTHER = re.compile(r"(?:,|;|\bwith\b|\band\b|\bbeside\b|\bnear\b|\bnext to\b|\bbehind\b|\bwhile\b)", re.I)
_PEOPLE = re.compile(
    r"\b(?:person|man|woman|boy|girl|kid|child|one|other|another|cat|dog|car|he|she|it)\b", re.I
)


@dataclass(frozen=True)
class Words:
    """What the prompt says of the place: `x`, `y` in [0, 1] from the left and top edge, `scale` in [0, 1]
    from the smallest to the largest condition; None where it is silent."""

    x: float | None = None
    y: float | None = None
    scale: float | None = None

    @property
    def silent(self) -> bool:
        return self == Words()


def read(prompt: str, count: int = 1) -> list[Words]:
    """The places that the prompt names, one for each of `count` subjects in the order of their mention.

    With one phrase for several subjects, or more phrases than subjects, sides are left to the planner.
    """
    scale = 0.0 if _FAR.search(prompt) else 1.0 if _NEAR.search(prompt) else None
    sides = [w for match in _SIDE.finditer(prompt) if (w := _side(prompt, match)) is not None]
    if not sides and _MIDDLE.search(prompt):
        sides = [Words(x=0.5)]
    if count == 1 and sides:
        sides = sides[:1]
    if len(sides) != count:
        sides = [Words()] * count
    return [replace(w, scale=scale) for w in sides]


def _side(prompt: str, match: re.Match[str]) -> Words | None:
    area = match.group("area")
    of = (match.group("of") or "").strip()
    if not match.group("pre") and not area:
        return None
    first, second = match.group("first").lower(), (match.group("second") or "").lower()
    framed = re.fullmatch(rf"of(?: the)? {_FRAME}", of, re.IGNORECASE) is not None
    if of and not framed and (area is not None or second or first not in ("left", "right")):
        return None  # "at the top of the stairs", "on the left side of the road"
    if first in ("upper", "lower") and not (second or area):
        return None
    before = prompt[: match.start()]
    cut = max((m.end() for m in _OTHER.finditer(before)), default=0)
    if (
        cut
        and re.search(r"\b(?:a|an|the|some|two|\w+s)\b", before[cut:], re.I)
        and not _PEOPLE.search(before[cut:])
    ):
        return None
    x, y = _SIDES[first]
    if second:
        other = _SIDES[second]
        x, y = other[0] if x is None else x, other[1] if y is None else y
    return Words(x, y)


def propose(
    request: Request, canvas: Canvas, center: Sequence[float], scale: float, margin: float
) -> tuple[list[Box], list[Words]]:
    """A box for each condition: by the prompt's words, else with its subject's centre at `center` (fractions
    of the canvas; several conditions share the width) and a size `scale` of the way between the limits.

    `margin` is the fraction of the canvas left free beside a named side. Boxes are on the canvas and may
    overlap.
    """
    count = len(request.conditions)
    words = read(request.prompt, count)
    boxes = []
    for i, (condition, word) in enumerate(zip(request.conditions, words, strict=True)):
        wanted = scale if word.scale is None else word.scale
        side = canvas.condition_min + wanted * (canvas.condition_max - canvas.condition_min)
        image = condition.image
        w, h = fit_size(side, side, image.width / image.height, canvas)
        subject = condition.bounds()
        dx = (0.5 - subject.center[0] / image.width) * w
        dy = (0.5 - subject.center[1] / image.height) * h
        default_x = center[0] if count == 1 else (i + 0.5) / count
        x = default_x * canvas.width + dx if word.x is None else _along(word.x, w, canvas.width, margin)
        y = center[1] * canvas.height + dy if word.y is None else _along(word.y, h, canvas.height, margin)
        boxes.append(place((x, y), (w, h), canvas))
    return boxes, words


def _along(fraction: float, side: int, extent: int, margin: float) -> float:
    """Centre of a box of `side` at a fraction of the way it can travel inside the margins."""
    free = extent * margin
    low, high = free + side / 2, extent - free - side / 2
    return low + fraction * (high - low) if high > low else extent / 2
