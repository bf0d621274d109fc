"""DreamBooth (Ruiz et al., CVPR 2023): the UNet is fine-tuned on the condition, its class kept by its own pictures.

    loss = E |e - e_theta(z_t, "a photo of sks person")|^2 + lambda E |e' - e_theta(z'_t, "a photo of person")|^2  (Eq. 2)

z' are latents that the frozen model draws for the class; they are kept as latents, never decoded.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sow import diffusion, noise
from sow.backbone import Backbone
from sow.diffusion import Schedule
from sow.methods.baselines.personal import (
    PersonalSampler,
    Training,
    captions,
    denoising_loss,
    fingerprint,
    load,
    name_concept,
    save,
    trainable_copy,
)
from sow.types import Plan, Request

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]  # the attention's projections carry the low-rank updates


@dataclass(frozen=True, eq=False)
class DreamBoothSampler(PersonalSampler):
    """Sampling with the rare token before the prompt's noun, by the fine-tuned UNet."""

    def prompts(self, requests: Sequence[Request], plans: Sequence[Plan]) -> list[str]:
        plain = super().prompts(requests, plans)
        return [
            name_concept(p, self.options.class_words, lambda word: f"{self.options.token} {word}")
            for p in plain
        ]

    def equip(self, concept: Training) -> Backbone:
        own = copy.copy(self.backbone)
        own.unet = copy.deepcopy(self.backbone.unet)
        if self.options.lora_rank:
            add_lora(own.unet, self.options.lora_rank)
        # Of a LoRA training only the updates were kept.
        own.unet.load_state_dict(concept.tensors, strict=not self.options.lora_rank)
        torch.nn.Module.to(own.unet, device=own.device, dtype=own.dtype)
        own.unet.eval().requires_grad_(False)
        return own

    def train(self, request: Request) -> tuple[dict[str, Tensor], float]:
        generator = noise.generator(self.options.seed)
        model = trainable_copy(self.backbone, "unet")
        z = self.latents_of(request, generator).to(model.dtype)
        kind = self.options.class_words[0]
        texts = captions(self.options, f"{self.options.token} {kind}")
        prior = self.class_latents().to(z) if self.options.prior_weight else None
        if self.options.lora_rank:
            add_lora(model.unet, self.options.lora_rank)
        else:
            model.unet.requires_grad_(True)
        weights = [p for p in model.unet.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=self.options.learning_rate, weight_decay=1e-2)
        schedule, loss = self.schedule, torch.zeros(())
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

    def class_latents(self) -> Tensor:
        """Latents of the class's pictures, (class_images, C, h, w), drawn once for a model and kept beside the trainings."""
        options = self.options
        words = [
            options.class_images,
            options.class_steps,
            options.class_words[0],
            options.templates,
            options.seed,
        ]
        words += [
            self.canvas.latent_size,
            self.guidance,
            fingerprint(self.backbone.unet),
            str(self.backbone.dtype),
        ]
        place = self.folder / f"class-{hashlib.sha256(repr(words).encode()).hexdigest()[:24]}"
        found = load(place, self.backbone.device)
        if found is not None:
            return found.tensors["latents"]
        texts = captions(options, options.class_words[0])
        latents = []
        for start in range(0, options.class_images, options.train_batch):
            numbers = range(start, min(start + options.train_batch, options.class_images))
            latents.append(self._draw_class([texts[i % len(texts)] for i in numbers], numbers))
        made = torch.cat(latents)
        save(place, Training({"latents": made}, 0.0, 0.0), {"class": options.class_words[0]})
        return made

    def _draw_class(self, texts: Sequence[str], numbers: Sequence[int]) -> Tensor:
        """The frozen model's pictures for captions, as latents: deterministic DDIM with the run's guidance."""
        schedule = Schedule.from_config(self.backbone.scheduler_config, self.options.class_steps)
        rule = self.guidance.in_preservation()
        generators = [noise.generator(self.options.seed + 1 + i) for i in numbers]
        x = self._draw((1, self.backbone.channels, *self.canvas.latent_size), generators)
        nowhere = torch.zeros((len(x), 1, 1, 1), dtype=torch.bool, device=x.device)
        plain = replace(self, num_inference_steps=self.options.class_steps)
        embeds = self._embeds(rule, texts)
        for k in range(schedule.steps - 1, -1, -1):
            e = plain._epsilon(rule, x, k, embeds, nowhere)
            x, _ = diffusion.ddim_step(x, e, schedule.level(k + 1), schedule.level(k))
        return x


def add_lora(unet: Any, rank: int) -> None:
    """Low-rank updates on the attention's projections, the only weights that train then; needs the package peft."""
    from peft import LoraConfig

    unet.requires_grad_(False)
    unet.add_adapter(
        LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGETS)
    )
