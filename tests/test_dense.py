"""DenseDiffusion's modulation is its equations, in the text branch alone."""

from __future__ import annotations

import pytest
import torch
from small_baselines import (
    config,
    latents,
    sampler,
)
from test_sampler import moved

from sow.baselines import dense
from sow.baselines.dense import DenseModulator, modulate, subject_words, word_tokens
from sow.baselines.processor import attended
from sow.method import noise


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
    with pytest.raises(RuntimeError), attended(unet, dict.fromkeys(unet.attn_processors)):
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
