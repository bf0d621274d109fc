"""The jobs of a sweep in one table, read from its folder when the last of them has ended."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from rich.table import Table

from sow.config.sweeping import earlier
from sow.runs.console import printer
from sow.runs.records import MANIFEST

NUMBERS = 8  # columns at most; every number is in a job's metrics.json


def show(folder: Path) -> None:
    """Print the jobs of the sweep in `folder`; nothing without a complete one."""
    if jobs := complete_jobs(folder):
        console = printer()
        numbers = NUMBERS
        unbound = console.options.update(width=10_000)  # within its own width nothing is measured wider
        while numbers > 1 and console.measure(table(jobs, numbers), options=unbound).maximum > console.width:
            numbers -= 1
        console.print(table(jobs, numbers))
        console.print(f"{len(jobs)} complete jobs: {folder}", soft_wrap=True)


def complete_jobs(folder: Path) -> dict[str, dict[str, Any]]:
    """The numbers of each complete job by its folder's name, in order; a skipped one has those of the run
    that it repeats. Without those of a file that cannot be read."""
    found: dict[str, dict[str, Any]] = {}
    for job in sorted((p for p in folder.iterdir() if p.is_dir()), key=_number):
        run = earlier(job)
        if not (run / MANIFEST).is_file():
            continue
        try:
            values = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            values = {}
        values = values if isinstance(values, dict) else {}
        found[job.name] = {"": "repeated"} if run != job else {}
        found[job.name] |= {
            k: v for k, v in values.items() if isinstance(v, (bool, int, float)) and k != "seed"
        }
    return found


def table(jobs: dict[str, dict[str, Any]], numbers: int = NUMBERS) -> Table:
    """A row per job; of the numbers at most so many, those first that differ between jobs."""
    names = list(dict.fromkeys(name for row in jobs.values() for name in row if name))
    differs = {name: len({repr(row.get(name)) for row in jobs.values()}) > 1 for name in names}
    shown = sorted(names, key=lambda name: not differs[name])[:numbers]
    out = Table("job", *(name.replace("_", " ") for name in shown), "", box=None, padding=(0, 2, 0, 0))
    for job, row in jobs.items():
        out.add_row(job, *(_text(row.get(name)) for name in shown), row.get("", ""))
    return out


def _number(folder: Path) -> tuple[int, str]:
    match = re.match(r"\d+", folder.name)
    return int(match[0]) if match else -1, folder.name


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}"
