"""Uploading finished W&B runs in a process of its own, so that a server can be slow, broken or gone without
anybody waiting.

`python -m sow.runs.wandb_sync FOLDER SECONDS PAUSE` uploads what is queued in FOLDER, one process at a time,
and ends; a run that could not be uploaded stays queued. Nothing but the standard library and a file lock is
imported here: the uploading itself is `wandb sync`, in a child that is killed when it takes longer than
SECONDS.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from sow.store.files import atomic_write

LOCK, PAUSED = ".lock", ".pause"
SYNC = (sys.executable, "-m", "wandb", "sync")
ANSWER = 10.0  # seconds in which a server that is alive answers


@dataclass(frozen=True)
class Uploads:
    """A queue of W&B run folders on disk, one file a run; `seconds` is what one round may take,
    `pause` follows a failure."""

    folder: Path
    seconds: float
    pause: float
    sync: tuple[str, ...] = SYNC

    def add(self, run: Path) -> None:
        """Queue a finished run and see to it that a process works on the queue."""
        with atomic_write(self.folder / run.name) as part:
            part.write_text(f"{run.resolve()}\n")
        if not self.paused and not self.busy:
            self._spawn()

    def wait(self, run: Path) -> bool:
        """Whether the run is uploaded within `seconds`."""
        end = time.monotonic() + self.seconds
        while (self.folder / run.name).exists():
            if time.monotonic() > end or self.paused:
                return False
            time.sleep(0.2)
        return True

    @property
    def paused(self) -> bool:
        """Whether the last attempt failed less than `pause` seconds ago."""
        try:
            return time.time() - (self.folder / PAUSED).stat().st_mtime < self.pause
        except OSError:
            return False

    @property
    def busy(self) -> bool:
        """Whether a process works on the queue."""
        lock = FileLock(str(self.folder / LOCK))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    def pending(self) -> dict[Path, Path]:
        """Queue entries that were not uploaded yet, and their run folders, oldest first."""
        found = {}
        for entry in sorted(p for p in self.folder.iterdir() if p.name.startswith("offline-run-")):
            with contextlib.suppress(OSError):
                found[entry] = Path(entry.read_text().strip())
        return found

    def work(self) -> None:
        """Upload until nothing is left or something failed."""
        while self.pending() and not self.paused:
            try:
                with FileLock(str(self.folder / LOCK), timeout=0):
                    if not self._round():
                        (self.folder / PAUSED).touch()
                        return  # also without a pause: the next attempt is a later job's
            except Timeout:
                return  # its holder looks again after it let go

    def _round(self) -> bool:
        runs = self.pending()
        for entry, run in list(runs.items()):
            if not run.is_dir():
                entry.unlink(missing_ok=True)
                del runs[entry]
        if not runs:
            return True
        if not answers(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")):
            return False
        self._sync(list(runs.values()))
        uploaded = [entry for entry, run in runs.items() if any(run.glob("*.wandb.synced"))]
        for entry in uploaded:
            entry.unlink(missing_ok=True)
        return len(uploaded) == len(runs)

    def _sync(self, runs: list[Path]) -> None:
        with open(self.folder / ".log", "ab") as log:
            child = subprocess.Popen(
                [*self.sync, *map(str, runs)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            yield_to_others(child.pid)
            try:
                child.wait(self.seconds)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()

    def _spawn(self) -> None:
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "sow.runs.wandb_sync",
                str(self.folder),
                str(self.seconds),
                str(self.pause),
            ],
            cwd=Path(__file__).resolve().parents[2],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def answers(server: str, seconds: float = ANSWER) -> bool:
    """Whether the server answers at all, and not with an error of its own;
    `wandb sync` would try for hours."""
    try:
        request = urllib.request.Request(
            f"{server.rstrip('/')}/graphql",
            data=b'{"query": "query { __typename }"}',
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=seconds):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except (OSError, ValueError):
        return False


def yield_to_others(pid: int) -> None:
    """Let a process that leads a session of its own run where nobody else wants the processor.

    Linux may share processors between sessions first (sched_autogroup), and a process's nice value counts
    only within its own.
    """
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text("19")


def main() -> None:
    """Work on the queue that the command line names, at the lowest priority."""
    folder, seconds, pause = sys.argv[1:]
    os.nice(19)
    yield_to_others(os.getpid())
    Uploads(Path(folder), float(seconds), float(pause)).work()


if __name__ == "__main__":
    main()
