"""Streams whose end ends nothing else: what is printed may be lost, a run never."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, cast


class Lasting:
    """A stream to whoever listens. Where nobody does any more (a closed pipe, a full disk) words are lost,
    never the run that says them; `lost` is the first refusal."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """As the stream's; nothing is raised."""
        if self.lost is None:
            try:
                return self.stream.write(text)
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """As the stream's; nothing is raised."""
        if self.lost is None:
            try:
                self.stream.flush()
            except OSError as error:
                self._lose(error)

    def writelines(self, lines: Iterable[str]) -> None:
        """As the stream's."""
        for line in lines:
            self.write(line)

    def _lose(self, error: OSError) -> None:
        self.lost = error
        with contextlib.suppress(OSError, ValueError):  # or Python tries once more as it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def lasting() -> Iterator[Lasting]:
    """Within the block what is printed may be lost and nothing else; yields standard output."""
    before = sys.stdout, sys.stderr
    out, told = Lasting(sys.stdout), Lasting(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, told)
    try:
        yield out
    finally:
        out.flush()
        told.flush()
        sys.stdout, sys.stderr = before


def unheard(out: Lasting) -> str:
    """What a user should know of words that were lost; nothing of a pipe that its reader has closed."""
    if out.lost is None or out.lost.errno == errno.EPIPE:
        return ""
    return f"cannot print to standard output: {out.lost.strerror} (what was made is whole, in its folder)"
