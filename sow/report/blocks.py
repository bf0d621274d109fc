"""What commands write into the documentation: the block of a Markdown page between its marks, and the block's
picture.

A page holds a block where it has the two lines `<!-- NAME:begin -->` and `<!-- NAME:end -->`.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

from sow.errors import UserError
from sow.store.files import atomic_write

REPOSITORY = Path(__file__).resolve().parents[2]
FIGURES = Path("docs") / "figures"
WIDEST = 1600  # pixels of a published picture
HEAVIEST = 480_000  # its bytes
INDEX = "index"  # of everything that commands have written into the documentation: docs/measured.md
FLAT = 2.0  # gray levels of root mean square error up to which 256 colours are taken for all of a picture's


@dataclass(frozen=True)
class Made:
    """How something published was measured: the command, the day (ISO 8601), the commit, the number of images
    and the seconds, None where it is not known; `model`, where it is another one than the pages speak of."""

    command: str
    day: str
    commit: str | None
    images: int | None
    seconds: float | None
    model: str | None = None


def publish(
    name: str, block: str, picture: Path | None = None, root: Path = REPOSITORY, made: Made | None = None
) -> None:
    """Put `block` (Markdown) between the marks of `name` on the page of README.md and docs/ that has them.

    `picture` is published as docs/figures/NAME.png or .jpg; a link to it in the block by its file name, as a
    run folder has it, becomes a link to there, and a block without one gets the picture above it. `made`
    becomes the line of `name` in the index of what was measured; what another model was measured by is called
    NAME-MODEL, so it never takes the place of the pages' own.

    Raises UserError when no page has the marks; then nothing is written.
    """
    name = name_of(name, made)
    page = page_of(name, root)
    if page is None:
        raise _no_marks(name, f"no page of {root / 'README.md'} and {root / 'docs'} has")
    _publish(page, name, block, picture, root)
    index = page_of(INDEX, root)
    if made is not None and index is not None:
        write_block(index, INDEX, _indexed(published(INDEX, root), name, page, index, made))


def name_of(name: str, made: Made | None) -> str:
    """What `name` is called on a page: NAME, or NAME-MODEL for another model than the pages speak of."""
    return name if made is None or made.model is None else f"{name}-{made.model}"


def _indexed(block: str, name: str, page: Path, index: Path, made: Made) -> str:
    """The index with the line of `name` put in or in place of its earlier one, sorted by name."""
    head = [
        "| what | command | day | commit | images | seconds |",
        "| :--- | :--- | :--- | :--- | ---: | ---: |",
    ]
    lines = {line.split("]")[0][3:]: line for line in block.splitlines() if line.startswith("| [")}
    link = Path(os.path.relpath(page, index.parent)).as_posix()
    command = made.command.replace("|", "\\|")
    commit = "-" if made.commit is None else f"`{made.commit}`"
    images = "-" if made.images is None else made.images
    seconds = "-" if made.seconds is None else f"{made.seconds:.0f}"
    lines[name] = f"| [{name}]({link}) | `{command}` | {made.day} | {commit} | {images} | {seconds} |"
    return "\n".join([*head, *(lines[key] for key in sorted(lines))])


def _publish(page: Path, name: str, block: str, picture: Path | None, root: Path) -> None:
    if picture is None:
        return write_block(page, name, block)
    link = f"]({picture.name})"
    if link not in block:
        block = f"![{name.replace('_', ' ')}{link}\n\n{block}"
    data, kind = compact(picture)
    place = root / FIGURES / f"{name}{kind}"
    write_block(page, name, block.replace(link, f"]({Path(os.path.relpath(place, page.parent)).as_posix()})"))
    _replace_picture(place, data)
    return None


def publish_picture(name: str, picture: Path, root: Path = REPOSITORY) -> None:
    """A picture without a block, as docs/figures/NAME.png or .jpg."""
    data, kind = compact(picture)
    _replace_picture(root / FIGURES / f"{name}{kind}", data)


def page_of(name: str, root: Path = REPOSITORY) -> Path | None:
    """The page that has the marks of `name`: README.md or one of docs/."""
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    return next((page for page in pages if _parts(page, name) is not None), None)


def published(name: str, root: Path = REPOSITORY) -> str:
    """What stands between the marks of `name`; raises UserError when no page has them."""
    page = page_of(name, root)
    if page is None:
        raise _no_marks(name, f"no page of {root / 'README.md'} and {root / 'docs'} has")
    before, after = _parts(page, name) or ("", "")
    begin, end = _marks(name)
    text = page.read_text(encoding="utf-8")
    return text[len(before) + len(begin) : len(text) - len(after) - len(end)].strip()


def write_block(file: Path, name: str, block: str) -> None:
    """Put `block` between the marks of `name` in `file`, in place of what stood there.

    Raises UserError when the file or its marks are missing; then nothing is written.
    """
    parts = _parts(file, name)
    if parts is None:
        raise _no_marks(name, f"{file} has no")
    begin, end = _marks(name)
    with atomic_write(file) as part:
        part.write_text(f"{parts[0]}{begin}\n{block.strip()}\n{end}{parts[1]}", encoding="utf-8")


def compact(picture: Path) -> tuple[bytes, str]:
    """The picture for a page, at most WIDEST pixels and HEAVIEST bytes, and its file ending.

    Drawings of few colours stay sharp as PNG of 256 colours; what holds photographs is JPEG.
    """
    import numpy as np
    from PIL import Image

    image = Image.open(picture).convert("RGB")
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
    few = image.quantize(256, dither=Image.Dither.NONE)
    error = np.asarray(few.convert("RGB"), np.float32) - np.asarray(image, np.float32)
    buffer = io.BytesIO()
    if float(np.sqrt((error**2).mean())) <= FLAT:
        few.save(buffer, "PNG", optimize=True)
        if buffer.tell() <= HEAVIEST:
            return buffer.getvalue(), ".png"
    for quality in (70, 55, 35):  # more is not seen on a page, and all pictures share 6 MB
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
        if buffer.tell() <= HEAVIEST:
            break
    return buffer.getvalue(), ".jpg"


def _replace_picture(place: Path, data: bytes) -> None:
    for kind in (".png", ".jpg"):
        if kind != place.suffix:
            place.with_suffix(kind).unlink(missing_ok=True)
    with atomic_write(place) as part:
        part.write_bytes(data)


def _parts(file: Path, name: str) -> tuple[str, str] | None:
    """What stands above and below the block in `file`; None where the marks are missing."""
    begin, end = _marks(name)
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    head, _, rest = text.partition(begin)
    _, found, tail = rest.partition(end)
    return (head, tail) if found else None


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def _no_marks(name: str, where: str) -> UserError:
    begin, end = _marks(name)
    return UserError(
        f"{where} {begin} ... {end} to write between: add these two lines, or leave out "
        "study.publish=true (study.publish)"
    )
