"""Methods that train on the condition before they generate: what they share, and the store of finished
trainings.

Notation
    z_0, z_t   latents of the condition's picture, and noised to timestep t
    e          the noise that was added
    c          embedding of a caption that names the concept
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from sow.baselines.config import Baseline, Personal
from sow.baselines.sampler import BaselineSampler
from sow.errors import UserError
from sow.method import noise
from sow.method.seed_init import to_tensor
from sow.models.backbone import Backbone
from sow.pipeline.batches import out_of_memory, release
from sow.store.code import fingerprint_code
from sow.store.fingerprint import fingerprint
from sow.store.store import Store
from sow.types import Request

MODEL = ("vae", "unet", "text_encoder")


@dataclass(frozen=True, eq=False)
class Training:
    """A finished training: its tensors by name, the seconds it took when it was done, and the loss it ended
    at."""

    tensors: Mapping[str, Tensor]
    seconds: float
    loss: float


def name_concept(prompt: str, words: Sequence[str], concept: Callable[[str], str]) -> str:
    """The prompt with the first of `words` that it names replaced by `concept(word)`; put in front where none
    is."""
    found = first_named(prompt, words)
    if found is None:
        return f"{concept(words[0])}, {prompt}"
    noun, _ = found
    return prompt[: noun.start()] + concept(noun.group()) + prompt[noun.end() :]


def first_named(prompt: str, words: Sequence[str]) -> tuple[re.Match[str], str] | None:
    """Where a prompt first names one of `words`, whole and in any case, and which; None where it names
    none."""
    named = ((re.search(rf"\b{re.escape(w)}\b", prompt, re.IGNORECASE), w) for w in words)
    return min(((m, w) for m, w in named if m), key=lambda found: found[0].start(), default=None)


def trainable_copy(backbone: Backbone, *parts: str) -> Backbone:
    """The model with its own copies of `parts` in float32; all that meets them is float32 too."""
    own = copy.copy(backbone)
    own.dtype = torch.promote_types(backbone.dtype, torch.float32)
    own.prompt_embeds = {}
    for part in ("unet", "text_encoder"):
        module = getattr(backbone, part)
        if part in parts or own.dtype != backbone.dtype:
            module = torch.nn.Module.to(copy.deepcopy(module), dtype=own.dtype)
        setattr(own, part, module)
    return own


def denoising_loss(
    backbone: Backbone, alphas: Tensor, prediction: str, z: Tensor, t: Tensor, e: Tensor, c: Tensor
) -> Tensor:
    """|target - model(z_t, t, c)|^2, the loss the model was trained with; `z`, `e` (B, C, h, w), `t` (B,)."""
    a = alphas.to(z)[t].view(-1, 1, 1, 1)
    noisy = a**0.5 * z + (1 - a) ** 0.5 * e
    target = {"epsilon": e, "sample": z, "v_prediction": a**0.5 * e - (1 - a) ** 0.5 * z}[prediction]
    inputs = backbone.unet_inputs(noisy, c)
    output = backbone.unet(noisy, t.to(z.device), return_dict=False, **inputs)[0]
    return torch.nn.functional.mse_loss(output.float(), target.float())


@dataclass(frozen=True, eq=False)
class PersonalSampler(BaselineSampler):
    """Learn the condition, or find it learnt, then sample; one request per batch, since each has weights of
    its own.

    `folder` holds finished trainings; `concept` is the training that this sampler uses, None until a request
    is known.
    """

    folder: Path = field(default_factory=Path)
    concept: Training | None = None
    memory_cure: ClassVar[str] = (
        "try method.train_batch=1 or a smaller canvas (method.train_batch, width, height)"
    )

    @property
    def needs_latents(self) -> bool:
        return False

    def train(self, request: Request) -> tuple[dict[str, Tensor], float]:
        """The training itself: its tensors and last loss."""
        raise NotImplementedError

    def equip(self, concept: Training) -> Backbone:
        """The model with the concept in it."""
        raise NotImplementedError

    def check(self, request: Request) -> None:
        if len(request.conditions) != 1:
            raise UserError(
                f"request {request.id} has {len(request.conditions)} visual conditions; a method that learns "
                "the condition takes one (condition, method)"
            )

    def ready(self, requests: Sequence[Request]) -> tuple[PersonalSampler, Mapping[str, float]]:
        """The method on the model that knows the condition; the seconds are those of the training when it was
        done."""
        if len(requests) > 1:
            raise UserError(
                f"{len(requests)} requests in a batch of a method that learns the condition: take "
                "batch_size=1 (batch_size)"
            )
        own = self.with_concept(requests[0])
        assert own.concept is not None
        return own, {"train": own.concept.seconds}

    def with_concept(self, request: Request) -> PersonalSampler:
        """This sampler on the model that knows the request's condition, itself where it is; UserError out of
        memory."""
        if self.concept is not None:
            return self
        try:
            concept = self.learn(request)
            return replace(self, model=replace(self.model, backbone=self.equip(concept)), concept=concept)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # Out here the error and the tensors that its traceback held are gone.
        release(self.backbone)
        raise UserError(
            f"out of memory in training on a condition with method.train_batch={self.options.train_batch}: "
            f"{self.memory_cure}"
        )

    def learn(self, request: Request) -> Training:
        """The training for the request's condition, from the folder where it is finished there."""
        key = self.key(request)
        found = self.recall(key)
        if found is not None:
            return found
        self.prepare_training(request)
        started = time.perf_counter()
        tensors, loss = self.train(request)
        seconds = time.perf_counter() - started
        if not all(t.isfinite().all() for t in tensors.values()):
            raise UserError(
                f"the training's weights are not finite: lower method.learning_rate={self.options.rate} or "
                "take model.dtype=float32 (method.learning_rate)"
            )
        training = Training(tensors, seconds + self.shared_seconds(request), loss)
        self.keep(key, training, condition=request.conditions[0].name, options=self.trained_options(request))
        return training

    @cached_property
    def store(self) -> Store:
        """Finished trainings by key."""
        return Store(self.folder)

    def recall(self, key: str) -> Training | None:
        """The training that is kept as `key`, on the model's device; None where there is none unharmed."""
        found = self.store.get(key)
        if found is None:
            return None
        tensors = {name: t.to(self.backbone.device) for name, t in found["tensors"].items()}
        return Training(tensors, found["seconds"], found["loss"])

    def keep(self, key: str, training: Training, **facts: Any) -> None:
        """Keep a training, with facts for whoever looks at the file."""
        tensors = {name: t.detach().cpu() for name, t in training.tensors.items()}
        told = json.loads(json.dumps(facts, default=str))
        self.store.put(key, {"tensors": tensors, "seconds": training.seconds, "loss": training.loss, **told})

    def prepare_training(self, request: Request) -> None:
        """What several trainings share, made by the first that needs it; nothing here."""

    def shared_seconds(self, request: Request) -> float:
        """The seconds that `prepare_training` took, for the one training that answers for them; none here."""
        return 0.0

    def trained_options(self, request: Request) -> dict[str, Any]:
        """What the training depends on besides condition and model: all options but those of the generation,
        of the place on disk, and of which word of a prompt the concept takes."""
        later = {f.name for f in dataclasses.fields(Baseline)} - {"vae"} | {
            "cache",
            "class_words",
        }
        values = {f.name: getattr(self.options, f.name) for f in dataclasses.fields(self.options)}
        return {n: v for n, v in values.items() if n not in later} | {"learning_rate": self.options.rate}

    @cached_property
    def model_facts(self) -> dict[str, Any]:
        """What of the model decides a training: weights, precision and noise schedule."""
        return {
            **{part: fingerprint(dict(getattr(self.backbone, part).state_dict())) for part in MODEL},
            "dtype": str(self.backbone.dtype),
            "scheduler": self.backbone.scheduler_config,
        }

    def key(self, request: Request) -> str:
        """Fingerprint of the condition, the model, the options and the code of the training."""
        options = self.trained_options(request)
        return fingerprint([options, self.model_facts, self.picture(request), fingerprint_code(type(self))])

    def picture(self, request: Request) -> Image.Image:
        """The condition as large as the canvas, gray outside its mask."""
        size = self.canvas.width, self.canvas.height
        return request.conditions[0].on_gray().resize(size, Image.Resampling.BICUBIC)

    def latents_of(self, request: Request, generator: torch.Generator) -> Tensor:
        """z_0 of the picture and, with `flip`, of its mirror image: (1 or 2, C, h, w)."""
        picture = to_tensor(self.picture(request))[None]
        views = [picture, picture.flip(-1)] if self.options.flip else [picture]
        return torch.cat([self.encode(view, [generator]) for view in views])

    def steps_of_training(self) -> Iterator[int]:
        """Step numbers with a progress bar on a terminal."""
        from tqdm import tqdm

        words = type(self.options).__name__
        yield from tqdm(range(self.options.steps), desc=f"training {words}", disable=None, leave=False)

    def draw_training_batch(self, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(z, t, e) of one training step, drawn image by image."""
        count, total = self.options.train_batch, len(self.noise_schedule.alphas_cumprod)
        rows = [noise.integers(0, len(z) - 1, generator) for _ in range(count)]
        t = torch.tensor([noise.integers(0, total - 1, generator) for _ in range(count)])
        shape = (1, *z.shape[1:])
        e = torch.cat([noise.randn(shape, generator, z.device, z.dtype) for _ in range(count)])
        return z[rows], t, e


def captions(options: Personal, concept: str) -> list[str]:
    """The captions of the training pictures."""
    return [template.replace("{}", concept) for template in options.templates]
