"""The embedded world's metrics: its judge's counterparts of the benchmark's numbers, and the pixels' numbers.

Boxes: a condition's *target* is where its masked subject lies on the canvas once the condition fills its box.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from sow.metrics import Value, mean
from sow.metrics.copying import COPYING, another_picture, copy_paste
from sow.metrics.harmony import SEAM, seams
from sow.metrics.pixels import Pixels, boundary_jump, condition_psnr, pixel_row
from sow.types import Box, Sample, VisualCondition, component

if TYPE_CHECKING:
    from sow.people.judge import Reading

__all__ = ["PeopleMetrics", "boundary_jump", "condition_psnr", "distance", "text_agreement"]

OVERLAP = 0.5  # intersection over union from which a detected face counts as the condition's
GRAY_STYLE = "pencil sketch"  # a style without colours: prompts' colours are not asked of it
COLORS = ("skin", "eyes", "hair_color", "clothing_color", "wall_color")


@component("metrics")
class PeopleMetrics:
    """Faces by MTCNN and by the judge, identity, outline, prompt, pixels and seams of a sample."""

    COLUMNS: ClassVar[dict[str, str]] = {
        "face_detected": "MTCNN finds a face anywhere on the image",
        "face_judged": "the judge of the embedded world finds a face",
        "head_is_condition": "a face by MTCNN overlaps the condition with IoU >= 0.5",
        "id_distance": "distance of the judge's embeddings of the condition and the face at its place, in "
        "[0, 2]",
        **COPYING,
        "same_person": "that distance is within the judge's equal-error threshold",
        "failure": "truncated, or a second face on the image of one condition, as the judge sees them",
        "truncated": "no torso joined to the head at the condition's place (judge): the paper's failure",
        "faces": "faces that the judge sees: 0, 1, or 2 for more than one; made for pictures about square",
        "whole": "the judge's probability of a whole outline",
        "text_agreement": "share of the attributes named by the prompt that the judge reads in the image",
        "text_missed": "the attributes that disagree",
        "expression_follows": "the judge reads the expression that the prompt names",
        **Pixels.COLUMNS,
        **SEAM,
    }

    def files(self) -> list[Path]:
        """MTCNN's weights; the judge's and the seam classifier's lie beside their code."""
        from sow.metrics.faces import mtcnn_files

        return mtcnn_files()

    def check(self) -> None:
        """Raises UserError where the judge's or the seam classifier's weights are missing."""
        from sow.people.judge import load_judge
        from sow.people.seam import load_seam

        load_judge()
        load_seam()

    def measure(self, samples: Sequence[Sample]) -> list[dict[str, Value]]:
        """One row a sample; numbers of several conditions are averaged, truths hold where they hold for all.

        face_detected        MTCNN finds a face anywhere on the image.
        face_judged          the judge does.
        head_is_condition    an MTCNN face overlaps the condition's target with IoU >= 0.5; False without a
                             face.
        id_distance          Euclidean distance in [0, 2] of the judge's unit embeddings of the condition's
                             face and of
                             the face at the target; None where neither MTCNN nor the judge sees a face.
        id_distance_other    the same to another picture of the person, drawn in another pose and expression;
                             None like the distance, and where the condition's identity is not known.
        copy_paste           `sow.metrics.copying.copy_paste` of the three, in [-1, 1].
        same_person          that distance is at most the judge's equal-error threshold; None like the
                             distance.
        failure              truncated, or `faces` is 2 on the image of a single condition.
        truncated            truncated outline: the judge sees no torso joined to the head at the target;
                             what the paper counts as failure.
        faces                0, 1, or 2 where the judge sees more than one face, whole or in part.
        whole                the judge's probability of a whole outline, in [0, 1].
        text_agreement       share of the attribute values named by the prompt that the judge reads in the
                             image,
                             None where the prompt names none; colours are not asked of a pencil sketch.
        text_missed          names of the attributes that disagree, joined by commas.
        expression_follows   the expression is what the prompt names; None where it names none.
        psnr_condition       see `condition_psnr`, dB.        boundary, boundary_mask  see `boundary_jump`,
                             `outline_jump`.
        color_gap, light_gap see `sow.metrics.harmony.color_and_light`.
        seam                 probability of a composite, see `sow.people.seam`.

        Detections and readings are kept by the image (`sow.store.store.shared`).
        """
        from sow.metrics.faces import kept_faces
        from sow.metrics.readings import readings
        from sow.people.judge import load_judge

        judge = load_judge()
        images = [s.image for s in samples]
        detected = kept_faces(images)
        free = readings(images)
        pairs = [
            (i, condition, box)
            for i, s in enumerate(samples)
            for condition, box in zip(s.request.conditions, s.plan.boxes, strict=True)
        ]
        targets = [condition.subject_in(box) for _, condition, box in pairs]
        heads = [_head(free[i], target) for (i, _, _), target in zip(pairs, targets, strict=True)]
        placed = readings([images[i] for i, _, _ in pairs], heads)
        others = _others([c for _, c, _ in pairs])
        references = readings([c.image for _, c, _ in pairs], [c.bounds() for _, c, _ in pairs])
        visible = seams(samples)
        rows: list[dict[str, Value]] = []
        for i, sample in enumerate(samples):
            mine = [k for k, pair in enumerate(pairs) if pair[0] == i]
            seen = bool(detected[i]) or free[i].face_box is not None
            distances = [distance(placed[k], references[k]) for k in mine] if seen else []
            whole = [placed[k].whole for k in mine]
            truncated = any(w < judge.calibration.whole for w in whole) if whole else None
            second = len(mine) == 1 and free[i].faces > 1
            known = [k for k in mine if k in others] if seen else []
            read = [placed[k] for k in mine] or [free[i]]
            agreements, misses = zip(
                *(text_agreement(sample.request.prompt, one) for one in read), strict=True
            )
            missed = list(dict.fromkeys(name for names in misses for name in names))
            rows.append(
                {
                    "face_detected": bool(detected[i]),
                    "face_judged": free[i].face_box is not None,
                    "head_is_condition": all(
                        any(face.iou(targets[k]) >= OVERLAP for face in detected[i]) for k in mine
                    ),
                    "id_distance": mean(distances),
                    "id_distance_other": mean(distance(placed[k], others[k]) for k in known),
                    "copy_paste": mean(
                        copy_paste(placed[k].embedding, references[k].embedding, others[k].embedding)
                        for k in known
                    ),
                    "same_person": all(d <= judge.calibration.same_person for d in distances)
                    if distances
                    else None,
                    "failure": truncated or second if whole else None,
                    "truncated": truncated,
                    "faces": free[i].faces,
                    "whole": mean(whole),
                    "text_agreement": mean(agreements),
                    "text_missed": ",".join(missed),
                    "expression_follows": _follows(sample.request.prompt, "expression", missed),
                    **pixel_row(sample),
                    "seam": mean(visible[i]),
                }
            )
        return rows


