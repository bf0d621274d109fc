"""Blocks of a Markdown file that runs write: what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`."""

from __future__ import annotations

from pathlib import Path

from sow.errors import UserError
from sow.store.files import atomic_write

REPOSITORY = Path(__file__).resolve().parents[2]
README = REPOSITORY / "README.md"


def write_block(file: Path, name: str, block: str) -> None:
    """Put `block` between the marks of `name` in `file`, in place of what stood there.

    Raises UserError when the file or its marks are missing; then nothing is written.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    head, _, rest = text.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise UserError(
            f"{file} has no {begin} ... {end} to write between: add these two lines, or leave out "
            "study.publish=true (study.publish)"
        )
    with atomic_write(file) as part:
        part.write_text(f"{head}{begin}\n{block.strip()}\n{end}{tail}", encoding="utf-8")
