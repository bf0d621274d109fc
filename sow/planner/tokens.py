"""How many tokens a prompt takes in the text encoder, without loading one."""

from __future__ import annotations

import gzip
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MERGES = "bpe_simple_vocab_16e6.txt.gz"  # CLIP's byte pairs, as open_clip carries them
_MERGE_COUNT = 48894
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_PEOPLE = Path(__file__).resolve().parents[1] / "people" / "weights" / "tokenizer"


def token_count(text: str) -> int:
    """Tokens of a text with start and end: the larger count of CLIP's tokenizer and the embedded model's own."""
    return 2 + max(len(tokenizer.encode(text).ids) for tokenizer in _tokenizers())


@lru_cache(maxsize=1)
def _tokenizers() -> tuple[Tokenizer, ...]:
    # Importing open_clip takes half a minute on a busy machine; its vocabulary file is all that is needed.
    spec = importlib.util.find_spec("open_clip")
    folders = list(spec.submodule_search_locations or []) if spec else []
    lines: list[str] = []
    for folder in folders:
        if (file := Path(folder) / _MERGES).is_file():
            lines = gzip.decompress(file.read_bytes()).decode().split("\n")[1 : _MERGE_COUNT + 1]
    found = [_clip_like(lines)] if lines else []
    if (_PEOPLE / "merges.txt").is_file():
        found.append(_clip_like((_PEOPLE / "merges.txt").read_text(encoding="utf-8").split("\n")))
    return tuple(found)


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
