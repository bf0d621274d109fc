"""From placed pictures to latents at the noise levels of the cycle: encode and invert, each distinct picture once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sow import diffusion
from sow.cache import Chain, digest
from sow.guidance import classifier_free
from sow.seed_init import Seed
from sow.types import Phase, Step, StepContext

if TYPE_CHECKING:
    from sow.methods.sow import Sampler


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture to be inverted: `image` (3, H, W) in [-1, 1] on the CPU, the prompt that guides it, and the standard
    normal draw (1, C, h, w) on the CPU that samples the autoencoder's posterior, None for its mode (A17)."""

    image: Tensor
    prompt: str
    draw: Tensor | None


def pictures_of(
    sampler: Sampler,
    images: Sequence[Tensor],
    prompts: Sequence[str],
    generators: Sequence[torch.Generator],
) -> list[Picture]:
    """Pictures of one size, drawn for in order where the posterior is sampled."""
    if sampler.inversion.vae == "mode":
        return [Picture(image, prompt, None) for image, prompt in zip(images, prompts, strict=True)]
    height, width = (n // sampler.canvas.factor for n in images[0].shape[-2:])
    shape = (1, int(sampler.backbone.vae.config.latent_channels), height, width)
    return [
        Picture(image, prompt, sampler.draw_on_host(shape, [generator]))
        for image, prompt, generator in zip(images, prompts, generators, strict=True)
    ]


def distinct(keys: Sequence[bytes]) -> tuple[list[int], list[int]]:
    """(places of the first of each distinct key, for every key the number of its distinct one)."""
    numbers: dict[bytes, int] = {}
    first = []
    for place, key in enumerate(keys):
        if key not in numbers:
            numbers[key] = len(numbers)
            first.append(place)
    return first, [numbers[key] for key in keys]


def invert(
    sampler: Sampler,
    chain: Chain,
    pictures: Sequence[Picture],
    stop: int,
    phase: Phase,
    condition: int | None,
) -> Iterator[Step]:
    """DDIM inversion x_0 -> x_stop of pictures of one size: a start, then one step for each state.

    Steps hold a row a picture; pictures that are the same with the same prompt and draw are inverted once. `chain` has
    seen the sampler's schedule and inversion.
    """
    first, number = distinct([digest(p.image, p.prompt, p.draw) for p in pictures])
    own = [pictures[i] for i in first]
    device = sampler.backbone.device
    rows = None if len(own) == len(pictures) else torch.tensor(number, device=device)
    spread = lambda x: x if rows is None else x[rows]  # noqa: E731

    x = encode(sampler, chain, own)
    shown = chain.trust(spread(x))
    yield Step(shown, "start", StepContext(phase, None, 0, None, condition))
    inversion = sampler.inversion
    rule = classifier_free(inversion.guidance_scale, inversion.negative_prompt)
    embeds = sampler._embeds(rule, [p.prompt for p in own])
    mask = torch.zeros((len(x), 1, 1, 1), dtype=torch.bool, device=device)
    chain.note(*(p.prompt for p in own))
    for k in range(stop):
        chain.reads(shown)

        def made(x: Tensor = x, k: int = k) -> tuple[Tensor]:
            e = sampler._epsilon(rule, x, k, embeds, mask)
            return (diffusion.invert_step(x, e, *inversion.step_levels(sampler.schedule, k)),)

        (x,) = chain.recall(("invert", k), made)
        shown = chain.trust(spread(x))
        timestep = sampler.schedule.timesteps[k]
        yield Step(shown, "denoise", StepContext(phase, None, k, timestep, condition))
    chain.note(number)


def reached(step: Step) -> int:
    """The state that a step of `invert` ends in: 0 for the start, k + 1 for x_k -> x_{k+1}."""
    k = step.context.index
    assert k is not None
    return 0 if step.event == "start" else k + 1


def encode(sampler: Sampler, chain: Chain, pictures: Sequence[Picture]) -> Tensor:
    """Latents (B, C, h, w) of pictures of one size."""
    backbone = sampler.backbone
    draws = [p.draw for p in pictures if p.draw is not None]

    def made() -> tuple[Tensor]:
        noises = sampler.to_device(torch.cat(draws)) if draws else None
        return (backbone.encode(torch.stack([p.image for p in pictures]), noises),)

    chain.note(*(p.image for p in pictures), *draws)
    (x,) = chain.recall(("encode",), made)
    return x


def by_size(seeds: Sequence[Seed]) -> list[list[int]]:
    """Places of seeds grouped by latent size: those of one size are inverted together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, seed in enumerate(seeds):
        groups.setdefault(tuple(seed.latent_mask.shape), []).append(i)
    return list(groups.values())
