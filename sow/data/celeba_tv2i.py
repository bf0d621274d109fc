"""`data=celeba_tv2i`: a reconstruction of CelebA-TV2I from a local CelebAMask-HQ folder (Sec. V).

600 groups: 3 settings x 100 prompts x 2 faces, one prompt in ten for validation. The benchmark's prompts and
pairings were never published; prompts are in celeba_tv2i.yaml, pairings follow from the integers below, so
that they are the same on every machine. Layout of the data set, as its authors publish it:

    CelebA-HQ-img/N.jpg                                  N = 0 .. 29999
    CelebAMask-HQ-mask-anno/N div 2000/NNNNN_PART.png    parts that are hidden have no file
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image

from sow.data import SETTINGS, Group, Split
from sow.data.manifests import digest, keep
from sow.errors import UserError
from sow.store.files import place_of
from sow.store.fingerprint import fingerprint
from sow.types import Bound, Request, VisualCondition, component

PROMPTS_FILE = Path(__file__).with_suffix(".yaml")
IMAGES = 30_000  # of the data set
PER_FOLDER = 2000  # images whose masks share a folder
FACES = 2  # a prompt
VALIDATION_EVERY = 10  # one prompt in ten, with both its faces, is for validation
PAIRING_SEED = 20_241_119
PARTS = (
    "skin nose eye_g l_eye r_eye l_brow r_brow l_ear r_ear mouth u_lip l_lip hair hat ear_r neck_l neck cloth"
).split()


@dataclass(frozen=True)
class Entry:
    """What fixes one group before any file is read: prompt and number of the image in CelebAMask-HQ."""

    id: str
    setting: str
    split: str
    prompt: str
    image: int


@component("data")
class CelebaTV2I:
    """600 groups of a CelebAMask-HQ face and a prompt.

    `root`    the folder that holds CelebA-HQ-img and CelebAMask-HQ-mask-anno
    `parts`   whose union is the mask: what counts as the face
    `margin`  left free around the mask on each side, as a fraction of its longer side
    `size`    largest side of a condition in pixels; larger crops are reduced
    """

    root: str
    parts: list[str]
    margin: Annotated[float, Bound(ge=0, le=1)]
    size: Annotated[int, Bound(ge=16, le=4096)]  # a face needs that many pixels

    def __post_init__(self) -> None:
        unknown = [p for p in self.parts if p not in PARTS]
        if unknown or not self.parts:
            raise UserError(f"data.parts={self.parts}: choose from {', '.join(PARTS)} (data.parts)")

    def groups(self, split: Split) -> list[Group]:
        """The 60 groups of `validation`, the 540 of `test`, or `all`, in order of id.

        A condition's truth holds the number of its image. The manifest of the files that were used is kept in
        the cache; raises UserError for an unknown split, a missing or incomplete folder, and files that
        changed since.
        """
        wanted = [(i, e) for i, e in enumerate(entries()) if split in ("all", e.split)]
        if split not in ("validation", "test", "all"):
            raise UserError(f"data split {split!r} is unknown: choose validation, test or all")
        files = {e.image: self._complete(e.image) for _, e in self._checked(wanted)}
        hashes = {str(n): [digest(image), *(digest(m) for m in masks)] for n, (image, masks) in files.items()}
        made = [
            Group(e.id, e.setting, e.split, self._request(number, e, *files[e.image])) for number, e in wanted
        ]
        keep("celeba_tv2i", self._root(), self.manifest(), hashes)
        return made

    def manifest(self) -> dict[str, Any]:
        """Everything that fixes the benchmark apart from the images: entries, parts,
        margin, size and their hash."""
        fixed = {
            "entries": [asdict(e) for e in entries()],
            "parts": list(self.parts),
            "margin": self.margin,
            "size": self.size,
        }
        return {**fixed, "sha256": fingerprint(fixed)}

    def files(self) -> list[Path]:
        """The images and masks that the benchmark reads, those that exist."""
        return [p for e in entries() for p in (self._image(e.image), *self._masks(e.image)) if p.is_file()]

    def _root(self) -> Path:
        return place_of(self.root, "data.root")

    def _image(self, number: int) -> Path:
        return self._root() / "CelebA-HQ-img" / f"{number}.jpg"

    def _masks(self, number: int) -> list[Path]:
        folder = self._root() / "CelebAMask-HQ-mask-anno" / str(number // PER_FOLDER)
        return [folder / f"{number:05d}_{part}.png" for part in self.parts]

    def _checked(self, wanted: Sequence[tuple[int, Entry]]) -> Sequence[tuple[int, Entry]]:
        """`wanted`, once the folder is known to hold all of it."""
        root = self._root()
        if not root.is_dir():
            raise UserError(
                f"no folder {self.root}: give the folder of CelebAMask-HQ, which holds CelebA-HQ-img and "
                "CelebAMask-HQ-mask-anno (data.root)"
            )
        for name in ("CelebA-HQ-img", "CelebAMask-HQ-mask-anno"):
            if not (root / name).is_dir():
                raise UserError(
                    f"{self.root} has no folder {name}: give CelebAMask-HQ as its authors publish it "
                    "(data.root)"
                )
        images = [e.image for _, e in wanted]
        missing = [p for p in map(self._image, images) if not p.is_file()]
        missing += [masks[0] for masks in map(self._masks, images) if not any(p.is_file() for p in masks)]
        if missing:
            raise UserError(
                f"{self.root} lacks {len(missing)} of the {2 * len(wanted)} files that these groups need, "
                f"the first is {os.path.relpath(missing[0], root)}: unpack all of CelebAMask-HQ there "
                "(data.root)"
            )
        return wanted

    def _complete(self, number: int) -> tuple[Path, list[Path]]:
        return self._image(number), [p for p in self._masks(number) if p.is_file()]

    def _request(self, number: int, entry: Entry, image: Path, masks: Sequence[Path]) -> Request:
        picture, mask = cropped(_open(image, "RGB"), union(masks), self.margin, self.size)
        condition = VisualCondition(
            picture, mask, name=f"CelebA-HQ {entry.image}", truth={"image": entry.image}
        )
        return Request((condition,), entry.prompt, task=entry.setting, seed=number, id=entry.id)


@lru_cache(maxsize=1)
def prompts() -> dict[str, list[str]]:
    """100 prompts a setting, in the order that is part of the benchmark."""
    import yaml

    lists = yaml.safe_load(PROMPTS_FILE.read_text())
    return {setting: [*lists[setting]["shown"], *lists[setting]["ours"]] for setting in SETTINGS}


@lru_cache(maxsize=1)
def entries() -> tuple[Entry, ...]:
    """All 600 entries in order of id; no image serves twice."""
    order = np.random.default_rng(PAIRING_SEED).permutation(IMAGES)
    return tuple(_entries(iter(int(n) for n in order)))


def _entries(images: Iterator[int]) -> Iterator[Entry]:
    for setting, lines in prompts().items():
        for i, prompt in enumerate(lines):
            split = "validation" if i % VALIDATION_EVERY == 0 else "test"
            for j in range(FACES):
                yield Entry(f"{setting}-{i:03d}-{j}", setting, split, prompt, next(images))


def union(masks: Sequence[Path]) -> Image.Image:
    """The union "L" of the masks, 255 inside; raises UserError where it is empty or sizes differ."""
    total: np.ndarray | None = None
    for path in masks:
        part = np.asarray(_open(path, "L")) >= 128
        if total is not None and part.shape != total.shape:
            raise UserError(
                f"{path} is {part.shape[1]} x {part.shape[0]}, unlike the image's other masks (data.root)"
            )
        total = part if total is None else total | part
    if total is None or not total.any():
        raise UserError(
            f"the masks beside {masks[0]} are empty: choose other data.parts or unpack them again"
        )
    return Image.fromarray(total.astype(np.uint8) * 255)


def cropped(
    image: Image.Image, mask: Image.Image, margin: float, size: int
) -> tuple[Image.Image, Image.Image]:
    """Image and mask cut to a square around the mask and reduced to at most `size`;
    the mask may be of another size."""
    mask = mask.resize(image.size, Image.Resampling.NEAREST)
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    side = min(round((1 + 2 * margin) * max(right - left, bottom - top)), *image.size)
    x = min(max((left + right - side) // 2, 0), image.width - side)
    y = min(max((top + bottom - side) // 2, 0), image.height - side)
    window = (x, y, x + side, y + side)
    image, mask = image.crop(window), mask.crop(window)
    if side > size:
        image = image.resize((size, size), Image.Resampling.LANCZOS)
        mask = mask.resize((size, size), Image.Resampling.BOX).point([0] * 128 + [255] * 128)
    return image, mask


def _open(path: Path, mode: str) -> Image.Image:
    try:
        with Image.open(path) as opened:
            return opened.convert(mode)
    except Exception as error:  # whatever a damaged file makes of its decoder
        raise UserError(f"cannot read {path} as an image: unpack it again (data.root)") from error
