"""One command for everything: `python run.py [group=option] [key=value] [-m]`;
`sow` is the same one, installed."""

from __future__ import annotations

import sys

from sow.config.command_line import command_line
from sow.config.imports import put_off

if __name__ == "__main__":
    put_off()
    sys.exit(command_line())
