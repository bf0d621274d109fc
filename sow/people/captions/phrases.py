"""The words of captions: for each attribute value, the phrases that may name it."""

from __future__ import annotations

from sow.people.captions.attributes import VOCABULARY

FULL = 0.65  # of the captions name nearly all that is drawn, as long captions are the better teachers
SHORT = 0.10  # of the captions name three things at most, as people do
KEEP_FULL = 0.95  # of the fields, in a full caption
KEEP = {  # of the fields, in the captions between
    "age": 0.75,
    "skin": 0.25,
    "eyes": 0.2,
    "expression": 0.75,
    "glasses": 0.8,
    "hair": 0.65,
    "hair_color": 0.8,
    "hat": 0.8,
    "clothing": 0.6,
    "clothing_color": 0.85,
    "scene": 0.8,
    "wall_color": 0.8,
    "weather": 0.8,
    "style": 0.85,
}
PLACED = 0.15  # of the captions of scenes say where the head is or how large, where there is something to say
PLACES: dict[str, dict[str, tuple[str, ...]]] = {
    "side": {"left": ("on the left", "on the left side"), "right": ("on the right", "on the right side")},
    "size": {"large": ("large in the picture",), "small": ("small in the picture",)},
}
PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "skin": {v: (f"{v} skin",) for v in VOCABULARY["skin"]},
    "eyes": {v: (f"{v} eyes",) for v in VOCABULARY["eyes"]},
    "hair": {
        "bald": ("a bald head",),
        "short": ("short{c} hair",),
        "long": ("long{c} hair",),
        "curly": ("curly{c} hair",),
        "bun": ("{c} hair in a bun", "a{c} hair bun"),
        "bob": ("a{c} bob haircut", "a{c} hair bob"),
    },
    "scene": {
        "forest": (
            "in a forest",
            "in the woods",
            "in a serene forest",
            "among trees in a forest",
        ),
        "beach": ("on a beach", "at the beach", "at the seaside", "on a sandy beach"),
        "snowy mountains": (
            "in front of snowy mountains",
            "in the mountains",
            "by a snowy mountain",
        ),
        "river": (
            "beside a river",
            "besides a peaceful river",
            "by a lake",
            "near a river",
        ),
        "formal hall": (
            "in a formal hall",
            "at a formal event",
            "in a ballroom",
            "attending a formal event",
        ),
        "car show": (
            "at a car show",
            "at a vintage car show",
            "in front of vintage cars",
        ),
        "savanna": ("in the savanna", "on a safari", "on a wildlife expedition"),
        "plain wall": (
            "in front of a{c} wall",
            "against a plain{c} wall",
            "before a{c} wall",
        ),
    },
    "empty": {
        "forest": ("forest",),
        "beach": ("beach",),
        "snowy mountains": ("snowy mountain landscape", "view of snowy mountains"),
        "river": ("river", "lake"),
        "formal hall": ("formal hall", "ballroom"),
        "car show": ("car show", "vintage car show"),
        "savanna": ("savanna",),
        "plain wall": ("{c} wall",),
    },
    "age": {
        "child": ("kid", "child", "young child"),
        "adult": ("adult", "person", "adult person"),
        "old": ("old person", "elderly person", "senior"),
    },
    "expression_adjective": {
        "neutral": ("calm", "neutral"),
        "happy": ("happy", "smiling", "cheerful"),
        "sad": ("sad", "crying", "unhappy"),
        "angry": ("angry", "furious"),
        "surprised": ("surprised", "amazed"),
    },
    "expression_with": {
        "neutral": ("a neutral expression", "a calm face"),
        "happy": ("a happy expression", "a big smile", "a smile"),
        "sad": ("a sad expression", "tears on the face", "a sad face"),
        "angry": ("an angry expression", "an angry face"),
        "surprised": ("a surprised expression", "a surprised face"),
    },
    "hat_wearing": {
        "cap": ("a cap", "a baseball cap"),
        "straw hat": ("a straw hat", "a safari hat", "a sun hat"),
        "top hat": ("a top hat",),
    },
    "glasses": {
        "glasses": ("glasses", "eyeglasses"),
        "sunglasses": ("sunglasses", "dark sunglasses"),
    },
    "clothing": {
        "t-shirt": ("t-shirt", "tee"),
        "shirt": ("shirt", "buttoned shirt"),
        "sweater": ("sweater", "knitted sweater", "pullover"),
        "suit": ("suit", "suit with a tie"),
    },
}
STYLE_PREFIX = {
    "photo": ("a photo of", "a picture of", "a photograph of", "an image of"),
    "pencil sketch": ("a pencil sketch of", "a pencil drawing of"),
    "oil painting": ("an oil painting of", "a painting of"),
}
STYLE_SUFFIX = {
    "photo": (),
    "pencil sketch": (
        "pencil sketch",
        "in pencil sketch style",
        "in the style of a pencil sketch",
    ),
    "oil painting": (
        "oil painting",
        "in the style of an oil painting",
        "in oil painting style",
    ),
}
