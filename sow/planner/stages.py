"""The three stages of Sec. IV-A as calls of a multimodal model: Recognition, and twice Reasoning."""

from __future__ import annotations

import io
import string
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from sow.errors import UserError
from sow.planner.base import legal, legal_related, or_surround
from sow.planner.calling import Caller
from sow.planner.conventions import Ambiguous, condition_cost, recognise, region_cost
from sow.planner.replies import BadReply, Position, Recognition, Region, Single, named, parse
from sow.planner.tokens import token_count
from sow.store.files import place_of
from sow.store.fingerprint import sha256
from sow.types import Box, Canvas, Request, VisualCondition

STAGES = ("recognition", "position", "region", "single")
_ANSWERS: dict[str, type[BaseModel]] = {
    "recognition": Recognition,
    "position": Position,
    "region": Region,
    "single": Single,
}
_WORDS_PER_TOKEN = 0.75
Result = TypeVar("Result")


SHIPPED = Path(__file__).with_name("prompts")


def prompt_files(version: str) -> list[Path]:
    """The file of each stage's prompt: those of a version that ships with the package, or of a folder."""
    folder = place_of(version, "planner.prompt_version")
    return [(folder if folder.is_dir() else SHIPPED / version) / f"{stage}.txt" for stage in STAGES]


def prompt_texts(version: str) -> dict[str, str]:
    """The prompt of each stage: those of a version that ships with the package, or the files of a folder.

    Raises UserError for an unknown version or a missing file.
    """
    try:
        return {file.stem: file.read_text(encoding="utf-8") for file in prompt_files(version)}
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(sorted(p.name for p in SHIPPED.iterdir() if not p.name.startswith((".", "_"))))
        files = ", ".join(f"{s}.txt" for s in STAGES)
        raise UserError(
            f"no prompts {version}: choose {known}, or a folder with {files} (planner.prompt_version)"
        ) from error


def prompts_digest(version: str) -> str:
    """SHA-256 of the prompts, so that an edited prompt is asked anew."""
    texts = prompt_texts(version)
    return sha256("\0".join(texts[s] for s in STAGES))


