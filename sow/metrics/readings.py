"""The judge's readings, kept by the image, the box, the judge's weights and code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sow.store.code import fingerprint_code
from sow.store.fingerprint import fingerprint
from sow.store.store import shared
from sow.types import Box

if TYPE_CHECKING:
    from PIL import Image

    from sow.people.judge import Reading


def readings(images: Sequence[Image.Image], boxes: Sequence[Box | None] | None = None) -> list[Reading]:
    """What the shipped judge reads in each image, `boxes` as for `Judge.read`;
    raises UserError without its weights."""
    from sow.people.judge import Judge, load_judge

    judge = load_judge()
    places = [None] * len(images) if boxes is None else list(boxes)
    code = fingerprint_code(Judge)  # and the weights, which lie beside it
    keys = [fingerprint(["judge", code, image, box]) for image, box in zip(images, places, strict=True)]

    def compute(new: list[int]) -> list[dict[str, Any]]:
        return [_plain(r) for r in judge.read([images[i] for i in new], [places[i] for i in new])]

    return [_reading(value) for value in shared().values(keys, compute)]


def _plain(reading: Reading) -> dict[str, Any]:
    return {
        "face": reading.face,
        "box": reading.face_box.as_list() if reading.face_box else None,
        "attributes": reading.attributes,
        "confidence": reading.confidence,
        "embedding": [float(v) for v in reading.embedding],
        "whole": reading.whole,
        "second": reading.second,
        "faces": reading.faces,
    }


def _reading(value: dict[str, Any]) -> Reading:
    from sow.people.judge import Reading

    return Reading(
        value["face"],
        Box(*value["box"]) if value["box"] else None,
        value["attributes"],
        value["confidence"],
        np.array(value["embedding"], np.float32),
        value["whole"],
        value["second"],
        value["faces"],
    )
