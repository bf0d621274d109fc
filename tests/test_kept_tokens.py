"""KV-Edit and Personalize Anything: their attention against loops in float64, their runs against the networks
called by hand, and plain sampling where they are off."""

from __future__ import annotations

import copy

import pytest
import torch
from small_baselines import config, latents, prepared, request
from small_transformers import saved
from test_rectified import as_flow, batch_is_singles, draws, grid, velocity
from test_sampler import moved

from sow import build, compose
from sow.baselines.kv_edit import Kept
from sow.baselines.mutual import self_attention_layers
from sow.baselines.personalize import Injection, shuffled
from sow.baselines.processor import Processor
from sow.baselines.tokens import Place, image_attention, softmax
from sow.errors import UserError
from sow.method import noise

METHODS = ["kv_edit", "personalize_anything"]
SHORT = {
    "kv_edit": ["method.skip=1", "method.target_guidance=4"],
    "personalize_anything": ["method.concatenate=true", "method.window=3"],
}
PLAIN = {
    "kv_edit": ["method.skip=0", "method.reinitialize=true", "method.until=0"],
    "personalize_anything": ["method.tau=1", "method.concatenate=false"],
}


def flow_sampler(method: str, *words: str):
    """The method on the tiny UNet as a flow."""
    settings = config(method, "model.dtype=float64", *SHORT[method], *words)
    return settings.method.sampler(settings, as_flow(build(config("sow", "model.dtype=float64")).backbone))


def loops(q, k, v):
    """Attention of one head, one query and one key at a time."""
    out = torch.zeros(len(q), v.shape[1], dtype=v.dtype)
    for i in range(len(q)):
        weights = [float(torch.exp(q[i] @ key / q.shape[-1] ** 0.5)) for key in k]
        for weight, value in zip(weights, v, strict=True):
            out[i] += weight / sum(weights) * value
    return out


class Network:
    """A UNet as far as tokens go."""


class FluxTransformer2DModel:
    """A transformer whose image comes last, as far as tokens go."""


@pytest.mark.parametrize(("network", "text"), [(Network(), 0), (FluxTransformer2DModel(), 3)])
def test_kept_keys_are_read_and_the_own_ones_are_not(network, text) -> None:
    g, side = noise.generator(0), 4 if text == 0 else 8
    M = noise.randn((2, 1, side, side), g, "cpu", torch.float64) > 0.3
    place = Place(M, network)
    source, target = (
        [noise.randn((2, 2, 16 + text, 3), g, "cpu", torch.float64) for _ in range(3)] for _ in (0, 1)
    )
    kept = Kept(place)
    torch.testing.assert_close(kept.keeping(0)("a", *source, {}), softmax(*source, {}))
    ours = kept.reading(0)("a", *target, {})
    for b in range(2):
        inside = torch.cat([torch.zeros(text, dtype=torch.bool), place.mask(16)[b]])
        for h in range(2):
            q, k, v = (x[b, h] for x in target)
            _, k_s, v_s = (x[b, h] for x in source)
            keys, values = (torch.cat([own[~inside], theirs[inside]]) for own, theirs in ((k, k_s), (v, v_s)))
            torch.testing.assert_close(ours[b, h], loops(q, keys, values), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("network", "text"), [(Network(), 0), (FluxTransformer2DModel(), 3)])
@pytest.mark.parametrize("replaces", [True, False])
def test_the_references_tokens_take_a_place_or_are_read_beside(network, text, replaces) -> None:
    g, side = noise.generator(1), 4 if text == 0 else 8
    M = noise.randn((2, 1, side, side), g, "cpu", torch.float64) > 0
    scores = noise.randn((2, 1, side, side), g, "cpu", torch.float32)
    place = Place(M, network)
    qkv = [noise.randn((8, 2, 16 + text, 3), g, "cpu", torch.float64) for _ in range(3)]  # 2 x (2 + 2)
    injection = Injection(place, scores, 3, replaces)
    ours, stock = injection.attend("a", *qkv, {}), softmax(*qkv, {})
    for row in range(8):
        b, reference = row % 2, row - 2
        if row % 4 < 2:
            torch.testing.assert_close(ours[row], stock[row])
            continue
        inside = place.mask(16)[b].nonzero().flatten()
        for h in range(2):
            own, theirs = ([x[i, h].clone() for x in qkv] for i in (row, reference))
            if replaces:
                for x, r in zip(own, theirs, strict=True):
                    x[text + inside] = r[text + injection.places(b, 16)[inside]]
                wanted = loops(*own)
            else:
                more = [torch.cat([x, r[text + inside]]) for x, r in zip(own[1:], theirs[1:], strict=True)]
                wanted = loops(own[0], *more)
            torch.testing.assert_close(ours[row, h], wanted, rtol=1e-10, atol=1e-10)


