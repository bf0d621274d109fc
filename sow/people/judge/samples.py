"""Training and held-out pictures of the judge: a rolling pool of fresh renders, and the labels of a batch.

Seeds: training uses [3_000_000_000, 3_200_000_000), calibration [3_200_000_000, 3_300_000_000) and evaluation
[3_300_000_000, 3_400_000_000). Identities of training are below 2e7; held-out ones start at 30_000_000.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sow.people.captions.attributes import VOCABULARY, sample_attributes, with_identity
from sow.people.drawing.identity import geometry
from sow.people.drawing.render import render
from sow.people.judge.composites import Figure, degraded, disturbed, doubled, misdrawn, truncated
from sow.people.judge.crops import CLOSE, FIGURE, crop, to_tensor
from sow.people.judge.network import CLOSE_HEADS, FIGURE_HEADS, GRID_STRIDE, SCENE_HEADS, SIDE
from sow.people.judge.redrawn import generated_look

TRAINING_SEED, CALIBRATION_SEED, EVALUATION_SEED = (
    3_000_000_000,
    3_200_000_000,
    3_300_000_000,
)
HELD_OUT_IDENTITY = 30_000_000
REDRAW_EVERY = 16  # steps; eight pictures cost about three steps of the training
SHAPE = {  # middle and half range of each number of an identity's geometry
    "half_width": (0.365, 0.04), "jaw": (0.82, 0.11), "chin": (0.33, 0.12), "eye_x": (0.166, 0.022), "eye_y": (0.0, 0.02),
    "eye_half": (0.078, 0.012), "eye_open": (0.034, 0.009), "eye_tilt": (0.02, 0.16), "brow_y": (-0.105, 0.022),
    "brow_thick": (0.032, 0.015), "brow_tilt": (0.0, 0.03), "brow_arch": (0.022, 0.018), "nose_length": (0.215, 0.035),
    "nose_half": (0.075, 0.022), "nose_bridge": (0.5, 0.4), "mouth_y": (0.325, 0.025), "mouth_half": (0.128, 0.028),
    "lip_upper": (0.024, 0.011), "lip_lower": (0.034, 0.014), "lip_red": (0.5, 0.5), "ear": (0.085, 0.022),
    "hairline": (-0.31, 0.025),
}  # fmt: skip
UNDER_HAT = ("short", "bun")  # what tells these apart is covered by a hat
FACE_FIELDS = ("age", "skin", "eyes", "expression", "glasses")
COLORS = (
    "skin",
    "eyes",
    "hair_color",
    "clothing_color",
    "wall_color",
)  # a pencil sketch has none of them


def readable(figure: Figure) -> dict[str, int]:
    """Class index of each attribute that can be seen in the picture, -1 for the others."""
    labels = figure.attributes.indices()
    hidden: set[str] = set()
    if figure.colorless:
        hidden.update(COLORS)
    if figure.framing != "scene":
        hidden.update(("scene", "wall_color"))
        hidden.add("hair")  # its length is out of sight
    if figure.attributes.hat != "none" and figure.attributes.hair in UNDER_HAT:
        hidden.add("hair")
    if figure.bare or figure.framing == "gray":
        hidden.update(("hair", "hair_color", "hat"))
    if not figure.clothed:
        hidden.update(("clothing", "clothing_color"))
    if figure.altered:
        hidden.update(FACE_FIELDS)
    return {name: -1 if name in hidden else index for name, index in labels.items()}


def figure_of(
    seed: int, identity: int | None, framing: str = "scene", age: str | None = None, nobody: bool | None = None,
    background: bool = False,
) -> Figure:  # fmt: skip
    """Render one labelled picture; the attributes come from the seed, the age and presence may be given."""
    a = sample_attributes(np.random.default_rng([seed, 91]))
    if nobody is not None:
        a = replace(a, presence="nobody" if nobody else "person")
    if a.presence == "nobody":
        r = render(seed, SIDE, attributes=a)
        sketch = a.style == "pencil sketch"
        return Figure(
            r.image,
            a,
            -1,
            None,
            None,
            None,
            r.face_mask,
            r.figure_mask,
            "scene",
            colorless=sketch,
        )
    if age is not None:
        a = replace(a, age=age)
    if identity is not None:
        a = with_identity(a, identity)
    r = render(seed, SIDE, attributes=a, identity=identity, framing=framing)
    face, head, body = (
        None if b is None else np.array(b, float) for b in (r.face_box, r.head_box, r.body_box)
    )
    assert face is not None  # somebody was asked for
    below = (SIDE - face[1] - face[3]) / face[3]
    shown = framing == "scene" and body is not None
    empty = (
        render(seed, SIDE, attributes=replace(r.attributes, presence="nobody")).image if background else None
    )
    return Figure(
        r.image, r.attributes, r.identity, face, head, body, r.face_mask, r.figure_mask, framing, empty, (face,),
        1 if shown and below > 0.2 else -1, shown and below > 0.25, a.style == "pencil sketch",
    )  # fmt: skip


@lru_cache(maxsize=4096)
def face_shape(identity: int) -> tuple[float, ...]:
    """The identity's continuous geometry (half widths, eyes, brows, nose, mouth, skin), each about in [-1, 1]."""
    g = asdict(geometry(identity))
    values = [(g[name] - middle) / spread for name, (middle, spread) in SHAPE.items()]
    red, green, blue = g["skin_gain"]
    return (*values, (red - 1) / 0.05, (green / red - 1) / 0.02, (blue / red - 1) / 0.03)


