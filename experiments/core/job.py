"""One job of Hydra's: what it composed is checked before anything heavy is imported, then its study runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from hydra.types import RunMode
from omegaconf import DictConfig

from sow.config.compose import typed
from sow.errors import UserError


def run_composed(composed: DictConfig, hydra: Any) -> float | None:
    """Run the composed configuration in the folder that `hydra` (its own settings) names; the sweeper's objective.

    Raises UserError; then a folder that was made for this job and to which nothing was written is gone.
    """
    folder = Path(hydra.runtime.output_dir)
    try:
        config = typed(composed, hydra.runtime.choices, hydra.overrides.task)
        from ..core.study import run_job

        run_job(config, folder, group=Path(hydra.sweep.dir).name if hydra.mode == RunMode.MULTIRUN else None)
        from sow.config.sweeping import objective

        return objective(folder, cast(DictConfig, hydra))  # which is what it is, whatever Hydra annotates
    except UserError:
        from sow.runs.folders import discard_untouched

        discard_untouched(folder)
        raise
