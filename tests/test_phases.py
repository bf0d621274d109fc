"""Partial runs, steered attention, quadrants and curves, on data whose answer is known."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sow.dynamics import curves, formation, halves, likeness, merging, samples, windows
from sow.dynamics.measures import gaussian
from sow.dynamics.measures.levels import level_of
from sow.dynamics.steering import Steering
from sow.dynamics.trajectory import Trajectory
from sow.errors import UserError
from sow.method import noise
from sow.method.diffusion import Schedule
from sow.models.tiny import SCHEDULER, Tiny
from sow.report.statistics import Resampling
from sow.types import Box

STEPS = 6
HOW = Resampling(0.95, 200, 0)


@pytest.fixture(scope="module")
def model() -> Iterator[Trajectory]:
    """The tiny model in float64."""
    tiny = Tiny(dtype="float64", device="cpu", canvas=[32, 32], condition_size=[180, 256], seed=0)
    yield Trajectory.of(tiny.load(), STEPS, batch=3)


class Linear:
    """A backbone whose noise prediction never looks at its neighbours:
    e = strength * x for each latent alone."""

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self.device, self.dtype, self.channels = torch.device("cpu"), torch.float64, 4
        self.rows: list[int] = []

    def embed(self, prompts: list[str]) -> torch.Tensor:
        return torch.tensor([[[float(len(p))]] for p in prompts])

    def predict(self, x: torch.Tensor, timestep: int, embeds: torch.Tensor) -> torch.Tensor:
        self.rows.append(len(x))
        return self.strength * x + embeds[:, :, :, None].to(x)


def linear(strength: float, batch: int = 8) -> Trajectory:
    return Trajectory(Linear(strength), Schedule.from_config(SCHEDULER, STEPS), batch)  # type: ignore[arg-type]


def latents(n: int, size: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, 4, size, size)))


# Partial runs.


def test_inversion_then_denoising_returns_the_start_when_the_noise_does_not_depend_on_the_state() -> None:
    run, x = linear(0.0), latents(3)
    states = run.invert(x, prompts=["abc"] * 3)
    assert len(states) == STEPS + 1
    assert (states[-1] - x).abs().max() > 0.1
    for k in (1, STEPS):
        assert torch.allclose(run.denoise(states[k], k, prompts=["abc"] * 3), x, atol=1e-10)


def test_states_that_join_a_walk_end_where_they_end_alone(model: Trajectory) -> None:
    starts = {k: latents(n, seed=k) for k, n in ((0, 1), (2, 2), (5, 1), (STEPS, 2))}
    together = model.denoise_each(starts)
    assert list(together) == [0, 2, 5, STEPS]
    for k, x in starts.items():
        alone = model.denoise(x, k)
        assert torch.allclose(together[k], alone, rtol=1e-9, atol=1e-9)
    assert torch.equal(together[0], starts[0])


def test_a_walk_can_end_early_but_not_before_its_starts() -> None:
    run = linear(0.1)
    x = {4: latents(1), 3: latents(1, seed=1)}
    found = run.denoise_each(x, stop=3)
    assert torch.equal(found[3], x[3]) and torch.allclose(found[4], run.denoise(x[4], 4, 3))
    with pytest.raises(ValueError, match="x_2"):
        run.denoise_each({2: latents(1)}, stop=3)


def test_a_call_never_holds_more_than_a_batch_guidance_counted() -> None:
    run = linear(0.1, batch=4)
    run.epsilon(latents(5), 0, None, 1.0)
    run.epsilon(latents(5), 0, ["a"] * 5, 7.5)
    assert max(run.backbone.rows) == 4 and sum(run.backbone.rows) == 5 + 10  # type: ignore[attr-defined]
    one = linear(0.1, batch=1)
    assert torch.allclose(
        one.epsilon(latents(5), 0, ["a"] * 5, 7.5), run.epsilon(latents(5), 0, ["a"] * 5, 7.5)
    )


def test_guidance_leaves_the_empty_prompt_behind() -> None:
    run, x = linear(0.0), latents(1)
    assert torch.allclose(run.epsilon(x, 0, ["four"], 2.5), torch.full_like(x, 10.0))
    assert torch.allclose(run.epsilon(x, 0, None, 1.0), torch.zeros_like(x))


def test_every_row_of_a_draw_is_its_seeds_own(model: Trajectory) -> None:
    both, second = model.draw([3, 5], (8, 8)), model.draw([5], (8, 8))
    assert both.shape == (2, 4, 8, 8) and torch.equal(both[1:], second) and not torch.equal(both[0], both[1])


def test_a_batch_of_none_is_refused(model: Trajectory) -> None:
    with pytest.raises(UserError, match=r"study\.batch"):
        Trajectory.of(model.backbone, STEPS, 0)


# Steered attention.


def materialised(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, steering: Steering, strength: float | None
) -> torch.Tensor:
    """softmax(A') V with every logit written down."""
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    rows, inside, outside = steering.parts[q.shape[2]]
    chosen = logits[:, :, rows]
    if strength is None:
        chosen[..., outside] = -torch.inf
    else:
        width = chosen.amax(-1, keepdim=True) - chosen.amin(-1, keepdim=True)
        chosen[..., inside] += (strength * width).expand_as(chosen[..., inside])
    logits[:, :, rows] = chosen
    return logits.softmax(-1) @ v


@pytest.mark.parametrize("strength", [0.0, 0.7, 3.0, None])
def test_steered_attention_equals_the_materialised_one(strength: float | None) -> None:
    upper_right, lower_left = (halves.quadrant(n, 4, 6) for n in ("upper_right", "lower_left"))
    steering = Steering(upper_right, lower_left, strength, "cpu")
    q, k, v = (torch.from_numpy(np.random.default_rng(i).standard_normal((2, 3, 24, 8))) for i in range(3))
    out = steering.attend("down_blocks.0", q, k, v)
    assert torch.allclose(out, materialised(q, k, v, steering, strength), atol=1e-10)
    stock = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    rest = torch.ones(24, dtype=torch.bool)
    rest[steering.parts[24][0]] = False
    assert torch.allclose(out[:, :, rest], stock[:, :, rest], atol=1e-12)
    assert torch.allclose(out, stock, atol=1e-10) == (strength == 0.0)


def test_layers_without_both_regions_are_left_alone() -> None:
    steering = Steering(
        halves.quadrant("upper_right", 4, 4), halves.quadrant("lower_left", 4, 4), None, "cpu"
    )
    assert set(steering.parts) == {16, 4}  # one token has no lower left quarter
    q, k, v = (torch.from_numpy(np.random.default_rng(i).standard_normal((1, 1, 1, 8))) for i in range(3))
    stock = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert torch.equal(steering.attend("mid_block", q, k, v), stock)


def test_steering_reaches_the_model_and_leaves_it_as_it_was(model: Trajectory) -> None:
    x = {STEPS: latents(2)}
    before = dict(model.backbone.unet.attn_processors)
    plain = model.denoise_each(x)[STEPS]
    none = model.denoise_each(x, steering=merging.corner_steering((4, 4), 0.0, "cpu"))[STEPS]
    lifted = model.denoise_each(x, steering=merging.corner_steering((4, 4), 4.0, "cpu"))[STEPS]
    assert torch.allclose(plain, none, atol=1e-8)
    assert (plain - lifted).abs().max() > 1e-6
    assert model.backbone.unet.attn_processors == before


# Halves and quadrants.


def test_quadrants_tile_the_canvas_and_layouts_swap() -> None:
    tiles = torch.stack([halves.quadrant(n, 6, 8) for n in halves.QUADRANTS])
    assert (tiles.sum(0) == 1).all()
    for a, b in (("top_bottom", "bottom_top"), ("left_right", "right_left")):
        assert torch.equal(halves.first_half(a, 6, 8), ~halves.first_half(b, 6, 8))
    assert (
        halves.first_half("top_bottom", 6, 8)[:3].all() and halves.first_half("left_right", 6, 8)[:, :4].all()
    )
    for layout in halves.LAYOUTS:  # the upper right and the lower left always belong to different sources
        first = halves.first_half(layout, 6, 8)
        assert bool(first[0, -1]) != bool(first[-1, 0])
    with pytest.raises(KeyError):
        halves.first_half("diagonal", 6, 8)


def test_merged_halves_are_the_sources() -> None:
    a, b = latents(1), latents(1, seed=1)
    merged = halves.merge_halves(a, b, "right_left")
    assert torch.equal(merged[..., 2:], a[..., 2:]) and torch.equal(merged[..., :2], b[..., :2])


def flat(*colors: tuple[float, float, float]) -> np.ndarray:
    """A picture a colour."""
    return np.stack([np.broadcast_to(np.array(c, float), (8, 8, 3)) for c in colors])


@pytest.mark.parametrize("layout", halves.LAYOUTS)
def test_numbers_of_an_unmixed_a_mixed_and_a_half_mixed_picture(layout: str) -> None:
    sources = flat((255, 255, 255), (128, 128, 128))
    where = halves.first_half(layout, 8, 8).numpy()[..., None]
    clean = np.where(where, sources[0], sources[1])
    numbers, rows = merging.measure(clean, layout, sources)
    assert numbers["contrast"] == 127 and numbers["contrast_kept"] == 1 and numbers["mixing"] == 0
    assert numbers["upper_right_to_lower_left"] == 127 and numbers["upper_right_kept"] == 1
    assert [r["quadrant"] for r in rows] == list(halves.QUADRANTS)
    assert all(r["to_own_source"] == 0 and r["pixels_to_own_source"] == 0 for r in rows)
    assert {r["source"] for r in rows} == {"first", "second"}
    numbers, _ = merging.measure(np.full((8, 8, 3), 180.0), layout, sources)
    assert numbers["contrast"] == 0 and numbers["mixing"] == 1
    half = clean.copy()
    half[halves.quadrant("upper_right", 8, 8).numpy()] = 191.5
    numbers, rows = merging.measure(half, layout, sources)
    assert numbers["upper_right_to_lower_left"] == 63.5 and numbers["upper_right_kept"] == 0.5
    own = {r["quadrant"]: r["to_own_source"] for r in rows}
    assert own == {"upper_left": 0, "upper_right": 63.5, "lower_left": 0, "lower_right": 0}


def test_equal_sources_have_no_contrast_to_keep() -> None:
    numbers, _ = merging.measure(np.full((8, 8, 3), 9.0), "top_bottom", flat((9, 9, 9), (9, 9, 9)))
    assert np.isnan(numbers["contrast_kept"]) and np.isnan(numbers["upper_right_kept"])


def test_unmerged_runs_are_the_finished_sources_side_by_side(model: Trajectory) -> None:
    states = model.invert(latents(2))
    found = merging.unmerged_runs(model, states, ["left_right"])
    assert sorted(found) == list(range(STEPS + 1)) and found[0].shape == (1, 32, 32, 3)
    alone = model.pixels(model.denoise(states[3], 3))
    assert np.array_equal(found[3][0, :, :16], alone[0, :, :16])
    assert np.array_equal(found[3][0, :, 16:], alone[1, :, 16:])


def test_equal_sources_merge_to_themselves(model: Trajectory) -> None:
    x = latents(1)
    states = model.invert(torch.cat([x, x]))
    merged = merging.merged_runs(model, states, ["top_bottom", "right_left"])
    for k in (0, 2, STEPS):
        alone = model.pixels(model.denoise(states[k][:1], k))[0]
        assert np.abs(merged[k] - alone).max() <= 1  # a gray level of rounding


# Text windows.


def test_a_window_over_everything_is_guided_sampling_and_none_is_none(model: Trajectory) -> None:
    x, prompts = latents(2), ["one", "two"]
    found, plain = windows.text_windows(model, x, prompts, [STEPS], STEPS, 7.5)
    assert torch.allclose(found[STEPS], model.denoise(x, STEPS, 0, prompts, 7.5), atol=1e-8)
    assert torch.allclose(plain, model.denoise(x, STEPS), atol=1e-8)


def test_a_window_changes_its_own_steps_only() -> None:
    run, x = linear(0.05), latents(1)
    starts = windows.window_starts(STEPS, 2, 2)
    assert starts == [6, 4, 2]
    found, plain = windows.text_windows(run, x, ["words"], starts, 2, 1.0)
    assert list(found) == starts
    for start in starts:
        y = run.denoise(x, STEPS, start)
        y = run.denoise(y, start, start - 2, ["words"], 1.0)
        assert torch.allclose(found[start], run.denoise(y, start - 2), atol=1e-10)
        assert not torch.allclose(found[start], plain)
    same, plain = windows.text_windows(run, x, [""], starts, 2, 1.0)
    assert all(torch.allclose(value, plain, atol=1e-10) for value in same.values())


@pytest.mark.parametrize(("length", "every"), [(0, 1), (7, 1), (2, 0)])
def test_windows_that_do_not_fit_are_refused(length: int, every: int) -> None:
    with pytest.raises(UserError, match=r"study\.length"):
        windows.window_starts(STEPS, length, every)


# Semantic formation.


def test_a_model_that_never_looks_aside_is_not_disturbed() -> None:
    run = linear(0.05)
    states = run.invert(latents(2, size=2))
    for level in ("unit", "state"):
        found = formation.disturbed(run, states, [6, 3], 2, latents(2), level)  # type: ignore[arg-type]
        assert list(found) == [6, 3] and found[6].shape == (2, 4, 2, 2)
        for start, value in found.items():
            assert torch.allclose(value, run.denoise(states[start], start), atol=1e-10)


def test_a_model_that_looks_aside_is_disturbed_by_the_noise_around(model: Trajectory) -> None:
    states = model.invert(latents(1, size=2))
    one = formation.disturbed(model, states, [4], 2, latents(1), "unit")[4]
    other = formation.disturbed(model, states, [4], 2, latents(1, seed=9), "unit")[4]
    scaled = formation.disturbed(model, states, [4], 2, latents(1), "state")[4]
    assert (one - other).abs().max() > 1e-6 and (one - scaled).abs().max() > 1e-6


class Exact:
    """A backbone whose clean latents are a Gaussian field of correlation length 4: its exact noise
    prediction, at any size."""

    device, dtype, channels, flow = torch.device("cpu"), torch.float64, 1, False
    alphas = Schedule.from_config(SCHEDULER, 10).alphas_cumprod.double()

    def embed(self, prompts: list[str]) -> torch.Tensor:
        return torch.zeros(len(prompts), 1, 1, dtype=torch.float64)

    def predict(self, x: torch.Tensor, timestep: int, embeds: torch.Tensor) -> torch.Tensor:
        alpha = float(self.alphas[timestep])
        world = gaussian.GaussianField.exponential(*x.shape[-2:], 4.0)
        return (x - alpha**0.5 * world.denoise(x, float(level_of(alpha)))) / (1 - alpha) ** 0.5


def test_an_exact_denoiser_that_looks_everywhere_does_not_settle_either() -> None:
    """A tenth of the steps in noise moves a picture by hundredths of the way to another, most in between: so
    no settling on a model does not tell that the model is wrong."""
    run = Trajectory(Exact(), Schedule.from_config(SCHEDULER, 20), 64)  # type: ignore[arg-type]
    x = gaussian.GaussianField.exponential(16, 16, 4.0).sample(16, noise.generator(0))[..., 4:12, 4:12]
    states = run.invert(x)
    plain = run.denoise(states[-1], 20)
    starts = windows.window_starts(20, 2, 2)
    background = noise.randn((16, 1, 16, 16), noise.generator(1), "cpu", torch.float64)
    found = formation.disturbed(run, states, starts, 2, background, "state")
    apart = float(((x - x.roll(1, 0)) ** 2).mean())
    moved = [float(((found[k] - plain) ** 2).mean()) / apart for k in starts]
    early = moved[: starts.index(4)]
    assert max(early) < 0.03 and early.index(max(early)) not in (0, len(early) - 1)
    assert moved[-1] > 3 * max(early) and np.isnan(curves.settle(starts, moved, 0.1))


# Curves.


def test_spearman_of_a_falling_curve_is_minus_one() -> None:
    rng = np.random.default_rng(0)
    place = np.arange(12)
    falling = 20 - place + 0.1 * rng.standard_normal((10, 12))
    for found in (f(place, falling, HOW) for f in (curves.spearman, curves.spearman_each)):
        assert found["value"] == pytest.approx(-1) and found["low"] == pytest.approx(-1)
        assert found["high"] < -0.95
    weak = 0.3 * falling / falling.std() + rng.standard_normal((10, 12))
    of_mean, of_each = (f(place, weak, HOW)["value"] for f in (curves.spearman, curves.spearman_each))
    assert of_mean < of_each < 0
    flat = np.ones((4, 12))
    assert np.isnan(curves.spearman(place, flat, HOW)["value"])
    flat[0] = -place
    assert curves.spearman_each(place, flat, HOW)["value"] == pytest.approx(
        -1
    )  # of the one unit that has one


def test_without_a_trend_the_units_correlations_hold_zero_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    found = [
        curves.spearman_each(np.arange(8), rng.standard_normal((20, 8)), Resampling(0.95, 100, i))
        for i in range(40)
    ]
    assert sum(f["low"] <= 0 <= f["high"] for f in found) >= 34


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(60):
        x = rng.standard_normal(25) + 3
        found = curves.interval(lambda i, x=x: float(x[i].mean()), 25, Resampling(0.95, 200, trial))
        assert found["low"] <= found["value"] <= found["high"]
        hits += found["low"] <= 3 <= found["high"]
    assert 48 <= hits <= 60


def test_one_unit_has_no_interval() -> None:
    found = curves.interval(lambda i: 2.0, 1, HOW)
    assert found["value"] == 2 and np.isnan(found["low"]) and np.isnan(found["high"])
    band = curves.band(np.ones((1, 3)), HOW)
    assert (band.mean == 1).all() and np.isnan(band.low).all()


def test_a_band_holds_its_mean_and_narrows_with_more_units() -> None:
    rng = np.random.default_rng(2)
    values = rng.standard_normal((64, 5))
    wide, narrow = (curves.band(values[:n], HOW) for n in (8, 64))
    assert ((narrow.low < narrow.mean) & (narrow.mean < narrow.high)).all()
    assert (narrow.high - narrow.low).mean() < 0.6 * (wide.high - wide.low).mean()
    values[:, 2] = np.nan
    assert np.isnan(curves.band(values, HOW).mean[2])


def test_when_a_curve_settles() -> None:
    steps = [10, 20, 30, 40, 50]
    assert curves.settle(steps, [0, 1, 2, 50, 100], 0.1) == 30
    assert curves.settle(steps[::-1], [100, 50, 2, 1, 0], 0.1) == 30  # order does not matter
    assert curves.settle(steps, [0, 50, 2, 1, 100], 0.1) == 10  # a relapse does
    assert np.isnan(curves.settle(steps, [50, 1, 1, 1, 100], 0.1))
    assert np.isnan(curves.settle(steps, [0, 0, 0, 0, 0], 0.1))
    assert curves.settle(steps, [-1, -1, -1, -1, 1], 0.1) == 40


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=3, max_size=8), st.floats(0.05, 0.95))
def test_a_looser_tolerance_never_settles_later(losses: list[float], tolerance: float) -> None:
    steps = list(range(1, len(losses) + 1))
    tight, loose = (np.nan_to_num(curves.settle(steps, losses, t)) for t in (tolerance / 2, tolerance))
    assert loose >= tight


