"""Hydra composes each job of a sweep twice, to check all before the first runs and again to run it; here it composes once."""

from __future__ import annotations

import functools
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf

REMEMBERED = 256  # configurations of jobs that were checked and not run yet: about 1 MiB each

_checked: dict[tuple[str, ...], DictConfig] = {}
_master: Any = None  # the sweep that they belong to


def compose_jobs_once() -> None:
    """Make the configuration that a sweeper composed to check a job the one that the job runs with.

    The checked ones are remembered in order, up to `REMEMBERED`, and forgotten when they run; beyond, Hydra composes anew. A no-op
    when called again, and with a Hydra that loads sweeps in another way.
    """
    composed: Any = getattr(ConfigLoaderImpl, "load_sweep_config", None)
    if composed is None or hasattr(composed, "composes_once"):
        return

    @functools.wraps(composed)
    def load_sweep_config(
        self: ConfigLoaderImpl, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        global _master
        if master_config is not _master:
            _checked.clear()
            _master = master_config
        words = tuple(sweep_overrides)
        found = _checked.pop(words, None)
        if found is not None:
            OmegaConf.copy_cache(from_config=master_config, to_config=found)  # the time of the sweep, as anew
            return found
        made = composed(self, master_config, sweep_overrides)
        if len(_checked) < REMEMBERED:
            _checked[words] = made
        return made

    load_sweep_config.composes_once = True  # type: ignore[attr-defined]
    ConfigLoaderImpl.load_sweep_config = load_sweep_config  # type: ignore[method-assign]