class Pool:
    """A rolling pool of rendered people (views of the same identities) and empty scenes; never the same for long."""

    def __init__(
        self,
        seed: int,
        identities: int,
        views: int,
        empty: int,
        first: int = TRAINING_SEED,
        redrawn: int = 0,
    ) -> None:
        self.rng = np.random.default_rng([seed, 17])
        self.views, self.next_seed = views, first + seed * 10_000_000
        self.sizes = identities, empty, redrawn
        self.redrawn: tuple[list[Figure], list[Figure]] = [], []  # of one face, and of two
        self.turn = 0
        # A quarter is enough to begin with; the rest grows while the training runs.
        self.people = [self._person() for _ in range(-(-identities // 4))]
        self.empty = [self._scene() for _ in range(-(-empty // 4))]

    def refresh(self, people: int, scenes: int) -> None:
        """Add new members, in the place of random ones once the pool is full."""
        for _ in range(people):
            self._put(self.people, self._person(), self.sizes[0])
        for _ in range(scenes):
            self._put(self.empty, self._scene(), self.sizes[1])
        if self.sizes[2] and self.turn % REDRAW_EVERY == 0:
            for figure in generated_look(self.rng, [self._scene_of_one() for _ in range(8)]):
                self._put(self.redrawn[figure.second], figure, self.sizes[2] // 2)
        self.turn += 1

    def _put(self, members: list[Any], new: object, size: int) -> None:
        if len(members) < size:
            members.append(new)
        else:
            members[int(self.rng.integers(size))] = new

    def _seed(self) -> int:
        self.next_seed += 1
        return self.next_seed

    def _person(self) -> list[Figure]:
        identity = int(self.rng.integers(0, 20_000_000))
        age = str(self.rng.choice(VOCABULARY["age"])) if self.rng.random() < 0.5 else None
        framings = ["scene"] * (self.views - 1) + [str(self.rng.choice(("closeup", "gray", "scene")))]
        return [
            figure_of(self._seed(), identity, framing, age, False, background=k == 0)
            for k, framing in enumerate(framings)
        ]

    def _scene(self) -> Figure:
        return figure_of(self._seed(), None, nobody=True)

    def figures(self, pairs: int, broken: int, empty: int, redrawn: int = 0) -> list[Figure]:
        """`pairs` identities twice (some disturbed, misdrawn or with a second face), `broken` truncated outlines, `empty`
        scenes and at most `redrawn` pictures that the embedded model has redrawn, half of one face and half of two."""
        rng, chosen = self.rng, []
        for k in rng.choice(len(self.people), pairs, replace=False):
            for v in rng.choice(self.views, 2, replace=False):
                figure = self.people[k][v]
                if figure.framing == "scene":
                    u = rng.random()
                    if u < 0.25:
                        figure = disturbed(rng, figure, self._anyone())
                    elif u < 0.4:
                        figure = doubled(rng, figure, self._anyone())
                    elif u < 0.46:
                        figure = misdrawn(rng, figure)
                chosen.append(figure)
        while broken > 0:
            donor = self._anyone(first=rng.random() < 0.6)
            target = self.empty[int(rng.integers(len(self.empty)))] if rng.random() < 0.6 else self._anyone()
            figure = truncated(rng, donor, target)
            if figure is not None:
                chosen.append(figure)
                broken -= 1
        chosen.extend(self.empty[int(k)] for k in rng.integers(0, len(self.empty), empty))
        for members in self.redrawn:
            picked = rng.choice(len(members), min(redrawn // 2, len(members)), replace=False)
            chosen.extend(members[int(k)] for k in picked)
        return chosen

    def _scene_of_one(self) -> Figure:
        while True:
            figure = self._anyone()
            if figure.framing == "scene":
                return figure

    def _anyone(self, first: bool = False) -> Figure:
        views = self.people[int(self.rng.integers(len(self.people)))]
        return views[0 if first else int(self.rng.integers(self.views))]


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs and labels; `close` and `figure` crops exist for the B' pictures with a face, listed in `rows`.

    Labels (B or B',) int64, -1 where unknown; `second` (B,) 1.0 where a second face is there, else 0.0; grid targets (B, 5, 8, 8) as the network writes them, `grid_mask`
    (B, 8, 8) true where a face's box is to be learned.
    """

    pictures: Tensor
    close: Tensor
    figure: Tensor
    rows: Tensor
    scene_labels: dict[str, Tensor]
    close_labels: dict[str, Tensor]
    figure_labels: dict[str, Tensor]
    identity: Tensor
    shape: Tensor
    whole: Tensor
    second: Tensor
    grid: Tensor
    grid_mask: Tensor


def jittered(rng: np.random.Generator, box: NDArray[np.float64], amount: float) -> NDArray[np.float64]:
    """The box moved and scaled at random by about `amount` of its size."""
    x, y, w, h = box
    k = float(np.exp(rng.normal(0, amount)))
    dx, dy = rng.normal(0, 0.7 * amount, 2) * (w, h)
    return np.array([x + dx + w * (1 - k) / 2, y + dy + h * (1 - k) / 2, w * k, h * k])


def batch_of(figures: list[Figure], rng: np.random.Generator | None, jitter: float = 0.08) -> Batch:
    """Degrade, crop and label the figures; without `rng` pictures and boxes stay as they are."""
    images = [f.image if rng is None else degraded(rng, f.image) for f in figures]
    rows = [i for i, f in enumerate(figures) if f.face is not None]
    faces = [figures[i].face_shown for i in rows]
    boxes = faces if rng is None else [jittered(rng, face, jitter) for face in faces]
    labels = [readable(f) for f in figures]

    def column(name: str, keep: list[int]) -> Tensor:
        return torch.tensor([labels[i][name] for i in keep])

    everything = list(range(len(figures)))
    scene_labels = {n: column(n, everything) for n in SCENE_HEADS}
    for i, f in enumerate(figures):
        if f.whole == 0:  # scene, wall and style may be another picture's
            for name in ("scene", "wall_color", "weather", "style"):
                scene_labels[name][i] = -1
    grid, mask = grid_targets(figures)
    return Batch(
        pictures=to_tensor(images),
        close=to_tensor([crop(images[i], b, CLOSE) for i, b in zip(rows, boxes, strict=True)]),
        figure=to_tensor([crop(images[i], b, FIGURE) for i, b in zip(rows, boxes, strict=True)]),
        rows=torch.tensor(rows),
        scene_labels=scene_labels,
        close_labels={n: column(n, rows) for n in CLOSE_HEADS},
        figure_labels={n: column(n, rows) for n in FIGURE_HEADS},
        identity=torch.tensor([-1 if figures[i].altered else figures[i].identity for i in rows]),
        shape=torch.tensor([face_shape(figures[i].identity) for i in rows], dtype=torch.float32),
        whole=torch.tensor([figures[i].whole for i in rows]),
        second=torch.tensor([float(f.second) for f in figures]),
        grid=grid,
        grid_mask=mask,
    )


def grid_targets(figures: list[Figure]) -> tuple[Tensor, Tensor]:
    """Face heat (Gaussian around each centre), offsets and log sizes on the 8 x 8 grid, and where they hold."""
    cells = SIDE // GRID_STRIDE
    grid = np.zeros((len(figures), 5, cells, cells), np.float32)
    mask = np.zeros((len(figures), cells, cells), bool)
    at = np.arange(cells) + 0.5
    for i, figure in enumerate(figures):
        for box in figure.faces:
            x, y, w, h = box / SIDE
            cx, cy = np.clip(((x + w / 2) * cells, (y + h / 2) * cells), 0, cells - 1e-3)
            heat = np.exp(-((at - cx)[None, :] ** 2 + (at - cy)[:, None] ** 2) / (2 * 0.5**2))
            grid[i, 0] = np.maximum(grid[i, 0], heat)
            for row in range(max(0, int(cy) - 1), min(cells, int(cy) + 2)):
                for col in range(max(0, int(cx) - 1), min(cells, int(cx) + 2)):
                    grid[i, 1:, row, col] = (
                        cx - col - 0.5,
                        cy - row - 0.5,
                        np.log(w),
                        np.log(h),
                    )
                    mask[i, row, col] = True
            grid[i, 0, int(cy), int(cx)] = 1.0
    return torch.from_numpy(grid), torch.from_numpy(mask)
