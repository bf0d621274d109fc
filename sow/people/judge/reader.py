"""The trained judge: reads pictures, and states what it sees with calibrated probabilities."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sow.errors import UserError
from sow.models.loading import fill
from sow.people.captions.attributes import PERSON_FIELDS, VOCABULARY
from sow.people.judge.crops import CLOSE, FIGURE, crop, letterbox, to_tensor
from sow.people.judge.network import SIDE, JudgeNetwork, strongest_face
from sow.store.checksums import check_files, write_checksums
from sow.types import Box

WEIGHTS = Path(__file__).with_name("weights.safetensors")


@dataclass(frozen=True)
class Calibration:
    """Temperatures divide the logits of a head; thresholds are on probabilities, `same_person` on a distance in [0, 2]."""

    temperatures: dict[str, float]
    face: float = 0.5
    whole: float = 0.5
    second: float = 0.5
    same_person: float = 1.0


@dataclass(frozen=True, eq=False)
class Reading:
    """What the judge sees in one picture.

    `face` probability that a face is there; `face_box` in pixels of the picture, None where no face is seen (a given box
    is returned as it was). `attributes` and `confidence` (probability of the chosen value) by name; those of a person
    are left out where neither a face is seen nor a box given. `embedding` (64,) unit vector, `whole` probability that
    head and body are joined; without a face or box both are nan. `second` probability that a second face is there, whole
    or in part, beside the first or within its head; `faces` 0, 1, or 2 where there are more than one.
    """

    face: float
    face_box: Box | None
    attributes: dict[str, str]
    confidence: dict[str, float]
    embedding: NDArray[np.float32]
    whole: float
    second: float
    faces: int


class Judge:
    """Batched reading of pictures of any size by a trained network."""

    def __init__(self, network: JudgeNetwork, calibration: Calibration, batch: int = 64) -> None:
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.calibration = calibration
        self.batch = batch

    def read(
        self,
        images: Sequence[Image.Image | NDArray[np.uint8]],
        boxes: Sequence[Box | None] | None = None,
    ) -> list[Reading]:
        """Read each picture; a given face box replaces the one that the judge finds. Raises ValueError for a length mismatch."""
        boxes = [None] * len(images) if boxes is None else list(boxes)
        if len(boxes) != len(images):
            raise ValueError(f"{len(images)} images but {len(boxes)} boxes")
        readings: list[Reading] = []
        for start in range(0, len(images), self.batch):
            stop = start + self.batch
            readings.extend(self._read(images[start:stop], boxes[start:stop]))
        return readings

    @torch.no_grad()
    def _read(
        self,
        images: Sequence[Image.Image | NDArray[np.uint8]],
        boxes: Sequence[Box | None],
    ) -> list[Reading]:
        arrays = [as_array(image) for image in images]
        squares = [letterbox(array) for array in arrays]
        pictures = [square[0] for square in squares]
        scene, more, grid = self.network.forward_scene(to_tensor(pictures))
        logit, found = strongest_face(grid)
        temperature = self.calibration.temperatures.get("face", 1.0)
        face = torch.sigmoid(logit / temperature).numpy()
        places: list[NDArray[np.float64]] = []
        for i, (given, (_, scale, (dx, dy))) in enumerate(zip(boxes, squares, strict=True)):
            if given is None:
                places.append(found[i].numpy().astype(np.float64) * SIDE)
            else:
                places.append(np.array(given.as_list(), float) * scale + (dx, dy, 0, 0))
        close, embedding = self.network.forward_close(
            to_tensor([crop(p, b, CLOSE) for p, b in zip(pictures, places, strict=True)])
        )
        figure, whole = self.network.forward_figure(
            to_tensor([crop(p, b, FIGURE) for p, b in zip(pictures, places, strict=True)])
        )
        joined = torch.sigmoid(whole / self.calibration.temperatures.get("whole", 1.0)).numpy()
        second = torch.sigmoid(more / self.calibration.temperatures.get("second", 1.0)).numpy()
        heads = {**scene, **close, **figure}
        probabilities = {
            n: torch.softmax(v / self.calibration.temperatures.get(n, 1.0), 1).numpy()
            for n, v in heads.items()
        }
        readings = []
        for i, (given, (_, scale, offset)) in enumerate(zip(boxes, squares, strict=True)):
            seen = bool(face[i] >= self.calibration.face)
            person = seen or given is not None
            box = given if given is not None else _back(places[i], scale, offset, arrays[i]) if seen else None
            names = [n for n in VOCABULARY if person or n not in PERSON_FIELDS]
            best = {n: int(probabilities[n][i].argmax()) for n in names}
            readings.append(
                Reading(
                    face=float(face[i]),
                    face_box=box,
                    attributes={n: VOCABULARY[n][k] for n, k in best.items()},
                    confidence={n: float(probabilities[n][i][k]) for n, k in best.items()},
                    embedding=embedding[i].numpy()
                    if person
                    else np.full(embedding.shape[1], np.nan, np.float32),
                    whole=float(joined[i]) if person else float("nan"),
                    second=float(second[i]),
                    faces=(2 if second[i] >= self.calibration.second else 1) if seen else 0,
                )
            )
        return readings


def as_array(image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB uint8 (H, W, 3) of a PIL picture or an array; raises ValueError for any other array."""
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"need a uint8 array (H, W, 3), got {image.dtype} {image.shape}")
    return image


def _back(
    box: NDArray[np.float64],
    scale: float,
    offset: tuple[int, int],
    image: NDArray[np.uint8],
) -> Box | None:
    """The box in pixels of the original picture, clipped to it; None where nothing is left of it."""
    x, y, w, h = (box - (*offset, 0, 0)) / scale
    height, width = image.shape[:2]
    x0, y0 = max(0, round(x)), max(0, round(y))
    x1, y1 = min(width, round(x + w)), min(height, round(y + h))
    return Box(x0, y0, x1 - x0, y1 - y0) if x1 > x0 and y1 > y0 else None


def save_judge(
    path: Path,
    network: JudgeNetwork,
    calibration: Calibration,
    report: dict[str, object],
) -> None:
    """Write the weights in float16, with calibration and report as JSON in the metadata, and their checksum beside them."""
    from safetensors.torch import save_file

    tensors = {
        name: value.detach().to(torch.float16).contiguous()
        if value.is_floating_point()
        else value.contiguous()
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    metadata = {
        "temperatures": json.dumps(calibration.temperatures),
        "thresholds": json.dumps(
            {
                "face": calibration.face,
                "whole": calibration.whole,
                "second": calibration.second,
                "same_person": calibration.same_person,
            }
        ),
        "report": json.dumps(report),
    }
    save_file(tensors, str(path), metadata=metadata)
    write_checksums(path.parent, [path.name])


@lru_cache(maxsize=2)
def load_judge(path: Path = WEIGHTS) -> Judge:
    """The judge whose weights ship with the package (loaded once); raises UserError where the file is missing."""
    from safetensors import safe_open

    if not path.is_file():
        raise UserError(
            f"the judge's weights are missing at {path}: run `python run.py study=train_judge` (metrics=people)"
        )
    check_files(path.parent, "metrics=people")
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
        state = {name: file.get_tensor(name).to(torch.float32) for name in file.keys()}  # noqa: SIM118
    network = JudgeNetwork()
    fill(network, state, str(path), "metrics=people")
    calibration = Calibration(json.loads(metadata["temperatures"]), **json.loads(metadata["thresholds"]))
    return Judge(network, calibration)
