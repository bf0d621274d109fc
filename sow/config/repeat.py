"""`sow --from image.png`: the words that made an image, from the image's own metadata.

A picture may come from anybody, so its words are no command line of the user's own: they choose options and
set numbers and prompts, and nothing that runs, writes or sends.
"""

from __future__ import annotations

import json
from pathlib import Path

from sow.errors import UserError

CHUNK = "sow"  # of a PNG's text: {"words": [...], "key": run key}
# Keys, by their beginning, that a picture may not set: places written to, servers asked, and
# what Hydra itself runs.
OWN = ("hydra", "paths", "cache", "tracker", "force", "planner.base_url", "planner.api_key_env")


def words_of(image: str) -> list[str]:
    """The words of the command that made a PNG; raises UserError for a file without, and for words that only
    the user's own command line may hold."""
    from PIL import Image

    path = Path(image).expanduser()
    try:
        with Image.open(path) as opened:
            text = getattr(opened, "text", {}).get(CHUNK)
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror or 'it is no image'}; give an image.png of a run (--from)"
        ) from error
    try:
        words = None if text is None else json.loads(text)["words"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"the words in {path} are damaged: give another image (--from)") from error
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(
            f"{path} does not say how it was made: give an image.png of a run as it lies there (--from)"
        )
    for word in words:
        _check(word, path)
    return words


def _check(word: str, path: Path) -> None:
    key = word.partition("=")[0].lstrip("+~").partition("@")[0]
    reason = None
    if word.startswith("-"):
        reason = "is a flag"
    elif any(key == own or key.startswith((f"{own}.", f"{own}/")) for own in OWN):
        reason = f"sets {key}"
    elif "_target_" in word or "${" in word:
        reason = "names code or variables"
    if reason is not None:
        raise UserError(
            f"the words in {path} hold {word!r}, which {reason}: an image may not, give that word yourself "
            "(--from)"
        )
