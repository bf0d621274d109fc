"""The three studies of information flow through the command line, small, on random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

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
    result = command_line(
        *TINY, "study=find_phases", f"study.runs=[{tmp_path}]", "study.resamples=100", "study.groups=1",
        "study.grid=20",
    )  # fmt: skip
    folder = finished(result, run_folders)
    numbers = json.loads((folder / "headline.json").read_text())
    assert (numbers["a"], numbers["b"]) == (0.3, 0.7)
    assert (
        numbers["overrides"] == "cycle.t1=3 cycle.t2=7 cycle.cycles=1" and numbers["overrides"] in result.out
    )
    assert "t1: 3\nt2: 7" in (folder / "found.yaml").read_text()
    assert (folder / "find_phases_groups.parquet").is_file()


def test_find_phases_measures_its_curves(command_line, run_folders) -> None:
    result = command_line(
        *TINY,
        "study=find_phases",
        *("study.steps=5", "study.length=2", "study.every=3", "study.prompts=[a person]", "study.seeds=1"),
        *(
            "study.pictures=1",
            "study.layouts=[top_bottom]",
            "study.groups=0",
            "study.resamples=100",
            "study.grid=10",
        ),
    )
    folder = finished(result, run_folders)
    table = pd.read_parquet(folder / "find_phases.parquet")
    assert set(table.curve) == {"diffusion_in_diffusion", "semantic_formation", "text_sensitivity"}
    assert table.value.notna().all()
    assert "Not compared" in result.out
