"""What tracking costs: seconds per job beyond generation and metrics, and jobs whose W&B server refuses,
hangs or answers 500.

`python -m benchmarks.tracking [--jobs 24] [--rounds 5] [--json FILE] [WORD ...]`; the words go to every
`run.py` (model=tiny by default). One process, one model load; the kinds of server are interleaved, so that a
slow minute of the machine hits all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import run  # noqa: E402
from benchmarks.servers import refusing, server  # noqa: E402
from benchmarks.timing import Timed, interval, quartiles, ratio  # noqa: E402
from sow.runs.wandb_offline import OfflineRun, runs_below  # noqa: E402

SMALL = ("model=tiny", "metrics=none", "planner=fixed")
OURS = ("tracker", "write", "load")  # phases of a manifest that are neither generation nor metrics
KINDS = ("offline", "refuses", "hangs", "answers 500")
BEYOND, RATIO = 1.5, 1.05  # aims: seconds, and a job's time over that of offline mode


def command(*words: str) -> float:
    """Seconds of one `run.py` in this process; RuntimeError when it fails."""
    sys.argv = ["run.py", *words]
    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        status = run.command_line()
    if status != 0:
        raise RuntimeError(f"run.py {' '.join(words)} ended with {status}")
    return time.perf_counter() - start


def overhead(words: Sequence[str], jobs: int, outputs: Path) -> dict[str, Any]:
    """A multirun of `jobs` + 1 jobs offline: from manifest to manifest a job takes this long, less generation
    and metrics.

    The interval holds everything there is to a job: Hydra's composition, the run key, W&B's start and finish,
    the files.
    """
    os.environ["WANDB_MODE"] = "offline"
    command("-m", *words, f"seed=range(0,{jobs + 1})", f"paths.outputs={outputs}")
    files = sorted(outputs.glob("*/*/*/manifest.json"), key=lambda f: f.stat().st_mtime_ns)
    if len(files) != jobs + 1 or len(list(outputs.rglob("*.wandb"))) != jobs + 1:
        raise RuntimeError(f"{len(files)} of {jobs + 1} runs are complete")
    ends = [file.stat().st_mtime_ns / 1e9 for file in files]
    seconds = [json.loads(file.read_text())["seconds"] for file in files]
    whole = [after - before for before, after in zip(ends, ends[1:])]
    work = [sum(v for k, v in s.items() if k not in OURS) for s in seconds[1:]]
    beyond = [a - b for a, b in zip(whole, work)]
    return {
        "jobs": jobs,
        "read_back": read_back(outputs, [json.loads(file.read_text())["seed"] for file in files[1:]]),
        "median_seconds_beyond": statistics.median(beyond),
        "seconds_beyond": beyond,
        "median_seconds_of_generation_and_metrics": statistics.median(work),
        "median_seconds_tracker_phase": statistics.median(s["tracker"] for s in seconds[1:]),
    }


def read_back(outputs: Path, seeds: Sequence[int], patience: float = 60.0) -> int:
    """How many of the runs with these seeds are finished and hold their config, history, summary and images.

    W&B's own process writes the last records late; it is given `patience` seconds.
    """
    end = time.monotonic() + patience
    while True:
        good = {run.config.get("seed") for run in runs_below(outputs) if is_whole(run)}
        if good >= set(seeds) or time.monotonic() > end:
            return sum(seed in good for seed in seeds)
        time.sleep(0.5)


def is_whole(run: OfflineRun) -> bool:
    """Whether a run ended well and holds all that a job logged: choices and values, steps,
    numbers, pictures on this disk."""
    steps = [row for row in run.history if "norm" in row]
    shown = [row for row in run.history if any(key.partition(".")[0] == "image" for key in row)]
    pictures = [path for name, path in run.files.items() if name.endswith(".png")]
    return (
        run.exit_code == 0
        and {"seed", "choices", "model", "git"} <= run.config.keys()
        and len(steps) > 1
        and bool(shown)
        and "seed" in run.summary
        and len(pictures) >= 2
        and all(path.is_file() for path in pictures)
    )


def servers(words: Sequence[str], rounds: int, outputs: Path) -> dict[str, Any]:
    """Seconds of a job under each kind of server, in rounds that have one of each."""
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    os.environ["WANDB_API_KEY"] = "0" * 40
    # Nearly no pause after a failure: every job starts a process that tries to upload, the worst case. No job
    # finds another's results.
    words = (
        *words,
        "force=true",
        "cache.memory_mb=0",
        "tracker.pause_seconds=0.1",
        f"paths.outputs={outputs}",
    )
    with refusing() as refused, server(None) as hung, server(500) as broken:
        urls = {"offline": refused, "refuses": refused, "hangs": hung, "answers 500": broken}
        for number in range(rounds + 1):
            for kind in (*KINDS[number % 4 :], *KINDS[: number % 4]):
                os.environ.update(
                    WANDB_BASE_URL=urls[kind], WANDB_MODE="offline" if kind == "offline" else "online"
                )
                seconds = command(*words, f"seed={number}")
                if number > 0:  # the first round loads the model
                    times[kind].append(seconds)
    return {"rounds": rounds, "seconds": times}


def table(cost: dict[str, Any], waits: dict[str, Any]) -> list[str]:
    """The lines of a Markdown table of what was measured, with the aims."""
    rows = [("what", "median", "95 %", "quartiles", "aim"), ("---", "---:", "---:", "---:", "---")]

    def add(
        what: str,
        found: tuple[float, float, float],
        aim: float | None = None,
        ends: str = "",
        digits: int = 2,
    ) -> None:
        middle, low, high = (f"{value:.{digits}f}" for value in found)
        said = "" if aim is None else f"<= {aim} {'met' if found[0] <= aim else 'missed'}"
        rows.append((what, middle, ends, f"{low} to {high}", said))

    jobs, back = cost["jobs"], cost["read_back"]
    beyond = quartiles(cost["seconds_beyond"])
    add(f"seconds per job beyond generation and metrics, of {jobs}", beyond, BEYOND)
    rows.append(
        ("seconds per job for both", f"{cost['median_seconds_of_generation_and_metrics']:.2f}", "", "", "")
    )
    complete = f"{jobs} {'met' if back == jobs else 'missed'}"
    rows.append(("runs read back whole", f"{back} of {jobs}", "", "", complete))
    times = {kind: Timed(tuple(seconds), math.nan) for kind, seconds in waits["seconds"].items()}
    offline = times[KINDS[0]]
    add("seconds per job, W&B offline", quartiles(offline.seconds))
    for kind in KINDS[1:]:
        ends = "{:.3f} to {:.3f}".format(*interval(times[kind], offline))
        what = f"a server that {kind} over offline, round by round"
        add(what, ratio(times[kind], offline), RATIO, ends, digits=3)
    return [f"| {' | '.join(row)} |" for row in rows]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("outputs/benchmarks/tracking.json"))
    arguments, words = parser.parse_known_args()
    words = words or list(SMALL)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        found: dict[str, Any] = {
            "words": words,
            "machine": f"{platform.platform()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}",
            "overhead": overhead(words, arguments.jobs, Path(place) / "overhead"),
            "servers": servers(words, arguments.rounds, Path(place) / "servers"),
        }
    print(f"run.py {' '.join(words)} on {found['machine']}\n")
    print("\n".join(table(found["overhead"], found["servers"])) + "\n")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    print(f"numbers: {arguments.json}")


if __name__ == "__main__":
    main()
