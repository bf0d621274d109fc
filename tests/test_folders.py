"""Where runs are written: never into another run, sweep or the checkout,
and nothing that a job did not write is removed."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Result

from sow.errors import UserError
from sow.runs import folders, reading, records
from sow.runs.folders import KEY, SWEEP
from sow.runs.records import MANIFEST, RunFolder

Call = Callable[..., Result]
DEBUG = "experiment=debug"
BAD = "gate.tau=words"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stands in for generating: a run is its seed; those of seed 9 fail after they have written."""
    from experiments.generate import Generate

    ran: list[int] = []

    def run(self: Generate, context: Any) -> None:
        ran.append(context.config.seed)
        context.folder.save_json("metrics.json", {"seed": context.config.seed})
        if context.config.seed == 9:
            raise UserError("seed 9 has no picture (seed)")

    monkeypatch.setattr(Generate, "run", run)
    return ran


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


# Two runs or sweeps in one folder. A row: the words of the first, those of the second.

MIXED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "two runs": ((DEBUG, "hydra.run.dir={}"), (DEBUG, "seed=1", "hydra.run.dir={}")),
    "a run forced in another's place": ((DEBUG, "seed=1", "hydra.run.dir={}"),
        (DEBUG, "force=true", "hydra.run.dir={}")),
    "two sweeps": (("-m", DEBUG, "seed=0,1", "hydra.sweep.dir={}"),
        ("-m", DEBUG, "seed=2,3", "hydra.sweep.dir={}")),
    "a longer sweep": (("-m", DEBUG, "seed=0,1", "hydra.sweep.dir={}"),
        ("-m", DEBUG, "seed=0,1,2", "hydra.sweep.dir={}")),
    "a sweep over another key": (
        ("-m", DEBUG, "seed=0,1", "hydra.sweep.dir={}"),
        ("-m", DEBUG, "gate.tau=0.2,0.3", "hydra.sweep.dir={}"),
    ),
    "a run in a sweep": (("-m", DEBUG, "seed=0,1", "hydra.sweep.dir={}"), (DEBUG, "hydra.run.dir={}")),
    "a run in a sweep's job": (("-m", DEBUG, "seed=0,1", "hydra.sweep.dir={}"),
        (DEBUG, "seed=5", "hydra.run.dir={}/0_seed-0")),
    "a sweep in a run": ((DEBUG, "hydra.run.dir={}"), ("-m", DEBUG, "seed=2,3", "hydra.sweep.dir={}")),
    "a run that failed": ((DEBUG, "seed=9", "hydra.run.dir={}"), (DEBUG, "seed=1", "hydra.run.dir={}")),
    "named from elsewhere": ((DEBUG, "hydra.run.dir={}"), (DEBUG, "seed=1", "hydra.run.dir={}/../place/.")),
}  # fmt: skip


@pytest.mark.parametrize("how", MIXED)
def test_two_never_share_a_folder(tmp_path: Path, command_line: Call, how: str) -> None:
    place = tmp_path / "place"
    first, second = ([w.format(place) for w in words] for words in MIXED[how])
    assert command_line(*first).status == (1 if "seed=9" in first else 0)
    before = contents(place)
    refused = command_line(*second)
    assert refused.status == 1 and contents(place) == before
    (line,) = refused.err.strip().splitlines()
    assert line.startswith("error: ") and str(place) in line and "name" in line


def test_the_same_words_again_go_on(tmp_path: Path, command_line: Call, quick: list[int]) -> None:
    for words in (
        (DEBUG, f"hydra.run.dir={tmp_path}/run"),
        ("-m", DEBUG, "seed=3,4", f"hydra.sweep.dir={tmp_path}/sweep"),
    ):
        assert command_line(*words).status == 0
        again = command_line(*words)
        assert again.status == 0 and "done before" in again.out, again.err
    assert quick == [0, 3, 4] and not list(tmp_path.rglob("earlier*"))


