"""Every notebook runs from top to bottom in this process,
on random weights or on small tables; its two halves agree."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
REGIONS = ("condition", "related", "rest")


def finish(folder: Path, study: str, **files: Any) -> None:
    """A run folder with its manifest: tables as parquet, containers as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        if isinstance(value, pd.DataFrame):
            value.to_parquet(folder / f"{name}.parquet")
        else:
            (folder / f"{name}.json").write_text(json.dumps(value))
    manifest = {"choices": {"study": study}, "finished": "2026-01-01T00:00:00+00:00", "key": study}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def flow_tables() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    where = [
        {"method": m, "request": r, "step": s, "phase": "cycle" if s < 2 else "preserve"}
        for m in ("sampling", "SOW")
        for r in ("0", "1")
        for s in range(3)
    ]
    attention = [
        {**w, "layer": layer, "tokens": n, "query": q, "key": k, "mass": rng.uniform(), "uniform": 1 / 3}
        for w in where
        for layer, n in (("mid.attn1", 16), ("up.attn1", 64))
        for q in REGIONS
        for k in REGIONS
    ]
    responses = [
        {**w, "source": s, "target": t, "response": 1.0, "energy": rng.uniform(1, 2)}
        for w in where
        for s in REGIONS
        for t in REGIONS
    ]
    return {
        "attention": pd.DataFrame(attention),
        "responses": pd.DataFrame(responses),
        "headline": {"sampling": {"one_wayness": 0.0}, "SOW": {"one_wayness": 0.9}},
    }


def gate_tables() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    names = ("related_logits", "condition_softmax")
    rows = [
        {"reading": n, "layer": "mid.attn1", "r_c": rng.uniform(0.1, 0.4)} for n in names for _ in range(50)
    ]
    columns = ("mean", "uniform", "above_tau", "open_gates", "half_open")
    return {
        "gate_landscape": pd.DataFrame(rows),
        "headline": {"tau": 0.273, "readings": {n: dict.fromkeys(columns, 0.2) for n in names}},
    }


def phase_tables() -> dict[str, dict[str, Any]]:
    noise = [0.2, 0.4, 0.6, 0.8, 1.0]
    steps = [{"start": round(10 * u), "stop": round(10 * u) - 2, "noise": u, "low": u > 0.5} for u in noise]
    merged = [
        {"k": 10 * u, "noise": u, "row": row, "layout": layout, "contrast_kept": 1 - u}
        for u in noise
        for row in ("unprocessed", "enhanced")
        for layout in ("top_bottom", "left_right")
    ]
    formed = [
        {**s, "seed": i, "size": n, "excess": s["noise"]} for s in steps for i in (0, 1) for n in (32, 64)
    ]
    text = [{**s, "prompt": p, "seed": 0, "effect": s["noise"]} for s in steps for p in ("a", "b")]
    return {
        "diffusion_in_diffusion": {"diffusion_in_diffusion": pd.DataFrame(merged)},
        "semantic_formation": {"semantic_formation": pd.DataFrame(formed)},
        "text_sensitivity": {"text_sensitivity": pd.DataFrame(text)},
        **measure_tables(),
    }


def measure_tables() -> dict[str, dict[str, Any]]:
    """The seven measures at three levels, and what is laid over them."""
    levels = [{"log_snr": v, "timestep": t} for v, t in ((-2.0, 700), (0.0, 400), (2.0, 100))]

    def rows(column: str, **more: list[Any]) -> pd.DataFrame:
        (name, values), *_ = [*more.items(), ("unit", [0])]
        return pd.DataFrame([{**v, name: x, column: v["log_snr"] ** 2 + 1} for v in levels for x in values])

    maps = [{"curve": "hat", "row": r, "column": c, "nats": 1.0} for r in (0, 1) for c in (0, 1)]
    near = [{"kind": k, "ratio": r} for k in ("samples", "held out") for r in (0.7, 0.9)]
    moved = [
        {"region": "everywhere", "layer": name, "last_timestep": t, "moved": 0.1}
        for name in ("mid", "up")
        for t in (900, 400)
    ]
    ends = {word: {"value": v, "low": v, "high": v} for word, v in (("from", -2.0), ("to", 0.0))}
    headline = {"overrides": "cycle.t1=4", "verdict": "None.", "measures": {"u_turn": ends}}
    return {
        "entropy_rate": {"entropy_rate": rows("rate", curve=["age", "scene"])},
        "pixel_information": {"pixel_information": rows("rate", curve=["hat"]), "maps": pd.DataFrame(maps)},
        "u_turn": {"u_turn": rows("chi")},
        "non_locality": {"non_locality": rows("gap", radius=[1, 2]).assign(energy=9.0)},
        "sensitivity": {"sensitivity": rows("value", curve=["reach", "one_wayness"])},
        "memorisation": {"nearest": pd.DataFrame(near)},
        "patching": {"patching": pd.DataFrame(moved)},
        "find_phases": {"find_phases": rows("value", curve=["u_turn", "reach"]), "headline": headline},
    }


