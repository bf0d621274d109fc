"""The judge on pictures that a model made from captions alone: does it agree with MTCNN,
and with what the captions say?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sow.config.places import PACKAGE
from sow.metrics.people import OVERLAP

if TYPE_CHECKING:
    from sow.people.judge import Reading
    from sow.types import Box

WEIGHTS = PACKAGE / "people" / "weights"


def measure(count: int, steps: int) -> dict[str, Any]:
    """`agreement` on `count` pictures of the embedded model for held-out captions,
    `steps` DDIM steps at guidance 7.5."""
    from PIL import Image

    from sow.metrics.faces import detect_faces
    from sow.people.captions.captions import parse
    from sow.people.judge import load_judge
    from sow.people.training.export import load_pipeline
    from sow.people.training.grids import held_out_captions, sample

    rows = held_out_captions(count)
    prompts, seeds = [text for _, text, _ in rows], [seed for *_, seed in rows]
    images = sample(load_pipeline(WEIGHTS), prompts, seeds, steps=steps, guidance=7.5)
    found = detect_faces([Image.fromarray(image) for image in images])
    stated = [parse(text) for text in prompts]
    return {"steps": steps, **agreement(stated, load_judge().read(list(images)), found)}


def agreement(
    stated: Sequence[dict[str, str]], readings: Sequence[Reading], found: Sequence[Box | None]
) -> dict[str, Any]:
    """Counts over pictures: `stated` by the captions, read by the judge, `found` by MTCNN."""
    both = [(r.face_box, f) for r, f in zip(readings, found, strict=True) if r.face_box and f]
    nobody = [r for s, r in zip(stated, readings, strict=True) if s.get("presence") == "nobody"]
    person = [r for s, r in zip(stated, readings, strict=True) if s.get("presence") != "nobody"]
    return {
        "pictures": len(readings),
        "mtcnn_finds": sum(f is not None for f in found),
        "both_find": len(both),
        "same_place": sum(r.iou(f) >= OVERLAP for r, f in both),
        "captions_of_a_person": len(person),
        "face_read_of_them": sum(r.face_box is not None for r in person),
        "captions_of_nobody": len(nobody),
        "no_face_read_of_them": sum(r.face_box is None for r in nobody),
    }


def markdown(found: dict[str, Any]) -> str:
    """The counts as a table."""
    lines = [
        f"| {found['pictures']} generated pictures, {found['steps']} steps | judge |",
        "| --- | ---: |",
        f"| finds a face where MTCNN finds one | {found['both_find']} of {found['mtcnn_finds']} |",
        f"| at the same place (IoU >= {OVERLAP}) | {found['same_place']} of {found['both_find']} |",
        f"| finds a face where the caption names a person | {found['face_read_of_them']} of "
        f"{found['captions_of_a_person']} |",
        f"| finds none where it names nobody | {found['no_face_read_of_them']} of "
        f"{found['captions_of_nobody']} |",
    ]
    return "\n".join(lines) + "\n"
