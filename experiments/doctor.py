"""`sow doctor`: what this machine has and what is missing, each with its cure; nothing is fetched."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from sow.errors import UserError
from sow.models import lora
from sow.models.hub import unreachable
from sow.runs.records import LIBRARIES, surroundings
from sow.store.checksums import check_files

NEEDED_GIB = 4.0  # of memory for the embedded model and a batch of four, with PyTorch
DISK_GIB = 1.0
KEYS = {
    "GEMINI_API_KEY": "planner=gemini",
    "GOOGLE_API_KEY": "planner=gemini",
    "OPENAI_API_KEY": "planner=openai",
    "WANDB_API_KEY": "runs on W&B's server; without it they stay in outputs/ (or `wandb login`)",
}
EXTRAS = {"sweep": "hydra_plugins.hydra_optuna_sweeper", "notebooks": "jupyterlab", "lora": "peft"}
LORA_FOLDERS = (".", "lora", "loras")
GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One line: `state` is ok, note (a thing that some commands need) or bad (nothing works without)."""

    what: str
    state: Literal["ok", "note", "bad"]
    found: str
    cure: str = ""


def doctor(console: Console | None = None) -> int:
    """Print the table; the exit status, 1 if anything is bad."""
    out = console or Console(highlight=False)
    table = Table(title="sow doctor")
    for head in ("", "what", "found", "cure"):
        table.add_column(head, overflow="fold")
    findings = list(examine())
    marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "bad": "[red]bad[/]"}
    for f in findings:
        table.add_row(marks[f.state], f.what, f.found, f.cure)
    out.print(table)
    out.print(
        "It is tested on Linux. macOS: a CPU works as far as is known, and model.device=mps has not run. "
        "Windows: not tried; WSL is Linux."
    )
    return int(any(f.state == "bad" for f in findings))


def examine() -> Iterator[Finding]:
    """All findings; a check that fails itself is one."""
    for check in (_versions, _extras, _device, _memory, _weights, _loras, _metrics, _keys, _network, _places):
        try:
            yield from check()
        except Exception as error:
            yield Finding(check.__name__.strip("_"), "bad", f"{type(error).__name__}: {error}", "report this")


def _versions() -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    yield Finding(
        "python", "ok" if good else "bad", platform.python_version(), "" if good else "Python 3.11 or later"
    )
    found = surroundings()["versions"]
    for name in LIBRARIES:
        if name not in found:
            yield Finding(name, "bad", "not installed", "install sow again: uv sync, or pip install .")
    yield Finding("libraries", "ok", ", ".join(f"{n} {found[n]}" for n in LIBRARIES if n in found))


def _extras() -> Iterator[Finding]:
    for extra, module in EXTRAS.items():
        there = _importable(module)
        cure = "" if there else f"uv sync --extra {extra}, if you want it"
        yield Finding(
            f"extra {extra}", "ok" if there else "note", "there" if there else "not installed", cure
        )


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent of it is missing
        return False


def _device() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        yield Finding(
            "device", "ok", f"{card.name}, {card.total_memory / GIB:.0f} GiB (CUDA {torch.version.cuda})"
        )
    elif torch.backends.mps.is_available():
        yield Finding("device", "note", "Apple's GPU", "model.device=mps, on which nothing was run yet")
    else:
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        yield Finding("device", "ok", f"CPU, {cpus} cores, {torch.get_num_threads()} threads")


def _memory() -> Iterator[Finding]:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    except (ValueError, OSError, AttributeError):
        yield Finding("memory", "note", "unknown", f"the embedded model needs about {NEEDED_GIB:g} GiB")
        return
    short = total < NEEDED_GIB
    cure = f"about {NEEDED_GIB:g} GiB are needed: batch_size=1, or more memory" if short else ""
    yield Finding("memory", "note" if short else "ok", f"{total:.1f} GiB", cure)


def _weights() -> Iterator[Finding]:
    import sow.people

    home = Path(sow.people.__file__).parent
    for name, key in (
        ("weights", "model"),
        ("judge", "metrics"),
        ("seam", "metrics"),
        ("controlnet", "method"),
    ):
        folder = home / name
        try:
            if not any(folder.rglob("*.safetensors")):
                raise UserError(f"no weights in {folder}")
            check_files(folder, key)
            size = sum(f.stat().st_size for f in folder.rglob("*.safetensors")) / 1e6
            yield Finding(f"embedded {name}", "ok", f"whole, {size:.1f} MB")
        except UserError as error:
            yield Finding(f"embedded {name}", "bad", str(error), "git checkout the files, or install again")


def _loras() -> Iterator[Finding]:
    """LoRA files in this folder and those that are named for them, each whole or not."""
    here = Path()
    for file in sorted(f for folder in LORA_FOLDERS for f in (here / folder).glob("*.safetensors")):
        try:
            if not lora.is_lora(file):
                continue
            found = f"whole, {lora.layers(file)} layers, {file.stat().st_size / 1e6:.1f} MB"
            there = _importable("peft")
            cure = f"model.lora=[{file}]" if there else "it needs the extra lora: uv sync --extra lora"
            yield Finding(f"LoRA {file}", "ok" if there else "note", found, cure)
        except UserError as error:
            yield Finding(f"LoRA {file}", "note", str(error), "fetch the file again")


def _metrics() -> Iterator[Finding]:
    from sow.metrics.faces import WEIGHTS_NAME, mtcnn_files, weights_place

    there = len(mtcnn_files()) == 3
    cure = "" if there else "install facenet-pytorch again"
    yield Finding("MTCNN", "ok" if there else "bad", "its three stages" if there else "missing", cure)
    file = weights_place()
    cure = "" if file.is_file() else f"put {WEIGHTS_NAME} there, or let metrics=faces fetch it"
    yield Finding("FaceNet (metrics=faces)", "ok" if file.is_file() else "note", str(file), cure)


def _keys() -> Iterator[Finding]:
    for name, use in KEYS.items():
        there = bool(os.environ.get(name))
        yield Finding(
            name, "ok" if there else "note", "set" if there else "not set", "" if there else f"for {use}"
        )


def _network(connect: Callable[..., socket.socket] | None = None) -> Iterator[Finding]:
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    reason = unreachable(connect)
    if HF_HUB_OFFLINE:
        yield Finding("network", "note", str(reason), "unset it to fetch models")
    elif reason is None:
        yield Finding("network", "ok", f"{urlsplit(ENDPOINT).hostname} answers")
    else:
        cure = "model=people and model=local need none; others a network, a mirror (HF_ENDPOINT) or a proxy"
        yield Finding("network", "note", reason, cure)


def _places() -> Iterator[Finding]:
    outputs = Path("outputs").absolute()
    parent = next(p for p in (outputs, *outputs.parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
        yield Finding("outputs", "ok", str(outputs))
    except OSError as error:
        cure = "another folder, or paths.outputs=FOLDER"
        yield Finding("outputs", "bad", f"{parent} takes no file: {error.strerror}", cure)
    free = shutil.disk_usage(parent).free / GIB
    cure = "" if free > DISK_GIB else "make room: a table takes some hundred MB"
    yield Finding("disk", "ok" if free > DISK_GIB else "note", f"{free:.1f} GiB free", cure)
