"""Real runs, watched while they open files: all that they read is in their key."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Result
from PIL import Image

from sow.config.compose import Config, compose
from sow.people.judge import load_judge
from sow.planner import stages
from sow.runs import records
from sow.runs.records import RunFolder
from sow.store import inputs
from sow.store.code import ROOT as PROJECT
from sow.store.code import code_digests
from sow.types import Box, Plan

Call = Callable[..., Result]
QUICK = ("experiment=debug", "cycle.cycles=1")
OF_THE_SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/", "/usr/")
INSTALLED = tuple(
    {
        os.path.realpath(sysconfig.get_path(name)) + os.sep
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
    }
    | {os.path.realpath(sys.base_prefix) + os.sep}
)
# What installed packages read for themselves; any other file of theirs is an input.
OF_A_PACKAGE = (".py", ".pyc", ".so", ".pth", ".pyi", ".mplstyle", ".ttf", ".afm", "matplotlibrc")
OF_A_LIBRARY = (
    "/hydra/conf/",
    "/matplotlib/",
    "/fontconfig/",
    "/fonts/",
    "/.cache/matplotlib/",
    "/dist-info/",
    ".dist-info/",
    "/certifi/",
)

# What leads from a command line to a run, and decides nothing in it.
FRAME = {
    "experiments/core/job.py",
    "run.py",
    "sow/config/command_line.py",
    "sow/config/sweeping.py",
}

_watching: list[set[str]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _watching:
        return
    path, mode, flags = arguments
    reads = not mode or "r" in mode
    if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        reads = False
    if reads and isinstance(path, (str, bytes, os.PathLike)):
        _watching[-1].add(os.path.realpath(os.fsdecode(path)))


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The files that the block opens, those included that safetensors maps without Python's `open`."""
    import safetensors
    import safetensors.torch

    if not getattr(sys, "_sow_audited", False):
        sys.addaudithook(_hook)  # for good: Python cannot take one back
        sys._sow_audited = True  # type: ignore[attr-defined]
    seen: set[str] = set()
    opening = safetensors.safe_open

    def mapped(path: Any, *rest: Any, **named: Any) -> Any:
        seen.add(os.path.realpath(path))
        return opening(path, *rest, **named)

    for module in (safetensors, safetensors.torch):
        monkeypatch.setattr(module, "safe_open", mapped)
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching.pop()


def own(path: str, outputs: Path) -> bool:
    """Whether a file is one that Python, a library or the run's own results account for."""
    if path.startswith(os.path.realpath(outputs)) or path.startswith(OF_THE_SYSTEM):
        return True
    if path.startswith(str(ROOT / "conf")) or "__pycache__" in path or path.endswith("/pyvenv.cfg"):
        return True  # the configuration itself is in the key
    if path.startswith(str(ROOT / "tests")) or path in {str(ROOT / name) for name in FRAME}:
        return True
    if any(part in path for part in OF_A_LIBRARY):
        return True
    return path.startswith(INSTALLED) and path.endswith(OF_A_PACKAGE)


def in_the_key(config: Config) -> set[str]:
    """Every file that the key of a run reads."""
    others = config.study.configurations(config) if hasattr(config.study, "configurations") else ()
    chosen = [records.chosen_components(c) for c in (config, *others)]
    from experiments.core.study import StudyContext

    code = code_digests(StudyContext, *(t for c in chosen for t in records.component_types(c)))
    return {str(p) for p in inputs.files_read(chosen)} | {str(PROJECT / name) for name in code}


# A row: the words, what lies in `place` before, and a file that the run must have been seen to open.


def nothing(place: Path) -> None:
    pass


def photograph(place: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(place / "a.png")
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (16, 16, 48, 48))
    mask.save(place / "mask.png")


def plan(place: Path) -> None:
    RunFolder(place).save_json(
        "plan.json", Plan((Box(16, 16, 48, 48),), (Box(16, 64, 48, 48),), "a", "test").to_dict()
    )


def prompts(place: Path) -> None:
    for file in stages.prompt_files("v1"):
        (place / file.name).write_text(file.read_text() + "\nBe brief.\n")


