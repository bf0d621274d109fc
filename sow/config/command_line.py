"""One command for everything, `python run.py` in a checkout and `sow` when installed: [group=option] [key=value] [-m]."""

from __future__ import annotations

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from sow.config.compose import explain
from sow.config.composition import compose_jobs_once
from sow.config.places import CONF, module
from sow.errors import Refusal, UserError

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach command_line(), which says them in one line
failed: list[str] = []


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(composed: DictConfig) -> float | None:
    """One job: validate, then run the study; a failing job of a multirun lets the others go on. The sweeper's objective."""
    job = HydraConfig.get()
    try:
        return module("experiments.core.job").run_composed(composed, job)
    except UserError as error:
        if not job.launcher._target_.endswith(".BasicLauncher"):
            raise  # the job runs in a process of its own: its launcher must hear of it
        print(f"error: {error}", file=sys.stderr, flush=True)
        failed.append(str(error))
        return None


def command_line() -> int:
    """Run `main` on the words of the command line; the exit status: 1 after any failure, 130 when interrupted."""
    failed.clear()
    compose_jobs_once()
    try:
        main()
    except Refusal as refused:
        print(f"error: {refused.error}", file=sys.stderr)
        return 1
    except (UserError, HydraException, OmegaConfBaseException) as error:
        words = [word for word in sys.argv[1:] if "=" in word or word.startswith("~")]
        print(f"error: {error if isinstance(error, UserError) else explain(error, words)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 1 if failed else 0
