"""Pictures of a table by row and group: what the gallery shows and the survey asks about."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sow.store.fingerprint import sha256

if TYPE_CHECKING:
    from PIL.Image import Image

    from sow.types import VisualCondition

KEYS = ("row", "group", "setting", "seed")  # columns of the records that are no metric


@dataclass(frozen=True)
class Row:
    """One row of a table: a method or an ablation, with the paper's numbers by metric if there are any."""

    name: str
    label: str
    paper: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Group:
    """What was asked for: prompt, setting and, where it can be shown,
    a function that makes the condition's picture."""

    id: str
    setting: str = ""
    prompt: str = ""
    condition: Callable[[], Image | None] | None = None


@dataclass(frozen=True)
class Picture:
    """One generated image and what was measured of it."""

    row: str
    group: str
    seed: int
    path: Path
    metrics: Mapping[str, Any]


@dataclass(frozen=True)
class Pictures:
    """All pictures of a table, its rows in order and its groups by id; `about` says which model made them."""

    rows: tuple[Row, ...]
    groups: Mapping[str, Group]
    pictures: tuple[Picture, ...]
    about: str
    title: str = ""

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that have a number anywhere, in order of appearance."""
        return list(
            dict.fromkeys(
                k for p in self.pictures for k, v in p.metrics.items() if isinstance(v, (int, float))
            )
        )

    def by_place(self) -> dict[tuple[str, int], dict[str, Picture]]:
        """Pictures by (group, seed), then row, in order of appearance."""
        out: dict[tuple[str, int], dict[str, Picture]] = {}
        for picture in self.pictures:
            out.setdefault((picture.group, picture.seed), {})[picture.row] = picture
        return out


def on_gray(conditions: Sequence[VisualCondition]) -> Image:
    """Visual conditions side by side, what their masks leave out in mid-gray."""
    shown = beside([c.on_gray() for c in conditions])
    assert shown is not None
    return shown


def beside(pictures: Sequence[Image | None], side: int = 256) -> Image | None:
    """Pictures beside one another, `side` pixels high; None when one is missing."""
    from PIL import Image

    shown = [p.resize((max(1, round(side * p.width / p.height)), side)) for p in pictures if p is not None]
    if not shown or len(shown) < len(pictures):
        return None
    out = Image.new("RGB", (sum(p.width for p in shown) + 4 * (len(shown) - 1), side), "white")
    x = 0
    for picture in shown:
        out.paste(picture, (x, 0))
        x += picture.width + 4
    return out


def slug(text: str) -> str:
    """`text` as a file name of its own on every disk: what had to be changed is told apart by a hash."""
    clean = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:48]
    return clean if clean == text else f"{clean}-{sha256(text)[:6]}"


def about_model(choices: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """Which model that is, in words, from the choice in the group and the resolved node."""
    target = str(model.get("_target_", ""))
    where = model.get("path") or model.get("repo_id")
    if target.endswith("Tiny"):
        return "random weights (model=tiny): the pictures mean nothing"
    if choices.get("model") in ("people", "people_flow") or "/people/weights" in str(where):
        flow = model.get("unet_path") is not None
        kind = "flow" if flow else "model"
        return f"the embedded {kind} of drawn people (model={'people_flow' if flow else 'people'})"
    return (
        f"{where} (model={choices.get('model', 'local')})" if where else str(choices.get("model", "unknown"))
    )
