"""Complete runs on disk, found again: what notebooks and reports start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sow.errors import UserError
from sow.runs.records import REPOSITORY, manifests_below

if TYPE_CHECKING:
    import pandas as pd


def complete(study: str, outputs: str | Path = "outputs", **choices: str) -> list[Path]:
    """Folders of the complete runs of `study` below `outputs`, oldest first; `choices` narrows them
    (model="people").

    A relative `outputs` is looked for here, then in the checkout.
    """
    root = Path(outputs)
    if not root.is_absolute() and not root.is_dir():
        root = REPOSITORY / root
    found = []
    for folder, manifest in manifests_below(root):
        wanted = {"study": study, **choices}
        if all(manifest.get("choices", {}).get(group) == option for group, option in wanted.items()):
            found.append((str(manifest.get("finished")), folder))
    return [folder for _, folder in sorted(found)]


def latest(study: str, outputs: str | Path = "outputs", **choices: str) -> Path:
    """The newest complete run of `study`; raises UserError with the command that makes one."""
    found = complete(study, outputs, **choices)
    if not found:
        words = " ".join(f"{k}={v}" for k, v in {"study": study, **choices}.items())
        raise UserError(f"no complete run below {outputs}: make one with `python run.py {words}` (study)")
    return found[-1]


def table(folder: Path, name: str) -> pd.DataFrame:
    """The tidy table `name` of a run; raises UserError when the run has none of this name."""
    import pandas as pd

    path = folder / f"{name}.parquet"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.parquet"))) or "none"
        raise UserError(f"{folder} has no table {name}: it has {known}")
    return pd.read_parquet(path)


def numbers(folder: Path, name: str = "headline") -> dict[str, Any]:
    """A JSON file of a run: headline, metrics, manifest, plan; raises UserError where it cannot be read."""
    file = folder / f"{name}.json"
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged"
        raise UserError(f"cannot read {file}: {reason}") from error
