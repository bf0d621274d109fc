"""A sweep through a real Slurm of one node: two tasks at a time,
one killed and queued again, the same pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Result

from tools import slurm

SEEDS = (0, 1, 2)
WORDS = ("-m", "experiment=debug", "cycle.cycles=2", f"seed={','.join(map(str, SEEDS))}")


@pytest.fixture
def environment(tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of a Slurm that lives as long as the test."""
    lost = slurm.missing()
    if lost:
        pytest.skip(f"a Slurm of one node needs {', '.join(lost)} (Debian: slurm-wlm, munge)")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    running = slurm.cluster(tmp_path / "slurm")
    variables = running.__enter__()
    request.addfinalizer(lambda: running.__exit__(None, None, None))
    return {**os.environ, **variables, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def tasks(environment: dict[str, str]) -> dict[str, str]:
    """State of each array task in the queue."""
    lines = slurm.ask(environment, "squeue", "-h", "-r", "-o", "%i %T").split("\n")
    return dict(line.split() for line in lines if line)


def images(outputs: Path) -> dict[int, tuple[str, bytes]]:
    """Key and picture of the complete runs by seed."""
    found = {}
    for file in outputs.glob("*/*/*/manifest.json"):
        manifest = json.loads(file.read_text())
        assert manifest["seed"] not in found, "a run was made twice"
        found[manifest["seed"]] = manifest["key"], (file.parent / "image.png").read_bytes()
    return found


def test_a_sweep_through_slurm_with_a_killed_task(
    environment: dict[str, str], command_line: Callable[..., Result], outputs: Path, tmp_path: Path
) -> None:
    through = tmp_path / "slurm_outputs"
    launcher = (
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.array_parallelism=2",
        "hydra.launcher.gpus_per_node=null",
        "hydra.launcher.mem_gb=null",
        "hydra.launcher.cpus_per_task=1",
        "hydra.launcher.timeout_min=10",
    )
    command = [sys.executable, str(ROOT / "run.py"), *WORDS, *launcher, f"paths.outputs={through}"]
    sweep = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    most, killed = 0, None
    try:
        end = time.monotonic() + 500
        while sweep.poll() is None and time.monotonic() < end:
            states = tasks(environment)
            running = [task for task, state in states.items() if state == "RUNNING"]
            most = max(most, len(running))
            if killed is None and any(through.glob("*/*/0_*/.hydra")):
                (killed,) = (task for task in states if task.endswith("_0"))
                subprocess.run(["scontrol", "requeue", killed], env=environment, check=True, timeout=60)
            time.sleep(0.3)
    finally:
        if sweep.poll() is None:
            sweep.kill()
    said = sweep.communicate()[0]
    assert sweep.returncode == 0, said + logs(through)
    assert killed is not None and most == 2
    assert slurm.ask(environment, "scontrol", "show", "job", killed).count("Restarts=1") == 1

    assert command_line(*WORDS).status == 0
    here, there = images(outputs), images(through)
    assert sorted(here) == sorted(there) == list(SEEDS)
    assert here == there


def logs(outputs: Path) -> str:
    """What the tasks printed."""
    files = sorted(outputs.glob("*/*/.submitit/*/*log.*")) + sorted(outputs.glob("*/*/.submitit/**/*.out"))
    return "\n".join(f"== {file.name}\n{file.read_text()[-3000:]}" for file in files)