def test_a_folder_of_other_code_or_inputs_is_not_written_to(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folders.take(folder, "one")
    (folder / "image.png").write_bytes(b"x")
    folders.take(folder, "one")
    with pytest.raises(UserError, match="holds another run.*hydra.run.dir"):
        folders.take(folder, "two")
    RunFolder(folder).save_json(MANIFEST, {"key": "one"})
    (folder / KEY).unlink()
    with pytest.raises(UserError, match="holds another run"):
        folders.take(folder, "two")


@pytest.mark.parametrize(
    "subfolder",
    ["same", "", "a/b", "0", "${model.dtype}", "${seed}", "${hydra.job.num}/../../x", "~/${hydra.job.num}",
     "/tmp/x${hydra.job.num}"],
)  # fmt: skip
def test_jobs_of_a_sweep_do_not_share_a_folder(command_line: Call, tmp_path: Path, subfolder: str) -> None:
    refused = command_line(
        "-m", DEBUG, "seed=0,1", f"hydra.sweep.dir={tmp_path}/s", f"hydra.sweep.subdir={subfolder}"
    )
    assert refused.status == 1 and "hydra.sweep.subdir" in refused.err and not (tmp_path / "s").exists()


# Folders that are somebody's: of the user, or of another program. A row: the files in it.

ANOTHER = "hydra:\n  overrides:\n    task: [experiment=debug, 'paths.outputs={}']\n"
MINE: dict[str, dict[str, str]] = {
    "a picture and its numbers": {"image.png": "mine", "metrics.json": "mine"},
    "a text": {"notes.txt": "mine"},
    "hidden": {".key": "mine"},
    "a log": {"run.log": "mine"},
    "a folder": {"wandb/offline-run-1/data": "mine"},
    "a job's folder": {"0_seed-0/image.png": "mine"},
    "a manifest of a page": {"manifest.json": '{"name": "my page", "overrides": []}'},
    "a run of another program of Hydra": {".hydra/hydra.yaml": ANOTHER, ".hydra/config.yaml": "a: 1"},
    "another program's run of the same words": {
        ".hydra/overrides.yaml": "[experiment=debug]",
        "run.log": "",
    },
    "a sweep of another program of Hydra": {"multirun.yaml": ANOTHER, "0/image.png": "mine"},
    "damaged records": {".hydra/hydra.yaml": "{", "manifest.json": "[", ".sweep.json": "null"},
}


@pytest.mark.parametrize("words", [("hydra.run.dir={}",), ("-m", "seed=0,1", "hydra.sweep.dir={}")], ids=len)
@pytest.mark.parametrize("what", MINE)
def test_a_folder_with_somebodys_files_is_not_written_to(
    tmp_path: Path, command_line: Call, outputs: Path, quick: list[int], what: str, words: tuple[str, ...]
) -> None:
    place = tmp_path / "place"
    for name, text in MINE[what].items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text.format(outputs) if "{}" in text else text)
    before = contents(tmp_path)
    refused = command_line(DEBUG, *(w.format(place) for w in words))
    assert refused.status == 1 and contents(tmp_path) == before and not quick
    (line,) = refused.err.strip().splitlines()
    assert line.startswith("error: ") and str(place) in line and "name" in line


def test_an_empty_folder_and_a_link_to_one_are_taken(tmp_path: Path, command_line: Call) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    assert command_line(DEBUG, f"hydra.run.dir={tmp_path}/link").status == 0
    assert (tmp_path / "empty" / MANIFEST).is_file()
    refused = command_line(DEBUG, "seed=1", f"hydra.run.dir={tmp_path}/link")
    assert refused.status == 1 and "other words" in refused.err


# Folders that are none.

NOWHERE = {
    "an empty run folder": (DEBUG, "hydra.run.dir="),
    "an empty quoted run folder": (DEBUG, "hydra.run.dir=''"),
    "blanks": (DEBUG, "hydra.run.dir=' '"),
    "null": (DEBUG, "hydra.run.dir=null"),
    "an empty sweep folder": ("-m", DEBUG, "seed=0,1", "hydra.sweep.dir="),
    "this folder": (DEBUG, "hydra.run.dir=."),
    "the one above": (DEBUG, "hydra.run.dir=.."),
    "this folder for a sweep": ("-m", DEBUG, "seed=0,1", "hydra.sweep.dir=./"),
    "the checkout": (DEBUG, f"hydra.run.dir={ROOT}"),
    "a file": (DEBUG, "hydra.run.dir=file"),
    "below a file": (DEBUG, "hydra.run.dir=file/run"),
    "a sweep below a file": ("-m", DEBUG, "seed=0,1", "hydra.sweep.dir=file/run"),
    "a name that is too long": (DEBUG, f"hydra.run.dir={'b' * 260}"),
    "a long name on the way": (DEBUG, f"hydra.run.dir={'b' * 260}/run"),
    "a path that is too long": (DEBUG, f"hydra.run.dir={'b/' * 4000}"),
    "a long name of a sweep": ("-m", DEBUG, "seed=0,1", f"hydra.sweep.dir={'b' * 260}"),
    "a link to itself": (DEBUG, "hydra.run.dir=loop"),
    "below a link to itself": (DEBUG, "hydra.run.dir=loop/run"),
    "a device": (DEBUG, "hydra.run.dir=/dev/null"),
}


