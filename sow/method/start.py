"""From placed pictures, or from noise, to the latents of the cycle: encode and invert, each distinct picture
once."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sow.method.components import Components
from sow.method.guidance import ClassifierFree
from sow.method.seed_init import Batch, PlacedCondition, paste_latents
from sow.types import Event, Phase, Step, StepContext


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture to be inverted: `image` (3, H, W) in [-1, 1] on the CPU, the prompt that guides it, and the
    standard normal draws (1, C, h, w): `draw` samples the autoencoder's posterior, None for its mode (A17);
    `noise` is that of an inversion without a network, else None."""

    image: Tensor
    prompt: str
    draw: Tensor | None
    noise: Tensor | None

    @property
    def content(self) -> tuple[bytes | str, ...]:
        """What decides its latents, besides its size."""
        draws = (
            b"" if d is None else d.cpu().view(torch.uint8).numpy().tobytes() for d in (self.draw, self.noise)
        )
        return self.image.numpy().tobytes(), self.prompt, *draws


def pictures_of(
    method: Components, batch: Batch, images: Sequence[Tensor], samples: Sequence[int]
) -> list[Picture]:
    """Pictures of one size that belong to `samples` of the batch, drawn for in order where the posterior is
    sampled."""
    size = [n // method.canvas.factor for n in images[0].shape[-2:]]
    sampled, free = method.inversion.vae == "sample", method.inversion.solver == "free"
    return [
        Picture(
            image,
            method.inversion.choose_prompt(batch.requests[i].prompt, batch.plans[i].prompt),
            method.model.draw(size, [batch.generators[i]]) if sampled else None,
            method.model.draw(size, [batch.generators[i]]) if free else None,
        )
        for image, i in zip(images, samples, strict=True)
    ]


def invert(
    method: Components,
    pictures: Sequence[Picture],
    stop: int,
    phase: Phase,
    condition: int | None = None,
    samples: tuple[int, ...] | None = None,
) -> Iterator[Step]:
    """Inversion x_0 -> x_stop of pictures of one size: a start, then one step per state.

    Steps hold a row per picture, of `samples`; pictures that are the same with the same prompt and draw are
    inverted once.
    """
    distinct = {picture.content: picture for picture in pictures}
    own = list(distinct.values())
    numbers = {content: i for i, content in enumerate(distinct)}
    rows = None
    if len(own) < len(pictures):
        rows = torch.tensor([numbers[p.content] for p in pictures], device=method.backbone.device)

    draws = [p.draw for p in own if p.draw is not None]
    x = method.model.encode(torch.stack([p.image for p in own]), torch.cat(draws) if draws else None)
    inversion = method.inversion
    x = x * inversion.nudge if inversion.nudge != 1 else x
    context = StepContext(phase, None, 0, None, condition)
    yield Step(x if rows is None else x[rows], "start", context, samples=samples)
    noises = [p.noise for p in own if p.noise is not None]
    clean, noise, v = x, torch.cat(noises) if noises else None, None
    rule = ClassifierFree(inversion.guidance_scale, inversion.negative_prompt)
    denoiser = method.model.denoiser(rule, [p.prompt for p in own])
    for k in range(stop):
        if noise is not None:
            x = method.schedule.noised(clean, k + 1, noise)
        elif inversion.solver == "midpoint":
            x, v = denoiser.invert_midpoint(x, k, v)
        else:
            x = denoiser.invert(x, k, inversion.official)
        event: Event = "denoise" if noise is None else "inject"
        told = method.schedule.timesteps[k] if noise is None else None
        context = StepContext(phase, None, k if noise is None else k + 1, told, condition)
        yield Step(x if rows is None else x[rows], event, context, samples=samples)


def reached(step: Step) -> int:
    """The state that a step of `invert` ends in: its own, and k + 1 for a network's x_k -> x_{k+1}."""
    k = step.context.index
    assert k is not None
    return k + 1 if step.event == "denoise" else k


def by_size(placed: Sequence[PlacedCondition]) -> list[list[int]]:
    """Numbers of the conditions grouped by latent size: those of one size are inverted together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, condition in enumerate(placed):
        groups.setdefault(tuple(condition.latent_mask.shape), []).append(i)
    return list(groups.values())


def invert_conditions(method: Components, batch: Batch) -> Generator[Step, None, dict[int, Tensor]]:
    """v_k (B, C, h, w) for k = 0 .. t2: the conditions inverted alone and laid where they are placed, zero
    elsewhere.

    Empty where the inverted canvas itself serves as v.
    """
    if method.inversion.condition != "alone":
        return {}
    placed = batch.placed
    kept: dict[int, dict[int, Tensor]] = {k: {} for k in range(method.t2 + 1)}
    for group in by_size(placed):
        members = [placed[i] for i in group]
        number = members[0].condition if len(members) == 1 else None
        alone = pictures_of(method, batch, [m.image for m in members], [m.sample for m in members])
        owners = tuple(m.sample for m in members)
        for step in invert(method, alone, method.t2, "invert_condition", number, owners):
            kept[reached(step)].update(zip(group, step.latents, strict=True))
            yield step
    backbone = method.backbone
    shape = (len(batch.requests), backbone.channels, *batch.canvas.latent_size)
    like = torch.zeros(shape, dtype=backbone.dtype, device=backbone.device)
    return {k: paste_latents(placed, [own[i] for i in range(len(placed))], like) for k, own in kept.items()}


def start(method: Components, batch: Batch, v: dict[int, Tensor]) -> Generator[Step, None, Tensor]:
    """The latents that enter the cycles: the canvas inverted, or x_K ~ N(0, 1) denoised to x_{t2} with c'.

    Fills `v` where the inverted canvas serves as v.
    """
    if method.seed_init.start == "noise":
        return (yield from from_noise(method, batch))
    pictures = pictures_of(method, batch, list(batch.pictures), range(len(batch.requests)))
    wanted, x = method.last_state if method.seed_init.start == "inject" else method.t2, None
    for step in invert(method, pictures, method.inverted_steps, "invert_canvas"):
        if method.inversion.condition == "canvas":
            v[reached(step)] = step.latents
        if reached(step) == wanted:
            x = step.latents
        yield step
    assert x is not None
    return x


def from_noise(method: Components, batch: Batch) -> Generator[Step, None, Tensor]:
    """x_K ~ N(0, 1) denoised to x_{t2} with c' (Fig. 6)."""
    steps = method.schedule.steps
    x = method.schedule.end(method.model.draw(batch.canvas.latent_size, batch.generators))
    yield Step(x, "start", StepContext("sample", None, steps))
    denoiser = method.model.denoiser(method.guidance.in_cycle(), batch.prompts(user=False))
    for k in range(steps - 1, method.t2 - 1, -1):
        x, x0, *_ = denoiser.step(x, k)
        yield Step(x, "denoise", StepContext("sample", None, k, method.schedule.timesteps[k]), {}, x0)
    return x
