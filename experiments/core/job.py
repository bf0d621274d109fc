"""One job of Hydra's: what it composed is checked before anything heavy is imported, then its study runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sow.config.compose import typed
from sow.errors import UserError
from sow.store.fingerprint import sha256
from sow.store.secrets import redact

LONGEST = 120  # letters of a group's name


def run_composed(composed: DictConfig, hydra: Any) -> float | None:
    """Run the composed configuration in the folder that `hydra` (its own settings) names; the sweeper's
    objective.

    Raises UserError; then a folder that was made for this job and to which nothing was written is gone.
    """
    folder = Path(hydra.runtime.output_dir)
    try:
        config = typed(composed, hydra.runtime.choices, given(hydra))
        from ..core.study import run_job

        if hydra.mode != RunMode.MULTIRUN:
            run_job(config, folder)
            return None
        run_job(config, folder, sweep_group(hydra))
        from sow.config.sweeping import objective

        return objective(folder, cast(DictConfig, hydra))  # which is what it is, whatever Hydra annotates
    except UserError:
        from sow.runs.folders import discard_untouched

        discard_untouched(folder)
        raise


def given(hydra: Any) -> list[str]:
    """The words of the command line as they were given, without what they read of the environment."""
    words: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    return [str(word) for word in words]


def sweep_group(hydra: Any) -> str:
    """What the jobs of a sweep have in common, by name: the keys that vary, then the words that do not.

    The same command started again belongs to the same group.
    """
    file = Path(hydra.sweep.dir) / "multirun.yaml"
    own = redact(given(hydra))  # as Hydra's files keep them
    typed_words = OmegaConf.select(OmegaConf.load(file), "hydra.overrides.task") if file.is_file() else None
    words = own if typed_words is None else [str(word) for word in typed_words]
    searched = OmegaConf.select(hydra, "sweeper.params") or {}
    varying = dict.fromkeys([*searched, *(w.partition("=")[0].lstrip("+") for w in words if w not in own)])
    fixed = [w for w in words if w in own and w.partition("=")[0].lstrip("+") not in varying]
    fixed = [w for w in fixed if not w.startswith(("tracker", "paths", "force", "hydra"))]
    name = " × ".join(varying)
    if fixed:
        name = f"{name} ({' '.join(fixed)})" if name else " ".join(fixed)
    if len(name) > LONGEST:
        name = f"{name[: LONGEST - 9]} {sha256(name)[:8]}"
    return name or "one job"