@pytest.mark.parametrize("what", NOWHERE)
def test_a_folder_that_is_none_is_refused_before_anything_is_written(
    command_line: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "file").write_text("words")
    (here / "loop").symlink_to("loop")
    monkeypatch.chdir(here)
    before = sorted(os.listdir(ROOT))
    refused = command_line(*NOWHERE[what])
    assert refused.status == 1 and contents(here) == {"file": b"words"}
    assert sorted(os.listdir(ROOT)) == before and not (tmp_path / ".hydra").exists()
    (line,) = refused.err.strip().splitlines()
    assert line.startswith("error: ") and "hydra." in line


def test_an_empty_folder_of_all_outputs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    import run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py", DEBUG, "paths.outputs="])
    assert run.command_line() == 1
    assert "paths.outputs has no value" in capsys.readouterr().err and not list(tmp_path.iterdir())


# What a job that fails at once leaves of a folder that was there before.

THERE: dict[str, dict[str, str]] = {
    "nothing": {},
    "a log": {"notes.log": "kept"},
    "the log of the same name": {"run.log": "kept"},
    "logs and an earlier .hydra": {"a.log": "1", ".hydra/config.yaml": "a: 1"},
    "a picture": {"image.png": "x"},
    "a folder of logs": {"logs/a.log": "1"},
}


@pytest.mark.parametrize("what", THERE)
def test_what_was_there_before_a_job_stays(command_line: Call, tmp_path: Path, what: str) -> None:
    place = tmp_path / "place"
    place.mkdir()
    for name, text in THERE[what].items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(text)
    assert command_line(DEBUG, BAD, f"hydra.run.dir={place}").status == 1
    assert place.is_dir()
    for name, text in THERE[what].items():
        if name != ".hydra/config.yaml":
            assert (place / name).read_text() == text


def test_a_folder_made_for_a_job_that_failed_at_once_is_gone(
    command_line: Call, tmp_path: Path, outputs: Path
) -> None:
    assert command_line(DEBUG, BAD, f"hydra.run.dir={tmp_path}/new/deep").status == 1
    assert not (tmp_path / "new/deep").exists()
    assert command_line(DEBUG, BAD).status == 1
    assert not [p for p in outputs.rglob("*") if p.name == ".hydra"]
    failed = command_line("-m", DEBUG, "seed=0", "gate.tau=0.2,words")
    assert failed.status == 1
    (sweep,) = {p.parent for p in outputs.rglob(SWEEP)}
    assert (sweep / "0_gate.tau-0.2" / MANIFEST).is_file() and not list(sweep.glob("1*"))


def test_what_a_failing_run_has_written_stays(command_line: Call, tmp_path: Path) -> None:
    assert command_line(DEBUG, "seed=9", f"hydra.run.dir={tmp_path}/run").status == 1
    assert (tmp_path / "run/metrics.json").is_file() and not (tmp_path / "run" / MANIFEST).exists()


