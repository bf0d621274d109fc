"""What all tests share: one thread a worker, nothing online, and the command line in this process."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.update(TOKENIZERS_PARALLELISM="false", MPLBACKEND="Agg", HF_HUB_OFFLINE="1", WANDB_MODE="offline")
os.environ.pop("WANDB_API_KEY", None)

ROOT = Path(__file__).resolve().parents[1]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With SOW_SKIP_NONE=1, as in .ci/run, a test that something missing skips is a failure;
    the kernel alone may lack things."""
    if os.environ.get("SOW_SKIP_NONE") != "1" or hasattr(session.config, "workerinput"):
        return
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = [
        report for report in terminal.stats.get("skipped", ()) if "the kernel" not in str(report.longrepr)
    ]
    if skipped:
        terminal.ensure_newline()
        terminal.write_line(f"{len(skipped)} skipped although SOW_SKIP_NONE=1", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@dataclass(frozen=True)
class Result:
    """What a command line left: its exit status and what it printed."""

    status: int
    out: str
    err: str


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """The folder that runs of this test are written to."""
    return tmp_path / "outputs"


@pytest.fixture
def command_line(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Result]]:
    """`python run.py WORDS` without a new process, writing to `outputs`."""
    import run

    root = logging.getLogger()
    before = root.handlers[:], root.level

    def call(*words: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["run.py", *words, f"paths.outputs={outputs}"])
        capsys.readouterr()
        status = run.command_line()
        out, err = capsys.readouterr()
        return Result(status, out, err)

    yield call
    for handler in root.handlers:
        if handler not in before[0]:
            handler.close()
    root.handlers[:], root.level = before


@pytest.fixture
def run_folders(outputs: Path) -> Callable[[], list[Path]]:
    """Folders of the jobs that were run, oldest first."""
    return lambda: sorted((p.parent for p in outputs.rglob(".hydra")), key=lambda p: p.stat().st_mtime_ns)
