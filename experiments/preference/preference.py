"""`study=preference study.runs=PATH`: the paper's human study (Sec. V-A) as a blinded page, and its key.

The run folder holds `survey/`, which is sent out, and `key.json`, which stays: only the key says which image
is whose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from sow.config.schema import construct
from sow.errors import UserError
from sow.report.pages import write_page
from sow.report.tables import parse_columns
from sow.types import Bound, component

from ..core.fields import LIMIT, Count, Filled
from ..gallery.pictures import Picture, Pictures
from ..gallery.reading import paths_of, read_pictures

if TYPE_CHECKING:
    from numpy.random import Generator

    from sow.runs.records import RunFolder

    from ..core.study import StudyContext

PLACE, KEY = "survey", "key.json"
MOST = 5  # images per question


@component("study.criteria")
class Criterion:
    """What people judge by; `conditions`: whether they see prompt and visual condition."""

    name: str
    label: str
    question: str
    help: str
    conditions: bool


@component("study")
class Preference:
    """A survey: `raters` people choose among the images of a group; `votes` of them see each group and
    criterion.

    `runs`      where the images are; `rows` which of the table's rows, null = all; `groups` how many, null =
                all
    `criteria`  in the order they are asked: name, label, question, help, and whether the conditions are shown
    `objective` columns of numbers that the tally shows beside the votes: metric, label, better, format
    """

    runs: Any
    rows: list[str] | None
    groups: Annotated[int | None, Bound(ge=1, le=LIMIT)]
    raters: Count
    votes: Count
    seed: int
    title: str
    introduction: str
    objective: list[Any]
    criteria: Annotated[list[Any], Filled]

    def __post_init__(self) -> None:
        if self.votes > self.raters:
            raise UserError(
                f"study.votes={self.votes} of {self.raters} people: nobody votes twice on a question, raise "
                "study.raters (study.votes)"
            )
        if self.objective:
            parse_columns(self.objective, "study.objective")
        for i, value in enumerate(self.criteria):
            if not isinstance(value, Mapping):
                raise UserError(f"a criterion has a name and a question, got {value!r} (study.criteria.{i})")
            construct(Criterion, value, f"study.criteria.{i}")

    def files(self) -> list[str]:
        """What the survey is made of, for the run key."""
        return paths_of(self.runs)

    def run(self, context: StudyContext) -> None:
        """Draw the survey, write the page and the key."""
        with context.timed("read"):
            pictures = read_pictures(self.runs, "study.runs", context.config.data)
            rows = self._chosen(pictures)
            rng = np.random.default_rng(self.seed)
            items = self._items(pictures, rows, rng)
            left_out = len({p.group for p in pictures.pictures}) - len(items)
        survey = rng.bytes(6).hex()
        if len(items) * self.votes < self.raters:
            raise UserError(
                f"{len(items)} groups x {self.votes} votes leave nothing to do for some of {self.raters} "
                f"people: study.raters={len(items) * self.votes} at most (study.raters)"
            )
        assignments: dict[str, list[list[Any]]] = {str(r + 1): [] for r in range(self.raters)}
        for number in range(len(self.criteria)):
            for rater, names in enumerate(deal(list(items), self.raters, self.votes, rng)):
                for name in names:
                    order = [str(b) for b in rng.permutation(list(items[name]["images"]))]
                    assignments[str(rater + 1)].append([number, name, order])
        with context.timed("write"):
            data = self._page(pictures, items, assignments, survey, context.folder)
            page = write_page(context.folder, "survey", data, PLACE)
            context.folder.save_json(KEY, self._key(pictures, rows, items, assignments, survey))
        questions = [len(a) for a in assignments.values()]
        counts = {"groups": len(items), "rows": len(rows), "raters": self.raters, "left_out": left_out}
        context.folder.save_json("metrics.json", {"survey": survey, **counts})
        context.console.print(
            f"{len(items)} groups x {len(rows)} images, {len(self.criteria)} criteria, {self.votes} votes "
            f"each: {min(questions)} to {max(questions)} questions per person"
            + (f"; {left_out} groups left out" if left_out else "")
        )
        context.console.print(f"send the folder: {page.parent}")
        context.console.print(f"keep the key: {context.folder.path / KEY}")

    def _chosen(self, pictures: Pictures) -> list[str]:
        known = [r.name for r in pictures.rows]
        rows = known if self.rows is None else list(dict.fromkeys(self.rows))
        for name in rows:
            if name not in known:
                raise UserError(
                    f"{name} is unknown or without images: choose among {', '.join(known)} (study.rows)"
                )
        if not 2 <= len(rows) <= MOST:
            raise UserError(
                f"need two to {MOST} rows to choose among, got {len(rows)}: {', '.join(rows)} (study.rows)"
            )
        return rows

    def _items(self, pictures: Pictures, rows: Sequence[str], rng: Generator) -> dict[str, dict[str, Any]]:
        """Questions by blind name: a group of which every row has an image, of its first such seed."""
        whole: dict[str, dict[str, Picture]] = {}
        for (group, _), cells in pictures.by_place().items():
            if group not in whole and all(row in cells for row in rows):
                whole[group] = cells
        if not whole:
            raise UserError(
                f"no group has an image of every row ({', '.join(rows)}): choose fewer (study.rows)"
            )
        names = list(whole)
        if self.groups is not None:
            if self.groups > len(names):
                raise UserError(
                    f"study.groups={self.groups} but {len(names)} groups have all images (study.groups)"
                )
            names = [names[i] for i in np.sort(rng.permutation(len(names))[: self.groups])]
        items = {}
        for group in (names[i] for i in rng.permutation(len(names))):
            cells = whole[group]
            shuffled = [rows[i] for i in rng.permutation(len(rows))]
            items[f"q{rng.bytes(4).hex()}"] = {
                "group": group,
                "seed": cells[rows[0]].seed,
                "setting": pictures.groups[group].setting,
                "images": {rng.bytes(8).hex(): cells[row] for row in shuffled},
            }
        return items

    def _page(
        self,
        pictures: Pictures,
        items: Mapping[str, Mapping[str, Any]],
        assignments: Mapping[str, Any],
        survey: str,
        folder: RunFolder,
    ) -> dict[str, Any]:
        """What is sent out; the images are written in the order of their blind names,
        their metadata left behind."""
        from PIL import Image

        from sow.data.images import read_image

        blind = {b: p for item in items.values() for b, p in item["images"].items()}
        for name in sorted(blind):
            seen = read_image(str(blind[name].path), "study.runs")[0]
            clean = Image.fromarray(np.asarray(seen))
            folder.save_image(f"{PLACE}/images/{name}.png", clean)
        shown = {}
        needed = any(c["conditions"] for c in self.criteria)
        for name in sorted(items):
            group = pictures.groups[items[name]["group"]]
            picture = group.condition() if group.condition else None
            if needed and (picture is None or not group.prompt):
                lacking = "visual condition" if group.prompt else "prompt"
                raise UserError(
                    f"group {group.id} has no {lacking} to show: give the data it comes from (study.runs, "
                    "data)"
                )
            if needed and picture is not None:
                folder.save_image(f"{PLACE}/images/{name}.png", picture)
            place, prompt = (f"images/{name}.png", group.prompt) if needed else (None, "")
            shown[name] = {"condition": place, "prompt": prompt}
        return {
            "survey": survey,
            "title": self.title,
            "introduction": self.introduction,
            "criteria": self.criteria,
            "items": shown,
            "assignments": assignments,
        }

    def _key(
        self,
        pictures: Pictures,
        rows: Sequence[str],
        items: Mapping[str, Mapping[str, Any]],
        assignments: Mapping[str, Any],
        survey: str,
    ) -> dict[str, Any]:
        labels = {r.name: r for r in pictures.rows}
        metrics = [c["metric"] for c in self.objective]
        hidden = {}
        for name, item in items.items():
            found = item["images"].values()
            hidden[name] = {
                **item,
                "images": {blind: p.row for blind, p in item["images"].items()},
                "metrics": {p.row: {m: p.metrics.get(m) for m in metrics} for p in found},
            }
        return {
            "survey": survey,
            "seed": self.seed,
            "raters": self.raters,
            "votes": self.votes,
            "about": pictures.about,
            "title": pictures.title,
            "objective": self.objective,
            "criteria": self.criteria,
            "rows": [{"name": n, "label": labels[n].label, "paper": dict(labels[n].paper)} for n in rows],
            "items": hidden,
            "assignments": assignments,
        }


def deal(items: Sequence[str], raters: int, votes: int, rng: Generator) -> list[list[str]]:
    """Items of each rater in a random order: each item goes to `votes` different raters,
    loads differ by one at most."""
    hands: list[list[str]] = [[] for _ in range(raters)]
    for i in rng.permutation(len(items)):
        # The least busy raters, ties by lot: loads never differ by more than one.
        order = rng.permutation(raters)
        for r in sorted(order, key=lambda r: len(hands[r]))[:votes]:
            hands[r].append(items[i])
    return [[hand[i] for i in rng.permutation(len(hand))] for hand in hands]