def benchmark_files(folder: Path) -> dict[str, Any]:
    from PIL import Image

    rng = np.random.default_rng(2)
    groups, rows = [f"normal-{i}" for i in range(5)], ("full", "no_dam")
    for row in rows:
        (folder / "images" / row).mkdir(parents=True)
        for group in groups:
            Image.new("RGB", (16, 16), "gray").save(folder / "images" / row / f"{group}-0.png")
    records = [
        {
            "row": r,
            "group": g,
            "setting": "normal",
            "seed": 0,
            "id_distance": rng.uniform(),
            "failure": g < "normal-2",
        }
        for r in rows
        for g in groups
    ]
    seconds = [{"row": r, "names": ",".join(f"{g}-0" for g in groups), "seconds": 2.0} for r in rows]
    column = {"metric": "id_distance", "label": "ID-Distance", "better": "lower", "format": "number"}
    described = [
        {"name": r, "label": r, "overrides": [], "paper": {}, "marks": [], "note": None} for r in rows
    ]
    table = {
        "name": "table2",
        "title": "Ablations",
        "marks": [],
        "columns": [column],
        "reference": "full",
        "caption": [],
        "resampling": {"level": 0.95, "resamples": 200, "seed": 0},
    }
    return {
        "records": pd.DataFrame(records),
        "seconds": pd.DataFrame(seconds),
        "rows": described,
        "table": table,
    }


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs of every study that a notebook reads."""
    import run

    root = tmp_path_factory.mktemp("outputs")
    with pytest.MonkeyPatch.context() as patch:
        words = ["model=tiny", "tracker=none", "metrics=none", "cycle.cycles=2", f"paths.outputs={root}"]
        patch.setattr(sys, "argv", ["run.py", *words])
        assert run.command_line() == 0
    day = root / "2026-01-01"
    finish(day / "flow", "information_flow", **flow_tables())
    finish(day / "gates", "gate_landscape", **gate_tables())
    for study, files in phase_tables().items():
        finish(day / study, study, **files)
    finish(day / "table2", "benchmark", **benchmark_files(day / "table2"))
    return root


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs(path: Path, outputs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from matplotlib import pyplot as plt

    monkeypatch.chdir(tmp_path)
    cells = json.loads(path.read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells), "commit notebooks without outputs"
    (parameters,) = [c for c in cells if "parameters" in c["metadata"].get("tags", ())]
    given = {"outputs": str(outputs), "model": "tiny"}
    names: dict[str, object] = {"__name__": "notebook"}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name}[{number}]", "exec"), names)
        if cell is parameters:
            names.update({name: value for name, value in given.items() if name in names})
    plt.close("all")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_and_its_text_are_one(path: Path) -> None:
    jupytext = pytest.importorskip("jupytext")
    cells = [
        [(c.cell_type, c.source) for c in jupytext.read(p).cells] for p in (path, path.with_suffix(".py"))
    ]
    assert cells[0] == cells[1], f"run jupytext --sync {path}"


def test_notebooks_hold_no_logic() -> None:
    for path in FOLDER.glob("*.py"):
        text = path.read_text()
        assert "\ndef " not in text and "\nclass " not in text, f"{path.name}: move it into sow/"
        assert len(text.splitlines()) < 150


def test_runs_are_found_and_missing_ones_say_how(outputs: Path, tmp_path: Path) -> None:
    from sow.errors import UserError
    from sow.runs import reading as runs

    assert runs.latest("find_phases", outputs).name == "find_phases"
    generated = runs.latest("generate", outputs, model="tiny")
    assert list(runs.table(generated, "trace")["phase"].unique())[-1] == "preserve"
    with pytest.raises(UserError, match="python run.py study=find_phases"):
        runs.latest("find_phases", tmp_path)
    with pytest.raises(UserError, match="it has trace"):
        runs.table(generated, "nothing")
