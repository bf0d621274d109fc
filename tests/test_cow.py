"""COW as published: the order of its steps, its levels, its prompts and its work,
from the same loop as SOW."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from sow import build, compose
from sow.method import noise
from sow.method.seed_init import pixel_mask, place, to_tensor
from sow.types import Box, Plan, Request, VisualCondition

COW = ["method=cow", "model=tiny", "model.dtype=float64", "model.device=cpu", "metrics=none"]


def picture(seed: int, size=(80, 90)) -> Image.Image:
    values = noise.randn((1, 3, size[1], size[0]), noise.generator(seed), "cpu", torch.float32)[0]
    return Image.fromarray(((values.clamp(-1, 1) + 1) * 127).byte().permute(1, 2, 0).numpy())


def soft_mask(size=(80, 90)) -> Image.Image:
    y, x = np.mgrid[: size[1], : size[0]].astype(float)
    return Image.fromarray(
        np.clip(300 - 8 * np.hypot(x - size[0] / 2, y - size[1] / 2), 0, 255).astype("uint8")
    )


REQUEST = Request((VisualCondition(picture(1), soft_mask()),), "a person in a forest", seed=3)


@pytest.fixture
def fixed_noise(monkeypatch):
    """One pattern for every draw, looked up where the code looks it up."""

    def pattern(shape, generator, device, dtype):
        return original(shape, noise.generator(17), device, dtype)

    original = noise.randn
    monkeypatch.setattr(noise, "randn", pattern)
    return lambda *shape: pattern(shape, None, "cpu", torch.float64)


def official(model, request: Request, box: Box, steps: int, levels: str, draw):
    """The published pipeline written out flat from its description: yields (name, latents)."""
    alphas = model.backbone_alphas
    backbone = model.backbone
    T = [i * (1000 // steps) + 1 for i in range(steps)]
    A = lambda i: alphas[T[i]] if i >= 0 else alphas[0]  # noqa: E731
    low, high, once = int(0.5 * steps), int(0.7 * steps), int(0.4 * steps)
    condition = request.conditions[0]
    mask = (
        Image.fromarray(255 - np.asarray(condition.mask)).convert("RGB").resize((box.w, box.h)).convert("1")
    )
    keep = ImageChops.invert(mask)
    face = condition.image.resize((box.w, box.h))
    face = ImageChops.composite(face, Image.new("RGB", face.size, (128, 128, 128)), keep)
    canvas = Image.new("RGB", (128, 128), (128, 128, 128))
    canvas.paste(face, (box.x, box.y))
    pixels = torch.from_numpy(np.asarray(keep).astype("float32"))[None, None]
    latent_mask = (
        torch.nn.functional.interpolate(pixels, size=(box.h // 8, box.w // 8), mode="nearest")[0, 0] == 1
    )
    M = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    top, left = box.y // 8, box.x // 8
    M[0, 0, top : top + box.h // 8, left : left + box.w // 8] = latent_mask

    def encode(image):
        posterior = backbone.vae.encode(to_tensor(image)[None].double()).latent_dist
        return backbone.vae.config.scaling_factor * (
            posterior.mean + posterior.std * draw(*posterior.mean.shape)
        )

    def eps(x, i, *prompts):
        batch = torch.cat([x] * len(prompts))
        return backbone.unet(batch, T[i], encoder_hidden_states=backbone.embed(prompts)).sample.chunk(
            len(prompts)
        )

    def invert(x, stop):
        states = [x]
        for i in range(stop):
            u, c = eps(x, i, "", request.prompt)
            e = u + 7.5 * (c - u)
            a, b = (A(i), A(i + 1)) if levels == "official" else (A(i - 1), A(i))
            x = b**0.5 * (x - (1 - a) ** 0.5 * e) / a**0.5 + (1 - b) ** 0.5 * e
            states.append(x)
        return states

    def sample(x, i, e, eta):
        a, b = A(i), A(i - 1)
        sigma = eta * ((1 - b) / (1 - a) * (1 - a / b)) ** 0.5
        start = (x - (1 - a) ** 0.5 * e) / a**0.5
        return b**0.5 * start + (1 - b - sigma**2) ** 0.5 * e + sigma * draw(*x.shape)

    def put(x, v):
        x = x.clone()
        x[:, :, top : top + box.h // 8, left : left + box.w // 8][latent_mask.expand_as(v)] = v[
            latent_mask.expand_as(v)
        ]
        return x

    v = invert(encode(face), high)
    yield "v", v
    x = invert(encode(canvas), low)[-1]
    yield "canvas", x
    for _ in range(10):
        ratio = A(high) / A(low)
        x = ratio**0.5 * x + (1 - ratio) ** 0.5 * draw(*x.shape)
        for k in range(high, low, -1):
            x = put(x, v[k])
            u, c, s, d = eps(
                x,
                k - 1,
                "a bad quality and low resolution image,extra fingers,deformed hands",
                request.prompt,
                "human face",
                "a high quality and colorful image",
            )
            u = u + (1 - M) * (s - d)
            x = sample(x, k - 1, u + 7.5 * (c - u), 1.0)
        x = put(x, v[low])
        yield "cycle", x
    for k in range(low, 0, -1):
        if k == once:
            x = put(x, v[k])
        u, c = eps(x, k - 1, "", request.prompt)
        x = sample(x, k - 1, u + 7.5 * (c - u), 0.1)
    yield "final", x


class Model:
    """A sampler's backbone and schedule for the flat version."""

    def __init__(self, sampler) -> None:
        self.backbone = sampler.backbone
        self.backbone_alphas = sampler.model.schedule.alphas_cumprod


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("levels", ["official", "aligned"])
def test_cow_equals_the_published_pipeline(steps, levels, fixed_noise):
    """Three boxes, one of them off the grid of the VAE: inverted latents, each cycle and the end."""
    boxes = [Box(32, 0, 64, 64), Box(8, 40, 48, 48), Box(61, 19, 56, 56)]
    made = build(compose([*COW, f"num_inference_steps={steps}", f"inversion.levels={levels}"]))
    low = int(0.5 * steps)
    for box in boxes if steps == 10 else boxes[-1:]:
        seen: dict[str, list[torch.Tensor]] = {"v": [], "canvas": [], "cycle": [], "final": []}
        for step in made.steps(REQUEST, plan=Plan((box,), (), REQUEST.prompt, "test")):
            context = step.context
            if context.phase == "invert_condition":
                seen["v"].append(step.latents)
            elif context.phase == "invert_canvas":
                seen["canvas"] = [step.latents]
            elif context.phase == "cycle" and step.event == "replace" and context.index == low:
                seen["cycle"].append(step.latents)
            seen["final"] = [step.latents]
        expected: dict[str, list[torch.Tensor]] = {"v": [], "canvas": [], "cycle": [], "final": []}
        with torch.no_grad():
            for name, x in official(Model(made), REQUEST, box, steps, levels, fixed_noise):
                expected[name] += x if isinstance(x, list) else [x]
        for name, values in expected.items():
            assert len(values) == len(seen[name]) == {"v": int(0.7 * steps) + 1, "cycle": 10}.get(name, 1)
            for ours, theirs in zip(seen[name], values, strict=True):
                assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-9, (box, name)


