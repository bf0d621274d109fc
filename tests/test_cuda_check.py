"""The card's check runs on a bare machine, at the paper's numbers, and can fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

from benchmarks import bare, card, cuda_check
from benchmarks.attention import calls
from sow import compose
from sow.attention import block, regions
from sow.method.seed_init import Batch

ALLOWED = {"torch", "transformers", "accelerate", "safetensors", "diffusers", "numpy", "PIL", "triton"}
# Only what this project's own files import is judged: the networks' packages bring what they need themselves.
GUARD = f"""
import builtins, runpy, sys
allowed = set(sys.stdlib_module_names) | {{"sow", "benchmarks"}} | {ALLOWED!r}
original = builtins.__import__
def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    importer = str((globals or {{}}).get("__name__", "")).partition(".")[0]
    if importer in ("sow", "benchmarks", "__main__") and not level and name.partition(".")[0] not in allowed:
        raise ModuleNotFoundError(f"{{name}} is not on a bare machine")
    return original(name, globals, locals, fromlist, level)
builtins.__import__ = guarded
sys.argv = ["cuda_check.py", *sys.argv[1:]]
runpy.run_path("benchmarks/cuda_check.py", run_name="__main__")
"""


QUICK = (
    "attention",
    "row ranges",
    "whole run",
    "batches",
    "no waiting",
    "beside COW",
)  # the others take minutes


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the dry run leaves, every import beyond the bare machine's refused."""
    out = tmp_path_factory.mktemp("check") / "found.json"
    words = [sys.executable, "-W", "ignore", "-c", GUARD, "--dry", "--out", str(out), "--only", *QUICK]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(out.read_text())


def test_its_parts_run_dry_on_a_bare_machine(report: dict[str, Any]) -> None:
    found = report["found"]
    assert {f["part"] for f in found} == set(QUICK) < set(cuda_check.PARTS)
    assert [f["name"] for f in found if f["ok"] is False] == []
    assert sum(f["ok"] is True for f in found) >= 5
    assert report["dry"] and {"torch", "diffusers", "transformers"} == set(report["versions"])


def test_the_oracle_notices_a_wrong_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    made = calls(torch.device("cpu"), torch.float32, latent=16)
    ours = made.ours()[0][1]
    assert cuda_check.relative(ours, cuda_check.oracle(made, 0)) < 1e-5
    monkeypatch.setattr("benchmarks.attention.PLUS", 0.2)
    assert cuda_check.relative(ours, cuda_check.oracle(made, 0)) > 1e-3


def test_the_published_arithmetic_has_its_evaluations() -> None:
    backbone = compose(["model=tiny", "metrics=none", "tracker=none"]).model.load()
    bare.official_cow(backbone)
    side = backbone.unet.config.sample_size
    assert dict(backbone.evaluations) == {(side, side): 100, (side // 2, side // 2): 14}
    assert backbone.calls == 37 and backbone.encodings == 170


def test_what_the_attention_needs_is_sent_before_the_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = bare.pipeline(bare.checkpoint(bare.WEIGHTS, "cpu", "float32"))
    method, requests = pipeline.method, bare.requests(1)
    batch = Batch.of(requests, pipeline.plan(requests), method.canvas, method.seed_init)
    pipeline.generate(requests)  # encodes the prompts and sends the timesteps, once in the life of a model
    sent: list[str] = []
    for owner, name in ((regions.Bucket, "to"), (block, "Tables"), (torch, "tensor")):
        made = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, f=made, n=name, **k: (sent.append(n), f(*a, **k))[1])
    steps = method.run(batch)
    next(s for s in steps if s.context.phase == "cycle" and s.event == "replace")
    assert {"to", "Tables", "tensor"} == set(sent)
    sent.clear()
    next(s for s in steps if s.event != "replace" and s.gates)
    assert sent == []


def test_an_error_in_a_part_is_a_line_that_failed_and_a_status(tmp_path: Path, monkeypatch) -> None:
    def broken(machine):
        yield cuda_check.bounded("broken", "not a number", float("nan"), 1.0)
        raise ValueError("a card that burns")

    monkeypatch.setattr(cuda_check, "PARTS", {"broken": (1.0, broken)})
    out = tmp_path / "found.json"
    assert cuda_check.main(["--dry", "--out", str(out)]) == 1
    nan, error = json.loads(out.read_text())["found"]
    assert nan["ok"] is False and error["ok"] is False and "burns" in error["value"]


def test_without_a_card_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    assert cuda_check.main([]) == 1
    assert "--dry" in capsys.readouterr().err


def test_a_report_becomes_tables_that_say_what_failed_and_what_was_not_begun(report: dict[str, Any]) -> None:
    wrong = {
        "part": "graphs",
        "name": "a step",
        "value": 0.5,
        "ok": False,
        "bound": "<= 0.001",
        "details": {},
    }
    late = {"part": "table", "name": "not begun", "value": "9 s left", "ok": None, "bound": "", "details": {}}
    text = card.markdown({**report, "found": [*report["found"], wrong, late]})
    assert "| a step | 0.5 | <= 0.001 | **fails** |" in text and "Not begun: table (9 s left)" in text
    shown = {line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")}
    assert {
        f["name"] for f in report["found"] if f["ok"] is not None or isinstance(f["value"], list)
    } <= shown


def test_parts_measured_again_replace_their_own_lines_alone(report: dict[str, Any]) -> None:
    kept = [f for f in report["found"] if f["part"] == "attention"]
    old = {"part": "graphs", "name": "error", "value": "no", "ok": False, "bound": "", "details": {}}
    new = {**old, "name": "a step", "value": 1e-7, "ok": True, "bound": "<= 0.001"}
    late = {**new, "part": "attention", "name": "not begun", "value": "9 s left", "ok": None}
    first, second = {**report, "found": [*kept, old]}, {**report, "found": [new, late]}
    assert card.merged([first, second])["found"] == [*kept, new]
    with pytest.raises(SystemExit, match="of one device"):
        card.merged([first, {**second, "device": "another card"}])
