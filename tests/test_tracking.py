"""A W&B run holds what the run folder holds, lies inside it, and never stops a job."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Result
from PIL import Image

from sow.config.compose import Config, compose
from sow.runs import tracking
from sow.runs.tracking import Job, NoTracker, Wandb
from sow.runs.wandb_offline import messages, read_run

KEY = "0123456789abcdef0123456789abcdef01234567"
OFFLINE = Wandb(project="sow-test", entity=None, mode="offline", upload_seconds=20, pause_seconds=60)


@pytest.fixture(scope="module")
def config() -> Config:
    return compose(["model=tiny", "metrics=none", "seed=3", "+ablation=[no_dam,no_pi]"])


def records_of(folder: Path) -> list[Any]:
    """The records of the one finished offline run below `folder`;
    W&B's own process writes the last ones late."""
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.rglob("*.wandb")
    for _ in range(300):
        records = []
        for message in messages(file.read_bytes()):
            records.append(wandb_internal_pb2.Record())
            records[-1].ParseFromString(message)
        if any(r.WhichOneof("record_type") == "exit" for r in records):
            return records
        time.sleep(0.1)
    raise AssertionError(f"{file} has no end")


def values(items: Any) -> dict[str, Any]:
    return {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}


def test_an_offline_run_reads_back(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    run = OFFLINE.start(Job(tmp_path, config, group="sweep-1", git="abc123"))
    run.history(
        [{"phase": "cycle", "norm": 1.5}, {"phase": "cycle", "norm": 2.5, "gate/mid": 0.25, "cycle": None}]
    )
    picture = tmp_path / "image.png"
    Image.new("RGB", (8, 8), "red").save(picture)
    run.images({"image": picture, "cycles": Image.new("RGB", (8, 8), "blue")})
    table = [
        {"image": picture, "id_distance": 0.75},
        {"image": Image.new("RGB", (8, 8), "green"), "whole": True},
    ]
    run.table("samples", table)
    run.summary({"id_distance": 0.75, "boundary": None, "face_detected": True})
    run.finish(0)

    read = records_of(tmp_path)
    (started,) = [r.run for r in read if r.WhichOneof("record_type") == "run"]
    assert (started.project, started.run_group, started.job_type) == ("sow-test", "sweep-1", "generate")
    assert {"method:sow", "model:tiny", "task:normal", "no_dam", "no_pi"} <= set(started.tags)
    configured = values(started.config.update)
    assert configured["seed"] == 3 and configured["git"] == "abc123"
    assert configured["cycle"] == dict(config.resolved["cycle"])
    history = [values(r.history.item) for r in read if r.WhichOneof("record_type") == "history"]
    norms = [row["norm"] for row in history if "norm" in row]
    assert norms == [1.5, 2.5]
    assert [row["gate/mid"] for row in history if "gate/mid" in row] == [0.25]
    assert {"image", "cycles"} <= {key.partition(".")[0] for row in history for key in row}
    summary: dict[str, Any] = {}
    for record in read:
        if record.WhichOneof("record_type") == "summary":
            summary.update(values(record.summary.update))
    assert summary["id_distance"] == 0.75 and summary["face_detected"] is True and "boundary" not in summary
    assert not {"norm", "gate/mid", "step"} & summary.keys()  # a curve's last value is no result
    assert [r.exit.exit_code for r in read if r.WhichOneof("record_type") == "exit"] == [0]
    assert len(list(tmp_path.rglob("files/media/images/*.png"))) >= 2
    (artifact,) = [r.artifact for r in read if r.WhichOneof("record_type") == "artifact"]
    files = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
    assert sum(path.endswith(".png") for path in files) == 2
    assert all(file.is_file() and file.is_relative_to(tmp_path) for file in files.values())
    (rows,) = [json.loads(f.read_text()) for path, f in files.items() if path.endswith("samples.table.json")]
    assert rows["columns"] == ["image", "id_distance", "whole"]
    assert [row[1:] for row in rows["data"]] == [[0.75, None], [None, True]]
    assert rows["data"][0][0]["_type"] == "image-file"
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]


def test_a_failed_job_is_marked(config: Config, tmp_path: Path) -> None:
    OFFLINE.start(Job(tmp_path, config)).finish(1)
    assert [r.exit.exit_code for r in records_of(tmp_path) if r.WhichOneof("record_type") == "exit"] == [1]