HYDRAS = ["config.yaml", "hydra.yaml", "overrides.yaml"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS], ids=os.strerror)
@pytest.mark.parametrize("name", HYDRAS)
@pytest.mark.parametrize("words", [(DEBUG,), ("-m", DEBUG, "seed=1,2")], ids=len)
def test_a_disk_that_takes_none_of_hydras_files_leaves_no_half_run(
    command_line: Call,
    outputs: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    name: str,
    number: int,
    quick: list[int],
) -> None:
    from hydra.core import utils

    def save(config: Any, filename: str, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        (place / filename).write_text("half")
        if filename == name:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(utils, "_save_config", save)
    failed = command_line(*words)
    assert failed.status == 1 and not quick
    (line,) = failed.err.strip().splitlines()
    assert line.startswith("error: ") and os.strerror(number) in line and "paths.outputs" in line
    assert not list(outputs.rglob(".hydra")) and not list(outputs.rglob("run.log"))


def test_a_jobs_folder_that_cannot_be_made_is_one_line(command_line: Call, outputs: Path) -> None:
    failed = command_line("-m", DEBUG, "seed=1,2", "hydra.sweep.subdir=${hydra.job.num}" + "c" * 300)
    assert failed.status == 1 and "File name too long" in failed.err
    (line,) = failed.err.strip().splitlines()
    assert line.startswith("error: ") and not list(outputs.rglob(".hydra"))


FAILING_FILES = ["metrics.json", MANIFEST, KEY]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT], ids=os.strerror)
@pytest.mark.parametrize("name", FAILING_FILES)
def test_a_disk_that_takes_no_more_is_one_line(
    command_line: Call, outputs: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    rename = os.replace

    def replace(source: Any, target: Any) -> None:
        if Path(target).name == name:
            raise OSError(number, os.strerror(number))
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    failed = command_line(DEBUG)
    assert failed.status == 1 and os.strerror(number) in failed.err
    (line,) = failed.err.strip().splitlines()
    assert line.startswith("error: cannot write") and name in line
    assert not list(outputs.rglob(MANIFEST)) and not list(outputs.rglob("*.part"))


# A finished run whose files are not those that it wrote is none. A row: what happens to the folder.


def rewrite(folder: Path, **changes: Any) -> None:
    """Change the manifest of a run."""
    found = records.read_manifest(folder / MANIFEST)
    (folder / MANIFEST).write_text(json.dumps({**found, **changes}))


HURT: dict[str, Callable[[Path], object]] = {
    "the file is gone": lambda folder: (folder / "metrics.json").unlink(),
    "the file is empty": lambda folder: (folder / "metrics.json").write_bytes(b""),
    "one bit has flipped": lambda folder: (folder / "metrics.json").write_bytes(b'{"seed": 1}\n'),
    "the file is a folder": lambda folder: (
        (folder / "metrics.json").unlink(),
        (folder / "metrics.json").mkdir(),
    ),
    "the link leads nowhere": lambda folder: (
        (folder / "metrics.json").unlink(),
        (folder / "metrics.json").symlink_to("nowhere"),
    ),
    "its digests are no mapping, and it is gone": lambda folder: (
        rewrite(folder, digests=[1]),
        (folder / "metrics.json").unlink(),
    ),
    "a digest is no text": lambda folder: rewrite(folder, digests={"metrics.json": 5}),
    "a name that no system has": lambda folder: rewrite(folder, digests={"metrics.json\0": "a"}),
    "of a run before digests were kept": lambda folder: (
        (folder / MANIFEST).write_text(
            json.dumps({k: v for k, v in records.read_manifest(folder / MANIFEST).items() if k != "digests"})
        ),
        (folder / "metrics.json").unlink(),
    ),
}


@pytest.mark.parametrize("what", HURT)
def test_a_finished_run_that_is_not_whole_is_made_again(
    command_line: Call, outputs: Path, quick: list[int], what: str
) -> None:
    assert command_line(DEBUG).status == 0
    assert "done before" in command_line(DEBUG).out and len(quick) == 1
    (folder,) = {p.parent for p in outputs.rglob(MANIFEST) if not p.parent.is_symlink()}
    HURT[what](folder)
    again = command_line(DEBUG)
    assert again.status == 0 and "done before" not in again.out and len(quick) == 2
    assert "metrics.json" in again.out and "made again" in again.out
    assert "done before" in command_line(DEBUG).out and len(quick) == 2


def test_what_is_beside_a_finished_runs_files_is_no_harm(command_line: Call, outputs: Path) -> None:
    assert command_line(DEBUG).status == 0
    (folder,) = {p.parent for p in outputs.rglob(MANIFEST) if not p.parent.is_symlink()}
    (folder / "notes.txt").write_text("mine")
    assert "done before" in command_line(DEBUG).out


# Whoever listens goes away, and the run goes on. A row: what the stream answers, and what is told of it.


class Deaf(io.StringIO):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))

    def flush(self) -> None:
        self.write("")


@pytest.mark.parametrize(
    ("number", "status", "told"),
    [(errno.EPIPE, 0, ""), (errno.ENOSPC, 1, "No space left"), (errno.EIO, 1, "Input/output")],
    ids=["pipe", "full", "broken"],
)
@pytest.mark.parametrize("words", [(DEBUG,), ("-m", DEBUG, "seed=1,2")], ids=["run", "sweep"])
def test_words_that_cannot_be_printed_lose_no_run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    outputs: Path,
    words: tuple[str, ...],
    number: int,
    status: int,
    told: str,
) -> None:
    import run

    monkeypatch.setattr(sys, "argv", ["run.py", *words, f"paths.outputs={outputs}"])
    monkeypatch.setattr(sys, "stdout", Deaf(number))
    assert run.command_line() == status
    err = capsys.readouterr().err
    assert told in err and err.count("error:") == status
    found = {p.parent for p in outputs.rglob(MANIFEST) if not p.parent.is_symlink()}
    assert len(found) == (2 if "-m" in words else 1)


