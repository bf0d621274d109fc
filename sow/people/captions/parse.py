"""Finding attribute words, and their synonyms, in any prompt."""

from __future__ import annotations

import re

from sow.people.captions.attributes import VOCABULARY

_COLOR_WORDS = {
    "black": "black", "white": "white", "gray": "gray", "grey": "gray", "silver": "gray",
    "brown": "brown", "brunette": "brown", "blond": "blond", "blonde": "blond", "golden": "blond",
    "red": "red", "ginger": "red", "yellow": "yellow", "green": "green", "blue": "blue",
    "purple": "purple", "violet": "purple", "pale": "pale", "fair": "pale",
    "light": "light", "tan": "tan", "tanned": "tan", "dark": "dark",
}  # fmt: skip
_C = "(" + "|".join(sorted(_COLOR_WORDS, key=len, reverse=True)) + ")"
_GARMENT = (
    r"(?:t-?shirt|tee|button(?:ed|ed-up|-up)? shirt|shirt|knitted sweater|sweater|pullover|jumper"
    r"|suit|tuxedo|clothes|clothing|outfit)"
)

# Colours belong to the noun they precede; the first match in the text wins.
_COLORED: dict[str, tuple[str, ...]] = {
    "hair_color": (
        rf"\b{_C}(?:,? (?:short|long|curly|wavy|straight))?,? (?:hair|bob\b|bun\b)",
        r"\bhair (?:is |dyed )?" + _C,
        r"\b(blonde?|brunette|redhead)\b",
    ),
    "eyes": (rf"\b{_C}[- ]eye[sd]\b",),
    "skin": (rf"\b{_C}[- ]skin",),
    "clothing_color": (rf"\b{_C} {_GARMENT}\b", rf"\bdressed in {_C}\b"),
    "wall_color": (rf"\b{_C} (?:wall|background|backdrop)\b",),
}

