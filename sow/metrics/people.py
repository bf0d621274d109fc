"""The embedded world's metrics: its judge's counterparts of the benchmark's numbers, and fidelity inside the mask.

Boxes: a condition's *target* is where its masked subject lies on the canvas once the condition fills its box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sow.metrics import Value
from sow.types import Box, Sample, VisualCondition

if TYPE_CHECKING:
    from PIL import Image

    from sow.people.judge import Reading

OVERLAP = 0.5  # intersection over union from which a detected face counts as the condition's
BAND = 4  # pixels on each side of a box's border that its jump is compared with
FLAT = 0.5  # gray levels between neighbouring pixels below which surroundings count as flat
GRAY_STYLE = "pencil sketch"  # a style without colours: prompts' colours are not asked of it
COLORS = ("skin", "eyes", "hair_color", "clothing_color", "wall_color")


@dataclass(frozen=True)
class PeopleMetrics:
    """Faces by MTCNN and by the judge, identity, outline, prompt, pixels and seams of a sample."""

    def check(self) -> None:
        """Raises UserError where the judge's weights are missing."""
        from sow.people.judge import load_judge

        load_judge()

    def measure(self, samples: Sequence[Sample]) -> list[dict[str, Value]]:
        """One row a sample; numbers of several conditions are averaged, truths hold where they hold for all.

        face_detected        MTCNN finds a face anywhere on the image.
        face_judged          the judge does.
        head_is_condition    an MTCNN face overlaps the condition's target with IoU >= 0.5; False without a face.
        id_distance          Euclidean distance in [0, 2] of the judge's unit embeddings of the condition's face and of
                             the face at the target; None where neither MTCNN nor the judge sees a face.
        same_person          that distance is at most the judge's equal-error threshold; None like the distance.
        failure              truncated outline: the judge sees no torso joined to the head at the target.
        whole                the judge's probability of a whole outline, in [0, 1].
        text_agreement       share of the attribute values named by the prompt that the judge reads in the image,
                             None where the prompt names none; colours are not asked of a pencil sketch.
        text_missed          names of the attributes that disagree, joined by commas.
        psnr_condition       see `condition_psnr`, dB.        boundary             see `boundary_jump`, 1 = no seam.
        """
        from sow.metrics.faces import detect_all_faces
        from sow.people.judge import load_judge
        from sow.planner.base import mask_bounds, subject_box

        judge = load_judge()
        images = [s.image for s in samples]
        detected = detect_all_faces(images)
        free = judge.read(images)
        pairs = [
            (i, condition, box)
            for i, s in enumerate(samples)
            for condition, box in zip(s.request.conditions, s.plan.boxes, strict=True)
        ]
        targets = [subject_box(condition, box) for _, condition, box in pairs]
        heads = [_head(free[i], target) for (i, _, _), target in zip(pairs, targets, strict=True)]
        placed = judge.read([images[i] for i, _, _ in pairs], heads)
        references = judge.read([c.image for _, c, _ in pairs], [mask_bounds(c) for _, c, _ in pairs])
        rows: list[dict[str, Value]] = []
        for i, sample in enumerate(samples):
            mine = [k for k, pair in enumerate(pairs) if pair[0] == i]
            seen = bool(detected[i]) or free[i].face_box is not None
            distances = [distance(placed[k], references[k]) for k in mine] if seen else []
            whole = [placed[k].whole for k in mine]
            agreement, missed = text_agreement(sample.request.prompt, placed[mine[0]] if mine else free[i])
            rows.append(
                {
                    "face_detected": bool(detected[i]),
                    "face_judged": free[i].face_box is not None,
                    "head_is_condition": all(
                        any(face.iou(targets[k]) >= OVERLAP for face in detected[i]) for k in mine
                    ),
                    "id_distance": _mean(distances),
                    "same_person": all(d <= judge.calibration.same_person for d in distances)
                    if distances
                    else None,
                    "failure": any(w < judge.calibration.whole for w in whole) if whole else None,
                    "whole": _mean(whole),
                    "text_agreement": agreement,
                    "text_missed": ",".join(missed),
                    "psnr_condition": _mean(
                        [condition_psnr(sample.image, pairs[k][1], pairs[k][2]) for k in mine]
                    ),
                    "boundary": _mean([boundary_jump(sample.image, pairs[k][2]) for k in mine]),
                }
            )
        return rows


def distance(a: Reading, b: Reading) -> float:
    """Euclidean distance of two readings' unit embeddings, in [0, 2]."""
    return float(np.linalg.norm(a.embedding.astype(np.float64) - b.embedding))


def text_agreement(prompt: str, reading: Reading) -> tuple[float | None, list[str]]:
    """Share of the prompt's attribute values that the reading agrees with (None without any), and those it misses."""
    from sow.people.captions import parse

    asked = parse(prompt)
    if asked.get("presence") == "person":
        del asked["presence"]  # every prompt for a face says so
    if asked.get("style") == GRAY_STYLE:
        asked = {n: v for n, v in asked.items() if n not in COLORS}
    missed = [n for n, v in asked.items() if reading.attributes.get(n) != v]
    return (1 - len(missed) / len(asked) if asked else None), missed


def condition_psnr(image: Image.Image, condition: VisualCondition, box: Box) -> float:
    """Peak signal-to-noise ratio, 10 log10(255^2 / MSE) in dB, of the image against the condition inside its mask.

    The condition is resized to its box as the canvas was made; identical pixels give 100 dB, no pixel left gives nan.
    """
    from PIL import Image as Pillow

    size = (box.w, box.h)
    wanted = np.asarray(condition.image.convert("RGB").resize(size), np.float64)
    mask = (
        condition.mask.convert("L").resize(size) if condition.mask is not None else Pillow.new("L", size, 255)
    )
    inside = np.asarray(mask) >= 128
    got = np.asarray(image.convert("RGB").crop((box.x, box.y, box.right, box.bottom)), np.float64)
    if not inside.any():
        return math.nan
    error = float(((got - wanted)[inside] ** 2).mean())
    return min(100.0, 10 * math.log10(255**2 / error)) if error > 0 else 100.0


def boundary_jump(image: Image.Image, box: Box) -> float | None:
    """Seam across the border of `box`: mean |difference| of the luminance of pixels on either side of the border, over
    that of neighbouring pixels, in the same direction, within 4 px of it.

    1 means no seam, above 1 a visible one; the denominator is at least half a gray level, so a flat image gives 0.
    Borders on the edge of the image do not count; None where all are.
    """
    gray = np.asarray(image.convert("L"), np.float64)
    across: list[NDArray[np.float64]] = []
    around: list[NDArray[np.float64]] = []
    columns = slice(max(0, box.x), box.right), gray
    rows = slice(max(0, box.y), box.bottom), gray.T
    for (span, values), edges in ((columns, (box.y, box.bottom)), (rows, (box.x, box.right))):
        steps = np.abs(np.diff(values[:, span], axis=0))  # steps[i] lies between lines i and i + 1
        for edge in edges:
            if 0 < edge < values.shape[0]:
                across.append(steps[edge - 1])
                around.extend(
                    (steps[max(0, edge - 1 - BAND) : edge - 1].ravel(), steps[edge : edge + BAND].ravel())
                )
    if not across:
        return None
    return float(np.concatenate(across).mean()) / max(float(np.concatenate(around).mean()), FLAT)


def _head(reading: Reading, target: Box) -> Box:
    """The face that the judge found, where it is the one at the target; else the target itself."""
    found = reading.face_box
    return found if found is not None and found.iou(target) >= OVERLAP else target


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None and not math.isnan(v)]
    return sum(known) / len(known) if known else None
