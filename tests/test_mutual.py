"""MasaCtrl and MCA-Ctrl: their attention against loops in float64, and plain sampling where they are off."""

from __future__ import annotations

import pytest
import torch
from small_baselines import plan, prepared, request, sampler
from test_sampler import moved

from sow.baselines.mutual import Exchange, combined, self_attention_layers
from sow.baselines.sampler import BaselineSampler
from sow.method import noise
from sow.method.guidance import ClassifierFree

DOUBLE = "model.dtype=float64"


def at(q, k, v, keys):
    """Attention of one head over the keys inside, in loops."""
    out = torch.zeros_like(q)
    for i in range(len(q)):
        weights = [
            float(torch.exp(q[i] @ k[j] / q.shape[-1] ** 0.5)) if keys[j] else 0.0 for j in range(len(k))
        ]
        for j, weight in enumerate(weights):
            out[i] += weight / sum(weights) * v[j]
    return out


@pytest.mark.parametrize("mode", ["own", "mutual", "masked", "inject", "query"])
def test_attention_is_its_equation(mode):
    g = noise.generator(3)
    q_s, k_s, v_s, q, k, v = (noise.randn((2, 2, 6, 3), g, "cpu", torch.float64) for _ in range(6))
    M = torch.tensor([[1, 1, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0]], dtype=torch.bool)
    ours = combined(mode, (q_s, k_s, v_s), (q, k, v), M)
    everything = torch.ones(6, dtype=torch.bool)
    for b in range(2):
        for h in range(2):
            s, t, m = (q_s[b, h], k_s[b, h], v_s[b, h]), (q[b, h], k[b, h], v[b, h]), M[b]
            inside, outside = {
                "own": lambda s, t, m: (at(*t, everything),) * 2,
                "mutual": lambda s, t, m: (at(t[0], *s[1:], everything),) * 2,
                "masked": lambda s, t, m: (at(t[0], *s[1:], m), at(t[0], *s[1:], ~m)),
                "inject": lambda s, t, m: (at(*s, m), at(*t, ~m)),
                "query": lambda s, t, m: (at(t[0], *s[1:], m), at(*t, ~m)),
            }[mode](s, t, m)
            expected = torch.where(m[:, None], inside, outside)
            torch.testing.assert_close(ours[b, h], expected, rtol=1e-10, atol=1e-10)


def test_a_layer_without_the_condition_attends_to_all():
    g = noise.generator(0)
    q, k, v = (noise.randn((1, 1, 4, 3), g, "cpu", torch.float64) for _ in range(3))
    none = torch.zeros(1, 4, dtype=torch.bool)
    stock = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(combined("query", (q, k, v), (q, k, v), none), stock)


def test_an_exchange_leaves_the_source_and_keeps_branches_apart():
    g = noise.generator(0)
    q, k, v = (noise.randn((8, 2, 16, 3), g, "cpu", torch.float64) for _ in range(3))  # 2 branches x (2 + 2)
    M = noise.randn((2, 1, 4, 4), g, "cpu", torch.float64) > 0
    out = Exchange("query", M).attend(q, k, v, cross=False)
    stock = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    for branch in (0, 4):
        s, t = slice(branch, branch + 2), slice(branch + 2, branch + 4)
        torch.testing.assert_close(out[s], stock[s])
        expected = combined("query", (q[s], k[s], v[s]), (q[t], k[t], v[t]), M.flatten(1))
        torch.testing.assert_close(out[t], expected)


def plainly(made, batch, x):
    """DDIM on x_K = x with the network as it is."""

    class Plain(BaselineSampler):
        def start(self, batch):
            return x

    return list(Plain(**vars(made.method)).denoise(batch))[-1].latents


