"""What tables and words of a run are printed with."""

from __future__ import annotations

import os

from rich.console import Console

WIDE = 240  # columns of a file or a pipe: no table of the paper is wider


def printer() -> Console:
    """A console as wide as its terminal; a file or a pipe is as wide as tables need, unless COLUMNS says
    otherwise."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDE
    return console
