"""From placed pictures, or from noise, to the latents of the cycle: encode and invert, each distinct picture once."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sow.method import diffusion
from sow.method.guidance import classifier_free
from sow.method.seed_init import PureNoise, Seed, paste_latents
from sow.store.cache import Chain
from sow.store.digest import digest
from sow.types import Phase, Plan, Step, StepContext

if TYPE_CHECKING:
    from sow.pipeline.pipeline import Sampler


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


def invert_conditions(
    sampler: Sampler,
    chain: Chain,
    seeds: Sequence[Seed],
    count: int,
    prompts: Sequence[str],
    generators: Sequence[torch.Generator],
) -> Generator[Step, None, dict[int, Tensor]]:
    """v_k (count, C, h, w) for k = 0 .. t2: the conditions inverted alone and laid where they are placed, zero elsewhere.

    Empty where the inverted canvas itself serves as v.
    """
    if sampler.inversion.condition != "alone":
        return {}
    kept: dict[int, list[Any]] = {k: [None] * len(seeds) for k in range(sampler.t2 + 1)}
    for group in by_size(seeds):
        members = [seeds[i] for i in group]
        number = members[0].condition if len(members) == 1 else None
        alone = pictures_of(
            sampler,
            [s.image for s in members],
            [prompts[s.sample] for s in members],
            [generators[s.sample] for s in members],
        )
        own = chain.fork()
        for step in invert(sampler, own, alone, sampler.t2, "invert_condition", number):
            k = reached(step)
            for row, i in enumerate(group):
                kept[k][i] = step.latents[row]
            yield step
        chain.join(own)
    backbone = sampler.backbone
    shape = (count, backbone.channels, *sampler.canvas.latent_size)
    like = torch.zeros(shape, dtype=backbone.dtype, device=backbone.device)
    return {k: paste_latents(seeds, values, like) for k, values in kept.items()}


def start(
    sampler: Sampler,
    chain: Chain,
    images: Sequence[Tensor],
    prompts: Sequence[str],
    generators: Sequence[torch.Generator],
    plans: Sequence[Plan],
    v: dict[int, Tensor],
) -> Generator[Step, None, Tensor]:
    """The latents that enter the cycles: the canvas inverted, or x_K ~ N(0, 1) denoised to x_{t2} with c'.

    Fills `v` where the inverted canvas serves as v.
    """
    if isinstance(sampler.seed_init, PureNoise):
        return (yield from from_noise(sampler, chain, generators, plans))
    pictures = pictures_of(sampler, images, prompts, generators)
    stop = sampler.t1 if sampler._inverts_to_t1 else sampler.t2
    wanted = None
    own = chain.fork()
    for step in invert(sampler, own, pictures, stop, "invert_canvas", None):
        k = reached(step)
        if sampler.inversion.condition == "canvas":
            v[k] = step.latents
        if k == (sampler.t1 if sampler.seed_init.start == "inject" else sampler.t2):
            wanted = step.latents
        yield step
    chain.join(own)
    assert wanted is not None
    return wanted


def from_noise(
    sampler: Sampler, chain: Chain, generators: Sequence[torch.Generator], plans: Sequence[Plan]
) -> Generator[Step, None, Tensor]:
    """x_K ~ N(0, 1) denoised to x_{t2} with c' (Fig. 6)."""
    size, last = sampler.canvas.latent_size, sampler.num_inference_steps
    draw = sampler.draw_on_host((1, sampler.backbone.channels, *size), generators)
    chain.note("noise", draw, sampler.guidance, *(p.prompt for p in plans))
    x = chain.trust(sampler.to_device(draw))
    yield Step(x, "start", StepContext("sample", None, last))
    schedule, rule = sampler.schedule, sampler.guidance.in_cycle()
    embeds = sampler._embeds(rule, [p.prompt for p in plans])
    M = torch.zeros((len(plans), 1, *size), dtype=torch.bool, device=x.device)
    for k in range(last - 1, sampler.t2 - 1, -1):
        chain.reads(x)

        def made(x: Tensor = x, k: int = k) -> tuple[Tensor, Tensor]:
            e = sampler._epsilon(rule, x, k, embeds, M)
            return diffusion.ddim_step(x, e, schedule.level(k + 1), schedule.level(k))

        x, x0 = chain.recall(("sample", k), made)
        yield Step(x, "denoise", StepContext("sample", None, k, schedule.timesteps[k]), {}, x0)
    return x
