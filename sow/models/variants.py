"""Which of a part's files are taken where a folder holds several: plain ones, or a variant such as fp16."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sow.errors import UserError

STEMS = ("model", "diffusion_pytorch_model", "pytorch_model")  # of files that transformers and diffusers load
PREFERRED = "fp16"  # among variants where there are no plain files
_NUMBER = r"-\d{5}-of-\d{5}"
# model.safetensors, model.fp16.safetensors, model-00001-of-00002.safetensors, and either order of both
_FILE = re.compile(rf"({'|'.join(STEMS)})(?:{_NUMBER})?(?:\.(\w+?))?(?:{_NUMBER})?\.(?:safetensors|bin)")


def variant_of(name: str) -> str | None:
    """The variant of a weight file, "" for a plain one, None for a name that no class loads."""
    found = _FILE.fullmatch(name)
    return None if found is None else found[2] or ""


def pick(names: Iterable[str], wanted: str | None, place: str, key: str) -> tuple[str | None, Sequence[str]]:
    """The variant to take of a part with files of these names, and all that are there, "" the plain one.

    `wanted` is taken as it is; else the plain files, fp16 where there are none, or the only ones. Raises
    UserError where nothing decides.
    """
    found = sorted({v for name in names if (v := variant_of(name)) is not None})
    if wanted is not None:
        return wanted, found
    if "" in found or not found:
        return None, found
    if PREFERRED in found or len(found) == 1:
        return (PREFERRED if PREFERRED in found else found[0]), found
    raise UserError(
        f"{place} holds the variants {', '.join(found)}: say which with model.variant=... (model.variant, "
        f"{key})"
    )