def model(place: Path) -> None:
    import json

    from sow.models.tiny import SCHEDULER, Tiny

    made = Tiny("float32", "cpu", [128, 128], [64, 128], 0).load()
    for name in ("vae", "text_encoder", "tokenizer", "unet"):
        getattr(made, name).save_pretrained(place / name)
    (place / "scheduler").mkdir()
    about = {"_class_name": "DDIMScheduler", **SCHEDULER}
    (place / "scheduler" / "scheduler_config.json").write_text(json.dumps(about))


def single_file(place: Path) -> None:
    import original

    original.save(place / "model.safetensors", original.tensors(1))


def low_rank(place: Path) -> None:
    pytest.importorskip("peft")
    import torch
    from safetensors.torch import save_file

    model(place)
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    factors = {"lora_A": torch.ones(1, 32), "lora_B": torch.ones(32, 1)}
    save_file({f"{layer}.{n}.weight": v for n, v in factors.items()}, place / "style.safetensors")


def table(place: Path) -> None:
    photograph(place)
    (place / "mask.png").rename(place / "a_mask.png")


PHOTO = ("condition=photo", "condition.image={}/a.png", "condition.mask={}/mask.png")
RUNS: dict[str, tuple[tuple[str, ...], Callable[[Path], None], str]] = {
    "the debug run": (QUICK, nothing, ""),
    "a photograph and its mask": ((*QUICK, *PHOTO), photograph, "mask.png"),
    "a stored plan": ((*QUICK, "planner=replay", "planner.path={}"), plan, "plan.json"),
    "a planner's own prompts": (
        (*QUICK, "planner=gemini", "planner.prompt_version={}", "planner.on_error=fallback"),
        prompts,
        "region.txt",
    ),
    "the judge plans and measures": (
        (*QUICK, "planner=offline", "metrics=people"), nothing, "judge/weights.safetensors"
    ),
    "a model in a folder": (
        (*QUICK, "model=local", "model.path={}", "condition=person", "condition.size=64"),
        model,
        "unet/diffusion_pytorch_model.safetensors",
    ),
    "a model in one file": (
        (*QUICK, "model=local", "model.path={}/model.safetensors", "condition=person", "condition.size=64",
         "width=128", "height=128"),
        single_file,
        "model.safetensors",
    ),
    "a low-rank update": (
        (*QUICK, "model=local", "model.path={}", "model.lora=[{}/style.safetensors]", "condition=person",
         "condition.size=64"),
        low_rank,
        "style.safetensors",
    ),
    "a benchmark on a folder of data": (
        (*QUICK, "study=benchmark", "data=folder", "data.root={}", "data.prompt=a person", "study.split=all",
         "study.resamples=100",
         "+study.rows.a={{overrides:[]}}",
         "study.columns=[{{metric:open_gates,label:Gates,better:none,format:number}}]"),
        table,
        "a_mask.png",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", RUNS)
def test_a_run_reads_nothing_that_is_not_in_its_key(
    tmp_path: Path, outputs: Path, command_line: Call, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SOW_CACHE", "off")
    load_judge.cache_clear()
    words, make, expected = RUNS[what]
    place = tmp_path / "place"
    place.mkdir()
    make(place)
    words = tuple(w.format(place) for w in words)
    with watched(monkeypatch) as seen:
        result = command_line(*words)
    assert result.status == 0, result.err
    config = compose([*words, f"paths.outputs={outputs}"])
    keyed = in_the_key(config)
    foreign = sorted(
        path for path in seen if os.path.isfile(path) and not own(path, outputs) and path not in keyed
    )
    assert not foreign, "\n".join(foreign)
    assert not expected or any(path.endswith(expected) for path in seen & keyed)


def test_edited_prompts_are_not_done_before(
    tmp_path: Path, command_line: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault that this file is about: a plan of the old prompts was shown as that of the new."""
    from experiments.generate import Generate

    ran: list[str] = []
    monkeypatch.setattr(
        Generate, "run", lambda self, context: ran.append(context.config.planner.prompt_version)
    )
    prompts(tmp_path)
    words = ("experiment=debug", "planner=gemini", f"planner.prompt_version={tmp_path}")
    assert [command_line(*words).status for _ in range(2)] == [0, 0] and len(ran) == 1
    (tmp_path / "position.txt").write_text(
        (tmp_path / "position.txt").read_text() + "Leave room on the left.\n"
    )
    assert command_line(*words).status == 0 and len(ran) == 2
