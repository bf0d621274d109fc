"""`sow --from image.png`: the words that made an image, from the image's own metadata.

A picture may come from anybody, so its words are no command line of the user's own: they choose options and
set numbers and prompts, and nothing that runs, writes or sends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from sow.config.trust import SENDING
from sow.config.words import FREE_TEXT, PATHS
from sow.errors import UserError
from sow.store.files import place_of
from sow.store.secrets import HIDDEN

CHUNK = "sow"  # of a PNG's text: {"words": [...], "key": run key}
# Keys, by their beginning, that a picture may not set: places written to, servers asked, and
# what Hydra itself runs.
OWN = ("hydra", "paths", "cache", "tracker", "force", *SENDING)
# Of the paths, those that are only read: a picture may name no other.
READ = (
    *("condition.image", "condition.mask", "data.prompts", "data.root"),
    *("model.lora", "model.path", "model.unet_path", "method.path", "planner.path", "planner.tokenizer"),
)
_KEY = re.compile(r"(\+\+|\+|~)?(?P<key>\w+(?:[./]\w+)*)")


def words_of(image: str, own: Sequence[str] = ()) -> list[str]:
    """The words of the command that made a PNG, but those whose keys the user's `own` words set; raises
    UserError for a file without, and for words that only the user's own command line may hold."""
    from PIL import Image

    path = place_of(image, "--from")
    try:
        with Image.open(path) as opened:
            text = getattr(opened, "text", {}).get(CHUNK)
    except Exception as error:  # whatever a stranger's file makes of Pillow
        reason = getattr(error, "strerror", None) or "it is no image, or a damaged one"
        raise UserError(f"cannot read {path}: {reason}; give an image.png of a run (--from)") from error
    try:
        words = None if text is None else json.loads(text)["words"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"the words in {path} are damaged: give another image (--from)") from error
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(
            f"{path} does not say how it was made: give an image.png of a run as it lies there (--from)"
        )
    given = {key for word in own if (key := _key(word)) is not None and key != "ablation"}
    words = [word for word in words if _key(word) not in given]
    for word in words:
        _check(word, path)
    return words


def need_own_server(config: DictConfig, own: Sequence[str]) -> None:
    """Raise UserError for a planner that sends pictures and words away and was not chosen by the user's own
    words."""
    if any(name.partition(".")[2] in config.planner for name in SENDING) and "planner" not in map(_key, own):
        option = config.hydra.runtime.choices.planner
        raise UserError(
            f"the image's words choose planner={option}, which sends pictures and words to a server: add "
            f"planner={option} yourself, or another planner (--from)"
        )


def _key(word: str) -> str | None:
    found = _KEY.fullmatch(word.partition("=")[0])
    return found["key"] if found else None


def _check(word: str, path: Path) -> None:
    key, value = _key(word), word.partition("=")[2]
    reason = None
    if key is None:
        reason = "is no plain key=value"
    elif any(key == own or key.startswith((f"{own}.", f"{own}/")) for own in OWN):
        reason = f"sets {key}"
    elif key in PATHS and key not in READ:
        reason = f"names a place to write to, {key}"
    elif "_target_" in word or "${" in word:
        reason = "names code or variables"
    elif key.startswith("study.") and "planner" in value:
        reason = "chooses a planner for rows of its own"
    elif key in FREE_TEXT and value.startswith("@"):
        reason = "reads a file"
    elif HIDDEN in word:
        reason = "lacks what was hidden in it"
    if reason is not None:
        raise UserError(
            f"the words in {path} hold {word!r}, which {reason}: an image may not, give that word yourself "
            "(--from)"
        )
