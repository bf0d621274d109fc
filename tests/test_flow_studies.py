"""The three studies of information flow through the command line, small, on random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments.core.laid import Laid, Slopes, of_paper
from sow.dynamics.axis import Axis
from sow.method.diffusion import Schedule
from sow.models.tiny import SCHEDULER
from sow.report.statistics import Resampling

TINY = ("model=tiny", "tracker=none", "metrics=none", "cycle.cycles=1")


def finished(result, run_folders) -> Path:
    assert result.status == 0, result.err
    folder = run_folders()[-1]
    assert (folder / "manifest.json").is_file()
    return folder


def test_information_flow(command_line, run_folders) -> None:
    result = command_line(
        *TINY,
        "study=information_flow",
        "study.only=[sampling,SOW_always_open]",
        "study.seeds=1",
        "study.causal_seeds=1",
        "study.positions=1",
        "study.sources=[condition,rest]",
        "gate.tau=0.9",
    )
    folder = finished(result, run_folders)
    numbers = json.loads((folder / "headline.json").read_text())
    assert list(numbers) == ["sampling", "SOW_always_open"]
    assert numbers["SOW_always_open"]["one_wayness_once"] > numbers["sampling"]["one_wayness_once"]
    assert numbers["SOW_always_open"]["open"] == 1.0 and numbers["sampling"]["open"] == 0.0
    for name in ("attention", "gates", "responses"):
        assert (folder / f"{name}.parquet").is_file() and (folder / f"{name}.csv").is_file()
    for kind in ("png", "pdf"):
        assert (folder / f"information_flow.{kind}").stat().st_size > 10_000
    table = pd.read_parquet(folder / "attention.parquet")
    assert set(table["method"]) == set(numbers) and {"mass", "uniform", "layer", "step"} <= set(table)
    assert "perturbed once" in result.out


def test_gate_landscape(command_line, run_folders) -> None:
    result = command_line(
        *TINY,
        "study=gate_landscape",
        "study.groups=1",
        "study.only=[related_logits,mine]",
        "+study.readings.mine={score: softmax, queries: condition, normalisation: head}",
        "gate.tau=0",
    )
    folder = finished(result, run_folders)
    numbers = json.loads((folder / "headline.json").read_text())
    assert set(numbers["readings"]) == {"related_logits", "mine"}
    for reading in numbers["readings"].values():
        assert reading["above_tau"] == 1.0 and not reading["straddles"]  # every R_c lies above tau = 0
        assert reading["low_5%"] <= reading["half_open"] <= reading["high_95%"]
    layers = pd.read_parquet(folder / "gate_landscape_layers.parquet")
    assert len(layers) == 2 * layers.layer.nunique()
    assert (folder / "gate_landscape.pdf").is_file() and "above tau" in (
        folder / "gate_landscape.md"
    ).read_text()


@pytest.mark.parametrize(
    "words, message",
    [
        (["study=gate_landscape", "+study.readings.x={queries: nobody}"], "study.readings.x"),
        (["study=gate_landscape", "modulation=none"], "modulation=dynamic"),
        (["study=information_flow", "study.strength=0"], "study.strength"),
        (["study=information_flow", "study.sources=[nowhere]"], "study.sources"),
        (["study=find_phases", "study.runs=[/nowhere]"], "study.runs"),
    ],
)
def test_bad_input_is_one_line(command_line, words, message) -> None:
    result = command_line(*TINY, *words)
    assert result.status == 1
    assert result.err.strip().count("\n") == 0 and message in result.err


def test_find_phases_from_tables(command_line, run_folders, tmp_path: Path) -> None:
    ks = range(11)
    kept = [1.0] * 4 + [0.75, 0.5, 0.25] + [0.0] * 4
    merged = [
        {"k": k, "noise": k / 10, "row": "unprocessed", "layout": layout, "contrast_kept": kept[k]}
        for k in ks
        for layout in ("top_bottom", "left_right")
    ]
    formed = [
        {"seed": s, "size": 32, "start": k + 1, "stop": k - 1, "noise": (k + 1) / 10, "excess": 1 - kept[k]}
        for k in ks
        for s in (0, 1)
    ]
    text = [
        {
            "prompt": "p",
            "seed": s,
            "start": k + 1,
            "stop": k - 1,
            "noise": (k + 1) / 10,
            "effect": 3 - 3 * kept[k],
        }
        for k in ks
        for s in (0, 1)
    ]
    for name, rows in (
        ("diffusion_in_diffusion", merged),
        ("semantic_formation", formed),
        ("text_sensitivity", text),
    ):
        pd.DataFrame(rows).to_parquet(tmp_path / f"{name}.parquet")
    axis = np.linspace(-5, 5, 11)
    bell = np.exp(-((axis + 1) ** 2))
    rates = [
        {"curve": "age", "unit": 0, "log_snr": float(v), "rate": float(r)}
        for v, r in zip(axis, bell, strict=True)
    ]
    pd.DataFrame(rates).to_parquet(tmp_path / "entropy_rate.parquet")
    ends = {word: {"value": v, "low": v - 0.1, "high": v + 0.1} for word, v in (("from", -2), ("to", 0))}
    (tmp_path / "headline.json").write_text(json.dumps({"window": ends}))
    only = "study.only=[diffusion_in_diffusion,semantic_formation,text_sensitivity,entropy_rate]"
    words = (f"study.runs=[{tmp_path}]", only, "study.resamples=100", "study.groups=2", "study.grid=20")
    result = command_line(*TINY, "study=find_phases", *words, "study.random=1")
    folder = finished(result, run_folders)
    numbers = json.loads((folder / "headline.json").read_text())
    measures = numbers["measures"]
    paper = measures["diffusion_in_diffusion"]
    assert measures["text_sensitivity"]["from"] == pytest.approx(paper["from"])
    assert paper["from"]["value"] < -1 < paper["to"]["value"] and measures["entropy_rate"]["of_paper"] > 0.5
    assert (numbers["suggested"]["t1"], numbers["suggested"]["t2"]) == (3, 7)
    assert numbers["overrides"] in result.out and "t1: 3\nt2: 7" in (folder / "found.yaml").read_text()
    groups = pd.read_parquet(folder / "find_phases_groups.parquet")
    rows = list(dict.fromkeys(groups.row))
    assert rows[:2] == ["default", "suggested"] and rows[2].startswith("random ") and len(rows) == 3
    assert Image.open(folder / "find_phases.png").width > 500
    agreed = pd.read_parquet(folder / "find_phases_agreement.parquet").set_index("study")
    assert np.allclose(np.diag(agreed), 1) and np.allclose(agreed, agreed.T)
    assert agreed.loc["text sensitivity", "diffusion in diffusion"] == pytest.approx(1)
    assert "| entropy rate |" in (folder / "find_phases.md").read_text()


def test_two_windows_agree_as_far_as_they_overlap() -> None:
    def window(first: float, last: float) -> Laid:
        ends = {"from": {"value": first}, "to": {"value": last}}
        return Laid("u_turn", np.zeros(1), np.zeros(1), ends)

    one = window(-4.0, 0.0)
    found = [one.overlap(window(*ends)) for ends in ((-4.0, 0.0), (-2.0, 2.0), (-1.0, 0.0), (1.0, 2.0))]
    assert found == pytest.approx([1, 2 / 6, 1 / 4, 0])
    assert np.isnan(one.overlap(window(2.0, 1.0)))


def test_find_phases_runs_its_studies(command_line, run_folders) -> None:
    """Each is a run of its own, which the next find_phases finds."""
    tiny = "['study.images=2','study.steps=2','study.levels=3','study.radii=[1]','study.positions=1']"
    words = ("study=find_phases", "study.only=[non_locality]", f"study.studies.non_locality={tiny}")
    words = (*TINY, *words, "study.groups=0", "study.resamples=100")
    result = command_line(*words)
    folder = finished(result, run_folders)
    assert (folder / "non_locality" / "manifest.json").is_file() and "Not compared" in result.out
    again = command_line(*words, "study.grid=20")
    assert "done before" in again.out and json.loads((folder / "headline.json").read_text())["measures"]


def test_a_curve_that_no_slope_explains_has_no_window() -> None:
    axis = Axis(Schedule.from_config(SCHEDULER, 10))
    table = pd.DataFrame(
        [
            {"seed": s, "size": 32, "start": k + 1, "stop": k - 1, "noise": (k + 1) / 10, "excess": 10.0 - k}
            for k in range(1, 10)
            for s in (0, 1)
        ]
    )
    how = Slopes(20, 0.1, 0.5)
    found = of_paper("semantic_formation", table, axis, how, Resampling(0.95, 100, 0))
    assert np.isnan(found.ends).all() and np.isnan(found.shared())
