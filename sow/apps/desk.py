"""What the page of `sow demo` can do, without the page: wishes become words of the command line, and their
jobs are followed cycle by cycle into run folders like any other."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import queue
import re
import shutil
import threading
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import Image

from sow.config.compose import Config, Ungiven, compose
from sow.config.words import decode, encode, key_of
from sow.data.conditions import Person
from sow.data.images import read_image
from sow.errors import UserError
from sow.pipeline.factory import build
from sow.planner.base import legal_related, on_canvas, or_surround, parse_boxes
from sow.report import PHASES
from sow.runs.records import RunFolder
from sow.store.files import atomic_write
from sow.store.fingerprint import sha256
from sow.types import Box, Canvas, Plan, Request, Step, VisualCondition

FULL = "full"
ROWS = {
    FULL: "full method",
    "no_dam": "without attention modulation",
    "no_ap": "at a random place",
    "no_pi": "without the intensified prompt",
}
THUMBNAIL = 256  # pixels of a condition on the board
RunJob = Callable[..., Path]  # experiments.core.study.run_job


@dataclass(frozen=True)
class Wish:
    """What somebody asks for on the page.

    `picture` is a photograph's file, None for the configured condition, of which `person` may name another
    drawn person; `mask` is face or none; `board` the JSON of what was drawn, None = as planned.
    """

    prompt: str
    seed: int
    task: str
    picture: str | None = None
    mask: str = "face"
    person: int | None = None
    board: str | None = None


@dataclass(frozen=True)
class Seen:
    """A moment of a row's job: what it is doing, or the image predicted after a cycle, or, at its end, its
    folder."""

    row: str
    words: str
    image: Image.Image | None = None
    folder: Path | None = None


class Stopped(Exception):
    """Nobody follows any more."""


class Desk:
    """One configuration, `words` of the command line, and what a page asks of it.

    `run_job` does a job in a folder. Raises UserError for words that do not compose.
    """

    def __init__(self, words: Sequence[str], run_job: RunJob) -> None:
        self.words = laid_over(["tracker=none"], words)  # W&B would take longer than a small model's image
        self.run_job = run_job
        self.config = compose(self.words)
        self.outputs = self.config.paths.outputs
        self._one = threading.Lock()  # at work at a time

    @property
    def draws_people(self) -> bool:
        """Whether the configured condition is a drawn person."""
        return isinstance(self.config.condition, Person)

    @property
    def person(self) -> int:
        """The configured drawn person: the seed of one."""
        own = self.config.condition.seed if self.draws_people else None
        return self.config.seed if own is None else own

    def wished(self, wish: Wish, row: str = FULL, plan: Path | None = None) -> list[str]:
        """The words of one row's command line; `plan` is the file of a plan that takes the planner's place.

        Raises UserError for a row that there is none of.
        """
        if row not in ROWS:
            raise UserError(f"{row!r} is no row of the comparison: choose among {', '.join(ROWS)} (ablation)")
        if wish.picture is None and isinstance(self.config.condition, Ungiven):
            raise UserError("drop a picture first: there is none to keep (condition.image)")
        words = [f"prompt={_literal(wish.prompt)}", f"seed={wish.seed}", f"task={wish.task}"]
        if wish.picture is not None:
            read_image(wish.picture)  # what cannot be read is not kept
            kept = _kept(Path(wish.picture), self.outputs)
            words += ["condition=photo", f"condition.image={_literal(str(kept))}"]
            words += [f"condition.mask={wish.mask}"]
        elif self.draws_people and wish.person is not None:
            words += [f"condition.seed={wish.person}"]
        if plan is not None:
            words += ["planner=replay", f"planner.path={_literal(str(plan))}"]
            if self.config.choices["position"] != "planner" and row != "no_ap":
                words += ["position=planner"]
        return laid_over(self.words, [*words, *([] if row == FULL else [f"+ablation={row}"])])

    def plan(self, wish: Wish) -> tuple[Request, Plan, Canvas]:
        """The request and the configured planner's plan, the drawn boxes and regions in place of its own."""
        config = compose(self.wished(replace(wish, board=None)))
        with self._one:
            sampler = build(config)
            conditions = config.condition.load(config.seed)
            request = Request(conditions, config.prompt, config.task.name, config.seed)
            (plan,) = sampler.plan([request])
        if wish.board is not None:
            plan = drawn(wish.board, plan, sampler.canvas)
        return request, plan, sampler.canvas

    def follow(self, wish: Wish, rows: Sequence[str]) -> Iterator[Seen]:
        """Do the rows' jobs one after the other and tell of each moment; nothing goes on once the iterator is
        closed. Raises UserError as the command line would."""
        plan = None
        if wish.board is not None:
            _, made, _ = self.plan(wish)
            plan = _written(made, self.outputs)
        configs = {row: compose(self.wished(wish, row, plan)) for row in rows}  # all, before any work

        def work(tell: Callable[[Seen], None]) -> None:
            with self._one:
                for row, config in configs.items():
                    tell(Seen(row, "loading"))
                    tell(Seen(row, "done", folder=self._job(row, config, tell)))

        yield from _followed(work)

    def _job(self, row: str, config: Config, tell: Callable[[Seen], None]) -> Path:
        now = datetime.now()
        folder = self.outputs / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S}-{row}-{uuid.uuid4().hex[:6]}"
        folder = folder.absolute()
        try:
            return self.run_job(config, folder, watch=_watching(row, config, tell))
        finally:
            if folder.is_dir() and not RunFolder(folder).complete:
                shutil.rmtree(folder, ignore_errors=True)


