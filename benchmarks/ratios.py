"""The ratios: what is compared with what, that both sides do the same work, and what is expected."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.bare import open_gate
from benchmarks.timing import interleaved, quartiles, synchronize
from benchmarks.work import Modulated, Row, counted, forget_prompts, recorded, row, same_work
from sow.pipeline.cached import Cache
from sow.types import Request

CACHE_BYTES = 1 << 28
FLOP_PER_EVALUATION = 804e9  # UNet of Stable Diffusion 2.1-base, one row of 64 x 64 latents


def overhead(sampler: Any, requests: list[Request], rounds: int) -> Row:
    """generate() over the sum of the same UNet (modulation included), VAE and text-encoder calls."""
    backbone = sampler.backbone
    plans = sampler.plan(requests[:1])

    def generate() -> None:
        forget_prompts(backbone)
        sampler.generate(requests[:1], plans=plans)

    with recorded(backbone) as calls:
        generate()

    def replay() -> None:
        for call in calls:
            call()

    name = "generate() alone over its network calls"
    work = same_work(name, generate=counted(backbone, generate), calls=counted(backbone, replay))
    timed = interleaved({"generate": generate, "calls": replay}, rounds, backbone.device)
    return row(name, timed, "generate", "calls", work, at_most=1.03)


def modulated_step(sampler: Any, requests: list[Request], rounds: int, limit: float) -> Row:
    """A modulated step over an unmodulated one: gate open, all layers, text branch,
    one request with guidance."""
    backbone = sampler.backbone
    step = first_modulated(sampler.variant(gate=open_gate(sampler.method.gate)), requests)

    def plain() -> None:
        step.predict(*step.args)

    name = "a modulated step over an unmodulated one"
    work = same_work(name, modulated=counted(backbone, step), plain=counted(backbone, plain))

    def thrice(call: Callable[[], object]) -> Callable[[], object]:
        return lambda: [call() for _ in range(3)]

    several = {"modulated": thrice(step), "plain": thrice(plain)}
    timed = interleaved(several, rounds, backbone.device)
    return row(name, timed, "modulated", "plain", work, at_most=limit)


def first_modulated(sampler: Any, requests: list[Request]) -> Modulated:
    """The first modulated UNet call of the first request."""
    with recorded(sampler.backbone) as calls:
        sampler.generate(requests[:1], plans=sampler.plan(requests[:1]))
    return next(c for c in calls if isinstance(c, Modulated))


def compiled_step(sampler: Any, requests: list[Request], rounds: int, limit: float | None) -> Row:
    """A modulated step of the UNet compiled as `model.compile=default` does,
    over the same step of the eager one."""
    backbone = sampler.backbone
    eager = first_modulated(sampler, requests)
    twin = copy.copy(backbone)
    twin.unet = copy.deepcopy(backbone.unet)
    twin.compile(mode="default")
    compiled = copy.copy(eager)
    compiled.backbone, compiled.predict = twin, twin.predict
    name = "a modulated step, compiled over eager"
    work = same_work(name, compiled=counted(twin, compiled), eager=counted(backbone, eager))
    timed = interleaved({"compiled": compiled, "eager": eager}, rounds, backbone.device, warmup=2)
    return row(name, timed, "compiled", "eager", f"{work}, {backbone.dtype}", at_most=limit)


def options(sampler: Any, requests: list[Request], rounds: int) -> list[Row]:
    """The UNet's call with guidance under each of the model's options for speed,
    over the same call without."""
    backbone = sampler.backbone
    step = first_modulated(sampler, requests)
    latents, timestep, embeds = step.args
    last, fused = copy.deepcopy(backbone.unet), copy.deepcopy(backbone.unet)
    last.to(memory_format=torch.channels_last)
    fused.fuse_qkv_projections()
    networks = {"plain": backbone.unet, "channels_last": last, "fuse_qkv": fused}

    def call(unet: Any) -> None:
        with torch.no_grad():
            unet(latents, timestep, return_dict=False, **backbone.unet_inputs(latents, embeds))

    def autocast() -> None:
        with torch.autocast(backbone.device.type, torch.bfloat16):
            call(backbone.unet)

    contestants: dict[str, Callable[[], object]] = {n: partial(call, u) for n, u in networks.items()}
    contestants["autocast"] = autocast
    timed = interleaved(contestants, rounds, backbone.device, warmup=2)
    height, width = latents.shape[-2:]
    work = f"{len(latents)} at {height}x{width}, {backbone.dtype}".replace("torch.", "")
    return [
        row(f"{name} over plain, an unmodulated UNet call", timed, name, "plain", work)
        for name in contestants
        if name != "plain"
    ]


def attention(device: torch.device, dtype: torch.dtype, rounds: int, latent: int = 64) -> list[Row]:
    """Ours against materialised modulation, an additive mask and no modulation,
    the attention calls of a step."""
    from benchmarks.attention import calls

    made = calls(device, dtype, latent)
    tolerance = 1e-3 if dtype == torch.float32 else 3e-2
    names = ("ours", "materialised", "materialised_text", "masked", "plain")
    contestants = {n: getattr(made, n) for n in names}
    for ours, *others in zip(*(contestants[n]() for n in names if n != "plain"), strict=True):
        for theirs in others:
            error = (ours.float() - theirs.float()).norm() / theirs.float().norm()
            if not error < tolerance:
                raise AssertionError(f"the contestants do not compute the same: relative error {error:.1e}")
    timed = interleaved(contestants, rounds, device)
    work = f"{len(made.layers)} layers, 2 rows, {latent}x{latent} latents"
    return [
        row(
            "materialised modulation over ours, attention of a step",
            timed,
            "materialised",
            "ours",
            work,
            at_least=4.0,
        ),
        row("the text branch alone materialised over ours", timed, "materialised_text", "ours", work),
        row("attention with an additive mask over ours", timed, "masked", "ours", work),
        row("ours over attention without modulation", timed, "ours", "plain", work),
    ]


def batch(sampler: Any, requests: list[Request], rounds: int, limit: float) -> Row:
    """Eight requests in one batch over eight singles."""
    count = len(requests)
    plans = sampler.plan(requests)
    one, all_ = replace(sampler, batch_size=1), replace(sampler, batch_size=count)
    contestants = {
        "batch": lambda: all_.generate(requests, plans=plans),
        "singles": lambda: one.generate(requests, plans=plans),
    }
    name = f"{count} requests in one batch over {count} singles"
    work = same_work(name, **{n: counted(sampler.backbone, c) for n, c in contestants.items()})
    timed = interleaved(contestants, rounds, sampler.backbone.device, warmup=0)
    return row(name, timed, "batch", "singles", work, at_most=limit)


# Sweeps.


def sweep(
    sampler: Any, requests: list[Request], rounds: int, name: str, variants: list[Any], limit: float
) -> Row:
    """One request under every variant of the sampler, with caches (emptied before) over cold runs.

    The pictures are asserted to be the same; the work that is left is asserted to be a cold run and the rest
    of others.
    """
    backbone = sampler.backbone
    plans = sampler.plan(requests[:1])

    def under(limit: int) -> list[bytes]:
        cache = Cache()
        cache.configure(limit, None)
        forget_prompts(backbone)
        made = []
        for variant in variants:
            if not limit:
                forget_prompts(backbone)
            made.append(variant.variant(cache=cache).generate(requests[:1], plans=plans)[0].image.tobytes())
        return made

    pictures: dict[str, list[bytes]] = {}
    cold = counted(backbone, lambda: pictures.update(cold=under(0)))
    warm = counted(backbone, lambda: pictures.update(warm=under(CACHE_BYTES)))
    if pictures["cold"] != pictures["warm"]:
        raise AssertionError(f"{name}: a cached run made another picture than a cold one")
    contestants = {"cached": lambda: under(CACHE_BYTES), "cold": lambda: under(0)}
    timed = interleaved(contestants, rounds, backbone.device, warmup=0)
    words = "; ".join(f"{n} {same_work(name, own=w)}" for n, w in (("cached", warm), ("cold", cold)))
    return row(name, timed, "cached", "cold", words, at_most=limit)


def omegas(sampler: Any, requests: list[Request], rounds: int) -> Row:
    """A sweep of eight omega+."""
    p_plus = sampler.method.p_plus
    step = p_plus.omega / 4
    variants = [sampler.variant(p_plus=replace(p_plus, omega=step * (i + 1))) for i in range(8)]
    return sweep(sampler, requests, rounds, "a sweep of 8 omega with caches over 8 cold runs", variants, 0.82)


def preservations(sampler: Any, requests: list[Request], rounds: int) -> Row:
    """A sweep of eight (t3, eta)."""
    variants = [
        sampler.variant(preservation=replace(sampler.method.preservation, t3=t3, eta=eta))
        for t3 in ([4.0, 3.0], [4.0])
        for eta in (0.0, 0.1, 0.5, 1.0)
    ]
    return sweep(
        sampler, requests, rounds, "a sweep of 8 (t3, eta) with caches over 8 cold runs", variants, 0.30
    )


# Absolute numbers.


def image(sampler: Any, requests: list[Request], rounds: int) -> list[Row]:
    """Seconds of one image: the cycles alone and in total;
    on full-size networks the arithmetic rate in the cycles."""
    backbone = sampler.backbone
    plans = sampler.plan(requests[:1])
    cycles: list[float] = []

    def generate() -> None:
        forget_prompts(backbone)
        cycles.append(sampler.generate(requests[:1], plans=plans)[0].seconds["cycle"])

    timed = interleaved({"image": generate}, rounds, backbone.device)["image"]
    cycles = cycles[-rounds:]
    work = same_work("image", own=counted(backbone, generate))
    shared: dict[str, Any] = {"peak_mib": {"image": round(timed.peak_mib, 1)}, "work": work}
    rows = [
        Row("one image", quartiles(timed.seconds), "s", **shared),
        Row("its cycles alone", quartiles(cycles), "s", **shared),
    ]
    if backbone.unet.config.block_out_channels[0] == 320 and sampler.canvas.latent_size == (64, 64):
        steps = sampler.method.cycle.cycles * (sampler.method.t2 - sampler.method.last_state)
        branches = len(sampler.method.guidance.in_cycle().prompts(""))
        rates = [steps * branches * FLOP_PER_EVALUATION / s / 1e12 for s in cycles]
        rows.append(Row("arithmetic rate in the cycles", quartiles(rates), "TFLOP/s", work=work))
        if backbone.device.type == "cuda":
            rate = matrix_rate(backbone.device)
            rows.append(Row("the card's bfloat16 matrix rate", (rate,) * 3, "TFLOP/s"))
    return rows


def matrix_rate(device: torch.device, side: int = 8192, repeats: int = 20) -> float:
    """TFLOP/s of a large bfloat16 product, the best of three."""
    import time

    a = torch.ones((side, side), dtype=torch.bfloat16, device=device)
    best = float("inf")
    for _ in range(3):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(repeats):
            torch.mm(a, a)
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 * repeats / best / 1e12
