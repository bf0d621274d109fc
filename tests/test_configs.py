"""Every option composes, an ablation changes what it names and nothing else, and a bad word fails with the
choices."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from checkpoints import without_weights

from sow.config.compose import CONF, GROUPS, Config, compose
from sow.config.schema import instantiate
from sow.config.trust import components
from sow.errors import UserError

WEIGHTS = CONF.parent / "sow" / "people" / "weights"
TINY = "model=tiny"  # needs no weights
ABLATIONS = {
    "full": (),
    "no_dam": ("modulation",),
    "no_ap": ("position",),
    "no_pi": ("intensify",),
    "no_p_plus": ("p_plus",),
    "no_p_minus": ("p_minus",),
    "no_decay_time": ("decay_time",),
    "no_decay_distance": ("decay_distance",),
    "no_gate": ("gate",),
    "no_seed_init": ("seed_init",),
    "no_cycle": ("cycle",),
    "no_preservation": ("preservation",),
}
# The tables change the study alone, which tests/test_benchmark.py holds them to.
EXPERIMENTS = sorted(p.stem for p in (CONF / "experiment").glob("*.yaml") if not p.stem.startswith("table"))
OPTIONS = [
    (folder.name, file.stem)
    for folder in sorted(CONF.iterdir())
    if folder.is_dir() and folder.name not in ("ablation", "experiment", "sweep", "hydra")
    for file in sorted(folder.glob("*.yaml"))
]


@cache
def composed(*words: str) -> Config:
    return compose(list(words))


def changed(a: Mapping[str, Any], b: Mapping[str, Any]) -> set[str]:
    return {name for name in {*a, *b} if a.get(name) != b.get(name)}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return without_weights(tmp_path_factory.mktemp("checkpoint"))


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(group: str, option: str, checkpoint: Path) -> None:
    if (group, option) == ("model", "people") and not WEIGHTS.is_dir():
        pytest.skip("the weights of the embedded world are not in this checkout")
    words = [f"{group}={option}"] if group == "model" else [TINY, f"{group}={option}"]
    for key in re.findall(
        r"^(\w+): \?\?\?|^  (\w+): \?\?\?", (CONF / group / f"{option}.yaml").read_text(), re.M
    ):
        words.append(f"{group}.{key[0] or key[1]}={checkpoint}")
    if (group, option) == ("model", "local"):
        words.append(f"model.path={checkpoint}")
    if group == "model" and option not in ("people", "people_flow", "tiny"):
        words.append("condition.image=face.png")
    config = compose(words)
    assert config.choices[group] == option


@pytest.mark.parametrize("experiment", [None, *EXPERIMENTS])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_an_ablation_changes_what_it_names_and_nothing_else(ablation: str, experiment: str | None) -> None:
    words = [TINY] if experiment is None else [f"experiment={experiment}"]
    full, ablated = composed(*words), composed(*words, f"+ablation={ablation}")
    assert changed(full.resolved, ablated.resolved) == set(ABLATIONS[ablation])
    assert ablated.ablations == (ablation,)


def test_every_ablation_is_known_here() -> None:
    assert {p.stem for p in (CONF / "ablation").glob("*.yaml")} == set(ABLATIONS)


def test_ablations_combine() -> None:
    both = composed(TINY, "+ablation=[no_dam,no_pi]")
    assert changed(composed(TINY).resolved, both.resolved) == {"modulation", "intensify"}
    assert both.ablations == ("no_dam", "no_pi")
    assert both.resolved["modulation"] == composed(TINY, "+ablation=no_dam").resolved["modulation"]


def test_an_ablation_wins_over_the_method() -> None:
    cow = composed(TINY, "method=cow")
    ablated = composed(TINY, "method=cow", "+ablation=[no_seed_init,no_preservation]")
    assert changed(cow.resolved, ablated.resolved) == {"seed_init", "preservation"}


def test_no_preservation_and_no_cycle_mean_what_they_say() -> None:
    off = composed(TINY, "+ablation=[no_preservation,no_cycle]")
    assert off.preservation.resolve(off.cycle, 10) == ()
    assert off.cycle.cycles == 1


def test_cow_is_the_published_pipeline() -> None:
    cow, sow = composed(TINY, "method=cow"), composed(TINY)
    assert changed(cow.resolved, sow.resolved) == set(
        "planner intensify seed_init inversion cycle preservation guidance modulation".split()
    )
    assert (cow.cycle.t1, cow.cycle.t2, cow.cycle.cycles, cow.cycle.eta) == (5, 7, 10, 1.0)
    assert (cow.cycle.inject_levels, cow.inversion.levels, cow.inversion.vae) == (
        "official",
        "official",
        "sample",
    )
    assert (cow.seed_init.start, cow.seed_init.mask) == ("inject", "dither")
    assert (cow.preservation.t3, cow.preservation.eta) == ([4], 0.1)
    assert cow.guidance.suppress_prompt == "human face"
    assert cow.planner.boxes == [[128, 0, 256, 256]]


@pytest.mark.parametrize(
    ("task", "t3", "eta"), [("normal", (4, 3), 0.0), ("attribute", (4,), 0.1), ("style", (4,), 1.0)]
)
def test_the_task_chooses_preservation(task: str, t3: tuple[int, ...], eta: float) -> None:
    config = composed(TINY, "calibration=paper", f"task={task}")
    assert config.preservation.resolve(config.cycle, 10) == t3
    assert config.preservation.eta == eta
    assert config.prompt == config.task.prompt


def test_the_model_chooses_the_calibration() -> None:
    assert composed().choices["calibration"] == "people"
    assert composed(TINY).choices["calibration"] == "paper"
    for model in ("sd21_base", "sd15"):
        config = composed(f"model={model}", "condition.image=a.png")
        assert config.choices["calibration"] == "paper"
        assert (config.gate.tau, config.p_plus.omega, config.p_minus.omega) == (0.273, 0.145, 0.04)
        assert tuple(config.model.condition_size) == (180, 256)
    chosen = composed("model=sd21_base", "calibration=people", "planner=fixed", "condition=person")
    assert (chosen.choices["calibration"], chosen.choices["planner"]) == ("people", "fixed")


def test_overrides_reach_the_components() -> None:
    config = composed(TINY, "gate.tau=0", "cycle.t1=4", "preservation.t3=[3]", "seed_init=noise", "prompt=7")
    assert config.gate.tau == 0.0 and isinstance(config.gate.tau, float)
    assert config.preservation.resolve(config.cycle, 20) == (6,)
    assert config.seed_init.color == "noise"
    assert config.prompt == "7"


def test_every_deviation_names_its_alternative() -> None:
    lines = [
        line
        for file in CONF.rglob("*.yaml")
        for line in file.read_text().splitlines()
        if "ASSUMPTION" in line
    ]
    numbers = {int(n) for line in lines for n in re.findall(r"ASSUMPTION A(\d+)", line)}
    assert set(range(1, 20)) <= numbers <= set(range(1, 26))
    assert all("alternative" in line for line in lines), [line for line in lines if "alternative" not in line]


def test_targets_stay_in_this_project() -> None:
    def targets(node: Any) -> Iterator[str]:
        if isinstance(node, Mapping):
            if "_target_" in node:
                yield node["_target_"]
            for value in node.values():
                yield from targets(value)

    found = list(targets(composed(TINY).resolved))
    assert len(found) == len(GROUPS)
    assert set(found) <= components()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["cycle=twice"], ["cycle=twice", "cow, cyclic, once"]),
        (["+ablation=no_such"], ["ablation=no_such", "no_dam", "full"]),
        (["seeed=1"], ["seeed", "did you mean seed?"]),
        (["cycle.tone=1"], ["cycle.tone", "cycle.t1", "cycle.t2"]),
        (["+cycle.tone=1"], ["cycle.tone", "cycle.t1", "cycle.t2"]),
        (["+tone=1"], ["tone", "seed_init", "tracker"]),
        (["cycl=once"], ["cycl", "did you mean cycle?"]),
        (["~cycle"], ["cycle is missing", "do not delete"]),
        (["~cycle.eta"], ["cycle.eta has no value"]),
        (["cycle.t1=early"], ["cycle.t1='early'", "number"]),
        (["cycle.cycles=2.5"], ["cycle.cycles=2.5", "whole number"]),
        (["cycle.cycles=true"], ["cycle.cycles=True", "whole number"]),
        (["seed=null"], ["seed=None", "whole number"]),
        (["force=maybe"], ["force='maybe'", "true or false"]),
        (["seed=-1"], ["need 0 <= seed <= 4611686018427387904, got -1 (seed)"]),
        (["seed=4611686018427387905"], ["need 0 <= seed <= 4611686018427387904"]),
        (["gate.tau=nan"], ["gate.tau=nan is not finite"]),
        (["p_plus.omega=inf"], ["p_plus.omega=inf is not finite"]),
        (["batch_size=0"], ["1 <= batch_size", "0"]),
        (["height=-8"], ["height", "-8"]),
        (["gate.queries=all"], ["gate.queries", "related", "condition", "all"]),
        (["seed_init.color=mauve"], ["mauve", "seed_init.color"]),
        (["cycle.t1=7"], ["need 0 < t1 < t2 <= 10 steps, got t1=7, t2=7 (cycle.t1, cycle.t2)"]),
        (["cycle.t2=11"], ["t2=11", "cycle.t2"]),
        (["preservation.t3=[5]"], ["t3=5", "t1=5", "preservation.t3"]),
        (["num_inference_steps=3"], ["num_inference_steps=3", "too small"]),
        (["num_inference_steps=0"], ["num_inference_steps", "0"]),
        (["model=local", "condition.image=a.png"], ["model.path=DIR"]),
        (["model=local", "condition.image=a.png", "model.path=/nowhere"], ["/nowhere", "model.path"]),
        (["model.dtype=float8"], ["float8", "float16, bfloat16, float32, float64"]),
        (["cycle._target_=os.system"], ["os.system", "not a component of this project"]),
        (["cycle._target_=sow.method.cycle.Bicycle"], ["sow.method.cycle.Bicycle", "not a component"]),
        (["tracker.project=rain, wind"], ["tracker.project=rain, wind has a comma", "quote the value"]),
        (["tracker.project=${weather}"], ["weather", "not found"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_bad_word_fails_on_one_line(words: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as failure:
        compose([*([] if words[0].startswith("model=") else [TINY]), *words])
    message = str(failure.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_composing_imports_no_torch() -> None:
    """A good and a bad configuration, in one fresh process."""
    code = (
        "import json, sys; from sow import UserError, compose\n"
        "compose(['model=tiny']); compose(['model=tiny', 'method=cow', 'tracker=none', 'metrics=faces'])\n"
        "compose(['model=sd21_base', 'condition.image=a.png'])\n"
        "try: compose(['model=tiny', 'cycle.t1=7'])\n"
        "except UserError: print(json.dumps([m for m in ('torch', 'diffusers', 'transformers', 'wandb') "
        "if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_a_group_without_a_component_is_refused() -> None:
    with pytest.raises(UserError, match="component"):
        instantiate([1], "cycle")