def test_the_work_of_one_image():
    made = build(compose([*COW, "model.seed=1"]))
    made.backbone.evaluations.clear()
    calls, encodings = made.backbone.calls, made.backbone.encodings
    sample = made.generate([REQUEST])[0]
    assert dict(made.backbone.evaluations) == {(16, 16): 100, (8, 8): 14}
    assert sample.counts == {"16x16": 100, "8x8": 14}
    assert made.backbone.calls - calls == 37
    assert made.backbone.encodings - encodings == 5
    assert sample.plan.boxes == (Box(32, 0, 64, 64),)


def test_masks_are_dithered_as_published():
    box = Box(0, 0, 64, 64)
    dithered = np.asarray(pixel_mask(REQUEST.conditions[0], box, "dither"))
    plain = np.asarray(pixel_mask(REQUEST.conditions[0], box, "threshold"))
    assert set(np.unique(dithered)) == {0, 255} == set(np.unique(plain))
    assert 0.001 < (dithered != plain).mean() < 0.2


def test_boxes_stay_where_they_are_put():
    made = build(compose([*COW, "planner.boxes=[[13,5,64,64]]", "planner.reference=null"]))
    (plan,) = made.plan([REQUEST])
    assert plan.boxes == (Box(13, 5, 64, 64),)
    canvas, (seed,) = place(made.method.seed_init, REQUEST, plan, made.canvas, 0, noise.generator(0))
    assert (seed.left, seed.top) == (1, 0)
    gray = (canvas - (2 * np.float32(128 / 255) - 1)).abs().amax(0) < 1e-6
    assert gray[:, :13].all() and gray[:5].all() and not gray.all()
