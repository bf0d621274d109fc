"""Where the configuration and the studies lie: beside the package in a checkout, inside it when it came as a
wheel.

Nothing but `sow` is installed by a wheel, so that its names shadow nobody's; `experiments.X` is then
`sow.experiments.X`.
"""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from types import ModuleType

# Hydra deprecates presets of a launcher's own name: ours are meant to be checked against its schema. Said
# here because a launcher's processes import this file before they compose.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against")
PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = (PACKAGE / "conf").is_dir()
HOME = PACKAGE if INSTALLED else PACKAGE.parent
CONF = HOME / "conf"
EXPERIMENTS = HOME / "experiments"


def module(name: str) -> ModuleType:
    """The module `sow.X` or `experiments.X`; raises ModuleNotFoundError where there is none."""
    return importlib.import_module(f"sow.{name}" if INSTALLED and name.startswith("experiments.") else name)
