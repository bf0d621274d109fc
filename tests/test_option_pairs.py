"""Every pair of options of the method runs and changes something, or is refused by name; one more option is
one more row.

The rows of a covering array on the tiny model: each pair of values of two options is in one of them.
"""

from __future__ import annotations

import itertools
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from test_sampler import TINY, disc, picture

from sow import build, compose
from sow.attention.decay import NoDistanceDecay, NoTimeDecay
from sow.attention.gate import AlwaysOpen
from sow.attention.modulation import NoModulation
from sow.errors import UserError
from sow.method.guidance import Regional
from sow.method.seed_init import PureNoise
from sow.types import Box, Plan, Request, VisualCondition

Change = dict[str, Any] | Any  # fields of a component, or a component in its place
OPTIONS: dict[str, list[Change]] = {
    "seed_init": [
        {},
        {"color": [0, 0, 0]},
        {"color": "noise"},
        {"start": "inject"},
        PureNoise("threshold", True, None),
    ],
    "inversion.condition": [{}, {"condition": "canvas"}],
    "inversion.levels": [{}, {"levels": "official"}],
    "inversion.prompt": [{}, {"prompt": "user"}, {"prompt": "empty"}],
    "inversion.guidance_scale": [{}, {"guidance_scale": 1.0}],
    "inversion.vae": [{}, {"vae": "sample"}],
    "cycle.eta": [{}, {"eta": 0.0}],
    "cycle.inject_levels": [{}, {"inject_levels": "official"}],
    "cycle.steps": [{}, {"steps": "literal"}],
    "preservation.t3": [{}, {"t3": [2]}, {"t3": []}],
    "preservation.eta": [{}, {"eta": 1.0}],
    "preservation.prompt": [{}, {"prompt": "intensified"}],
    "guidance": [{}, {"scale": 1.0}, Regional(7.5, "bad", "human face", "colourful", "")],
    "modulation": [{}, NoModulation()],
    "modulation.region": [{}, {"region": "mask"}],
    "modulation.normalisation": [
        {},
        {"normalisation": "head"},
        {"normalisation": "none"},
        {"normalisation": "literal"},
    ],
    "modulation.layers": [{}, {"resolutions": [8]}, {"blocks": ["up"]}],
    "modulation.branches": [{}, {"branches": "all"}],
    "modulation.conditions": [{}, {"conditions": "each"}],
    "p_plus": [{}, {"omega": 0.0}],
    "p_minus": [{}, {"omega": 0.0}],
    "decay_time": [{}, {"clock": "step"}, {"clock": "cycle_from_one"}, NoTimeDecay()],
    "decay_distance": [{}, {"unit": "grid16"}, {"unit": "token"}, NoDistanceDecay()],
    "gate": [{}, AlwaysOpen("one", 0.0, "related", "logits", "layer", 8, 0.2)],
    "gate.queries": [{}, {"queries": "condition"}],
    "gate.score": [{}, {"score": "softmax"}],
    "gate.scope": [{}, {"scope": "previous"}],
}
REFUSED = {("seed_init", 4, "inversion.condition", 1): "inversion.condition"}
Row = dict[str, int]


def allowed(row: Row) -> bool:
    return not any(row.get(a) == i and row.get(b) == j for a, i, b, j in REFUSED)


def pairs_of(row: Row) -> set[tuple[str, int, str, int]]:
    names = [name for name in OPTIONS if name in row]
    return {(a, row[a], b, row[b]) for a, b in itertools.combinations(names, 2)}


def covering_rows() -> list[Row]:
    """Rows that hold every allowed pair of values, greedily few."""
    left = {
        (a, i, b, j)
        for a, b in itertools.combinations(OPTIONS, 2)
        for i in range(len(OPTIONS[a]))
        for j in range(len(OPTIONS[b]))
        if (a, i, b, j) not in REFUSED
    }
    rows = []
    while left:
        a, i, b, j = min(left)
        row: Row = {a: i, b: j}
        for name in OPTIONS:
            if name not in row:
                choices = [{**row, name: value} for value in range(len(OPTIONS[name]))]
                row = max(
                    filter(allowed, choices), key=lambda chosen, left=left: len(pairs_of(chosen) & left)
                )
        rows.append(row)
        left -= pairs_of(row)
    return rows


ROWS = covering_rows()


