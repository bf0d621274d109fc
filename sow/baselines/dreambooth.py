"""DreamBooth (Ruiz et al., CVPR 2023): the UNet is fine-tuned on the condition, its class kept by its own
pictures.

    loss = E |e - e_theta(z_t, "a photo of sks person")|^2
           + lambda E |e' - e_theta(z'_t, "a photo of person")|^2  (Eq. 2)

The class is the noun that the prompt names. z' are latents that the frozen model draws for it; they are kept
as latents, never decoded.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sow.baselines.personal import (
    PersonalSampler,
    Training,
    captions,
    denoising_loss,
    first_named,
    name_concept,
    trainable_copy,
)
from sow.method import noise
from sow.method.denoiser import Model
from sow.models.backbone import Backbone
from sow.store.code import fingerprint_code
from sow.store.fingerprint import fingerprint
from sow.types import Plan, Request

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]  # the attention's projections carry the low-rank updates


@dataclass(frozen=True, eq=False)
class DreamBoothSampler(PersonalSampler):
    """Sampling with the rare token before the prompt's noun, by the fine-tuned UNet."""

    memory_cure: ClassVar[str] = (
        "try method.lora_rank=4, whose few weights alone train, method.train_batch=1 or a smaller canvas "
        "(method.lora_rank, method.train_batch, width, height)"
    )

    def noun(self, request: Request) -> str:
        """The class: the first of `class_words` that the request's prompt names, `class_words[0]` where it
        names none."""
        found = first_named(request.prompt, self.options.class_words)
        return found[1] if found else self.options.class_words[0]

    def prompts(self, requests: Sequence[Request], plans: Sequence[Plan]) -> list[str]:
        def named(plain: str, noun: str) -> str:
            return name_concept(plain, [noun], lambda _: f"{self.options.token} {noun}")  # as it was trained

        own = super().prompts(requests, plans)
        return [named(p, self.noun(r)) for p, r in zip(own, requests, strict=True)]

    def trained_options(self, request: Request) -> dict[str, Any]:
        options = super().trained_options(request) | {"noun": self.noun(request)}
        if self.options.prior_weight:
            options["guidance"] = dataclasses.asdict(self.guidance)
        unused = {"learning_rates"} | (
            set() if self.options.prior_weight else {"class_images", "class_steps"}
        )
        return {name: value for name, value in options.items() if name not in unused}

    def equip(self, concept: Training) -> Backbone:
        own = copy.copy(self.backbone)
        own.unet = copy.deepcopy(self.backbone.unet)
        if self.options.lora_rank:
            add_lora(own.unet, self.options.lora_rank, self.options.seed)
        # Of a LoRA training only the updates were kept.
        own.unet.load_state_dict(concept.tensors, strict=not self.options.lora_rank)
        torch.nn.Module.to(own.unet, device=own.device, dtype=own.dtype)
        own.unet.eval().requires_grad_(False)
        return own

    def train(self, request: Request) -> tuple[dict[str, Tensor], float]:
        generator = noise.generator(self.options.seed)
        model = trainable_copy(self.backbone, "unet")
        z = self.latents_of(request, generator).to(model.dtype)
        kind = self.noun(request)
        texts = captions(self.options, f"{self.options.token} {kind}")
        prior = self.class_latents(kind).to(z) if self.options.prior_weight else None
        if self.options.lora_rank:
            add_lora(model.unet, self.options.lora_rank, self.options.seed)
        else:
            model.unet.requires_grad_(True)
        weights = [p for p in model.unet.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=self.options.rate, weight_decay=1e-2)
        schedule, loss = self.noise_schedule, torch.zeros(())
        for _ in self.steps_of_training():
            parts = [(1.0, z, texts)]
            if prior is not None:
                parts.append((self.options.prior_weight, prior, captions(self.options, kind)))
            with torch.enable_grad():
                loss = torch.zeros((), device=model.device)
                for weight, latents, own_texts in parts:
                    own, t, e = self.draw_training_batch(latents, generator)
                    chosen = [own_texts[noise.integers(0, len(own_texts) - 1, generator)] for _ in own]
                    c = model.embed(chosen)
                    loss = loss + weight * denoising_loss(
                        model, schedule.alphas_cumprod, schedule.prediction_type, own, t, e, c
                    )
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
        kept = model.unet.state_dict()
        if self.options.lora_rank:
            kept = {name: value for name, value in kept.items() if "lora_" in name}
        return {name: value.to(self.backbone.dtype) for name, value in kept.items()}, float(loss.detach())

    def prepare_training(self, request: Request) -> None:
        if self.options.prior_weight:
            self.class_latents(self.noun(request))

    def shared_seconds(self, request: Request) -> float:
        """The class pictures' seconds for the first training that used them, 0 for the others.

        That training's key stands beside the pictures. It is written before the training is, so where no
        finished training has that key, the one that wrote it never came to count them.
        """
        if not self.options.prior_weight:
            return 0.0
        pictures, key = self.class_key(self.noun(request)), self.key(request)
        note = fingerprint([pictures, "counted by"])
        counted = self.store.value(note, lambda: key)
        if counted != key and counted in self.store:
            return 0.0
        self.store.put(note, key)
        drawn = self.recall(pictures)
        return drawn.seconds if drawn is not None else 0.0

    def class_key(self, noun: str) -> str:
        """Fingerprint of all that decides the pictures of a class."""
        options = self.options
        drawing = [options.class_images, options.class_steps, options.templates, options.seed]
        size, code = self.canvas.latent_size, fingerprint_code(type(self))
        return fingerprint(["class", self.model_facts, drawing, noun, size, self.guidance, code])

    def class_latents(self, noun: str) -> Tensor:
        """Latents of the class's pictures, (class_images, C, h, w), drawn once for a model and kept beside
        the trainings.

        Each picture is kept as soon as it is drawn, with its seconds, so that a run that was killed goes on.
        """
        from tqdm import tqdm

        key, count = self.class_key(noun), self.options.class_images
        found = self.recall(key)
        if found is not None:
            return found.tensors["latents"]
        texts = captions(self.options, noun)
        one = [fingerprint([key, i]) for i in range(count)]
        drawn = {i: d for i in range(count) if (d := self.recall(one[i])) is not None}
        left = [i for i in range(count) if i not in drawn]
        with tqdm(
            desc=f"pictures of the class {noun}", total=count, initial=len(drawn), disable=None, leave=False
        ) as bar:
            for start in range(0, len(left), self.options.train_batch):
                numbers = left[start : start + self.options.train_batch]
                started = time.perf_counter()
                latents = self._draw_class([texts[i % len(texts)] for i in numbers], numbers)
                seconds = (time.perf_counter() - started) / len(numbers)
                for i, own in zip(numbers, latents.split(1), strict=True):
                    drawn[i] = Training({"latents": own}, seconds, 0.0)
                    self.keep(one[i], drawn[i], noun=noun)
                bar.update(len(numbers))
        made = torch.cat([drawn[i].tensors["latents"] for i in range(count)])
        self.keep(key, Training({"latents": made}, sum(d.seconds for d in drawn.values()), 0.0), noun=noun)
        for own_key in one:
            self.store.forget(own_key)
        return made

    def _draw_class(self, texts: Sequence[str], numbers: Sequence[int]) -> Tensor:
        """The frozen model's pictures for captions, as latents: deterministic DDIM with the run's
        guidance."""
        model = Model.of(self.backbone, self.options.class_steps)
        generators = [noise.generator(self.options.seed + 1 + i) for i in numbers]
        x = model.draw(self.canvas.latent_size, generators)
        denoiser = model.denoiser(self.guidance.in_preservation(), texts)
        for k in range(model.schedule.steps - 1, -1, -1):
            x, *_ = denoiser.step(x, k)
        return x


def add_lora(unet: Any, rank: int, seed: int) -> None:
    """Low-rank updates on the attention's projections, the only weights that train then; needs the package
    peft.

    Their first values are drawn by the package from the global generators, here seeded with `seed` and put
    back.
    """
    from peft import LoraConfig

    unet.requires_grad_(False)
    device = next(unet.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        unet.add_adapter(
            LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGETS)
        )
