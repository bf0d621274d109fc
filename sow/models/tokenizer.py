"""CLIP's tokenizer from its byte pairs, where no tokenizer lies beside a model."""

from __future__ import annotations

import gzip
import importlib.util
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sow.errors import UserError

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"  # CLIP's byte pairs, as open_clip carries them
PAIRS = 48894  # of that file's lines, those that CLIP's vocabulary has
LENGTH = 77


def clip_tokenizer(pairs: Sequence[str], pad: str = END) -> Any:
    """transformers' CLIPTokenizer over byte pairs, one "a b" each; without any, every text becomes its
    bytes."""
    from transformers import CLIPTokenizer

    # The printable stand-ins for bytes that byte-level BPE uses.
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(b) for b in kept] + [chr(256 + i) for i in range(256 - len(kept))]
    made = ["".join(pair.split()) for pair in pairs]
    vocab = [*letters, *(letter + "</w>" for letter in letters), *made, BEGIN, END]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(vocab)}), "utf-8")
        (Path(folder) / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs, ""]), "utf-8")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=LENGTH, pad_token=pad)


def clip_vocabulary() -> Path:
    """The file of CLIP's byte pairs; UserError without open_clip."""
    # Importing open_clip takes half a minute on a busy machine; its vocabulary file is all that is needed.
    spec = importlib.util.find_spec("open_clip")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (file := Path(place) / VOCABULARY).is_file():
            return file
    raise UserError(
        "open_clip_torch is not installed, whose vocabulary counts tokens: pip install open_clip_torch"
    )


def published(pad: str) -> Any:
    """The tokenizer of Stable Diffusion 1 and 2, with CLIP's own vocabulary."""
    lines = gzip.decompress(clip_vocabulary().read_bytes()).decode("utf-8").split("\n")
    return clip_tokenizer(lines[1 : PAIRS + 1], pad)