def test_shuffling_stays_within_windows_and_within_the_condition() -> None:
    g = noise.generator(2)
    mask = noise.randn((1, 1, 7, 8), g, "cpu", torch.float32)[0, 0] > -0.5
    scores = noise.randn((1, 1, 7, 8), g, "cpu", torch.float32)[0, 0]
    places = shuffled(scores, mask, 3)
    assert sorted(places.tolist()) == list(range(56)) and not torch.equal(places, torch.arange(56))
    for here, there in enumerate(places.tolist()):
        (y, x), (v, u) = divmod(here, 8), divmod(there, 8)
        assert (y // 3, x // 3) == (v // 3, u // 3) and mask[y, x] == mask[v, u]
        assert mask[y, x] or here == there
    assert torch.equal(shuffled(scores, mask, 1), torch.arange(56))


class Watched:
    """Attention of all layers by hand: `act` gets the layer, q, k, v."""

    def __init__(self, name, act):
        self.name, self.act = name, act

    def attend(self, q, k, v, cross):
        q, k, v = self.act(self.name, q, k, v)
        weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
        return weights @ v


def by_hand(made, z, t, prompt, act):
    """What the UNet predicts under a prompt, its self-attention by `act`."""
    unet, before = made.backbone.unet, dict(made.backbone.unet.attn_processors)
    layers = self_attention_layers(unet)
    unet.set_attn_processor(
        {n: Processor(Watched(n, act)) if n in layers else own for n, own in before.items()}
    )
    try:
        return made.backbone.predict(z, 1000 * t, torch.cat([made.backbone.embed([p]) for p in prompt]))
    finally:
        unet.set_attn_processor(before)


def tokens_of(M, count):
    """The latents' mask at a layer of so many tokens."""
    step = int((M.numel() / count) ** 0.5)
    return M[0, 0, ::step, ::step].flatten()


def test_kv_edit_is_its_algorithm() -> None:
    made = flow_sampler("kv_edit", "method.source_guidance=1", "method.reinitialize=true")
    batch, sigmas = prepared(made), grid(made)
    x0, (fresh,), M = batch.encoded, draws(made, batch, 1), batch.known
    negative, text = made.method.guidance.negative_prompt, request().prompt
    kept, states = {}, [x0]
    for k in range(4):
        s, t = sigmas[5 - k], sigmas[4 - k]

        def keep(name, q, key, v, k=k):
            kept[k, name] = key, v
            return q, key, v

        states.append(states[-1] + (t - s) * by_hand(made, states[-1], s, [""], keep))
    t = sigmas[1]
    z = torch.where(M, states[4], t * fresh + (1 - t) * states[4])
    for k in range(3, -1, -1):
        t, s = sigmas[4 - k], sigmas[5 - k]

        def read(name, q, key, v, k=k):
            inside = tokens_of(M, key.shape[2])[None, None, :, None]
            return q, *(torch.where(inside, old, new) for old, new in zip(kept[k, name], (key, v)))

        u, c = (by_hand(made, z, t, [p], read) for p in (negative, text))
        z = torch.where(M, states[k], z + (s - t) * (u + 4.0 * (c - u)))
    assert moved(latents(made), z) < 1e-10
    assert moved(torch.where(M, z, x0), x0) < 1e-12


def test_personalize_anything_is_its_algorithm() -> None:
    made = flow_sampler("personalize_anything", "method.window=1", "method.source_prompt=a wall")
    batch, sigmas = prepared(made), grid(made)
    x0, M = batch.encoded, batch.known
    (x,) = draws(made, batch, 1)
    negative, text = made.method.guidance.negative_prompt, request().prompt
    source, states = velocity(made, "a wall", 1.0), [x0]
    for s, t in zip(sigmas[::-1], sigmas[-2::-1], strict=False):
        states.append(states[-1] + (t - s) * source(states[-1], s))
    for i in range(5):
        t, s = sigmas[i], sigmas[i + 1]
        seen = {}

        def look(name, q, key, v, seen=seen):
            seen[name] = q, key, v
            return q, key, v

        by_hand(made, states[5 - i], t, ["a wall"], look)

        def act(name, q, key, v, seen=seen, early=t > 0.5):
            inside = tokens_of(M, key.shape[2])
            if early:
                pairs = zip(seen[name], (q, key, v), strict=True)
                return tuple(torch.where(inside[None, None, :, None], r, own) for r, own in pairs)
            more = (torch.cat([own, r[:, :, inside]], 2) for own, r in zip((key, v), seen[name][1:]))
            return q, *more

        u, c = (by_hand(made, x, t, [p], act) for p in (negative, text))
        x = x + (s - t) * (u + 3.5 * (c - u))
    assert moved(latents(made), x) < 1e-10


@pytest.mark.parametrize("method", METHODS)
def test_without_their_strength_they_sample_plainly(method: str) -> None:
    made, acting = flow_sampler(method, *PLAIN[method]), flow_sampler(method)
    batch, sigmas = prepared(made), grid(made)
    (x,) = draws(made, batch, 1)
    target = velocity(made, request().prompt, made.method.options.target_guidance)
    for t, s in zip(sigmas, sigmas[1:], strict=False):
        x = x + (s - t) * target(x, t)
    assert moved(latents(made), x) < 1e-10
    assert moved(latents(acting), x) > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_equals_its_singles(method: str) -> None:
    batch_is_singles(flow_sampler(method))


@pytest.mark.parametrize("name", ["sd3", "flux", "prx", "z_image"])
def test_transformers_keep_and_replace_too(name, tmp_path) -> None:
    """Where the condition is all there is, its keys are what they were; else the canvas outside moves."""
    words = [w for w in ("height=64", "width=64", "planner=fixed", "intensify=none", "metrics=none")]
    folder = f"model.path={saved(name, tmp_path)}"
    flux = ["+model.embedded_guidance=3.5", "method.source_guidance=1", "method.target_guidance=1"]
    plain: dict[str, torch.Tensor] = {}
    for method in METHODS:
        settings = compose(
            [
                *("model=local", folder, "calibration=flow", "inversion=flow", "model.device=cpu", *words),
                *(f"method={method}", "method.num_inference_steps=3", *SHORT[method]),
                *(flux if name == "flux" else ["method.source_guidance=1"]),
            ]
        )
        made = build(settings)
        batch = prepared(made)
        ours = latents(made)
        assert ours.isfinite().all()
        off = copy.copy(made.method.options)
        changes = {"tau": 1.0, "concatenate": False} if method == METHODS[1] else {"until": 0.0}
        for key, value in changes.items():
            object.__setattr__(off, key, value)
        plain[method] = latents(made.variant(options=off))
        assert moved(ours, plain[method]) > 1e-4
        if method == "kv_edit":
            assert moved(torch.where(batch.known, ours, batch.encoded), batch.encoded) < 1e-6


@pytest.mark.parametrize(
    ("method", "words", "cure"),
    [
        ("kv_edit", ["method.skip=5"], "method.skip"),
        ("kv_edit", ["method.eta=1"], "method.eta"),
        ("personalize_anything", ["method.window=2"], "method.window"),
    ],
)
def test_what_they_cannot_do_is_said(method, words, cure) -> None:
    with pytest.raises(UserError, match=cure):
        flow_sampler(method, *words)


def test_hooks_are_gone_afterwards() -> None:
    made = flow_sampler("kv_edit")
    unet = made.backbone.unet
    before = dict(unet.attn_processors)
    with pytest.raises(ZeroDivisionError), image_attention(unet, lambda *_: 1 / 0):
        made.backbone.predict(prepared(made).encoded, 100.0, made.backbone.embed([""]))
    assert unet.attn_processors == before
