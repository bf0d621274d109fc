"""Blended Latent Diffusion noises the background anew and tunes its decoder to the known pixels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_baselines import (
    pasted,
    plan,
    prepared,
    request,
    sampler,
    unknown,
)


def test_blended_latent_noises_the_background_anew_at_every_step():
    made = sampler("blended_latent")
    batch = prepared(made)
    held = batch.known.expand_as(batch.latents)
    draws = {}
    for step in made.steps(request(), plan=plan()):
        k = step.context.index
        if step.event == "denoise" and k > 0:
            level = made.model.schedule.level(k)
            draws[k] = ((step.latents - level**0.5 * batch.latents) / (1 - level) ** 0.5)[held]
    values = torch.stack(list(draws.values()))
    assert values.shape[0] == 4
    assert torch.corrcoef(values).fill_diagonal_(0).abs().max() < 0.4  # 128 latents: six standard errors
    assert values.std() == pytest.approx(1, abs=0.15)


def test_blended_latents_decoder_returns_to_the_known_pixels():
    import numpy as np

    plain = sampler("blended_latent", "method.num_inference_steps=2")
    before = {n: p.clone() for n, p in plain.backbone.vae.named_parameters()}
    a = plain.generate([request()], plans=[plan()])[0]
    tuned = plain.variant(options=replace(plain.method.options, decoder_steps=12, decoder_rate=0.02))
    b = tuned.generate([request()], plans=[plan()])[0]
    truth, held = np.asarray(pasted(plain), float), np.asarray(unknown()) == 0
    error = [np.square(np.asarray(s.image, float) - truth)[held].mean() for s in (a, b)]
    assert torch.equal(a.latents, b.latents) and error[1] < 0.9 * error[0]
    assert all(torch.equal(p, before[n]) for n, p in plain.backbone.vae.named_parameters())
    assert "reconstruct" in b.seconds


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_half_precision_decoder_is_tuned_in_float32(dtype):
    """Adam in float16 divides by an eps that is 0 there: the picture would turn black."""
    import numpy as np

    plain = sampler("blended_latent", f"model.dtype={dtype}", "method.num_inference_steps=2")
    tuned = plain.variant(options=replace(plain.method.options, decoder_steps=12, decoder_rate=0.02))
    seen = []

    class Watched(torch.optim.Adam):
        def step(self, closure=None):
            result = super().step(closure)
            weights = [p for group in self.param_groups for p in group["params"]]
            seen.append(all(p.dtype == torch.float32 and p.isfinite().all() for p in weights))
            return result

    a = plain.generate([request()], plans=[plan()])[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "Adam", Watched)
        b = tuned.generate([request()], plans=[plan()])[0]
    assert len(seen) == 12 and all(seen)
    truth, held = np.asarray(pasted(plain), float), np.asarray(unknown()) == 0
    error = [np.square(np.asarray(s.image, float) - truth)[held].mean() for s in (a, b)]
    assert error[1] < 0.9 * error[0]
    assert plain.backbone.vae.dtype == getattr(torch, dtype)
