"""Files appear whole or not at all; a run is known by its configuration, its inputs and its code."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from experiments.core.samples import mean, open_gates
from sow.config.compose import Config, compose
from sow.errors import UserError
from sow.report import strip, text
from sow.runs import folders, records
from sow.runs.records import RunFolder
from sow.store.fingerprint import sha256

NAN = float("nan")


def config(outputs: Path, *words: str) -> Config:
    return compose(["experiment=debug", f"paths.outputs={outputs}", *words])


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.save_bytes("a/b.txt", b"one")
    folder.save_bytes("a/b.txt", b"two")
    assert (tmp_path / "run/a/b.txt").read_bytes() == b"two"
    assert [p.name for p in (tmp_path / "run/a").iterdir()] == ["b.txt"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    folder.save_bytes("a.txt", b"old")

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"a.txt: no space .*\(paths.outputs\)"):
        folder.save_bytes("a.txt", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"old"


def test_sigkill_leaves_no_half_file(tmp_path: Path) -> None:
    """A process that rewrites a file without end is killed; what is there is one of its versions, whole."""
    code = (
        "import sys; from pathlib import Path; from sow.runs.records import RunFolder\n"
        "folder, n = RunFolder(Path(sys.argv[1])), 0\n"
        "while True:\n"
        "    n += 1; folder.save_json('a.json', [n] * 200_000)\n"
        "    if n == 1: print('ready', flush=True)\n"
    )
    for wait in (0.0, 0.05, 0.1):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        values = json.loads((tmp_path / "a.json").read_text())
        assert len(values) == 200_000 and len(set(values)) == 1
    assert not RunFolder(tmp_path).complete


def test_json_holds_what_json_can(tmp_path: Path) -> None:
    import numpy as np

    value = {
        "a": NAN,
        "b": np.float32(0.5),
        "c": (1, np.arange(2)),
        3: Path("x"),
        "d": True,
        "e": float("inf"),
    }
    file = RunFolder(tmp_path).save_json("a.json", value)
    assert json.loads(file.read_text()) == {
        "a": None,
        "b": 0.5,
        "c": [1, [0, 1]],
        "3": "x",
        "d": True,
        "e": None,
    }


def test_a_table_has_the_union_of_its_rows_columns(tmp_path: Path) -> None:
    import pandas

    rows = [{"phase": "cycle", "norm": 1.0}, {"phase": "cycle", "norm": 2.0, "gate/mid": 0.25, "cycle": 1}]
    read = pandas.read_parquet(RunFolder(tmp_path).save_table("trace.parquet", rows))
    assert list(read.columns) == ["phase", "norm", "gate/mid", "cycle"]
    assert read["gate/mid"].isna().tolist() == [True, False]
    assert read["norm"].tolist() == [1.0, 2.0]


def test_a_complete_run_is_found_by_its_key(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "outputs/day/time")
    folder.save_bytes("image.png", b"")
    assert records.find(tmp_path / "outputs", "key") is None
    records.complete(folder, tmp_path / "outputs", "key", {"seed": 0})
    found = records.find(tmp_path / "outputs", "key")
    assert found is not None and found.samefile(folder.path)
    digests = {"image.png": sha256(b"")}
    assert folder.complete and folder.manifest() == {"seed": 0, "key": "key", "digests": digests}
    assert records.find(tmp_path / "outputs", "other") is None


def test_outputs_can_move_and_runs_can_go(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "outputs/run")
    records.complete(folder, tmp_path / "outputs", "key", {})
    (tmp_path / "outputs").rename(tmp_path / "moved")
    assert records.find(tmp_path / "moved", "key") is not None
    (tmp_path / "moved/run/manifest.json").write_text('{"key"')
    assert records.find(tmp_path / "moved", "key") is None
    shutil.rmtree(tmp_path / "moved/run")
    assert records.find(tmp_path / "moved", "key") is None


def test_a_folder_with_another_run_in_it_is_not_that_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "outputs/run")
    records.complete(folder, tmp_path / "outputs", "first", {})
    records.complete(folder, tmp_path / "outputs", "second", {})
    assert records.find(tmp_path / "outputs", "first") is None
    assert records.find(tmp_path / "outputs", "second") is not None


def test_the_earlier_run_is_linked(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a/image.png").write_bytes(b"x")
    records.link_earlier(tmp_path / "b", tmp_path / "a")
    assert (tmp_path / "b/earlier/image.png").read_bytes() == b"x"


def test_latest_leads_to_the_run_completed_last(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        records.complete(RunFolder(tmp_path / name), tmp_path / "outputs", name, {})
        assert (tmp_path / "outputs" / "latest").resolve() == tmp_path / name
    shutil.rmtree(tmp_path / "b")  # then the link leads nowhere, and is replaced all the same
    records.point_latest(tmp_path / "outputs", tmp_path / "a")
    assert (tmp_path / "outputs" / "latest").resolve() == tmp_path / "a"
    assert sorted(p.name for p in (tmp_path / "outputs").iterdir()) == [".index", "latest"]


# What a user may have called `latest` in the folder of outputs. A row makes it there.


def _a_link(words: str) -> Callable[[Path], None]:
    return lambda place: (place / "latest").symlink_to(words)


OWN_LATEST: dict[str, Callable[[Path], None]] = {
    "a folder": lambda place: (place / "latest").mkdir(),
    "a file": lambda place: (place / "latest").write_text("mine"),
    "a link to a folder": _a_link("keep"),
    "a link to a file": _a_link("keep/notes.txt"),
    "a link to a folder with another manifest": _a_link("page"),
    "an absolute link": _a_link("/somewhere"),
    "a link to a name that is not there": _a_link("gone"),
    "a link out of here that leads nowhere": _a_link("../disk/gone"),
    "a link to itself": _a_link("latest"),
}


@pytest.mark.parametrize("what", OWN_LATEST)
def test_what_ones_own_is_called_latest_stays(tmp_path: Path, what: str) -> None:
    for name in ("keep", "page", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "keep" / "notes.txt").write_text("mine")
    (tmp_path / "page" / "manifest.json").write_text('{"name": "a page"}')
    OWN_LATEST[what](tmp_path)
    link = tmp_path / "latest"

    def state() -> Any:
        return os.readlink(link) if link.is_symlink() else link.read_text() if link.is_file() else "folder"

    before = state()
    records.point_latest(tmp_path, tmp_path / "run")
    assert state() == before and not list(tmp_path.glob(".latest*"))


def test_a_skipped_run_leaves_no_folder_and_in_a_sweep_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.core.study import run_job
    from experiments.generate import Generate

    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    monkeypatch.setattr(Generate, "run", lambda self, context: None)
    of, places = (
        config(tmp_path / "outputs"),
        {n: tmp_path / "outputs" / n for n in ("first", "again", "job")},
    )
    monkeypatch.setattr(folders, "_fresh", {*places.values()})
    for place in places.values():
        place.mkdir(parents=True)
    assert run_job(of, places["first"]) == places["first"]
    assert run_job(of, places["again"]) == places["first"] and not places["again"].exists()
    assert run_job(of, places["job"], group="seed") == places["first"]
    assert (places["job"] / "earlier").resolve() == places["first"]
    assert (tmp_path / "outputs" / "latest").resolve() == places["first"]


def test_only_untouched_folders_of_this_process_are_discarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_fresh", {tmp_path / "fresh", tmp_path / "begun"})
    for name in ("fresh", "begun", "old"):
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / "run.log").touch()
    (tmp_path / "begun/image.png").touch()
    for name in ("fresh", "begun", "old"):
        folders.discard_untouched(tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["begun", "old"]


def test_open_gates_counts_layers_and_steps() -> None:
    trace = [{"norm": 1.0}, {"gate/a": 0.0, "gate/b": 0.3, "r_c/a": 0.2}, {"gate/a": 0.1, "gate/b": 0.2}]
    assert open_gates(trace) == 0.75
    assert open_gates([{"norm": 1.0}]) is None


def test_means_leave_out_what_does_not_exist() -> None:
    rows = [{"seed": 0, "id_distance": 1.0, "face": True}, {"seed": 1, "id_distance": None, "face": False}]
    assert mean(rows) == {"images": 2, "id_distance": 1.0, "face": 0.5}
    assert mean(rows[:1]) == rows[0]


def test_a_strip_holds_every_picture() -> None:
    pictures = [Image.new("RGB", (10, 8), (i * 20, 0, 0)) for i in range(12)]
    out = strip(pictures)
    assert out.size == (10 * 14 - 4, 2 * 12 - 4)
    assert out.getpixel((14 * 3 + 5, 4)) == (60, 0, 0)
    assert out.getpixel((14 + 5, 12 + 4)) == (220, 0, 0)
    assert strip(pictures[:1]).size == (10, 8)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (True, "yes"), (False, "no"), (0.123456, "0.1235"), (3, "3"), ("a", "a")],
)
def test_values_are_written_for_readers(value: object, shown: str) -> None:
    assert text(value) == shown
