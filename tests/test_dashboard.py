"""The dashboard names what runs really tell, and can be drawn without a server."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import ROOT
from PIL import Image

from sow.runs.wandb_offline import OfflineRun


@pytest.fixture(scope="module")
def dashboard() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboard", ROOT / "tools" / "dashboard.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dashboard"] = module
    spec.loader.exec_module(module)
    return module


def run(
    job_type: str, history: tuple[dict[str, Any], ...] = (), summary: dict[str, Any] | None = None
) -> OfflineRun:
    return OfflineRun(Path("x"), "abc", "sow", "", job_type, "a run", (), {}, history, summary or {}, 0, {})


def test_its_tables_are_the_experiments(dashboard: ModuleType) -> None:
    keys = {
        key for panels in dashboard.SECTIONS.values() for p in panels if p.kind == "bars" for key in p.keys
    }
    assert {"full/id_distance", "ap_dam/failure", "no_gate/failure", "c10_700_500/id_distance"} <= keys


def test_its_curves_are_found_in_histories(dashboard: ModuleType) -> None:
    (panel,) = (p for p in dashboard.SECTIONS["Gate histories"] if p.title == "gate factor by layer")
    history = tuple(
        {"step": i, "gate/up.0": 0.1 * i, "gate/mid": float("nan"), "norm": 1.0} for i in range(4)
    )
    assert dashboard.curves(panel, run("generate", history)) == {
        "gate/up.0": [(i, pytest.approx(0.1 * i)) for i in range(4)]
    }


def test_it_is_drawn_from_offline_runs(dashboard: ModuleType, tmp_path: Path) -> None:
    history = tuple({"step": i, "gate/up.0": 0.1 * i, "r_c/up.0": 0.3, "norm": 1.0} for i in range(4))
    summary = {"full/id_distance": 0.8, "full/id_distance.low": 0.7, "full/id_distance.high": 0.95}
    runs = [run("generate", history), run("benchmark", summary=summary)]
    dashboard.draw(runs, tmp_path / "full.png")
    dashboard.draw([], tmp_path / "empty.png")
    full, empty = (Image.open(tmp_path / f"{name}.png").convert("RGB") for name in ("full", "empty"))
    assert full.size == empty.size and full.tobytes() != empty.tobytes()


def test_it_becomes_a_workspace(dashboard: ModuleType) -> None:
    pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed")
    built = dashboard.workspace("entity", "sow")
    assert [section.name for section in built.sections] == list(dashboard.SECTIONS)