# Likeness and samples.


def test_likeness_of_equal_opposite_and_unrelated_pictures() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    a, b = Image.fromarray(pixels), Image.fromarray(255 - pixels)
    assert likeness.mse(a, a) == 0
    white, black = Image.new("RGB", (4, 4), "white"), Image.new("RGB", (4, 4))
    assert likeness.mse(white, black) == pytest.approx(1)
    embed = likeness.embedding("pixels", None)
    assert likeness.cosines(embed([a, a]), embed([a, b])) == pytest.approx([1, -1])
    with pytest.raises(UserError, match="metrics=clip"):
        likeness.embedding("clip", SimpleNamespace())


def test_the_judges_embedding_tells_a_face_from_another() -> None:
    from sow.data.conditions import Person

    people = [
        Person(None, i, 64, 1, {"style": "photo", "weather": "clear"}, None).load(0)[0].image for i in (1, 2)
    ]
    found = likeness.embedding("judge", None)([*people, people[0]])
    near = likeness.cosines(found[[0, 0]], found[[2, 1]])
    assert near[0] == pytest.approx(1, abs=1e-5) and near[1] < 0.999


def test_change_is_measured_where_it_is_asked_for() -> None:
    a, b = Image.new("RGB", (8, 4), (10, 10, 10)), Image.new("RGB", (8, 4), (10, 10, 10))
    b.paste((40, 40, 40), (0, 0, 4, 4))
    inside = samples.inside_boxes((8, 4), [Box(0, 0, 4, 4)])
    assert samples.change(a, b, inside) == 30 and samples.change(a, b, ~inside) == 0
    assert np.isnan(samples.change(a, b, np.zeros((4, 8), bool)))


def test_measures_that_no_row_has_are_left_out() -> None:
    rows = [{"seed": 1, "arm": "x", "a": None, "b": True}, {"seed": 2, "arm": "y", "a": None, "b": 0.5}]
    assert samples.present(rows, ["a", "b", "c"]) == ["b"]
    units, columns, values = samples.by_unit(rows, "seed", "arm", "b")
    assert units == [1, 2] and columns == ["x", "y"]
    assert values[0, 0] == 1 and values[1, 1] == 0.5 and np.isnan(values[0, 1])
