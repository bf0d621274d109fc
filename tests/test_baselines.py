"""Training-free baselines: against diffusers where it has them, against their papers' equations where it has not."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    RePaintScheduler,
    StableDiffusionInpaintPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from test_sampler import moved, picture

from sow import build, compose
from sow.baselines import dense
from sow.baselines.dense import DenseModulator, densely_modulated, modulate, subject_words, word_tokens
from sow.baselines.inpaint import InpaintSampler
from sow.baselines.lanpaint import LanPaintSampler, oscillator
from sow.baselines.repaint import jumps
from sow.config.compose import Config
from sow.errors import UserError
from sow.method import noise
from sow.method.diffusion import replace as put
from sow.method.seed_init import Batch, place
from sow.models.tiny import SCHEDULER
from sow.types import Box, Plan, Request, VisualCondition

WORDS = [
    "model=tiny",
    "model.device=cpu",
    "width=64",
    "height=64",
    "planner=fixed",
    "intensify=none",
    "metrics=none",
]
CHAINS = ["sd_inpaint", "blended_latent", "repaint", "lanpaint"]
FEW = {  # few steps of each
    "sd_inpaint": [],
    "blended_latent": [],
    "repaint": ["method.jump_length=2", "method.resamples=2"],
    "lanpaint": ["method.inner_steps=2"],
    "densediffusion": ["calibration.cycles=2"],
}
NEGATIVE = "a bad quality and low-resolution image, extra fingers, deformed hands"


def half(size: int = 32) -> Image.Image:
    """A mask that keeps the left half: one that is no whole box."""
    mask = Image.new("L", (size, size), 0)
    mask.paste(255, (0, 0, size // 2, size))
    return mask


def request(i: int = 0) -> Request:
    return Request((VisualCondition(picture(i, 32), half()),), f"a person {i} in a forest", seed=i, id=str(i))


def plan(i: int = 0) -> Plan:
    return Plan((Box(8 + 8 * i, 16, 32, 32),), (Box(8, 48, 48, 16),), f"an old person {i}", "test")


def config(method: str, *words: str) -> Config:
    short = [] if method in ("sow", "densediffusion") else ["method.num_inference_steps=5"]
    return compose([*WORDS, f"method={method}", *short, *words])


def sampler(method: str, *words: str):
    return build(config(method, *words))


def prepared(made):
    """A batch of one that a chain can start on."""
    return made.method.prepare(Batch.of([request()], [plan()], made.canvas, made.method.seed_init))


def latents(made, i: int = 0) -> torch.Tensor:
    return made.generate([request(i)], plans=[plan(i)])[0].latents


def pasted(made, i: int = 0) -> Image.Image:
    """The condition on its background, as the chain's first picture."""
    pixels, _ = place(made.method.seed_init, request(i), plan(i), made.canvas, 0, noise.generator(0))
    return Image.fromarray(((pixels + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


def unknown(i: int = 0) -> Image.Image:
    """White where the canvas is to be painted."""
    mask = Image.new("L", (64, 64), 255)
    box = plan(i).boxes[0]
    mask.paste(0, (box.x, box.y), half())
    return mask


def with_nine_channels(backbone):
    """The same model with a UNet that sees mask and masked latents too."""
    made = copy.copy(backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        known = {k: v for k, v in backbone.unet.config.items() if not k.startswith("_")}
        made.unet = UNet2DConditionModel(**{**known, "in_channels": 2 * backbone.channels + 1}).eval()
    return made


def pipeline(backbone) -> StableDiffusionInpaintPipeline:
    pipe = StableDiffusionInpaintPipeline(
        vae=backbone.vae,
        text_encoder=backbone.text_encoder,
        tokenizer=backbone.tokenizer,
        unet=backbone.unet,
        scheduler=DDIMScheduler.from_config(SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


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


@pytest.mark.parametrize("method", [*CHAINS, "densediffusion"])
def test_a_batch_equals_its_singles(method):
    made = sampler(method, "model.dtype=float64", *FEW[method])
    both = made.generate([request(0), request(1)], plans=[plan(0), plan(1)])
    assert [s.request.id for s in both] == ["0", "1"]
    for i in (0, 1):
        assert moved(both[i].latents, latents(made, i)) < 1e-6
    steps = sum(row["event"] == "denoise" for row in both[0].trace if row["phase"] == "sample")
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

    made = sampler(method, "method.paste=true", *FEW[method], "method.num_inference_steps=2")
    sample = made.generate([request()], plans=[plan()])[0]
    ours, truth, inside = (np.asarray(x) for x in (sample.image, pasted(made), unknown()))
    assert np.array_equal(ours[inside == 0], truth[inside == 0])
    assert not np.array_equal(ours[inside > 0], truth[inside > 0])


def test_the_prompt_is_the_users_or_the_intensified_one():
    made = sampler("sd_inpaint")
    assert made.method.prompts([request()], [plan()]) == [request().prompt]
    intensified = sampler("sd_inpaint", "method.prompt=intensified").method
    assert intensified.prompts([request()], [plan()]) == [plan().prompt]


def test_repaint_is_diffusers_scheduler_on_the_same_predictions():
    """One training step a sampling step, where diffusers' undo is one draw as ours is."""
    settings = config(
        "repaint",
        "method.num_inference_steps=12",
        "method.eta=0",
        "method.jump_length=3",
        "method.resamples=3",
    )
    backbone = copy.copy(build(settings).backbone)
    backbone.scheduler_config = {
        **SCHEDULER,
        "num_train_timesteps": 12,
        "steps_offset": 0,
        "set_alpha_to_one": True,
    }
    made = settings.method.sampler(settings, backbone)
    reference = RePaintScheduler(12, 0.00085, 0.012, "scaled_linear", eta=0.0, clip_sample=False)
    reference.set_timesteps(12, 3, 3)
    batch = prepared(made)
    x, above = made.method.start(batch), 12
    for state in made.method.visited[1:]:
        if state > above:
            x = reference.undo_step(x, above, batch.generators[0])
        else:
            e = made.method.epsilon(batch, x, state)
            x = reference.step(
                e, state, x, batch.latents, batch.known.float(), batch.generators[0], return_dict=False
            )[0]
        above = state
    torch.testing.assert_close(latents(made), x, rtol=1e-4, atol=1e-4)


def test_repaint_jumps_as_its_algorithm_does():
    # Algorithm 1: with j = 1 and U resamplings every state but x_0 and x_T is left r - 1 times upwards.
    assert jumps(3, 1, 2) == [3, 2, 3, 2, 1, 2, 1, 0]
    assert jumps(4, 2, 2) == [4, 3, 2, 1, 2, 3, 2, 1, 0]
    assert jumps(5, 10, 10) == [5, 4, 3, 2, 1, 0]
    for steps, length, resamples in [(50, 10, 10), (250, 10, 10), (20, 5, 3)]:
        visited = jumps(steps, length, resamples)
        falls = sum(b < a for a, b in zip(visited, visited[1:], strict=False))
        places = len(range(1, steps - length + 1, length))
        assert falls == steps + places * length * (resamples - 1) and visited[-1] == 0


def test_repaint_draws_the_unknown_part_from_the_ddpm_posterior():
    """Eq. 8b: with eta = 1 the step's standard deviation is that of q(x_{t-1} | x_t, x_0)."""
    made = sampler("repaint")
    batch = prepared(made)
    zero = torch.zeros(1, 4, 8, 8)
    same = noise.generator(0).set_state(batch.generators[0].get_state())
    draw = noise.randn((1, 4, 8, 8), same, "cpu", zero.dtype)
    x, _ = made.method.ddim(batch, zero, zero, 3)
    high, low = made.model.schedule.level(4), made.model.schedule.level(3)
    beta = 1 - high / low
    torch.testing.assert_close(x, ((1 - low) / (1 - high) * beta) ** 0.5 * draw)


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


def test_lanpaints_oscillator_is_an_exact_step():
    for stiffness, friction in [(1.0, 15.0), (17.0, 15.0), (17.0, 2.0)]:
        E, L = oscillator(stiffness, friction, 0.3)
        # Two half steps are one step, and the stationary law stays what it is.
        half_E, half_L = oscillator(stiffness, friction, 0.15)
        torch.testing.assert_close(half_E @ half_E, E)
        torch.testing.assert_close(half_E @ half_L @ half_L.T @ half_E.T + half_L @ half_L.T, L @ L.T)
        stationary = torch.diag(torch.tensor([1 / stiffness, 1.0], dtype=torch.float64))
        torch.testing.assert_close(E @ stationary @ E.T + L @ L.T, stationary)
    # With large friction it is plain Langevin dynamics of time t / friction.
    E, L = oscillator(2.0, 1e4, 1e4 * 0.3)
    assert E[0, 0].item() == pytest.approx(float(torch.tensor(-0.6).exp()), rel=1e-3)
    assert (L[0, 0] ** 2).item() == pytest.approx(0.5 * (1 - float(torch.tensor(-1.2).exp())), rel=1e-3)


def test_lanpaints_default_friction_is_the_authors_dynamics():
    """Theirs, in x: dx = q dt, dq = -G A x dt - G q dt over h (1 - alpha), with G = 15^2 h / 0.2 / (h (1 - alpha))."""
    options = config("lanpaint").method
    h, alpha = 0.2, 0.37
    assert options.step_size == h
    G = 15**2 * h / 0.2 / (h * (1 - alpha))
    for stiffness in (1.0, 1.0 + options.weight):
        theirs = torch.tensor([[0.0, 1.0], [-G * stiffness / (1 - alpha), -G]], dtype=torch.float64)
        E = torch.linalg.matrix_exp(theirs * h * (1 - alpha))
        ours, _ = oscillator(stiffness, options.friction, options.step_size * options.friction)
        # Both velocities in the unit in which they are standard normal at rest: u = x / sqrt(1 - alpha), v = q / sqrt(G).
        units = torch.diag(torch.tensor([(1 - alpha) ** -0.5, G**-0.5], dtype=torch.float64))
        torch.testing.assert_close(ours, units @ E @ units.inverse(), rtol=1e-4, atol=1e-7)


class FromReplaced(InpaintSampler):
    """Replace whose first step sees the known part at its own noise level, not as noise alone."""

    def start(self, batch):
        x = super().start(batch)
        return put(x, self.schedule.noised(batch.latents, self.schedule.steps, x), batch.known)


def test_lanpaint_without_langevin_steps_is_replace():
    made = sampler("lanpaint", "method.inner_steps=0")
    plain = sampler("sd_inpaint", "method.eta=0", "method.vae=mode")
    reference = replace(plain, method=FromReplaced(**vars(plain.method)))
    ours, theirs = (
        [s.latents for s in m.steps(request(), plan=plan()) if s.event == "denoise"]
        for m in (made, reference)
    )
    held = prepared(made).known
    assert len(ours) == len(theirs) == 5
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.masked_fill(held, 0), b.masked_fill(held, 0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[-1], theirs[-1], rtol=1e-5, atol=1e-5)


def test_lanpaint_tells_each_level_and_each_prediction_what_is_known():
    made = sampler("lanpaint", "method.inner_steps=2")
    batch = prepared(made)
    held = batch.known.expand_as(batch.latents)
    calls, stepped = {}, {}

    class Watched(LanPaintSampler):
        def epsilon(self, batch, x, k):
            calls.setdefault(k, []).append(x)
            return super().epsilon(batch, x, k)

        def ddim(self, batch, x, e, k):
            stepped[k] = super().ddim(batch, x, e, k)
            return stepped[k]

    steps = list(Watched(**vars(made.method)).denoise(batch))
    noise_of_chain = steps[0].latents
    denoised = [s.denoised for s in steps if s.denoised is not None]
    assert len(denoised) == 5 and [len(c) for c in calls.values()] == [3] * 5
    for x0 in denoised:
        assert torch.equal(x0[held], batch.latents[held]) and not torch.equal(x0[~held], batch.latents[~held])
    for k, seen in calls.items():
        level = made.model.schedule.noised(batch.latents, k + 1, noise_of_chain)
        assert torch.equal(seen[0][held], level[held])
        assert not torch.allclose(seen[1][held], level[held])  # then it moves
        # The step itself goes to y_0, not to the x_0 that the model predicts there.
        torch.testing.assert_close(stepped[k][1][held], batch.latents[held], rtol=1e-4, atol=1e-4)


def test_lanpaint_samples_the_unknown_given_the_known():
    """Correlated Gaussian latents, whose exact score is known: known neighbours must be felt in the unknown half.

    Each channel's pixel pairs (left, right) have correlation r; the left half is known to be 1. The guided score is
    exact in the limit of a large weight only, so mean and variance of the right half are held to 15 %.
    """
    r = 0.8
    made = sampler("lanpaint", "method.weight=50", "method.step_size=0.05")
    batch = prepared(made)
    known = torch.zeros(1, 1, 40, 40, dtype=torch.bool)
    known[..., :20] = True
    batch = replace(batch, latents=torch.ones(1, 4, 40, 40), known=known)
    k = 2
    alpha = float(made.model.schedule.level(k + 1))
    # Covariance of a noised pair: alpha C + (1 - alpha) I.
    inverse = torch.linalg.inv(torch.tensor([[1.0, alpha * r], [alpha * r, 1.0]]))

    class Exact(LanPaintSampler):
        def epsilon(self, batch, x, k):
            left, right = x[..., :20], x[..., 20:]
            score = -torch.cat(
                [inverse[0, 0] * left + inverse[0, 1] * right, inverse[1, 0] * left + inverse[1, 1] * right],
                dim=-1,
            )
            return -((1 - alpha) ** 0.5) * score

    exact = Exact(**vars(made.method))
    g = batch.generators[0]
    x, p = (noise.randn((1, 4, 40, 40), g, "cpu", torch.float32) for _ in range(2))
    seen = []
    for i in range(400):
        x, p = exact.think(batch, x, p, k)
        if i >= 200 and i % 10 == 0:
            seen.append(x[..., 20:])
    values = torch.stack(seen)
    # p(x_t | y_0 = 1): x_0 ~ N(r, 1 - r^2), noised.
    mean, variance = alpha**0.5 * r, alpha * (1 - r**2) + 1 - alpha
    assert float(values.mean()) == pytest.approx(mean, rel=0.15)
    assert float(values.var()) == pytest.approx(variance, rel=0.15)


def test_dense_modulation_is_its_equations():
    g = noise.generator(0)
    A = noise.randn((2, 3, 5, 7), g, "cpu", torch.float64)
    R = noise.randn((2, 5, 7), g, "cpu", torch.float64) > 0
    S = torch.tensor([[0.2, 0.8, 0.2, 0.8, 0.8], [0.5] * 5], dtype=torch.float64)
    ours = modulate(A, R, S, 0.6)
    for b in range(2):
        for h in range(3):
            for i in range(5):
                row = A[b, h, i]
                for j in range(7):
                    pos, neg = row.max() - row[j], row[j] - row.min()
                    m = 0.6 * (1 - S[b, i]) * (pos if R[b, i, j] else -neg)
                    assert ours[b, h, i, j] == pytest.approx(float(row[j] + m), abs=1e-12)
    assert (ours.amax(-1) <= A.amax(-1) + 1e-12).all() and (ours.amin(-1) >= A.amin(-1) - 1e-12).all()


def test_dense_attention_reaches_the_text_branch_alone():
    options = config("densediffusion").method
    subject = torch.zeros(1, 4, 4, dtype=torch.bool)
    subject[:, :2] = True
    words = torch.zeros(1, 2, 6, dtype=torch.bool)
    words[0, 0, 1:3], words[0, 1, 3:5] = True, True
    modulator = DenseModulator(options, subject, words, 1, 1000, torch.device("cpu")).at(800)
    assert modulator.strength == pytest.approx((0.3 * 0.8**5, 0.8**5))
    g = noise.generator(0)
    q = noise.randn((2, 2, 16, 3), g, "cpu", torch.float32)
    k, v = (noise.randn((2, 2, 6, 3), g, "cpu", torch.float32) for _ in range(2))
    out, plain = (
        modulator.attend(q, k, v, cross=True),
        torch.nn.functional.scaled_dot_product_attention(q, k, v),
    )
    assert torch.equal(out[0], plain[0])
    R = torch.zeros(1, 16, 6, dtype=torch.bool)
    R[:, :8, 1:3], R[:, 8:, 3:5] = True, True
    A = (q[1:] @ k[1:].transpose(-1, -2)) / 3**0.5
    expected = modulate(A, R, torch.full((1, 16), 0.5), 0.8**5).softmax(-1) @ v[1:]
    torch.testing.assert_close(out[1:], expected)
    # A prompt that names no subject leaves cross-attention alone.
    silent = DenseModulator(options, subject, torch.zeros_like(words), 1, 1000, torch.device("cpu")).at(800)
    torch.testing.assert_close(silent.attend(q, k, v, cross=True), plain)


@pytest.mark.parametrize(
    ("clock", "expected"),
    [("cycle", [1.0, (501 / 601) ** 5]), ("absolute", [0.601**5, 0.501**5])],
)
def test_dense_strength_at_the_steps_of_the_cycles(clock, expected):
    made = sampler("densediffusion", "calibration.cycles=2", f"method.clock={clock}")
    seen = []

    class Watched(DenseModulator):
        def at(self, timestep):
            super().at(timestep)
            seen.append((timestep, *self.strength))
            return self

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "DenseModulator", Watched)
        latents(made)
    assert [t for t, *_ in seen] == [601, 501] * 2
    assert [w for *_, w in seen] == pytest.approx(expected * 2)
    assert [w for _, w, _ in seen] == pytest.approx([0.3 * w for w in expected] * 2)


def test_dense_modulation_of_the_cycles_counts_from_their_start_by_default():
    assert config("densediffusion").method.clock == "cycle"
    made = sampler("densediffusion", "num_inference_steps=20", "calibration.t2=8")
    assert made.method.attention.clock_length(made.method) == made.model.schedule.timesteps[15] == 751


def test_dense_without_strength_is_sampling_without_modulation():
    off = sampler("densediffusion", "calibration.cycles=1", "method.w_self=0", "method.w_cross=0")
    on = sampler("densediffusion", "calibration.cycles=1")
    none = sampler("sow", "num_inference_steps=10", "calibration.cycles=1", "modulation=none")
    reference = latents(none)
    assert moved(latents(off), reference) < 1e-5 < moved(latents(on), reference)


def test_dense_processors_are_restored_after_an_exception():
    made = sampler("densediffusion")
    unet = made.backbone.unet
    before = dict(unet.attn_processors)
    with pytest.raises(RuntimeError), densely_modulated(unet, None):
        assert unet.attn_processors != before
        raise RuntimeError
    assert unet.attn_processors == before


def test_the_subjects_words_are_found():
    subjects = ["person", "man", "cat"]
    prompt = "An old person besides a man."
    a, b = subject_words(prompt, subjects)
    assert prompt[a:b] == "An old person"
    a, b = subject_words("snow and cat", subjects)
    assert "snow and cat"[a:b] == "cat"
    assert subject_words("a humane forest", subjects) is None
    backbone = sampler("densediffusion").backbone  # its tokenizer makes a token of every byte but blanks
    rows = word_tokens(backbone, "a cat on ice", ["cat"], 77)
    assert rows[0].nonzero().flatten().tolist() == [1, 2, 3, 4]
    assert rows[1].nonzero().flatten().tolist() == [5, 6, 7, 8, 9]
    assert not word_tokens(backbone, "ice", ["cat"], 77).any()


@pytest.mark.parametrize("method", ["sow", "blended_latent", "repaint", "densediffusion"])
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
        ("lanpaint", "method.friction=0", ["friction", "method.friction"]),
        ("repaint", "method.jump=3", ["method.jump", "method.jump_length"]),
    ],
)
def test_a_bad_option_fails_on_one_line(method, word, parts):
    with pytest.raises(UserError) as caught:
        compose([*WORDS, f"method={method}", word])
    assert "\n" not in str(caught.value) and all(p in str(caught.value) for p in parts)