def laid_over(base: Sequence[str], words: Sequence[str]) -> list[str]:
    """`base` without the keys, and the groups' fields, that `words` give anew, then `words`; ablations add
    up."""
    new = {key_of(word) for word in words} - {"ablation"}
    return [*(w for w in base if not {key_of(w), key_of(w).partition(".")[0]} & new), *words]


def _literal(value: str) -> str:
    """A free text as it is typed, in quotes where it would else be read as another one, or as a file's
    name."""
    means_itself = decode(value) == value and not value.startswith(("@", "choice(", "["))
    return value if means_itself else encode(value)


def board(request: Request, plan: Plan, canvas: Canvas) -> str:
    """A plan as the JSON that the page's canvas draws and changes."""
    shown = {
        "width": canvas.width,
        "height": canvas.height,
        "grid": canvas.factor,
        "pictures": [_thumbnail(c) for c in request.conditions],
        "boxes": [b.as_list() for b in plan.boxes],
        "related": [b.as_list() for b in plan.related],
        "drawn": False,
    }
    return json.dumps(shown)


def is_drawn(text: str | None) -> bool:
    """Whether somebody has changed the board; raises UserError for what is none."""
    return bool(_read(text).get("drawn")) if text else False


def drawn(text: str, plan: Plan, canvas: Canvas) -> Plan:
    """`plan` with the boxes and regions of the board's JSON, made legal as a user's own are: sides on the
    grid, regions that touch a box. Raises UserError for what cannot be one."""
    found = _read(text)
    boxes = tuple(on_canvas(b, canvas, "box") for b in parse_boxes(found.get("boxes"), "box"))
    if len(boxes) != len(plan.boxes):
        raise UserError(f"{len(boxes)} boxes for {len(plan.boxes)} conditions: draw one each (box)")
    given = parse_boxes(found.get("related"), "related region")
    for region in given:
        if not region.intersection(Box(0, 0, canvas.width, canvas.height)):
            raise UserError(f"related region {region.as_list()} lies off the canvas (related region)")
    related = or_surround(legal_related(given, boxes, canvas), boxes, canvas)
    return replace(plan, boxes=boxes, related=related, source=f"{plan.source}, drawn over")


def zipped(folders: Mapping[str, Path], target: Path, more: Sequence[Path] = ()) -> Path:
    """The run folders by row, and `more` files beside them, in one zip file."""
    with atomic_write(target) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as out:
        for row, folder in folders.items():
            for file in sorted(folder.rglob("*")):
                if file.is_file() and not file.is_symlink() and not file.name.startswith("."):
                    out.write(file, f"{row}/{file.relative_to(folder).as_posix()}")
        for file in more:
            out.write(file, file.name)
    return target


def _followed(work: Callable[[Callable[[Seen], None]], None]) -> Iterator[Seen]:
    """What `work` tells, as it happens: it runs in a thread of its own, which ends at its next word once
    nobody listens."""
    heard: queue.SimpleQueue[Seen | BaseException | None] = queue.SimpleQueue()
    gone = threading.Event()

    def tell(seen: Seen) -> None:
        if gone.is_set():
            raise Stopped
        heard.put(seen)

    def body() -> None:
        try:
            work(tell)
            heard.put(None)
        except Stopped:
            pass
        except BaseException as error:  # raised where it is heard
            heard.put(error)

    threading.Thread(target=body, daemon=True, name="sow demo").start()
    try:
        while (word := heard.get()) is not None:
            if isinstance(word, BaseException):
                raise word
            yield word
    finally:
        gone.set()


def _watching(row: str, config: Config, tell: Callable[[Seen], None]) -> Callable[[Step], None]:
    """Tells of each step, and of the image predicted at the end of each cycle."""
    from sow.pipeline.pipeline import pictures

    sampler = build(config)
    steps = 0
    last: tuple[int | None, Any] = (None, None)  # a cycle and its newest prediction (1, C, h, w)

    def watch(step: Step) -> None:
        nonlocal steps, last
        cycle, predicted = last
        if cycle is not None and step.context.cycle != cycle:
            (image,) = pictures(sampler.backbone, predicted)
            tell(Seen(row, f"after cycle {cycle + 1} of {sampler.method.cycles}", image))
            last = (None, None)
        if step.context.cycle is not None and step.denoised is not None:
            last = (step.context.cycle, step.denoised)
        if step.event == "denoise":
            steps += 1
            tell(Seen(row, f"{PHASES[step.context.phase]}, step {steps}"))

    return watch


def _kept(picture: Path, outputs: Path) -> Path:
    """A copy of an uploaded picture among the runs, by its content: what the run's words name stays there."""
    try:
        data = picture.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the picture: {error.strerror} (condition.image)") from error
    kind = picture.suffix.lower() if re.fullmatch(r"\.[a-z0-9]{1,5}", picture.suffix.lower()) else ".image"
    return _by_content(outputs, data, kind)


def _written(plan: Plan, outputs: Path) -> Path:
    """The plan as a file by its content, for planner=replay."""
    return _by_content(outputs, json.dumps(plan.to_dict(), default=str).encode(), ".json")


def _by_content(outputs: Path, data: bytes, kind: str) -> Path:
    target = (outputs / "demo" / f"{sha256(data)[:16]}{kind}").absolute()
    if not target.is_file():
        with atomic_write(target) as part:
            part.write_bytes(data)
    return target


def _thumbnail(condition: VisualCondition) -> str:
    """The condition as a PNG in a data URI, transparent where its mask leaves it out."""
    picture = condition.image.convert("RGB")
    if condition.mask is not None:
        picture.putalpha(condition.mask.convert("L"))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _read(text: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(text)
        if isinstance(found, dict):
            return found
    raise UserError("what was drawn cannot be read: plan again (box)")