def test_the_reader_of_offline_runs_tells_the_same(config: Config, tmp_path: Path) -> None:
    run = OFFLINE.start(Job(tmp_path, config, group="sweep-1"))
    run.history([{"norm": float(i), "gate/mid": 0.5} for i in range(600)])  # more than one block of the log
    run.summary({"failure": False})
    run.finish(0)
    records_of(tmp_path)
    read = read_run(next(tmp_path.rglob("*.wandb")))
    assert (read.group, read.job_type, read.exit_code) == ("sweep-1", "generate", 0)
    assert [row["norm"] for row in read.history] == [float(i) for i in range(600)]
    assert read.summary["failure"] is False and read.config["seed"] == 3
    cut = tmp_path / "cut.wandb"
    cut.write_bytes(read.file.read_bytes()[: read.file.stat().st_size // 2])
    assert read_run(cut).exit_code is None and 0 < len(read_run(cut).history) < 600


def test_a_multirun_is_one_wandb_run_a_job(
    command_line: Callable[..., Result],
    run_folders: Callable[[], list[Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ("model=tiny", "metrics=none", "planner=fixed", "cycle.cycles=1")
    result = command_line("-m", *words, "seed=0,1", "gate.tau=0.2,0.3")
    assert result.status == 0, result.err
    folders = run_folders()
    assert len(folders) == 4
    for folder in folders:
        records_of(folder)
        (file,) = folder.rglob("*.wandb")
        run = read_run(file)
        manifest = json.loads((folder / "manifest.json").read_text())
        assert run.exit_code == 0 and run.job_type == "generate"
        assert run.group == f"seed × gate.tau ({' '.join(words)})"  # what varies, no clock
        assert run.config["gate"]["tau"] == manifest["config"]["gate"]["tau"]
        assert run.config["seed"] == manifest["seed"] and run.config["git"] == (manifest["git"] or {}).get(
            "commit"
        )
        steps = [row for row in run.history if "norm" in row]
        assert len(steps) > 10 and any(name.startswith("gate/") for row in steps for name in row)
        assert run.summary["open_gates"] == json.loads((folder / "metrics.json").read_text())["open_gates"]
        pictures = [path for name, path in run.files.items() if name.endswith(".png")]
        assert len(pictures) == 2 and all(p.is_file() and p.is_relative_to(folder) for p in pictures)


def test_a_skipped_job_of_another_sweep_appears_as_a_repetition(
    command_line: Callable[..., Result], outputs: Path
) -> None:
    words = ("model=tiny", "metrics=none", "planner=fixed", "cycle.cycles=1", "tracker=wandb")
    assert command_line(*words, "seed=1").status == 0
    sweep = command_line("-m", *words, "seed=1,2")
    assert sweep.status == 0 and sweep.out.count("done before") == 1, sweep.err
    again = command_line(
        "-m", *words, "seed=1,2"
    )  # whose second job is of this very group, and there already
    assert again.status == 0 and again.out.count("done before") == 2, again.err
    for _ in range(300):
        runs = [read_run(file) for file in outputs.rglob("*.wandb")]
        if all(run.exit_code == 0 for run in runs):
            break
        time.sleep(0.1)
    repeated = [run for run in runs if "repeated" in run.tags]
    (first,) = [run for run in runs if not run.group]
    assert len(repeated) == 2 and len(runs) == 4
    for run in repeated:
        assert run.group.startswith("seed (model=tiny") and first.id in run.config["repeats"]
        assert run.summary["open_gates"] == first.summary["open_gates"]


def test_an_unknown_mode_in_the_environment_is_refused(
    command_line: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "foo")
    result = command_line("model=tiny", "metrics=none", "tracker=wandb")
    assert result.status == 1
    assert result.err.strip().startswith("error: WANDB_MODE=foo is not one of online, offline, disabled")


def test_a_run_that_is_started_again_is_the_same_wandb_run(config: Config, tmp_path: Path) -> None:
    killed = OFFLINE.start(Job(tmp_path, config))
    assert isinstance(killed, tracking.WandbRun)
    number = killed.run.id
    killed.finish(1)
    records_of(tmp_path)
    OFFLINE.start(Job(tmp_path, config)).finish(0)
    read = records_of(tmp_path)  # one run below the folder, not two
    assert [r.run.run_id for r in read if r.WhichOneof("record_type") == "run"] == [number]
    assert [r.exit.exit_code for r in read if r.WhichOneof("record_type") == "exit"] == [0]


def test_wandb_that_does_not_start_is_one_warning(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    def broken(**settings: Any) -> None:
        raise RuntimeError("no\nnetwork")

    monkeypatch.setattr(wandb, "init", broken)
    with caplog.at_level(logging.WARNING):
        run = OFFLINE.start(Job(tmp_path, config))
        run.history([{"norm": 1.0}])
        run.finish(0)
    assert [r.message for r in caplog.records] == [
        "W&B did not start, this run is on disk only: RuntimeError: no network"
    ]


def test_wandb_that_breaks_later_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise OSError("disk full")

    run = tracking.WandbRun(tmp_path, Broken)
    with caplog.at_level(logging.WARNING):
        run.history([{"norm": 1.0}])
        run.images({"image": tmp_path / "no.png"})
        run.table("samples", [{"image": tmp_path / "no.png"}])
        run.summary({"a": 1})
        run.finish(0)
    assert len(caplog.records) == 5
    assert all("on disk" in r.message for r in caplog.records)


def test_the_environment_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DIR", "/somewhere")
    monkeypatch.delenv("WANDB_DATA_DIR", raising=False)
    seen = {}
    tracking.WandbRun(tmp_path, lambda: seen.update(os.environ))
    assert seen["WANDB_DIR"] == str(tmp_path) and seen["WANDB_DATA_DIR"].startswith(str(tmp_path))
    assert os.environ["WANDB_DIR"] == "/somewhere" and "WANDB_DATA_DIR" not in os.environ


def test_login_is_found_in_the_environment_and_in_netrc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine wandb.example login user password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert not tracking.logged_in()
    monkeypatch.setenv("NETRC", str(netrc))
    assert not tracking.logged_in()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example:8443/x")
    assert tracking.logged_in()
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert tracking.logged_in()


def test_no_tracker_tells_nobody(config: Config, tmp_path: Path) -> None:
    run = NoTracker().start(Job(tmp_path, config))
    run.history([{}])
    run.images({})
    run.table("samples", [])
    run.summary({})
    run.finish(1)
    assert list(tmp_path.iterdir()) == []
