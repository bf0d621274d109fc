"""Finished runs are uploaded by a process of their own; a server that is slow,
broken or gone is nobody's concern."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.servers import refusing, server
from sow.config.compose import compose
from sow.runs.tracking import Job, Wandb
from sow.runs.wandb_sync import PAUSED, Uploads, answers, yield_to_others

# Stands in for `wandb sync`: marks the runs it is given as uploaded, but none whose name ends in "bad".
SYNC = (
    sys.executable,
    "-S",
    "-c",
    "import pathlib, sys\n"
    "for run in sys.argv[1:]:\n"
    "    if not run.endswith('bad'): (pathlib.Path(run) / 'run.wandb.synced').touch()",
)


def run_folder(place: Path, name: str = "offline-run-1-abc") -> Path:
    (place / name).mkdir(parents=True)
    return place / name


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Uploads:
    """A queue that starts no process."""
    monkeypatch.setattr(Uploads, "_spawn", lambda self: None)
    return Uploads(tmp_path / "queue", seconds=20, pause=60, sync=SYNC)


def test_a_server_answers_or_it_does_not() -> None:
    for status, alive in ((200, True), (401, True), (500, False), (503, False)):
        with server(status) as url:
            assert answers(url) is alive
    with refusing() as url:
        assert not answers(url)
    start = time.monotonic()
    with server(None) as url:
        assert not answers(url, seconds=0.3)
    assert time.monotonic() - start < 5
    assert not answers("no url")


def test_what_is_queued_is_uploaded_once(
    uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [run_folder(tmp_path, f"offline-run-{i}-abc") for i in range(3)]
    for run in runs:
        uploads.add(run)
    runs[1].rmdir()  # removed by its owner: nothing to upload
    with server(200) as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        uploads.work()
    assert not uploads.pending() and not uploads.paused
    assert (runs[0] / "run.wandb.synced").exists() and (runs[2] / "run.wandb.synced").exists()
    assert uploads.wait(runs[0])


def test_a_failed_upload_stays_queued_and_pauses(
    uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = run_folder(tmp_path, "offline-run-1-good"), run_folder(tmp_path, "offline-run-2-bad")
    uploads.add(good)
    uploads.add(bad)
    with server(200) as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        uploads.work()
    assert list(uploads.pending().values()) == [bad]
    assert uploads.paused and not uploads.wait(bad)
    os.utime(uploads.folder / PAUSED, (0, 0))
    assert not uploads.paused


@pytest.mark.parametrize("kind", ["refuses", "500"])
def test_no_upload_is_tried_on_a_dead_server(
    kind: str, uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_folder(tmp_path)
    uploads.add(run)
    with refusing() if kind == "refuses" else server(500) as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        uploads.work()
    assert list(uploads.pending().values()) == [run] and uploads.paused
    assert not list(run.iterdir())


def test_without_a_pause_the_next_attempt_is_a_later_job_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = []
    monkeypatch.setattr(Uploads, "_spawn", lambda self: None)
    monkeypatch.setattr(Uploads, "_round", lambda self: rounds.append(1) or len(rounds) > 3)
    uploads = Uploads(tmp_path / "queue", seconds=20, pause=0, sync=SYNC)
    uploads.add(run_folder(tmp_path))
    uploads.work()
    assert len(rounds) == 1 and not uploads.paused


def test_an_upload_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Uploads, "_spawn", lambda self: None)
    sleeper = (sys.executable, "-S", "-c", "import time; time.sleep(60)")
    uploads = Uploads(tmp_path / "queue", seconds=0.5, pause=60, sync=sleeper)
    uploads.add(run_folder(tmp_path))
    start = time.monotonic()
    with server(200) as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        uploads.work()
    assert time.monotonic() - start < 10
    assert uploads.pending() and uploads.paused


def test_one_process_works_on_a_queue(uploads: Uploads, tmp_path: Path) -> None:
    from filelock import FileLock

    uploads.add(run_folder(tmp_path))
    assert not uploads.busy
    with FileLock(str(uploads.folder / ".lock")):
        assert uploads.busy
        uploads.work()  # leaves it to the holder
    assert uploads.pending() and not uploads.paused


def test_an_online_run_does_not_wait_for_its_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a real process: the run is written, handed over, and stays queued when nobody answers."""
    config = compose(["model=tiny", "metrics=none", f"paths.outputs={tmp_path}"])
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with refusing() as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        run = Wandb("sow-test", None, "auto", upload_seconds=20, pause_seconds=60).start(
            Job(tmp_path / "run", config)
        )
        run.summary({"a": 1})
        run.finish(0)
        uploads = Uploads(tmp_path / ".index" / "uploads", 20, 60)
        (written,) = uploads.pending().values()
        assert written.is_relative_to(tmp_path / "run") and list(written.glob("*.wandb"))
        for _ in range(300):
            if uploads.paused:
                break
            time.sleep(0.1)
    assert uploads.paused and list(uploads.pending().values()) == [written]


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="the kernel does not group sessions")
def test_an_upload_leaves_the_processor_to_others() -> None:
    child = subprocess.Popen(["sleep", "30"], start_new_session=True)
    try:
        yield_to_others(child.pid)
        assert Path(f"/proc/{child.pid}/autogroup").read_text().split()[-1] == "19"
    finally:
        child.kill()
        child.wait()
    yield_to_others(child.pid)  # gone: nothing happens