def _others(conditions: Sequence[VisualCondition]) -> dict[int, Reading]:
    """What the judge reads in another picture of each condition's person, by place, where there is one."""
    from sow.metrics.readings import readings

    found = {k: o for k, c in enumerate(conditions) if (o := another_picture(c)) is not None}
    pictures = list(found.values())
    return dict(
        zip(found, readings([p.image for p in pictures], [p.bounds() for p in pictures]), strict=True)
    )


def _follows(prompt: str, name: str, missed: Sequence[str]) -> bool | None:
    from sow.people.captions.captions import parse

    return name not in missed if name in parse(prompt) else None


def distance(a: Reading, b: Reading) -> float:
    """Euclidean distance of two readings' unit embeddings, in [0, 2]."""
    return float(np.linalg.norm(a.embedding.astype(np.float64) - b.embedding))


def text_agreement(prompt: str, reading: Reading) -> tuple[float | None, list[str]]:
    """Share of the prompt's attribute values that the reading agrees with (None without any),
    and those it misses."""
    from sow.people.captions.captions import parse

    asked = parse(prompt)
    if asked.get("presence") == "person":
        del asked["presence"]  # every prompt for a face says so
    if asked.get("style") == GRAY_STYLE:
        asked = {n: v for n, v in asked.items() if n not in COLORS}
    missed = [n for n, v in asked.items() if reading.attributes.get(n) != v]
    return (1 - len(missed) / len(asked) if asked else None), missed


def _head(reading: Reading, target: Box) -> Box:
    """The face that the judge found, where it is the one at the target; else the target itself."""
    found = reading.face_box
    return found if found is not None and found.iou(target) >= OVERLAP else target