def picture(condition: VisualCondition, side: int) -> bytes:
    """The condition's image as PNG, its longer side at most `side` pixels."""
    image = condition.image.convert("RGB")
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class Conversation:
    """The calls of one plan; `records` keeps what each stage asked and was told."""

    caller: Caller
    request: Request
    canvas: Canvas
    version: str
    image_side: int
    asks: int
    max_tokens: int
    tokenizer: str | None
    boxes_as: str | None  # the convention of boxes that the user knows
    family: str | None  # the one that the model's family is used to
    records: list[dict[str, Any]] = field(default_factory=list)
    by_name: bool = False  # whether this stage was asked again for boxes as objects

    def __post_init__(self) -> None:
        self.images = [picture(c, self.image_side) for c in self.request.conditions]

    def recognition(self) -> tuple[str, list[dict[str, Any]]]:
        """Stage 1: c' and what each condition shows."""
        return self._stage("recognition", self._read_recognition)

    def position(self) -> tuple[tuple[Box, ...], str | None]:
        """Stage 2: legal boxes, and the convention that the model wrote them in, None where it had to be told
        one."""
        boxes, convention = self._stage("position", self._read_position)
        return boxes, None if self.by_name else convention

    def region(self, boxes: Sequence[Box], convention: str | None) -> tuple[Box, ...]:
        """Stage 3: related regions for these boxes."""
        return self._stage("region", lambda v, last: self._read_region(v, boxes, convention), boxes)

    def single(self) -> tuple[str, list[dict[str, Any]], tuple[Box, ...], tuple[Box, ...]]:
        """All stages in one call."""

        def read(values: dict[str, Any], last: bool) -> Any:
            prompt, described = self._read_recognition(values, last)
            boxes, convention = self._read_position(values, last)
            return prompt, described, boxes, self._read_region(values, boxes, convention)

        return self._stage("single", read)

    def _stage(
        self, stage: str, read: Callable[[dict[str, Any], bool], Result], boxes: Sequence[Box] = ()
    ) -> Result:
        """Ask until the reply can be read, at most `asks` times; raises UserError after that."""
        record: dict[str, Any] = {"stage": stage, "problems": [], "tokens_in": 0, "tokens_out": 0}
        self.records.append(record)
        self.by_name = False
        question, problem, answer = self._question(stage, boxes), "", _ANSWERS[stage]
        start = time.perf_counter()
        for ask in range(self.asks):
            reply = self.caller.ask(question + _again(problem), self.images, answer)
            record.update(reply=reply.text, asks=ask + 1)
            record["tokens_in"] += reply.tokens_in
            record["tokens_out"] += reply.tokens_out
            record["seconds"] = round(time.perf_counter() - start, 3)
            try:
                if reply.ended:
                    raise BadReply(reply.ended)
                return read(parse(reply.text, answer), ask + 1 == self.asks)
            except ValueError as error:  # BadReply and Ambiguous are
                problem = str(error)
                if isinstance(error, Ambiguous):
                    answer, self.by_name = named(answer), True
                record["problems"].append(problem)
        raise UserError(
            f"the planner's model gave no valid {stage} in {self.asks} replies: "
            f"{' '.join(problem.split())[:200]} "
            "(planner.asks, planner.model, planner.boxes_as, or planner.on_error=fallback)"
        )

    def _question(self, stage: str, boxes: Sequence[Box]) -> str:
        canvas = self.canvas
        values = {
            "prompt": self.request.prompt,
            "pictures": _described(self.request.conditions),
            "count": len(self.request.conditions),
            "width": canvas.width,
            "height": canvas.height,
            "smallest": canvas.condition_min,
            "largest": canvas.condition_max,
            "max_tokens": self.max_tokens - 2,
            "max_words": int((self.max_tokens - 2) * _WORDS_PER_TOKEN),
            "boxes": "\n".join(f"Picture {i + 1}: {b.as_list()}" for i, b in enumerate(boxes)),
        }
        return string.Template(prompt_texts(self.version)[stage]).safe_substitute(values)

    def _read_recognition(self, values: dict[str, Any], last: bool) -> tuple[str, list[dict[str, Any]]]:
        described = values["conditions"]
        text = " ".join(values["intensified_prompt"].split())
        if len(described) != len(self.images):
            raise BadReply(
                f"{len(described)} conditions described, but there are {len(self.images)} pictures"
            )
        if not text:
            raise BadReply("intensified_prompt is empty")
        problem = self._objection(text)
        if problem and not last:
            raise BadReply(problem)
        if problem:  # the last reply is mended: the user's own prompt, and what fits of the features
            text = self._mended(described)
            self.records[-1]["problems"].append(f"{problem}; mended")
        return text, described

    def _objection(self, text: str) -> str:
        """What is wrong with c': its length, or that it contradicts the user's own words."""
        from sow.people.captions.captions import parse as attributes

        count = token_count(text, self.tokenizer)
        if count > self.max_tokens:
            return (
                f"intensified_prompt has {count} tokens, but at most {self.max_tokens} are allowed: make it "
                "shorter"
            )
        said, now = attributes(self.request.prompt), attributes(text)
        for name, value in said.items():
            if now.get(name, value) != value:
                return (
                    f"intensified_prompt says {name.replace('_', ' ')} {now[name]}, but the user's prompt "
                    f"says {value}: "
                    "the user's words win"
                )
        return ""

    def _mended(self, described: Sequence[dict[str, Any]]) -> str:
        from sow.people.captions.captions import parse as attributes

        text = self.request.prompt.rstrip()
        said = attributes(text)
        for feature in (f for d in described for f in d["features"]):
            if any(said.get(name, value) != value for name, value in attributes(feature).items()):
                continue
            longer = f"{text.rstrip('.')}, {feature}"
            if not self._objection(longer):
                text = longer
        return text

    def _read_position(self, values: dict[str, Any], last: bool) -> tuple[tuple[Box, ...], str]:
        conditions = self.request.conditions
        if len(values["boxes"]) != len(conditions):
            raise BadReply(f"{len(values['boxes'])} boxes, but there are {len(conditions)} pictures")
        aspects = [c.image.width / c.image.height for c in conditions]
        convention, proposed = recognise(
            values["boxes"],
            self.canvas,
            condition_cost(aspects, self.canvas),
            self._told(values["boxes"]),
            boxes_as=self.boxes_as,
            family=self.family,
        )
        boxes = legal(proposed, conditions, self.canvas)
        self.records[-1].update(convention=convention, proposed=[b.as_list() for b in proposed])
        return boxes, convention

    def _read_region(
        self, values: dict[str, Any], boxes: Sequence[Box], convention: str | None
    ) -> tuple[Box, ...]:
        if not values["regions"]:
            raise BadReply("regions is empty: give at least one region")
        cost = region_cost(boxes, self.canvas)
        found, regions = recognise(
            values["regions"],
            self.canvas,
            cost,
            convention or self._told(values["regions"]),
            boxes_as=self.boxes_as,
            family=self.family,
        )
        self.records[-1].update(region_convention=found, proposed_regions=[b.as_list() for b in regions])
        return or_surround(legal_related(regions, boxes, self.canvas), boxes, self.canvas)

    def _told(self, items: Sequence[Any]) -> str | None:
        """The convention of boxes that came as the objects which were asked for, None for others."""
        return "xywh" if self.by_name and all(isinstance(v, dict) and "width" in v for v in items) else None


def _described(conditions: Sequence[VisualCondition]) -> str:
    """What the model is told of the pictures that come with the text."""
    lines = []
    for i, condition in enumerate(conditions):
        width, height = condition.image.size
        line = f"Picture {i + 1} of {len(conditions)}: {width} x {height} pixels, "
        line += f"aspect ratio {width / height:.2f}."
        if condition.mask is not None:
            bounds = condition.bounds()
            line += f" Only its subject inside [x, y, width, height] = {bounds.as_list()} is pasted."
        if condition.box is not None:
            line += f" The user has fixed its box on the canvas: {condition.box.as_list()}."
        lines.append(line)
    return "\n".join(lines)


def _again(problem: str) -> str:
    if not problem:
        return ""
    return f"\n\nYour last answer could not be used: {problem}. Answer again, with the JSON object alone."