def moot(row: Row, name: str) -> bool:
    """Whether the row's other options leave nothing for this one to change, and why."""
    attention = name.startswith(("modulation.", "p_", "decay_", "gate"))
    return (
        (attention and row["modulation"] == 1)  # there is nothing to modulate
        or (name == "decay_distance" and row["p_plus"] == 1)  # it is that of P+
        or (name.startswith(("modulation", "decay_", "gate")) and row["p_plus"] == row["p_minus"] == 1)
        or (name.startswith("gate.") and row["gate"] == 1)  # open whatever is read
        or (name == "modulation.branches" and row["guidance"] == 1)  # there is one branch
    )


@pytest.fixture(scope="module")
def made():
    return build(
        compose([*TINY, "width=64", "height=64", "calibration.cycles=2", "gate.tau=0", "cache.memory_mb=64"])
    )


def configured(made: Any, row: Row) -> Any:
    """The pipeline with the row's options; raises UserError for those that exclude each other."""
    parts: dict[str, Any] = {}
    for name, value in row.items():
        group, change = name.partition(".")[0], OPTIONS[name][value]
        current = parts.get(group, getattr(made.method, group))
        if is_dataclass(change):
            parts[group] = change
            continue
        known = {f.name for f in fields(current)}
        parts[group] = replace(current, **{k: v for k, v in change.items() if k in known})
    return replace(made, method=replace(made.method, **parts))


def latents(made: Any, row: Row) -> torch.Tensor:
    """x_0 of a request with two conditions, one of which is too small for the coarse layers."""
    conditions = VisualCondition(picture(1), disc()), VisualCondition(picture(2), disc())
    request = Request(conditions, "a person in a forest", seed=3)
    plan = Plan(
        (Box(8, 8, 24, 24), Box(40, 8, 16, 16)),
        (Box(8, 24, 48, 40),),
        "a person with a hat in a forest",
        "test",
    )
    return configured(made, row).generate([request], plans=[plan])[0].latents


def test_the_array_holds_every_pair():
    held = {(a, row[a], b, row[b]) for row in ROWS for a, b in itertools.combinations(OPTIONS, 2)}
    for a, b in itertools.combinations(OPTIONS, 2):
        for i, j in itertools.product(range(len(OPTIONS[a])), range(len(OPTIONS[b]))):
            assert ((a, i, b, j) in held) != ((a, i, b, j) in REFUSED)
    assert len(ROWS) < 45


def test_every_pair_of_options_runs_and_none_is_lost(made):
    found = [latents(made, row) for row in ROWS]
    assert all(x.isfinite().all() for x in found)
    seen: set[tuple[str, int]] = set()
    lost = []
    for row, x in zip(ROWS, found, strict=True):
        for name, value in row.items():
            if value == 0 or (name, value) in seen or moot(row, name):
                continue
            seen.add((name, value))
            without = latents(made, {**row, name: 0})
            if ((x - without).norm() / x.norm()).item() < 1e-9:
                lost.append(f"{name}={OPTIONS[name][value]} changes nothing in {row}")
    assert not lost
    assert seen == {(name, i) for name in OPTIONS for i in range(1, len(OPTIONS[name]))}


@pytest.mark.parametrize("a, i, b, j", REFUSED)
def test_options_that_exclude_each_other_are_refused_by_name(made, a, i, b, j):
    row = {name: 0 for name in OPTIONS} | {a: i, b: j}
    with pytest.raises(UserError, match=REFUSED[a, i, b, j]):
        configured(made, row)


def test_they_are_refused_before_the_model_is_loaded():
    with pytest.raises(UserError, match="seed_init=none.*inversion.condition"):
        compose([*TINY, "seed_init=none", "inversion.condition=canvas"])


