"""`data=folder`: anybody's images and masks as groups, each image with prompts from a file or with the one
prompt.

root/NAME.jpg (or png, webp, tif, bmp)       the images
root/masks/NAME.png or root/NAME_mask.png    their masks; images without one take `mask`
root/others/NAME.jpg                         another picture of the same person, for the copy-paste measure
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from sow.data import SETTINGS, Group, Split
from sow.data.conditions import Photo, another_photo
from sow.data.manifests import digest, keep
from sow.errors import UserError
from sow.store.files import is_utf8, place_of
from sow.store.fingerprint import fingerprint, sha256
from sow.types import Bound, Request, component

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")


@component("data")
class ImageFolder:
    """The images of a folder times prompts.

    `prompts`     a text file (one a line, # comments), a YAML or JSON file (a list, or lists by setting), or
                  null
    `prompt`      the prompt where `prompts` is null        `setting`  its setting, and that of prompts
                  without one
    `images_per_prompt`  null = every image with every prompt; a number = that many a prompt, taken in turn
    `mask`        of images without a mask file: face (MTCNN's ellipse), none (all of the image) or require
    `keep`        white or black pixels of a mask file belong to the condition
    `crop`        auto | none | mask, as for condition=photo
    `validation`  share of the prompts, or of the images of a single prompt, whose groups are for validation
    """

    root: str
    prompts: str | None
    prompt: str
    setting: Literal["normal", "attribute", "style"]
    images_per_prompt: Annotated[int | None, Bound(ge=1)]
    mask: Literal["face", "none", "require"]
    keep: Literal["white", "black"]
    crop: Literal["auto", "none", "mask"]
    validation: Annotated[float, Bound(ge=0, le=1)]

    def groups(self, split: Split) -> list[Group]:
        """The groups of a split in a fixed order; each group's request has the seed of its place among all.

        Raises UserError for an unknown split, a folder without images, unusable images, masks or prompts, a
        split without groups, and files that changed since the manifest of the folder was written.
        """
        if split not in ("validation", "test", "all"):
            raise UserError(f"data split {split!r} is unknown: choose validation, test or all")
        wanted = [(i, e) for i, e in enumerate(self._entries()) if split in ("all", e["split"])]
        if not wanted:
            raise UserError(
                f"no group of {self.root} is for {split}: choose another split or data.validation (now "
                f"{self.validation})"
            )
        masks = {e["image"]: self._mask(self._root() / e["image"]) for _, e in wanted}
        used = {
            n: [digest(self._root() / n), *(digest(f) for f in (m, self._other(n)) if f)]
            for n, m in masks.items()
        }
        conditions = {name: self._condition(name, mask) for name, mask in masks.items()}
        keep("folder", self._root(), self.manifest(), used)
        return [
            Group(
                e["id"],
                e["setting"],
                e["split"],
                Request(conditions[e["image"]], e["prompt"], task=e["setting"], seed=number, id=e["id"]),
            )
            for number, e in wanted
        ]

    def manifest(self) -> dict[str, Any]:
        """Everything that fixes the groups apart from the images' bytes: entries,
        mask rules and their hash."""
        fixed = {"entries": self._entries(), "mask": self.mask, "keep": self.keep, "crop": self.crop}
        return {**fixed, "sha256": fingerprint(fixed)}

    def files(self) -> list[Path]:
        """The folder of the images and their masks, and the prompts' file."""
        return [self._root(), *([place_of(self.prompts, "data.prompts")] if self.prompts else [])]

    def _root(self) -> Path:
        return place_of(self.root, "data.root")

    def _images(self) -> list[str]:
        root = self._root()
        if not root.is_dir():
            raise UserError(f"no folder {self.root}: give a folder of images (data.root)")
        found = [
            p.name
            for p in root.iterdir()
            if p.suffix.lower() in ENDINGS and not p.stem.endswith("_mask") and not p.name.startswith(".")
        ]
        if not found:
            raise UserError(
                f"{self.root} holds no image ({', '.join(ENDINGS)}): give another folder (data.root)"
            )
        for name in found:
            if not is_utf8(name):
                raise UserError(
                    f"{self.root} holds an image whose name is no UTF-8, {name!a}: rename it (data.root)"
                )
        stems = [Path(n).stem for n in found]
        if len(set(stems)) < len(stems):
            twice = next(s for s in sorted(stems) if stems.count(s) > 1)
            raise UserError(f"{self.root} holds two images named {twice}: rename one (data.root)")
        return sorted(found)

    def _entries(self) -> list[dict[str, str]]:
        images, lists = self._images(), self._prompts()
        single = sum(map(len, lists.values())) == 1
        out, turn = [], 0
        for setting, lines in lists.items():
            for i, prompt in enumerate(lines):
                count = self.images_per_prompt or len(images)
                chosen = [images[(turn + j) % len(images)] for j in range(min(count, len(images)))]
                turn += len(chosen) if self.images_per_prompt else 0
                for name in chosen:
                    key = name if single else prompt
                    out.append(
                        {
                            "id": f"{setting}-{i:03d}-{Path(name).stem}",
                            "setting": setting,
                            "split": "validation" if _fraction(key) < self.validation else "test",
                            "prompt": prompt,
                            "image": name,
                        }
                    )
        return out

    def _prompts(self) -> dict[str, list[str]]:
        if self.prompts is None:
            return {self.setting: [self.prompt]}
        path = place_of(self.prompts, "data.prompts")
        lists = _read(path, self.setting)
        for setting, lines in lists.items():
            if setting not in SETTINGS:
                raise UserError(
                    f"{path} has prompts for {setting!r}: choose from {', '.join(SETTINGS)} (data.prompts)"
                )
            for line in lines:
                if not is_utf8(line):
                    raise UserError(
                        f"{path} has a prompt that is no text in UTF-8, {line!a}: correct it (data.prompts)"
                    )
            twice = [line for i, line in enumerate(lines) if line in lines[:i]]
            if twice:
                raise UserError(f"{path} has the prompt {twice[0]!r} twice: remove one (data.prompts)")
        if not any(lists.values()):
            raise UserError(f"{path} holds no prompt: write one a line (data.prompts)")
        return lists

    def _mask(self, image: Path) -> Path | None:
        """The mask file of an image; None where it has none and needs none."""
        beside = [image.parent / "masks" / f"{image.stem}{e}" for e in ENDINGS]
        beside += [image.with_name(f"{image.stem}_mask{e}") for e in ENDINGS]
        found = next((p for p in beside if p.is_file()), None)
        if found is None and self.mask == "require":
            raise UserError(
                f"{image} has no mask: put it at {beside[2]}, or choose data.mask=face or none (data.mask)"
            )
        return found

    def _condition(self, name: str, mask: Path | None) -> Any:
        rule = str(mask) if mask is not None else "none" if self.mask == "require" else self.mask
        try:
            photos = Photo(str(self._root() / name), rule, self.keep, self.crop, None).load(0)
        except UserError as error:  # the same words, with the keys of this group
            words = str(error).replace("condition.image", "data.root").replace("condition.", "data.")
            raise UserError(words) from error
        other = self._other(name)
        known = {} if other is None else {"another": partial(another_photo, str(other))}
        return tuple(replace(photo, truth={**photo.truth, **known}) for photo in photos)

    def _other(self, name: str) -> Path | None:
        """Another picture of the person on an image, where there is one."""
        places = (self._root() / "others" / f"{Path(name).stem}{e}" for e in ENDINGS)
        return next((place for place in places if place.is_file()), None)


def _read(path: Path, setting: str) -> dict[str, list[str]]:
    """Prompts by setting from a text, YAML or JSON file."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no regular file")
        text = path.read_text(encoding="utf-8-sig")  # a mark at the start is no letter of a prompt
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the prompts {path}: give a text or YAML file (data.prompts)") from error
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        lines = (line.strip() for line in text.splitlines())
        return {setting: [line for line in lines if line and not line.startswith("#")]}
    import yaml

    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no YAML: {str(error).splitlines()[0]} (data.prompts)") from error
    lists = value if isinstance(value, Mapping) else {setting: value}
    for lines in lists.values():
        if not isinstance(lines, list) or not all(isinstance(v, str) and v.strip() for v in lines):
            raise UserError(f"{path} needs a list of prompts, or one a setting (data.prompts)")
    return {str(name): [line.strip() for line in lines] for name, lines in lists.items()}


def _fraction(text: str) -> float:
    """A number in [0, 1) that a text alone decides,
    so that more images or prompts move none to another split."""
    return int(sha256(text)[:13], 16) / 16**13
