"""How many tokens a prompt takes in the text encoder, without loading one."""

from __future__ import annotations

import gzip
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from sow.errors import UserError
from sow.models.tokenizer import PAIRS, clip_vocabulary
from sow.store.file_hashes import file_sha256
from sow.store.files import place_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_SHIPPED = Path(__file__).resolve().parents[1] / "people" / "weights"


def token_count(text: str, model: str | None) -> int:
    """Tokens of a text, start and end included, for the model in this folder ("people": the shipped one; None
    or a folder without a tokenizer: CLIP's own tokenizer)."""
    file = vocabulary_file(model)
    return 2 + len(_tokenizer(file, file_sha256(file)).encode(text).ids)


@lru_cache(maxsize=4)
def _tokenizer(file: Path, digest: str) -> Tokenizer:
    """That of a file with this `digest`."""
    if file.suffix == ".gz":
        return _clip_like(gzip.decompress(file.read_bytes()).decode().split("\n")[1 : PAIRS + 1])
    return _clip_like(file.read_text(encoding="utf-8").split("\n"))


def vocabulary_file(model: str | None) -> Path:
    """The byte pairs that count tokens for `model`, as `token_count` takes it;
    UserError without open_clip's."""
    if model is not None:
        folder = _SHIPPED if model == "people" else place_of(model, "planner.tokenizer")
        file = folder / "tokenizer" / "merges.txt"
        if file.is_file():
            return file
        if folder.is_dir() and not file.parent.is_dir():
            raise UserError(
                f"{folder} holds no tokenizer/: give a model's folder, people or null (planner.tokenizer)"
            )
    return clip_vocabulary()


def _clip_like(lines: list[str]) -> Tokenizer:
    """CLIP's tokenizer over the given merges, one "a b" a line."""
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    merges = [
        (a, b)
        for line in lines
        if not line.startswith("#") and len(line.split()) == 2
        for a, b in [line.split()]
    ]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(c + "</w>" for c in alphabet), *(a + b for a, b in merges), "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer
