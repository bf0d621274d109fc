"""Diffusion transformers: as diffusers' own pipelines run them, and modulated as the float64 oracle says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image
from small_transformers import NAMES, made, saved

from sow import build, compose
from sow.attention import joint
from sow.attention.decay import DistanceDecay
from sow.attention.gate import RegionGate
from sow.attention.modulation import Modulation
from sow.attention.modulator import Modulator
from sow.attention.processor import modulated
from sow.attention.regions import SampleRegions
from sow.dynamics import record, summary
from sow.errors import UserError
from sow.method import noise
from sow.method.denoiser import Model
from sow.method.guidance import ClassifierFree
from sow.types import Box, Plan, Request, VisualCondition

SMALL = ["metrics=none", "tracker=none", "planner=fixed", "intensify=none", "model=local", "model.device=cpu"]
SMALL += ["inversion=flow", "calibration.cycles=1", "cache.memory_mb=0", "width=64", "height=64"]
PROMPT, WORSE = "a person in a forest", "bad"
FAR = DistanceDecay(10, 0.3, "box")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("transformers")
    return {name: saved(name, root / name) for name in NAMES}


def words(folder: Path, name: str, *more: str) -> list[str]:
    guided = ["+model.embedded_guidance=3.5"] if name == "flux" else []
    return [*SMALL, f"model.path={folder}", *guided, *more]


def latents(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return noise.randn(shape, noise.generator(seed), "cpu", dtype)


def sampled(backbone: Any, x: torch.Tensor, steps: int, scale: float) -> torch.Tensor:
    model = Model.of(backbone, steps, x.shape[-2:])
    denoiser = model.denoiser(ClassifierFree(scale, WORSE), [PROMPT] * len(x))
    for k in reversed(range(steps)):
        x, *_ = denoiser.step(x, k)
    return x


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_samples_as_its_own_pipeline(name: str, folders: dict[str, Path]) -> None:
    sampler = build(compose(words(folders[name], name)))
    x, steps = latents(0, 1, 4, 8, 8), 4
    pipe = made(name)
    common = {
        "prompt": PROMPT,
        "num_inference_steps": steps,
        "height": 64,
        "width": 64,
        "output_type": "latent",
    }
    if name == "flux":
        start = pipe._pack_latents(x, 1, 4, 8, 8)
        found = pipe(latents=start, guidance_scale=3.5, **common).images
        theirs = pipe._unpack_latents(found, 64, 64, 8)
        ours = sampled(sampler.backbone, x, steps, 1.0)
    else:
        more = {"use_resolution_binning": False} if name in ("pixart", "prx") else {}
        scale = 2.0 if name == "z_image" else 3.0  # Z-Image counts from 0
        theirs = pipe(latents=x, guidance_scale=scale, negative_prompt=WORSE, **common, **more).images
        ours = sampled(sampler.backbone, x, steps, 3.0)
    assert (x - theirs).norm() / x.norm() > 0.1  # it did something
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_pictures_are_encoded_and_decoded_as_the_pipeline_does(folders: dict[str, Path]) -> None:
    backbone = build(compose(words(folders["flux"], "flux"))).backbone
    picture = latents(0, 1, 3, 64, 64).clamp(-1, 1)
    vae = made("flux").vae
    with torch.no_grad():
        theirs = (vae.encode(picture).latent_dist.mode() - 0.1) * 1.3
        back = vae.decode(theirs / 1.3 + 0.1, return_dict=False)[0]
    torch.testing.assert_close(backbone.encode(picture), theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(backbone.decode(theirs), (back / 2 + 0.5).clamp(0, 1), rtol=1e-5, atol=1e-5)


# Modulated: the attention of every layer that sees the image.


def regions() -> SampleRegions:
    """On 12 x 16 latents, which are 6 x 8 tokens."""
    condition, related = torch.zeros(1, 12, 16, dtype=torch.bool), torch.zeros(12, 16, dtype=torch.bool)
    condition[0, 2:8, 4:10] = True
    related[6:12, 2:14] = True
    return SampleRegions(
        condition, related & ~condition[0], torch.tensor([[5 / 12, 7 / 16]], dtype=torch.float64)
    )


def oracle(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    image_q: slice,
    image_k: slice,
    modulation: Modulation,
    tau: float,
) -> torch.Tensor:
    """Eq. 4 to 8 on materialised float64 logits of one row: q, k, v (H, length, d); P on the image's keys."""
    q, k, v = q.double(), k.double(), v.double()
    a = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    sample = regions()
    c, cr = sample.conditions[0, ::2, ::2].flatten(), sample.related[::2, ::2].flatten()
    places = torch.tensor([(y + 0.5, x + 0.5) for y in range(6) for x in range(8)], dtype=torch.float64)
    distance = ((places - sample.centers[0] * torch.tensor([6.0, 8.0])) ** 2).sum(1).sqrt()[cr]
    inner = a[:, image_q][:, :, image_k]
    low, high = inner.amin(-1, keepdim=True), inner.amax(-1, keepdim=True)
    tilde = (inner - low) / (high - low)
    points = tilde[:, cr][:, :, c].mean(-1)[:, distance.argsort(stable=True)]
    near = math.ceil(int(cr.sum()) / 5)
    s = math.sqrt(max(0.0, (points[:, :near].sum(-1) / points.sum(-1)).mean().item() - tau))
    rows, keys = torch.arange(a.shape[1])[image_q], torch.arange(a.shape[2])[image_k]
    bias = torch.zeros_like(a)
    for place, row in enumerate(rows):
        width = (high - low)[:, place, 0] * s
        if c[place]:
            lowered = torch.zeros(a.shape[2], dtype=torch.bool)
            lowered[keys[~c]] = True
            if modulation.text_keys == "lowered":
                lowered[[i for i in range(a.shape[2]) if i not in keys]] = True
            bias[:, row, lowered] -= (0.7 * width).unsqueeze(-1)
        if cr[place]:
            gamma = FAR.factors(distance, 8)[int(cr[:place].sum())]
            bias[:, row, keys[c]] += (1.3 * gamma * width).unsqueeze(-1)
    a = a + bias
    if modulation.text_reads == "condition":
        text = [i for i in range(a.shape[1]) if i not in rows]
        for i in text:
            a[:, i, keys[~c]] = -torch.inf
    if mask is not None:
        a = a.masked_fill(~mask, -torch.inf)
    return a.softmax(-1) @ v


@pytest.mark.parametrize("options", [{}, {"text_keys": "lowered", "text_reads": "condition"}], ids=str)
@pytest.mark.parametrize("name", NAMES[1:])
def test_joint_attention_equals_the_oracle(
    name: str, options: dict[str, Any], folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = build(compose(words(folders[name], name, "model.dtype=float64"))).backbone
    modulation = Modulation("row", None, ["down", "mid", "up"], "text", "union", "box", **options)
    gate = RegionGate(0.05, "related", "logits", "layer", 0, 0.2)
    modulator = Modulator(modulation, gate, FAR, [regions()], (12, 16), torch.device("cpu"))
    seen: dict[str, Any] = {}
    attend = joint.attend_jointly

    def watched(modulator: Any, first: bool, layer: str, qkv: Any, options: Any) -> torch.Tensor:
        out = attend(modulator, first, layer, qkv, options)
        seen[layer] = (*(x.clone() for x in qkv), options.get("attn_mask"), out.clone())
        return out

    monkeypatch.setattr(joint, "attend_jointly", watched)
    x = latents(0, 1, 4, 12, 16, dtype=torch.float64).repeat(2, 1, 1, 1)
    embeds = backbone.embed([WORSE, PROMPT])
    with modulated(backbone.unet, modulator):
        modulator.begin(0.7, 1.3, 2, 1)
        backbone.predict(x, 700.0, embeds)
    readings = modulator.end()
    names = [n for n, _ in joint.image_layers(backbone.unet)]
    assert list(seen) == list(readings) == names and len(names) >= 2
    for layer, (q, k, v, mask, out) in seen.items():
        first = joint.LAYOUTS[type(backbone.unet).__name__].first
        image_q = slice(0, 48) if first else slice(q.shape[2] - 48, None)
        image_k = slice(0, 48) if first else slice(k.shape[2] - 48, None)
        plain = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)
        torch.testing.assert_close(out[0], plain[0], rtol=1e-10, atol=1e-10)  # the other branch (A16)
        own = None if mask is None else mask[1, 0, 0]
        want = oracle(q[1], k[1], v[1], own, image_q, image_k, modulation, 0.05)
        torch.testing.assert_close(out[1], want, rtol=1e-9, atol=1e-10)
        assert readings[layer][1].item() > 0 and not torch.allclose(out[1], plain[1], rtol=1e-6, atol=1e-8)
    modules = list(backbone.unet.modules())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in modules)


