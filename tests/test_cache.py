"""The cache of shared beginnings: found results are the computed ones,
and only what changed is computed again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image

from sow import build, compose
from sow.errors import UserError
from sow.method import noise
from sow.pipeline.cached import Cache
from sow.types import Box, Plan, Request, VisualCondition

WORDS = [
    "model=tiny",
    "model.dtype=float32",
    "model.device=cpu",
    "planner=fixed",
    "intensify=none",
    "metrics=none",
    "calibration.cycles=2",
    "gate.tau=0.1",
]
STEPS = 7 + 7 + 2 * 2 + 5  # UNet calls of a cold run: two inversions, the cycles, the preservation


def picture(seed: int) -> Image.Image:
    values = noise.randn((1, 3, 64, 64), noise.generator(seed), "cpu", torch.float32)[0]
    return Image.fromarray(((values.clamp(-1, 1) + 1) * 127).byte().permute(1, 2, 0).numpy())


def request(seed: int = 0, shown: int = 0) -> Request:
    return Request((VisualCondition(picture(shown)),), "a person", seed=seed, id=str(seed))


PLAN = Plan((Box(16, 8, 64, 64),), (Box(16, 72, 96, 56),), "a person walks", "test")


def sampler(*words: str, cold: bool = False):
    made = build(compose([*WORDS, *words]))
    if cold:
        made.cache.clear()
    return made


def run(made, *requests: Request):
    """(every step's bytes, UNet calls) of one batch."""
    requests = requests or (request(),)
    before, steps = made.backbone.calls, []

    def on_step(step) -> None:
        gates = {name: (r.clone(), f.clone()) for name, (r, f) in step.gates.items()}
        x0 = None if step.denoised is None else step.denoised.clone()
        steps.append((step.event, step.context, step.latents.clone(), x0, gates))

    samples = made.generate(list(requests), plans=[PLAN] * len(requests), on_step=on_step)
    pixels = [s.image.tobytes() for s in samples]
    traces = [s.trace for s in samples]
    return (steps, pixels, traces), made.backbone.calls - before


def equal(a, b) -> bool:
    """The same steps, gates, pixels and traces, to the last bit."""
    for one, other in zip(a[0], b[0], strict=True):
        if one[:2] != other[:2] or not torch.equal(one[2], other[2]) or one[4].keys() != other[4].keys():
            return False
        if (one[3] is None) != (other[3] is None) or (
            one[3] is not None and not torch.equal(one[3], other[3])
        ):
            return False
        for name, pair in one[4].items():
            if not all(torch.equal(x.nan_to_num(-1), y.nan_to_num(-1)) for x, y in zip(pair, other[4][name])):
                return False
    return a[1] == b[1] and repr(a[2]) == repr(b[2])


@pytest.fixture(scope="module")
def base():
    """A sampler, and what its cache holds after one run."""
    made = sampler(cold=True)
    _, calls = run(made)
    assert calls == STEPS
    return made, dict(made.cache.results._entries), made.cache.results.size


def after(base):
    """The cache as it was after the base's run."""
    made, entries, size = base
    made.cache.clear()
    made.cache.results._entries.update(entries)
    made.cache.results.size = size
    return made


@pytest.mark.parametrize(
    "component, values, calls",
    [
        (None, {}, 0),  # the same again
        ("p_plus", {"omega": 0.3}, 9),  # cycles and preservation
        ("gate", {"tau": 0.2}, 9),
        ("decay_time", {"a_plus": 0.3}, 2 + 5),  # gamma_time(0) = 1 whatever a is: the first cycle is shared
        ("preservation", {"eta": 1.0}, 5),
        ("preservation", {"t3": [2]}, 4),  # x_4 is reached before any t3 differs from [4, 3]
        ("preservation", {"prompt": "intensified"}, 5),
        ("cycle", {"cycles": 1}, 5),  # gamma_time has the same T: one cycle is the first of two
        ("cycle", {"cycles": 3}, 2 + 5),
        ("cycle", {"t1": 3.0, "t2": 5.0}, 4 + 3),  # a shorter inversion is the beginning of a longer one
        ("inversion", {"guidance_scale": 1.0}, STEPS),
        ("seed_init", {"color": [0, 0, 0]}, 7 + 9),  # the face alone is the same
    ],
)
def test_only_what_changed_is_computed_and_the_bytes_are_those_of_a_cold_run(base, component, values, calls):
    made = after(base)
    if component is not None:
        made = made.variant(**{component: replace(getattr(made.method, component), **values)})
    warm, count = run(made)
    assert count == calls
    made.cache.clear()
    cold, count = run(made)
    assert equal(warm, cold) and count >= max(calls, 17)


@pytest.mark.parametrize(
    "words", [["inversion.vae=sample"], ["seed_init=none"], ["seed_init=cow", "inversion=cow"]]
)
def test_generators_stand_where_they_would_after_what_was_found(words):
    eta = "preservation.eta=1"
    cold, _ = run(sampler(*words, eta, cold=True))
    run(sampler(*words, "preservation.eta=0.5", cold=True))
    warm, calls = run(sampler(*words, eta))
    assert equal(warm, cold) and calls == 5
    other, calls = run(sampler(*words, eta), request(seed=1))
    assert calls > 5 and not torch.equal(other[0][-1][2], warm[0][-1][2])


def test_borrowed_gates_survive_a_found_beginning():
    words = ["gate.min_points=1000", "calibration.cycles=3"]
    cold, _ = run(sampler(*words, cold=True))
    run(sampler("gate.min_points=1000", "calibration.cycles=2", cold=True))
    warm, calls = run(sampler(*words))
    assert equal(warm, cold) and calls == 2 + 5


def test_a_batch_inverts_each_distinct_picture_once():
    made = sampler(cold=True)
    before = made.backbone.evaluations.copy()
    together, calls = run(made, *(request(i) for i in range(3)))
    assert calls == STEPS
    counted = made.backbone.evaluations - before
    assert counted == {(8, 8): 2 * 7, (16, 16): 2 * (7 + 3 * 9)}
    for i in range(3):
        alone, _ = run(sampler(cold=True), request(i))
        for one, single in zip(together[0], alone[0], strict=True):
            assert one[:2] == single[:2] or one[1].phase == "invert_condition"
            torch.testing.assert_close(one[2][i : i + 1], single[2], rtol=1e-3, atol=1e-3)
    _, calls = run(sampler(), request(7))  # another seed, the same face: only the noise is new
    assert calls == 9
    made = sampler(cold=True)
    run(made, request(0, shown=0), request(1, shown=1), request(2, shown=0))
    assert (made.backbone.evaluations - before - counted)[8, 8] > 0


def test_what_a_caller_writes_into_is_not_used_again():
    made = sampler(cold=True)
    cold, _ = run(made)
    for step in made.steps(request(), plan=PLAN):
        if step.context.phase == "invert_canvas" and step.context.index == 3:
            step.latents.zero_()
    warm, calls = run(made)
    assert equal(warm, cold) and calls > 0
    made = sampler(cold=True)
    for step in made.steps(request(), plan=PLAN):  # a cold run that is changed on its way keeps nothing wrong
        if step.event == "replace":
            step.latents.mul_(0.5)
    warm, _ = run(made)
    assert equal(warm, cold)


def test_hooks_see_every_call_and_new_weights_forget_the_old():
    made = sampler(cold=True)
    cold, _ = run(made)
    seen = []
    handle = made.backbone.unet.register_forward_hook(lambda *_: seen.append(1))
    watched, _ = run(made)
    handle.remove()
    assert len(seen) == STEPS and equal(watched, cold)
    assert run(made)[1] == 0
    weight = made.backbone.unet.conv_out.bias
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.add_(0.5)
    other, calls = run(made)
    with torch.no_grad():
        weight.copy_(kept)
    assert calls == STEPS and not torch.equal(other[0][-1][2], cold[0][-1][2])
    assert equal(run(made)[0], cold)


def test_subclasses_with_moves_of_their_own_are_not_cached():
    from sow.dynamics.perturb import Perturbation, denoising_contexts, perturbed

    made = sampler(cold=True)
    plain, _ = run(made)
    delta = torch.ones(1, 4, 16, 16)
    moved, calls = run(perturbed(made, {"0": Perturbation(delta, denoising_contexts(made.method)[-1])}))
    assert calls == STEPS and not torch.equal(moved[0][-1][2], plain[0][-1][2])


def test_a_folder_serves_another_process(tmp_path):
    words = [f"cache.folder={tmp_path}"]
    cold, count = run(sampler(*words, cold=True))
    assert count == STEPS and list(tmp_path.rglob("*.safetensors"))
    made = sampler(*words, cold=True)  # memory is empty, as in a new process
    made.cache._state = None
    warm, calls = run(made)
    assert calls == 0 and equal(warm, cold)
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(b"damaged")
    made.cache.clear()
    again, calls = run(made)
    assert calls == STEPS and equal(again, cold)


def test_memory_can_be_none():
    made = sampler("cache.memory_mb=0", cold=True)
    assert run(made)[1] == run(made)[1] == STEPS
    assert made.cache.results.size == 0


def one(*inputs):
    """Counts its calls; a tensor."""
    one.calls += 1
    return torch.ones(1)


def test_a_call_is_found_by_its_inputs_bytes():
    one.calls, cache = 0, Cache()
    cache.configure(1 << 20, None)
    x = torch.zeros(3)
    for inputs, calls in [
        ((x, 1), 1),
        ((x.clone(), 1), 1),
        ((x, 2), 2),
        ((x.double(), 1), 3),
        ((x + 1, 1), 4),
    ]:
        assert cache.call(one, *inputs).item() == 1 and one.calls == calls
    for _ in range(2):  # what has no content is computed each time
        cache.call(one, object())
    assert one.calls == 6
    with pytest.raises(ValueError, match="lambda"):
        cache.call(lambda: torch.ones(1))


def test_prompts_are_encoded_once_a_process():
    made = sampler(cold=True)
    run(made)
    before = made.backbone.encodings
    run(made, request(3))
    assert made.backbone.encodings == before


def test_the_bounds_come_from_the_configuration(tmp_path):
    words = ["model=tiny", "metrics=none", "planner=fixed", f"cache.folder={tmp_path}"]
    assert compose(words).cache.folder_mb > 0  # bounded unless told otherwise
    made = build(compose([*words, "cache.folder_mb=3"]))
    kept = made.cache.results
    assert (kept.folder, kept.limit, kept.memory) == (tmp_path, 3 << 20, 256 << 20)
    assert build(compose([*words, "cache.folder_mb=3"])).cache.results is kept  # it knows what is there
    assert build(compose(words[:3])).cache.results.folder is None
    with pytest.raises(UserError, match="cache.folder_mb"):
        compose([*words, "cache.folder_mb=-1"])
