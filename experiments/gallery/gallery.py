"""`study=gallery study.runs=PATH`: every image of a table side by side, group by row, as a static page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sow.errors import UserError
from sow.report.pages import write_page
from sow.types import component

from ..benchmark.store import link
from .pictures import KEYS, Picture, Pictures, slug
from .reading import paths_of, read_pictures

if TYPE_CHECKING:
    from sow.runs.records import RunFolder

    from ..core.study import StudyContext

PLACE = "gallery"


@component("study")
class Gallery:
    """A page of the pictures under `runs` (a folder or a list of them): filtered by the column `failure`,
    sorted by any.

    `title` None takes the table's own.
    """

    runs: Any
    title: str | None
    failure: str

    def __post_init__(self) -> None:
        if self.failure in KEYS:
            raise UserError(
                f"{self.failure} is not a metric: name the column that says what failed (study.failure)"
            )

    def files(self) -> list[str]:
        """What the page is made of, for the run key."""
        return paths_of(self.runs)

    def run(self, context: StudyContext) -> None:
        """Read, copy, write."""
        with context.timed("read"):
            pictures = read_pictures(self.runs, "study.runs", context.config.data)
        with context.timed("write"):
            title = self.title or pictures.title or "Gallery"
            data = page_data(pictures, context.folder, title, self.failure)
            page = write_page(context.folder, "gallery", data, PLACE)
        counts = {
            "images": len(pictures.pictures),
            "groups": len(pictures.groups),
            "rows": len(pictures.rows),
        }
        context.folder.save_json("metrics.json", counts)
        context.console.print("{images} images of {groups} groups in {rows} rows".format(**counts))
        context.console.print(f"page: {page}")


def page_data(pictures: Pictures, folder: RunFolder, title: str, failure: str) -> dict[str, Any]:
    """What the page shows; the images are put into `folder` on the way."""
    shown: dict[str, str | None] = {}
    groups = []
    for (name, seed), cells in pictures.by_place().items():
        group = pictures.groups[name]
        if name not in shown:
            shown[name] = _condition(pictures, folder, name)
        found = [_cell(cells.get(row.name), f"{i:02d}", folder) for i, row in enumerate(pictures.rows)]
        about = {"setting": group.setting, "prompt": group.prompt, "condition": shown[name]}
        groups.append({"id": name, "seed": seed, **about, "cells": found})
    metrics = pictures.metrics
    rows = [
        {"name": r.name, "label": r.label, "paper": _numbers(r.paper), "note": r.note} for r in pictures.rows
    ]
    return {
        "title": title,
        "about": pictures.about,
        "failure": failure if failure in metrics else None,
        "metrics": metrics,
        "rows": rows,
        "groups": groups,
    }


def _cell(picture: Picture | None, place: str, folder: RunFolder) -> dict[str, Any] | None:
    if picture is None:
        return None
    name = f"images/{place}/{slug(picture.group)}-{picture.seed}.png"
    link(picture.path, folder.path / PLACE / name)
    return {"src": name, "metrics": dict(picture.metrics)}


def _condition(pictures: Pictures, folder: RunFolder, name: str) -> str | None:
    make = pictures.groups[name].condition
    picture = make() if make else None
    if picture is None:
        return None
    place = f"images/conditions/{slug(name)}.png"
    folder.save_image(f"{PLACE}/{place}", picture)
    return place


def _numbers(paper: Mapping[str, Any]) -> dict[str, float]:
    return {k: v for k, v in paper.items() if isinstance(v, (int, float))}
