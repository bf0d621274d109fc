"""`study=plan` and the language-model planners through the real command line;
no key in anything a run writes."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from stub_models import Act, Stub, sensible, serve

KEY = "AIzaSyPlanted-9876543210-jihgfedcba"
PLANS = ["study=plan", "study.canvas=[128,128]", "tracker=none", "study.drawn=1"]
TINY = ["model=tiny", "metrics=none", "cycle.cycles=1"]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    with serve() as running:
        yield running


def gemini(stub: Stub, *more: str) -> list[str]:
    return [
        "planner=gemini",
        f"planner.base_url={stub.url}",
        "planner.backoff=0.01",
        "planner.retries=1",
        *more,
    ]


def leaked(folder: Path, key: str) -> list[Path]:
    """Files that hold a long piece of the key, by name or content."""
    pieces = [key[i : i + 12].encode() for i in range(len(key) - 11)]
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert files
    return [p for p in files if any(piece in p.read_bytes() or piece in str(p).encode() for piece in pieces)]


def test_plans_of_a_split_without_a_model(
    command_line: Callable[..., Any], outputs: Path, run_folders: Callable[[], list[Path]]
) -> None:
    done = command_line(*PLANS, "study.limit=3")
    assert done.status == 0, done.err
    (folder,) = run_folders()
    plans = json.loads((folder / "plans.json").read_text())
    assert len(plans) == 3 and all(p["source"] == "offline" for p in plans)
    assert len({p["id"] for p in plans}) == 3 and (folder / f"{plans[0]['id']}.png").is_file()
    summary = json.loads((folder / "metrics.json").read_text())
    assert summary["plans"] == 3 and summary["asked_now"] == 0 and "plans.json" in done.out
    replayed = command_line(
        *PLANS, "study.limit=3", "planner=replay", f"planner.path={folder / 'plans.json'}"
    )
    assert replayed.status == 0, replayed.err
    again = json.loads((run_folders()[-1] / "plans.json").read_text())
    assert [(p["id"], p["boxes"], p["prompt"]) for p in again] == [
        (p["id"], p["boxes"], p["prompt"]) for p in plans
    ]


def test_a_sweep_never_pays_twice(
    stub: Stub, command_line: Callable[..., Any], run_folders: Callable[[], list[Path]]
) -> None:
    words = [*PLANS, *gemini(stub, "planner.price_in=1.0", "planner.price_out=2.0"), "study.workers=3"]
    first = command_line(*words, "study.limit=4")
    assert first.status == 0, first.err
    summary = json.loads((run_folders()[-1] / "metrics.json").read_text())
    assert len(stub.calls) == 12
    assert (summary["asked_now"], summary["from_the_store"], summary["requests"]) == (4, 0, 12)
    assert (
        summary["cost_usd"] == pytest.approx(12 * (1000 * 1.0 + 50 * 2.0) / 1e6) and "cost usd" in first.out
    )
    second = command_line(*words, "study.limit=6")
    assert second.status == 0, second.err
    summary = json.loads((run_folders()[-1] / "metrics.json").read_text())
    assert len(stub.calls) == 18 and (summary["asked_now"], summary["from_the_store"]) == (2, 4)


def test_one_failing_plan_loses_none_of_the_others(stub: Stub, command_line: Callable[..., Any]) -> None:
    def answer(call: Any) -> dict[str, Any]:
        known = sensible(call)
        return {**known, "boxes": "none"} if poor in call.text else known

    poor = "\0"
    words = [*PLANS, *gemini(stub), "study.limit=3", "study.workers=1"]
    assert command_line(*words).status == 0
    prompts = [re.search(r'"""(.*?)"""', c.text, re.DOTALL).group(1) for c in stub.calls[::3]]  # type: ignore[union-attr]
    poor, stub.answer = prompts[-1], answer
    stub.calls.clear()
    failed = command_line(*words, "planner.refresh=true")
    assert failed.status == 1 and "could not be made" in failed.err and failed.err.count("\n") == 1
    stub.answer = sensible
    stub.calls.clear()
    assert command_line(*words, "planner.price_in=0").status == 0 and len(stub.calls) == 0


def test_no_key_reaches_a_file_or_the_terminal(
    stub: Stub, command_line: Callable[..., Any], outputs: Path
) -> None:
    stub.answer = lambda call: {**sensible(call), "reason": f"because of {KEY}"}
    stub.next(Act(status=503, message=f"{KEY} is busy"))
    done = command_line(*gemini(stub), *TINY, "tracker=wandb", "hydra.verbose=true")
    assert done.status == 0, done.err
    assert len(stub.calls) == 4 and all(KEY in c.headers.values() for c in stub.calls)
    assert leaked(outputs, KEY) == []
    stub.default = Act(status=403, message=f"{KEY} is not valid, {KEY[:18]}... is wrong")
    failed = command_line(*gemini(stub, "planner.refresh=true"), *TINY, "tracker=none")
    assert failed.status == 1 and "HTTP 403" in failed.err and failed.err.startswith("error: ")
    assert leaked(outputs, KEY) == []
    everything = done.out + done.err + failed.out + failed.err
    assert not any(KEY[i : i + 12] in everything for i in range(len(KEY) - 11))


def test_ablations_run_with_a_language_model(
    stub: Stub, command_line: Callable[..., Any], run_folders: Callable[[], list[Path]]
) -> None:
    plans = {}
    for name in ("full", "no_ap", "no_pi", "no_dam"):
        done = command_line(*gemini(stub), *TINY, "tracker=none", f"+ablation={name}")
        assert done.status == 0, done.err
        plans[name] = json.loads((run_folders()[-1] / "plan.json").read_text())
        assert (run_folders()[-1] / "canvas.png").is_file()
    assert len(stub.calls) == 4  # three stages, and one more for the random box
    assert (
        plans["no_ap"]["boxes"] != plans["full"]["boxes"]
        and plans["no_ap"]["prompt"] == plans["full"]["prompt"]
    )
    assert plans["no_pi"]["prompt"] != plans["full"]["prompt"] and plans["no_dam"] == plans["full"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["study.split=train"], "study.split"),
        (["study.limit=0"], "study.limit"),
        (["study.workers=0"], "study.workers"),
        (["study.canvas=[128]"], "study.canvas"),
        (["study.canvas=[130,128]"], "130 x 128"),
        (["planner=gemini", "study.limit=1"], "no API key: set GEMINI_API_KEY or GOOGLE_API_KEY"),
        (["planner=openai"], "planner.model"),
    ],
)
def test_bad_input_is_one_line(
    command_line: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    done = command_line(*PLANS, *words)
    assert done.status == 1 and message in done.err and done.err.count("\n") == 1


def test_a_fallbacks_plan_is_no_answer_for_good(command_line: Callable[..., Any], stub: Stub) -> None:
    """The server is down, then up: the same command asks it."""
    words = [
        *gemini(stub, "planner.on_error=fallback"),
        "study=plan",
        "study.canvas=[128,128]",
        "tracker=none",
    ]
    stub.default = Act(status=500)
    down = command_line(*words, "study.split=request")
    assert down.status == 0 and "asks the planner again (planner.on_error)" in down.out, down.err
    stub.default = Act()
    up = command_line(*words, "study.split=request")
    assert up.status == 0 and "done before" not in up.out and "planner.on_error" not in up.out, up.err
    assert "done before" in command_line(*words, "study.split=request").out
    asked = len(stub.calls)
    again = command_line(*words, "study.split=request", "planner.refresh=true")
    assert again.status == 0 and len(stub.calls) > asked
    asked = len(stub.calls)
    assert command_line(*words, "study.split=request", "planner.refresh=true").status == 0
    assert len(stub.calls) > asked


def test_a_folder_without_a_tokenizer_counts_no_tokens(tmp_path: Path) -> None:
    from sow.errors import UserError
    from sow.planner.tokens import token_count

    with pytest.raises(UserError, match=r"holds no tokenizer/.*\(planner.tokenizer\)"):
        token_count("a person", str(tmp_path))
    (tmp_path / "tokenizer").mkdir()
    assert token_count("a person", str(tmp_path)) == token_count("a person", None) == 4