@pytest.mark.parametrize(
    "words, key",
    [
        (["modulation.resolutions=[64]"], "resolutions"),
        (["modulation.resolutions=[16,64]"], "resolutions"),
        (["modulation.resolutions=[]"], "resolutions"),
        (["modulation.resolutions=[16]", "modulation.blocks=[mid]"], "blocks"),
        (["modulation.resolutions=[8]", "width=64", "height=64", "modulation.blocks=[mid]"], "blocks"),
        (["width=100"], "multiple of 8"),
        (["height=60"], "multiple of 8"),
        (["condition.box=[100,0,64,64]"], "condition.box"),
        (["condition.box=[-8,0,64,64]"], "condition.box"),
        (["planner.boxes=[[400,0,256,256]]"], "planner.boxes"),
        (["preservation.t3=[4.9]", "num_inference_steps=11"], "preservation.t3"),
        (["preservation.t3=[0]"], "need t3 > 0"),
        (["preservation.t3=[4.5,4.1]"], "preservation.t3"),
        (["preservation.t3=[4,4]"], "preservation.t3"),
        (["modulation.text_keys=lowered"], "modulation.text_keys"),
        (["modulation.text_reads=condition"], "modulation.text_reads"),
        (["position=fixed", "position.boxes=[[0,0,inf,20]]"], "position.boxes"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_model_is_loaded(words, key):
    with pytest.raises(UserError, match=key):
        compose([*TINY, *words])


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize(
    "change, lost",
    [
        ({"layers": [0], "resolutions": [4]}, "layer 0, a layer of down with 8 tokens"),
        ({"layers": [0], "blocks": ["up"]}, "layer 0, a layer of down"),
        ({"layers": [6], "blocks": ["up", "down"]}, "layer 6, a layer of mid with 4 tokens"),
        ({"layers": [6], "resolutions": [8]}, "layer 6, a layer of mid with 4 tokens"),
        ({"layers": [2, 4], "resolutions": [4]}, "layer 4, a layer of up with 8 tokens"),
        ({"layers": [7]}, "selects no layer 7"),
        ({"layers": [6], "resolutions": [4], "blocks": ["mid"]}, None),
    ],
)
def test_layers_that_other_options_leave_out_are_refused_by_name(made, always, change, lost):
    method = made.method
    parts: dict[str, Any] = {"modulation": replace(method.modulation, **change)}
    if always:
        parts["gate"] = AlwaysOpen("one", 0.273, "related", "logits", "layer", 0, 0.2)
    changed = replace(made, method=replace(method, **parts))
    request = Request((VisualCondition(picture(1), disc()),), "a person in a forest", seed=3)
    if lost is None:
        assert changed.generate([request])
        return
    with pytest.raises(UserError, match=lost):
        changed.generate([request])


@pytest.mark.parametrize(
    "steps, expected", [(10, (4, 3)), (11, (4, 3)), (5, (1,)), (20, (8, 6)), (50, (20, 15))]
)
def test_calibrated_replacements_stay_below_the_cycle(steps, expected):
    config = compose([*TINY, f"num_inference_steps={steps}"])
    t3 = config.preservation.resolve(config.cycle, steps)
    assert t3 == expected and t3[0] < config.cycle.resolve(steps)[0]


def test_injection_of_the_literal_cycle_starts_where_cycles_end(made):
    row = {name: 0 for name in OPTIONS} | {"seed_init": 3, "cycle.steps": 1}
    method = configured(made, row).method
    assert method.inverted_steps == method.last_state == method.t1 - 1


UNREAD = [
    (["modulation=none", "p_plus.omega=0.3"], "p_plus.omega", "no modulation"),
    (["+ablation=no_dam", "gate.tau=0.2"], "gate.tau", "no modulation"),
    (["modulation=none", "gate=always"], "gate", "no modulation"),
    (
        ["inversion.guidance_scale=1", "inversion.negative_prompt=ugly"],
        "inversion.negative_prompt",
        "no guidance",
    ),
    (["guidance=none", "guidance.negative_prompt=ugly"], "guidance.negative_prompt", "no guidance"),
    (["gate=always", "gate.tau=0.9"], "gate.tau", "always open"),
    (["inversion.solver=free", "inversion.levels=official"], "inversion.levels", "no network"),
    (
        ["condition=photo", "condition.image=x.png", "condition.mask=none", "condition.keep=black"],
        "condition.keep",
        "no mask",
    ),
    (["method=sdedit", "cycle.eta=0"], "cycle.eta", "no cycles"),
    (["method=masactrl", "gate=always"], "gate", "no cycles"),
    (["position=fixed", "condition.box=[0,0,24,24]"], "condition.box", "position=fixed"),
    (["intensify=none", "preservation.prompt=intensified"], "preservation.prompt", "intensified"),
    (
        ["condition.box=[0,0,24,24]", "planner=fixed", "planner.boxes=[[8,8,24,24]]"],
        "planner.boxes",
        "condition.box",
    ),
]


@pytest.mark.parametrize(("words", "key", "reason"), UNREAD)
def test_an_option_that_nothing_reads_is_said(words, key, reason, caplog) -> None:
    from sow.pipeline.fit import check_fit

    config = compose(["model=tiny", *words])
    config.method.check(config)
    (told,) = {r.getMessage() for r in caplog.records if "is not read" in r.getMessage()}
    assert told.startswith(f"{key} is not read") and reason in told
    caplog.clear()
    check_fit(compose(["model=tiny", "gate.tau=0.2", "guidance.negative_prompt=ugly"]))
    assert "is not read" not in caplog.text
