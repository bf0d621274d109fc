"""What tables and words of a run are printed with."""

from __future__ import annotations

import os
import sys
from typing import Any, cast

from rich.console import Console

from sow.store.secrets import redact

WIDE = 240  # columns of a file or a pipe: no table of the paper is wider


class Told:
    """Standard output, whichever stands there as something is printed, without secrets: a path holds them
    too."""

    def write(self, text: str) -> int:
        """As the stream's."""
        return sys.stdout.write(redact(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stdout, name)


def printer() -> Console:
    """A console as wide as its terminal; a file or a pipe is as wide as tables need, unless COLUMNS says
    otherwise."""
    console = Console(file=cast(Any, Told()), highlight=False, soft_wrap=True)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDE
    return console