_PATTERNS: dict[str, tuple[tuple[str, str], ...]] = {
    "presence": (
        ("nobody", r"\b(?:nobody|no one|without (?:any )?(?:people|persons?|anyone)|empty|unpopulated)\b"),
        ("nobody", r"^(?:an? )?(?:plain )?(?:\w+ )?wall\.?$"),
        ("person", (r"\b(?:person|people|man|woman|men|women|kid|child|children|boy|girl|adult|lady"
            r"|senior|face|portrait|someone|teen\w*|baby|toddler|elderly|grand\w+)\b")),
    ),
    "age": (
        ("old", (r"\b(?:old|elderly|aged|senior|grand(?:father|mother|ma|pa))\b"
            r"(?! (?:car|town|house|building|city))")),
        ("child", r"\b(?:kids?|child|children|boy|girl|toddler|baby)\b"),
        ("adult", r"\b(?:adult|middle-aged|grown-up)\b"),
    ),
    "expression": (
        ("sad", (r"\b(?:sad|unhappy|crying|cries|cry|weeping|tears?|tearful"
            r"|sorrow\w*|gloomy|upset|depressed|melanchol\w+)\b")),
        ("angry", r"\b(?:angry|furious|mad|rage|raging|annoyed|scowl\w*|frown\w*|anger)\b"),
        ("happy", r"\b(?:happy|happily|smil\w+|cheerful|joy\w*|laugh\w+|grin\w*|delighted)\b"),
        ("surprised", r"\b(?:surprised?|amazed|astonished|shocked|startled)\b"),
        ("neutral", r"\b(?:neutral|calm|expressionless|serious)\b"),
    ),
    "glasses": (
        ("none", r"\b(?:without|no) (?:sun|eye)?glasses\b"),
        ("sunglasses", r"\b(?:sunglasses|shades)\b"),
        ("glasses", r"\b(?:eyeglasses|glasses|spectacles)\b"),
    ),
    "hair": (
        ("bald", r"\b(?:bald|hairless|no hair)\b"),
        ("bun", r"\b(?:bun|updo|chignon)\b"),
        ("bob", r"\b(?:bob)\b"),
        ("curly", r"\b(?:curly|curls|curled|afro|wavy|victory rolls)\b"),
        ("long", rf"\blong(?:,? {_C})?,? hair|\blong-haired\b|\blong straight hair"),
        ("short", rf"\bshort(?:,? {_C})?,? hair|\bshort-haired\b|\bcrew cut\b"),
    ),
    "hat": (
        ("none", r"\b(?:without a|no) hat\b"),
        ("straw hat", r"\b(?:straw|safari|sun|wide-brimmed|cowboy) ?hat\b|\bsunhat\b"),
        ("top hat", r"\btop ?hat\b"),
        ("cap", r"\b(?:cap)\b"),
    ),
    "clothing": (
        ("t-shirt", r"\b(?:t-?shirt|tee)\b"),
        ("shirt", r"(?<!t-)\b(?:shirt|blouse)\b"),
        ("sweater", r"\b(?:sweater|pullover|jumper)\b"),
        ("suit", r"\b(?:suit|tuxedo)\b"),
    ),
    "scene": (
        ("car show", r"\b(?:car show|vintage cars?|classic cars?|old cars?)\b"),
        ("formal hall", (r"\b(?:formal (?:hall|event|dinner|party|wedding|gala)|ballroom|banquet|gala"
            r"|wedding|palace|theater|theatre|concert hall)\b")),
        ("savanna", r"\b(?:savannah?|(?:on a|an african) safari|wildlife|giraffes?|grassland)\b"),
        ("forest", r"\b(?:forests?|woods|woodland|jungle|trees)\b"),
        ("beach", r"\b(?:beach|seaside|sea|seashore|ocean|coast)\b"),
        ("snowy mountains", r"\b(?:mountains?|alps|ski(?:ing|er|ers|s)?|snowy|snow)\b"),
        ("river", r"\b(?:river\w*|lake\w*|stream|pond|ferry|boat)\b"),
        ("plain wall", r"\b(?:wall|plain background|backdrop)\b"),
    ),
    "weather": (
        ("rain", r"\b(?:rain|rainy|raining|rainstorm|storm)\b"),
        ("clear", r"\b(?:clear weather|sunny)\b"),
    ),
    "style": (
        ("pencil sketch", r"\b(?:pencil|sketch|charcoal)\b"),
        ("oil painting", r"\b(?:oil|paintings?|painted|van gogh|cezanne|cézanne|monet|impressionis\w+)\b"),
        ("photo", r"\b(?:photo|photograph|photorealistic|photography)\b"),
    ),
}  # fmt: skip
_PLACES = {
    ("side", "left"): r"\bon the left\b",
    ("side", "right"): r"\bon the right\b",
    ("size", "large"): r"\blarge in the picture\b",
    ("size", "small"): r"\bsmall in the picture\b",
}
_COMPILED = {f: [(v, re.compile(p, re.IGNORECASE)) for v, p in rows] for f, rows in _PATTERNS.items()}
_COMPILED_COLORS = {f: [re.compile(p, re.IGNORECASE) for p in rows] for f, rows in _COLORED.items()}


def parse(text: str) -> dict[str, str]:
    """The values of `VOCABULARY` that a prompt names, by field; fields it is silent on are absent."""
    found: dict[str, str] = {}
    for field, rows in _COMPILED.items():
        for value, pattern in rows:
            if pattern.search(text):
                found[field] = value
                break
    for field, patterns in _COMPILED_COLORS.items():
        for pattern in patterns:
            match = pattern.search(text)
            color = _color(field, match.group(1).lower()) if match else None
            if color is not None:
                found[field] = color
                break
    if "wall_color" in found:
        found.setdefault("scene", "plain wall")
        if found["scene"] != "plain wall":
            del found["wall_color"]
    return found


def parse_placement(text: str) -> dict[str, str]:
    """What a prompt says of where the person is: "side" (left, right) and "size" (large, small)."""
    return {f: v for (f, v), pattern in _PLACES.items() if re.search(pattern, text, re.IGNORECASE)}


def _color(field: str, word: str) -> str | None:
    """The field's value for a colour word, None where the field has no such colour."""
    word = {"redhead": "red"}.get(word) or _COLOR_WORDS[word]
    if field == "hair_color" and word == "white":
        word = "gray"
    if field == "skin" and word in ("black", "white"):
        word = {"black": "dark", "white": "light"}[word]
    return word if word in VOCABULARY[field] else None