def test_errors_that_cannot_be_printed_lose_no_run(monkeypatch: pytest.MonkeyPatch, outputs: Path) -> None:
    import run

    monkeypatch.setattr(sys, "argv", ["run.py", DEBUG, f"paths.outputs={outputs}"])
    monkeypatch.setattr(sys, "stderr", Deaf(errno.EPIPE))
    assert run.command_line() == 0 and list(outputs.rglob(MANIFEST))


# Manifests and the index in a wrong shape.

MANIFESTS = {
    "a list": "[]",
    "null": "null",
    "a number": "3",
    "a text": '"run"',
    "half": '{"key"',
    "empty": "",
    "not UTF-8": b"\xff\xfe{}",
    "deep": "[" * 100_000,
    "choices that are a list": '{"choices": []}',
    "choices that are null": '{"choices": null}',
    "a configuration that is a text": '{"config": "a"}',
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_a_damaged_manifest_is_one_line(
    tmp_path: Path, command_line: Call, outputs: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert command_line(DEBUG).status == 0
    (manifest,) = outputs.rglob(MANIFEST)
    text = MANIFESTS[what]
    manifest.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match="manifest.json") as told:
        records.read_manifest(manifest)
    assert "\n" not in str(told.value)
    assert reading.complete("generate", outputs) == []
    again = command_line(DEBUG)  # it does not count as done
    assert again.status == 0 and "done before" not in again.out and again.err.count("\n") <= 1, again.err
    collected = command_line("study=collect", "model=tiny", "metrics=none", "tracker=none")
    assert collected.status == 0, collected.err
    assert "Traceback" not in collected.err and len(list(outputs.rglob("runs.csv"))) == 1


def broken_index(outputs: Path, how: str, key: str) -> None:
    index = outputs / ".index"
    entry = index / key
    match how:
        case "a file":
            for p in index.iterdir():
                p.unlink()
            index.rmdir()
            index.write_text("in the way")
        case "an entry that is a folder":
            entry.unlink()
            entry.mkdir()
        case "an empty entry":
            entry.write_text("")
        case "bytes":
            entry.write_bytes(b"\xff\x00\xff")
        case "a zero":
            entry.write_text("a\0b")
        case "a long line":
            entry.write_text("x" * 100_000)
        case "a place outside":
            entry.write_text("/nowhere/at/all")
        case "itself":
            entry.write_text(f".index/{key}")


@pytest.mark.parametrize(
    "how",
    [
        "a file",
        "an entry that is a folder",
        "an empty entry",
        "bytes",
        "a zero",
        "a long line",
        "a place outside",
        "itself",
    ],
)
def test_a_broken_index_costs_a_run_and_no_traceback(
    command_line: Call, outputs: Path, how: str, quick: list[int]
) -> None:
    assert command_line(DEBUG).status == 0
    (manifest,) = outputs.rglob(MANIFEST)
    broken_index(outputs, how, json.loads(manifest.read_text())["key"])
    again = command_line(DEBUG)
    assert again.status == 0 and quick == [0, 0], again.err
    assert "Traceback" not in again.err and len(list(outputs.rglob(MANIFEST))) == 2


@pytest.mark.parametrize(
    ("words", "job", "name"),
    [
        (["gate.tau=0.2,0.3", "seed=1,2", "task=style"], ["gate.tau=0.2", "seed=2", "task=style"],
            "gate.tau-0.2_seed-2"),
        (["+ablation=no_dam,[no_pi,no_ap]"], ["+ablation=[no_pi,no_ap]"], "ablation-no_pi-no_ap"),
        (["prompt=choice('a, \"b\"','../../c')"], ["prompt='../../c'"], "prompt-..-..-c"),
        (["seed=3"], ["seed=3"], "seed-3"),
        ([], [], "default"),
        (["task=style"], ["task=style", "p_plus.omega=-0.25"], "p_plus.omega--0.25"),  # a sweeper's own
    ],
)  # fmt: skip
def test_a_job_of_a_sweep_is_named_by_what_varies(words: list[str], job: list[str], name: str) -> None:
    from hydra.types import RunMode

    from sow.config.loader import Loader

    loader = Loader([], words)
    config = loader.load_sweep_config(loader.load_configuration("config", words, RunMode.MULTIRUN), job)
    config.hydra.job.num = 7
    assert config.hydra.sweep.subdir == f"7_{name}"


def test_names_of_folders_are_short_and_tell_long_ones_apart() -> None:
    from sow.config.loader import folder_name

    long = [folder_name([f"prompt={'a long prompt ' * 20}{end}"]) for end in ("x", "y")]
    assert long[0] != long[1] and all(len(name) == 90 for name in long)
    assert folder_name(["prompt=\u56fe\u50cf"]) == "prompt--"
