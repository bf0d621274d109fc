"""The words of captions: for each attribute value, the phrases that may name it."""

from __future__ import annotations

from sow.people.captions.attributes import VOCABULARY

KEEP = {
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
        "spiky": ("spiky{c} hair",),
    },
    "scene": {
        "forest": (
            "in a forest",
            "in the woods",
            "in a serene forest",
            "among trees in a forest",
        ),
        "beach": ("on a beach", "at the beach", "at the seaside", "on a sandy beach"),
        "city street": ("on a city street", "in a street", "on a busy street"),
        "snowy mountains": (
            "in front of snowy mountains",
            "in the mountains",
            "by a snowy mountain",
        ),
        "library": ("in a library", "at a library", "in front of bookshelves"),
        "kitchen": ("in a kitchen", "in the kitchen"),
        "river": (
            "beside a river",
            "besides a peaceful river",
            "by a lake",
            "near a river",
        ),
        "desert": ("in a desert", "in the desert", "among cacti in a desert"),
        "night city": (
            "in a city at night",
            "in front of a night city",
            "in a night city",
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
        "city street": ("city street", "street"),
        "snowy mountains": ("snowy mountain landscape", "view of snowy mountains"),
        "library": ("library",),
        "kitchen": ("kitchen",),
        "river": ("river", "lake"),
        "desert": ("desert",),
        "night city": ("night city", "city at night"),
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
        "beanie": ("a beanie", "a woolly beanie"),
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
        "dress": ("dress",),
        "hoodie": ("hoodie",),
    },
}
STYLE_PREFIX = {
    "photo": ("a photo of", "a picture of", "a photograph of", "an image of"),
    "pencil sketch": ("a pencil sketch of", "a pencil drawing of"),
    "oil painting": ("an oil painting of", "a painting of"),
    "pixel art": ("pixel art of", "a pixel art picture of"),
    "comic": ("a comic of", "a comic book drawing of", "a cartoon of"),
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
    "pixel art": ("pixel art", "in pixel art style", "in the style of pixel art"),
    "comic": ("comic", "in comic style", "in the style of a comic book"),
}
STYLE_WORDS = {v: v for v in VOCABULARY["style"]} | {
    "comic": "comic style",
    "pixel art": "pixel art style",
}
