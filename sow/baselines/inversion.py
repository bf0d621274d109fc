"""Textual Inversion (Gal et al., ICLR 2023): the embedding of a new word, found by the model's own loss (Eq.
2).

    v* = argmin_v E |e - e_theta(z_t, t, c_theta(caption with v))|^2

Everything but v is frozen. The word is no entry of the tokenizer: in a prompt it is a mark, whose place among
the tokens takes the learnt embeddings, so that all token ids stay below that of the text's end (which some
encoders look for).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sow.baselines.personal import (
    PersonalSampler,
    Training,
    captions,
    denoising_loss,
    name_concept,
    trainable_copy,
)
from sow.errors import UserError
from sow.method import noise
from sow.models.backbone import Backbone
from sow.types import Plan, Request

MARK = "<condition>"


def place_word(tokenizer: Any, encoder: Any, prompt: str, vectors: int) -> tuple[Tensor, Tensor]:
    """Token ids (1, length) of a prompt with one MARK, and the places (vectors,) that the word takes.

    Ids at those places are the padding's and mean nothing; words past the encoder's length are lost, the mark
    never.
    """
    length = min(int(tokenizer.model_max_length), int(encoder.config.max_position_embeddings))
    before, _, after = prompt.partition(MARK)
    head, tail = (tokenizer(t, add_special_tokens=False, verbose=False).input_ids for t in (before, after))
    pad = tokenizer.pad_token_id
    room = length - 2 - vectors
    head = head[:room]
    ids = [tokenizer.bos_token_id, *head, *[pad] * vectors, *tail[: room - len(head)], tokenizer.eos_token_id]
    places = torch.arange(1 + len(head), 1 + len(head) + vectors)
    return torch.tensor([ids + [pad] * (length - len(ids))]), places


@contextmanager
def inserted(encoder: Any, places: Tensor, vectors: Tensor) -> Iterator[None]:
    """Within the block the encoder reads `vectors` (n, width) at `places` in place of its own embeddings."""

    def swap(module: Any, arguments: Any, out: Tensor) -> Tensor:
        return out.index_copy(1, places.to(out.device), vectors.to(out)[None].expand(len(out), -1, -1))

    handle = encoder.get_input_embeddings().register_forward_hook(swap)
    try:
        yield
    finally:
        handle.remove()


def encode_with_word(backbone: Backbone, prompt: str, words: Sequence[Tensor]) -> Tensor:
    """Embedding of a prompt with one MARK, `words` its vectors for each encoder; gradients reach them."""
    ids = []
    with ExitStack() as stack:
        for (tokenizer, encoder), vectors in zip(backbone.encoders, words, strict=True):
            own, places = place_word(tokenizer, encoder, prompt, len(vectors))
            ids.append(own)
            stack.enter_context(inserted(encoder, places, vectors))
        return backbone.states(ids)


def initial_vectors(backbone: Backbone, word: str, count: int) -> list[Tensor]:
    """The embedding of `word`, the mean over its tokens, `count` times for each encoder: (count, width)
    float32."""
    out = []
    for tokenizer, encoder in backbone.encoders:
        ids = tokenizer(word, add_special_tokens=False).input_ids
        if not ids:
            raise UserError(f"the tokenizer knows no token for {word!r} (method.initial)")
        table = encoder.get_input_embeddings().weight
        out.append(table[torch.tensor(ids, device=table.device)].detach().float().mean(0).repeat(count, 1))
    return out


@dataclass(frozen=True, eq=False)
class TextualInversionSampler(PersonalSampler):
    """Sampling with the prompt's noun replaced by the learnt word."""

    def prompts(self, requests: Sequence[Request], plans: Sequence[Plan]) -> list[str]:
        plain = super().prompts(requests, plans)
        return [name_concept(p, self.options.class_words, lambda word: MARK) for p in plain]

    def equip(self, concept: Training) -> Backbone:
        own = copy.copy(self.backbone)
        own.prompt_embeds = {}
        words = [concept.tensors[f"word.{i}"] for i in range(len(own.encoders))]
        plain = type(own).encode_prompt

        def encode(prompt: str) -> Tensor:
            if MARK not in prompt:
                return plain(own, prompt)
            with torch.no_grad():
                return encode_with_word(own, prompt, words)

        own.encode_prompt = encode  # type: ignore[method-assign]
        return own

    def train(self, request: Request) -> tuple[dict[str, Tensor], float]:
        generator = noise.generator(self.options.seed)
        model = trainable_copy(self.backbone)
        z = self.latents_of(request, generator).to(model.dtype)
        words = initial_vectors(model, self.options.initial, self.options.vectors)
        words = [torch.nn.Parameter(w.to(model.device)) for w in words]
        optimizer = torch.optim.AdamW(words, lr=self.options.rate, weight_decay=0.0)
        texts, loss = captions(self.options, MARK), torch.zeros(())
        schedule = self.noise_schedule
        for _ in self.steps_of_training():
            own, t, e = self.draw_training_batch(z, generator)
            with torch.enable_grad():
                chosen = [texts[noise.integers(0, len(texts) - 1, generator)] for _ in own]
                c = torch.cat([encode_with_word(model, text, words) for text in chosen])
                loss = denoising_loss(model, schedule.alphas_cumprod, schedule.prediction_type, own, t, e, c)
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
        return {f"word.{i}": w.detach() for i, w in enumerate(words)}, float(loss.detach())