@pytest.mark.parametrize(
    ("method", "off", "on"),
    [
        ("masactrl", ["method.first_step=1"], []),
        ("masactrl", ["method.first_layer=1"], ["method.mask=true"]),
        ("mca_ctrl", ["method.inject_until=0", "method.first_step=1"], []),
    ],
)
def test_switched_off_it_is_plain_sampling(method, off, on):
    made, acting = sampler(method, DOUBLE, *off), sampler(method, DOUBLE, *on)
    batch = prepared(made)
    steps = list(made.method.denoise(batch))
    start = next(s for s in steps if s.event == "start").latents
    torch.testing.assert_close(steps[-1].latents, plainly(made, batch, start), rtol=1e-10, atol=1e-10)
    ours = list(acting.method.denoise(prepared(acting)))[-1].latents
    assert moved(ours, steps[-1].latents) > 1e-3
    assert not any("mutual" in type(p).__module__ for p in made.backbone.unet.attn_processors.values())


def test_masactrl_starts_from_the_inverted_canvas():
    made = sampler("masactrl", DOUBLE)
    batch = prepared(made)
    steps = list(made.method.denoise(batch))
    x = batch.encoded
    denoiser = made.model.denoiser(ClassifierFree(1.0, ""), [""])
    for k in range(5):
        x = denoiser.invert(x, k)
    start = next(s for s in steps if s.event == "start").latents
    torch.testing.assert_close(start, x, rtol=1e-10, atol=1e-10)


def test_source_and_target_are_what_the_authors_denoise(monkeypatch):
    """MasaCtrl's source steps on under the empty prompt; MCA-Ctrl's stands at the inversion's states."""
    seen = {}
    for method in ("masactrl", "mca_ctrl"):
        made = sampler(method, DOUBLE)
        batch, calls = prepared(made), []
        predict = type(made.backbone).predict

        def watched(self, latents, timestep, embeds, calls=calls, predict=predict, **more):
            calls.append((latents.clone(), embeds))
            return predict(self, latents, timestep, embeds, **more)

        with monkeypatch.context() as patch:
            patch.setattr(type(made.backbone), "predict", watched)
            steps = list(made.method.denoise(batch))
        states = [s.latents for s in steps if s.context.phase == "invert_canvas"]
        seen[method] = [c for c in calls if len(c[0]) == 4], states, made
    calls, states, made = seen["mca_ctrl"]
    for i, (latents, embeds) in enumerate(calls):
        torch.testing.assert_close(latents[0], states[4 - i][0])
        torch.testing.assert_close(embeds[0], embeds[1])  # source and target under one prompt
    calls, states, made = seen["masactrl"]
    empty = made.backbone.embed([""])[0]
    assert all(torch.equal(embeds[0], empty) and torch.equal(embeds[2], empty) for _, embeds in calls)
    assert not torch.equal(calls[-1][1][3], empty)
    x, alone = states[-1], made.model.denoiser(ClassifierFree(1.0, ""), [""])
    for k, (latents, _) in zip(range(4, -1, -1), calls, strict=True):  # as if there were no target
        torch.testing.assert_close(latents[:1], x, rtol=1e-8, atol=1e-8)
        x = alone.step(x, k)[0]


def test_the_first_layers_and_steps_are_left_alone():
    made = sampler("mca_ctrl", "method.inject_until=0.6", "method.first_layer=0.5")
    layers = self_attention_layers(made.backbone.unet)
    kinds = [name.partition(".")[0] for name in layers]
    assert kinds == sorted(kinds, key=["down_blocks", "mid_block", "up_blocks"].index) and len(layers) == 7
    batch = prepared(made)
    found = [made.method.exchanges(batch, k) for k in range(4, -1, -1)]
    modes = [{e.mode for e in x.values()} for x in found]
    assert modes == [{"query"}, {"inject"}, {"inject"}, {"query"}, {"query"}]
    assert set(found[0]) == set(layers[4:]) and set(found[1]) == set(layers)


def test_every_evaluation_is_counted():
    made = sampler("masactrl", "method.mask=true")
    sample = made.generate([request()], plans=[plan()])[0]
    assert sum(sample.counts.values()) == 5 + 2 * 2 * 5  # the inversion; two branches of source and target
