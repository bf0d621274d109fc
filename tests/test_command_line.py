"""`python run.py` as people type it: what a run leaves, what is skipped, and one line for every bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
import pytest
from conftest import ROOT, Result
from PIL import Image

Call = Callable[..., Result]
Folders = Callable[[], list[Path]]
DEBUG = "experiment=debug"
SHORT = (DEBUG, "cycle.cycles=2")
FILES = {
    "image.png",
    "canvas.png",
    "cycles.png",
    "plan.json",
    "metrics.json",
    "trace.parquet",
    "manifest.json",
}


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """A picture of noise with a mask of its size, one of another size and an empty one beside it."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "face.png")
    Image.new("L", (32, 40), 255).save(tmp_path / "mask.png")
    Image.new("L", (20, 40), 255).save(tmp_path / "other.png")
    Image.new("L", (32, 40), 0).save(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("no image")
    return tmp_path / "face.png"


def one_error(result: Result) -> str:
    """The one line of a failed command."""
    lines = [line for line in result.err.splitlines() if line.strip()]
    assert result.status == 1, result
    assert len(lines) == 1 and lines[0].startswith("error: "), result.err
    return lines[0]


# What a run leaves.


def test_a_run_leaves_a_complete_folder(command_line: Call, run_folders: Folders, outputs: Path) -> None:
    result = command_line(*SHORT, "seed=3", "prompt='A person, in the rain'")
    assert result.status == 0, result.err
    (folder,) = run_folders()
    assert {p.name for p in folder.iterdir() if not p.name.startswith(".")} >= FILES
    sizes = [Image.open(folder / name).size for name in ("image.png", "view.png")]
    assert sizes == [(128, 128), (512, 512)]
    assert str(folder / "image.png") in result.out
    assert "one-way diffusion" in result.out and "open gates" in result.out
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["seed"] == 3 and manifest["config"]["prompt"] == "A person, in the rain"
    assert manifest["choices"]["model"] == "tiny" and "seed=3" in manifest["overrides"]
    assert {"torch", "diffusers", "python"} <= set(manifest["versions"])
    assert manifest["seconds"]["cycle"] > 0 and manifest["device"]
    assert FILES - {"manifest.json"} <= set(manifest["files"])
    trace = pandas.read_parquet(folder / "trace.parquet")
    denoising = trace[(trace.phase == "cycle") & (trace.event == "denoise")]
    assert len(denoising) == 4 and denoising.cycle.tolist() == [0, 0, 1, 1]
    assert any(name.startswith("r_c/") for name in trace.columns)
    assert 0 <= json.loads((folder / "metrics.json").read_text())["open_gates"] <= 1
    assert json.loads((folder / "plan.json").read_text())["boxes"]
    assert Image.open(folder / "image.png").size == (128, 128)
    assert [p.name for p in (outputs / ".index").iterdir() if len(p.name) == 64] == [manifest["key"]]


def test_the_same_run_is_skipped_unless_forced(
    command_line: Call, run_folders: Folders, outputs: Path
) -> None:
    assert command_line(*SHORT).status == 0
    again = command_line(*SHORT)
    assert again.status == 0 and "done before" in again.out
    (first,) = run_folders()  # the skipped run left none
    assert (outputs / "latest").resolve() == first.resolve()
    forced = command_line(*SHORT, "force=true")
    assert forced.status == 0 and "done before" not in forced.out
    second = run_folders()[-1]
    assert second != first and (outputs / "latest").resolve() == second.resolve()
    assert (second / "image.png").read_bytes() == (first / "image.png").read_bytes()
    assert command_line(*SHORT, "seed=1").out.count("done before") == 0


def test_an_incomplete_run_is_done_again(command_line: Call, run_folders: Folders) -> None:
    command_line(*SHORT)
    (run_folders()[0] / "manifest.json").unlink()
    assert "done before" not in command_line(*SHORT).out


def test_a_multirun_loads_one_model_and_goes_on_after_a_failure(
    command_line: Call, run_folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sow.models import tiny
    from sow.pipeline import factory

    loads: list[int] = []
    load = tiny.Tiny.load

    def counted(self: tiny.Tiny) -> object:
        loads.append(1)
        return load(self)

    monkeypatch.setattr(tiny.Tiny, "load", counted)
    monkeypatch.setattr(factory, "_loaded", {})
    result = command_line("-m", *SHORT, "seed=0,-1,1,2")
    assert result.status == 1
    assert "need 0 <= seed <= 4611686018427387904, got -1" in one_error(result)
    assert len(loads) == 1
    done = [folder for folder in run_folders() if (folder / "manifest.json").is_file()]
    assert sorted(json.loads((f / "manifest.json").read_text())["seed"] for f in done) == [0, 1, 2]
    assert len({folder.parent for folder in done}) == 1
    images = {(folder / "image.png").read_bytes() for folder in done}
    assert len(images) == 3


def test_several_images_share_a_folder(command_line: Call, run_folders: Folders) -> None:
    result = command_line(*SHORT, "study.images=3", "batch_size=2")
    assert result.status == 0, result.err
    (folder,) = run_folders()
    for name in ("000", "001", "002"):
        assert {p.name for p in (folder / name).iterdir()} == (FILES - {"manifest.json"}) | {"view.png"}
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["images"] == 3 and [row["seed"] for row in metrics["each"]] == [0, 1, 2]


@pytest.mark.parametrize(
    "words",
    [
        ["method=cow"],
        ["+ablation=[no_dam,no_pi]"],
        ["+ablation=no_seed_init"],
        ["+ablation=[no_cycle,no_preservation]"],
    ],
    ids=" ".join,
)
def test_methods_and_ablations_run(words: list[str], command_line: Call, run_folders: Folders) -> None:
    result = command_line(DEBUG, *words)
    assert result.status == 0, result.err
    gates = json.loads((run_folders()[0] / "metrics.json").read_text())["open_gates"]
    assert (gates is None) == ("no_dam" in words[0] or words[0] == "method=cow")


def test_a_photograph_and_its_mask(command_line: Call, run_folders: Folders, photograph: Path) -> None:
    mask = photograph.with_name("mask.png")
    result = command_line(
        *SHORT, "condition=photo", f"condition.image={photograph}", f"condition.mask={mask}"
    )
    assert result.status == 0, result.err
    assert (run_folders()[0] / "image.png").is_file()


def test_runs_of_one_second_have_folders_of_their_own(command_line: Call, run_folders: Folders) -> None:
    for seed in range(3):
        assert command_line(DEBUG, "+ablation=no_cycle", f"seed={seed}").status == 0
    assert len(run_folders()) == 3


def test_a_tracked_run_lies_in_its_folder(command_line: Call, run_folders: Folders) -> None:
    result = command_line(*SHORT, "tracker=wandb")
    assert result.status == 0, result.err
    assert len(list(run_folders()[0].glob("wandb/offline-run-*/*.wandb"))) == 1


def test_a_failing_run_is_tracked_as_failed_and_not_complete(
    command_line: Call, run_folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_tracking import records_of

    from experiments import generate
    from sow.errors import UserError

    def broken(*arguments: object) -> None:
        raise UserError("latents are not finite")

    monkeypatch.setattr(generate, "write_numbers", broken)
    result = command_line(*SHORT, "tracker=wandb")
    (folder,) = run_folders()
    told = f"error: latents are not finite; what was finished stays in {folder}, no complete run"
    assert one_error(result) == told and (folder / "image.png").is_file() and "image: " in result.out
    assert not (folder / "manifest.json").exists()
    assert [r.exit.exit_code for r in records_of(folder) if r.WhichOneof("record_type") == "exit"] == [1]


# Bad input.


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["condition.image has no value"]),
        (["condition.image={}/none.png"], ["none.png", "condition.image"]),
        (["condition.image={}/text.png"], ["text.png", "condition.image"]),
        (["condition.image={}/face.png", "condition.mask={}/none.png"], ["none.png", "condition.mask"]),
        (
            ["condition.image={}/face.png", "condition.mask={}/other.png"],
            ["20 x 40", "32 x 40", "condition.mask"],
        ),
        (["condition.image={}/face.png", "condition.mask={}/empty.png"], ["empty", "condition.mask"]),
        (
            ["condition.image={}/face.png", "condition.mask=none", "condition.box=[100,0,64,64]"],
            ["100", "128 x 128"],
        ),
        (
            ["condition=person", "planner.boxes=[[100,0,64,64]]", "planner.reference=null"],
            ["100", "planner.boxes"],
        ),
        (["condition=person", "height=100"], ["100", "height"]),
        (["condition=person", "planner=replay", "planner.path={}/none.json"], ["none.json", "planner.path"]),
        (["condition=person", "planner=fancy"], ["planner=fancy", "fixed", "heuristic", "offline", "replay"]),
        (["condition=person", "cycle.t1=7"], ["need 0 < t1 < t2 <= 10 steps, got t1=7, t2=7"]),
        (["condition=person", "preservation.t3=[6]"], ["t3=6", "preservation.t3"]),
        (["condition=person", "num_inference_steps=2"], ["num_inference_steps=2"]),
        (["condition=person", "study.images=0"], ["study.images"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_leaves_nothing(
    words: list[str], parts: list[str], command_line: Call, outputs: Path, photograph: Path
) -> None:
    condition = [] if "condition=person" in words else ["condition=photo"]
    message = one_error(command_line(DEBUG, *condition, *(w.format(photograph.parent) for w in words)))
    for part in parts:
        assert part in message
    assert not [p for p in outputs.rglob("*") if p.is_file() and ".index" not in p.parts]


def test_a_study_with_data_of_its_own_needs_no_condition(
    command_line: Call, run_folders: Folders, photograph: Path
) -> None:
    """As with every model for photographs, whose condition is the user's to give."""
    data = ("data=folder", f"data.root={photograph.parent}", "data.mask=none")
    (photograph.parent / "text.png").unlink()
    for name in ("other", "empty"):
        (photograph.parent / f"{name}.png").unlink()
    words = ("condition=photo", "study=plan", "study.split=all", "study.canvas=[128,128]", *data)
    result = command_line(DEBUG, *words)
    assert result.status == 0, result.err
    (folder,) = run_folders()
    assert json.loads((folder / "plans.json").read_text())


def test_an_interrupted_run_ends_quietly(command_line: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.generate import Generate

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Generate, "run", interrupted)
    result = command_line(DEBUG)
    assert result.status == 130
    assert result.err.strip() == "interrupted"


def test_a_bug_is_not_swallowed(command_line: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.generate import Generate

    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Generate, "run", broken)
    with pytest.raises(ZeroDivisionError):
        command_line(DEBUG)


# The real thing: a process of its own.


def cold(outputs: Path, *words: str, **environment: str) -> Result:
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *words, f"paths.outputs={outputs}"],
        capture_output=True,
        text=True,
        cwd=outputs.parent,
        env={**os.environ, **environment},
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["condition=photo", "condition.image=none.png"], "none.png"),
        (["cycle.t1=7"], "t1=7, t2=7"),
        (["cycle=twice"], "cow, cyclic, once"),
        (["cycle.tone=7"], "cycle.t1"),
        (["-m", "seed=0,1", "gate=ajar"], "always, region"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_bad_command_answers_before_torch_is_imported(words: list[str], part: str, outputs: Path) -> None:
    result = cold(outputs, *words, DEBUG, PYTHONPROFILEIMPORTTIME="1")
    imported = {
        line.rpartition("|")[2].strip() for line in result.err.splitlines() if line.startswith("import time:")
    }
    errors = [line for line in result.err.splitlines() if not line.startswith("import time:")]
    assert "torch" not in imported and "hydra" in imported
    assert result.status == 1
    assert len(errors) == 1 and errors[0].startswith("error: ") and part in errors[0]
    assert not [p for p in outputs.rglob("*") if p.is_file() and not {".index", ".cache"} & {*p.parts}]


def test_the_command_line_works_from_any_folder(outputs: Path, run_folders: Folders) -> None:
    result = cold(outputs, *SHORT)
    assert result.status == 0, result.err
    assert str(run_folders()[0] / "image.png") in result.out


@pytest.mark.parametrize("flag", [["--resolve"], ["--package", "gate"]], ids=" ".join)
def test_a_flag_of_cfg_alone_is_refused(flag: list[str], command_line: Call, outputs: Path) -> None:
    result = command_line(DEBUG, *flag)
    assert result.status == 1 and "add --cfg job" in result.err and not outputs.exists()