@pytest.mark.parametrize("name", NAMES[1:])
def test_the_image_s_tokens_are_where_the_layout_says(
    name: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed patch changes its own key of the first layer alone, text and other patches none."""
    backbone = build(compose(words(folders[name], name, "model.dtype=float64"))).backbone
    keys: list[torch.Tensor] = []

    def watched(modulator: Any, first: bool, layer: str, qkv: Any, options: Any) -> torch.Tensor:
        keys.append(qkv[1].clone())
        return torch.nn.functional.scaled_dot_product_attention(*qkv, **options)

    monkeypatch.setattr(joint, "attend_jointly", watched)
    modulation = Modulation("row", None, ["down", "mid", "up"], "text", "union", "box")
    gate = RegionGate(0.05, "related", "logits", "layer", 0, 0.2)
    modulator = Modulator(modulation, gate, FAR, [regions()], (12, 16), torch.device("cpu"))
    x, embeds = latents(0, 1, 4, 12, 16, dtype=torch.float64), backbone.embed([PROMPT])
    moved = x.clone()
    moved[:, :, 4:6, 10:12] += 1.0  # the token in row 2, column 5 of 6 x 8
    first_keys = []
    for state in (x, moved):
        keys.clear()
        with modulated(backbone.unet, modulator):
            modulator.begin(0.0, 0.0, 1, 0)
            backbone.predict(state, 700.0, embeds)
        first_keys.append(keys[0])
    changed = (first_keys[0] - first_keys[1]).abs().amax((0, 1, 3)) > 1e-9
    length, layout = len(changed), joint.LAYOUTS[type(backbone.unet).__name__]
    assert changed.nonzero().flatten().tolist() == [2 * 8 + 5 + (0 if layout.first else length - 48)]


def test_layers_are_chosen_by_number(folders: dict[str, Path]) -> None:
    backbone = build(compose(words(folders["flux"], "flux", "model.dtype=float64"))).backbone
    x, embeds = latents(0, 1, 4, 12, 16, dtype=torch.float64), backbone.embed([PROMPT])

    def read(layers: list[int]) -> list[str]:
        modulation = Modulation("row", None, ["up"], "text", "union", "box", layers)
        gate = RegionGate(0.05, "related", "logits", "layer", 0, 0.2)
        modulator = Modulator(modulation, gate, FAR, [regions()], (12, 16), torch.device("cpu"))
        with modulated(backbone.unet, modulator):
            modulator.begin(0.7, 1.3, 1, 0)
            backbone.predict(x, 700.0, embeds)
        return list(modulator.end())

    assert read([1]) == ["single_transformer_blocks.0.attn"]
    with pytest.raises(
        UserError, match=r"layers=\[5\] selects no layer 5: this model has 2.*modulation.layers"
    ):
        read([5])


# Whole runs, and what is refused.


def request() -> Request:
    return Request((VisualCondition(Image.new("RGB", (32, 32), (90, 120, 60))),), "a person", None, 0, "0")


PLAN = Plan((Box(16, 8, 24, 24),), (Box(0, 24, 64, 40),), "a person", "test")


@pytest.mark.parametrize("name", NAMES)
def test_a_run_leaves_finite_pictures_and_open_gates(name: str, folders: dict[str, Path]) -> None:
    sampler = build(compose(words(folders[name], name, "gate.tau=0", "gate.min_points=0")))
    sample = sampler.generate([request()], plans=[PLAN])[0]
    assert sample.image.size == (64, 64) and sample.latents.isfinite().all()
    assert any(v > 0 for row in sample.trace for n, v in row.items() if n.startswith("gate/"))


@pytest.mark.parametrize("name", NAMES)
def test_a_transformer_is_watched_as_it_attends(name: str, folders: dict[str, Path]) -> None:
    more = ("gate.tau=0", "gate.min_points=0", "cycle.t2=6", "modulation.layers=[0]", "model.dtype=float64")
    sampler = build(compose(words(folders[name], name, *more)))
    untouched = sampler.generate([request()], plans=[PLAN])[0]
    config = compose(words(folders[name], name, *more))
    shadows = {"own": (config.modulation, config.gate, config.decay_distance)}
    attention, gates, (sample,) = record.flow_rows(sampler, [request()], [PLAN], "mask", shadows)
    assert torch.equal(sample.latents, untouched.latents)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in sampler.backbone.unet.modules())
    table = pd.DataFrame(attention)
    assert ("text" in set(table.key)) == (name != "pixart")
    sums = table.groupby(["step", "layer", "query"])["mass"].sum(min_count=1).dropna()
    assert len(sums) and sums.to_numpy() == pytest.approx(1.0, abs=1e-5)
    # What the shadow gate reads is what the run's own gate read.
    own = pd.DataFrame(sample.trace)
    own = own[(own.phase == "cycle") & (own.event == "denoise")].reset_index(drop=True)
    mine = pd.DataFrame(gates)
    mine = mine[mine.phase == "cycle"]
    assert len(mine)
    for row in mine.itertuples():
        assert row.r_c == pytest.approx(own.loc[row.step, f"r_c/{row.layer}"], abs=1e-6)


@pytest.mark.parametrize("name", ["sd3", "flux", "z_image"])
def test_the_way_round_through_the_text_is_seen_and_closed(name: str, folders: dict[str, Path]) -> None:
    leak = {}
    for reads in ("all", "condition"):
        more = ("gate.tau=0", "gate.min_points=0", "cycle.t2=6", f"modulation.text_reads={reads}")
        sampler = build(compose(words(folders[name], name, *more)))
        rows, _, _ = record.flow_rows(sampler, [request()], [PLAN], "mask", {})
        table = pd.DataFrame(rows)
        assert {"text_to_nc", "c_to_text"} <= summary.attention_ratios(table).keys()
        inside = table[(table.phase == "cycle") & (table["query"] == "text")]
        leak[reads] = inside[inside.key.isin(["related", "rest"])]["mass"].groupby(inside.layer).mean()
    image_alone = [n for n in leak["all"].index if "noise_refiner" in n or n.endswith("attn2")]
    both = leak["all"].drop(image_alone).dropna()
    assert len(both) and (both > 0.01).all()
    assert (leak["condition"].drop(image_alone).dropna() == 0).all()


REFUSED = [
    ("flux", ["~model.embedded_guidance"], "takes its guidance as an input"),
    ("sd3", ["+model.embedded_guidance=3.5"], "takes no guidance as an input"),
    ("sd3", ["inversion=aligned"], "origin of a transformer's positions.*inversion=flow"),
    ("sd3", ["cycle.inject_levels=official"], "one level a state"),
    ("sd3", ["width=72"], "multiple of 16 pixels, got 72 x 64"),
    ("sd3", ["model.compile=default"], "model.compile is for UNets"),
    ("sd3", ["model.prediction_type=epsilon"], "predicts a velocity: leave out model.prediction_type"),
    ("sd3", ["method=repaint"], "method=repaint was written for UNets.*rectified flow: take method=sow"),
    ("pixart", ["method=repaint"], "method=repaint was written for UNets.*a diffusion transformer"),
]


@pytest.mark.parametrize(("name", "more", "message"), REFUSED, ids=str)
def test_what_a_transformer_has_not_is_refused(
    name: str, more: list[str], message: str, folders: dict[str, Path]
) -> None:
    given = [w for w in words(folders[name], name) if "embedded" not in w or "~" not in str(more)]
    with pytest.raises(UserError, match=message):
        build(compose([*given, *(w for w in more if "~" not in w)]))


def test_distilled_and_unknown_transformers_are_named(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    turbo = saved("sd3", tmp_path / "sd3-Turbo")
    build(compose(words(turbo, "sd3")))
    assert any("distilled to a few steps ('turbo')" in r.getMessage() for r in caplog.records)
    index = turbo / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusion3Pipeline", "SanaPipeline"))
    with pytest.raises(UserError, match="_class_name=SanaPipeline: of transformers PixArtSigma"):
        build(compose(words(turbo, "sd3")))
