"""Training-free baselines: against diffusers where it has them,
against their papers' equations where it has not."""

from __future__ import annotations

import pytest
import torch
from small_baselines import (
    CHAINS,
    FEW,
    MUTUAL,
    NEGATIVE,
    WORDS,
    config,
    latents,
    pasted,
    pipeline,
    plan,
    prepared,
    request,
    sampler,
    unknown,
    with_nine_channels,
)
from test_sampler import moved

from sow import build, compose
from sow.errors import UserError
from sow.method import noise


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("channels", [4, 9])
def test_sd_inpaint_is_diffusers_inpainting(channels, eta):
    settings = config("sd_inpaint", f"method.eta={eta}")
    backbone = build(settings).backbone
    if channels == 9:
        backbone = with_nine_channels(backbone)
    made = settings.method.sampler(settings, backbone)
    theirs = pipeline(backbone)(
        request().prompt,
        negative_prompt=NEGATIVE,
        image=pasted(made),
        mask_image=unknown(),
        height=64,
        width=64,
        num_inference_steps=5,
        guidance_scale=7.5,
        eta=eta,
        strength=1.0,
        # A plain UNet does not see the masked picture; without this diffusers still draws noise to encode it.
        masked_image_latents=torch.zeros(1, 4, 8, 8) if channels == 4 else None,
        generator=noise.generator(request().seed),
        output_type="latent",
    ).images
    torch.testing.assert_close(latents(made), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", [*CHAINS, *MUTUAL, "densediffusion"])
def test_a_batch_equals_its_singles(method):
    made = sampler(method, "model.dtype=float64", *FEW[method])
    both = made.generate([request(0), request(1)], plans=[plan(0), plan(1)])
    assert [s.request.id for s in both] == ["0", "1"]
    for i in (0, 1):
        assert moved(both[i].latents, latents(made, i)) < 1e-6
    steps = sum(row["event"] == "denoise" for row in both[0].trace)
    assert method == "densediffusion" or steps == made.denoising_steps()


@pytest.mark.parametrize("method", CHAINS)
def test_the_known_latents_end_as_they_were_encoded(method):
    made = sampler(method, "method.vae=mode", *FEW[method])
    batch = prepared(made)
    held = batch.known.expand_as(batch.latents)
    x = latents(made)
    assert 0 < held.float().mean() < 1
    assert torch.equal(x[held], batch.latents[held]) and not torch.equal(x[~held], batch.latents[~held])


@pytest.mark.parametrize("method", CHAINS)
def test_pasting_lays_the_condition_over_the_picture(method):
    import numpy as np

    made = sampler(method, "paste_back=hard", *FEW[method], "method.num_inference_steps=2")
    sample = made.generate([request()], plans=[plan()])[0]
    ours, truth, inside = (np.asarray(x) for x in (sample.image, pasted(made), unknown()))
    assert np.array_equal(ours[inside == 0], truth[inside == 0])
    assert not np.array_equal(ours[inside > 0], truth[inside > 0])


def test_the_prompt_is_the_users_or_the_intensified_one():
    made = sampler("sd_inpaint")
    assert made.method.prompts([request()], [plan()]) == [request().prompt]
    intensified = sampler("sd_inpaint", "method.prompt=intensified").method
    assert intensified.prompts([request()], [plan()]) == [plan().prompt]


@pytest.mark.parametrize("method", ["sow", "blended_latent", "repaint", "densediffusion", "masactrl"])
def test_an_inpainting_checkpoint_is_for_inpainting(method):
    settings = config(method)
    backbone = with_nine_channels(build(settings).backbone)
    with pytest.raises(UserError, match="9 channels.*method=sd_inpaint") as caught:
        settings.method.sampler(settings, backbone)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "word", "parts"),
    [
        ("sd_inpaint", "method.eta=2", ["eta", "method.eta"]),
        ("sd_inpaint", "method.vae=median", ["median", "mode, sample"]),
        ("repaint", "method.resamples=0", ["resamples", "method.resamples"]),
        ("blended_latent", "method.decoder_steps=-1", ["decoder_steps"]),
        ("densediffusion", "method.w_self=-1", ["w_self"]),
        ("densediffusion", "method.clock=step", ["step", "cycle", "absolute", "method.clock"]),
        ("lanpaint", "method.ramp=0", ["ramp", "method.ramp"]),
        ("masactrl", "method.first_layer=10", ["first_layer", "method.first_layer"]),
        ("repaint", "method.jump=3", ["method.jump", "method.jump_length"]),
    ],
)
def test_a_bad_option_fails_on_one_line(method, word, parts):
    with pytest.raises(UserError) as caught:
        compose([*WORDS, f"method={method}", word])
    assert "\n" not in str(caught.value) and all(p in str(caught.value) for p in parts)
