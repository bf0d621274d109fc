"""Whether a likeness is a copy: the face made, beside the given picture and another of the same person.

The copy-paste measure of MultiID-Bench (arXiv 2510.14975): with angles theta between embeddings,
(theta(made, other) - theta(made, given)) / theta(other, given). 1 is the given picture again, -1 the other
one, 0 as near to both; by the triangle inequality it lies between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from sow.types import VisualCondition

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

ALIKE = 1e-6  # radians up to which the two pictures are one, as their authors have it
_OTHER_SEED = 7919  # added to a picture's seed: another pose, gaze and hair


def copy_paste(made: ArrayLike, given: ArrayLike, other: ArrayLike) -> float:
    """The measure for three embeddings of any length, in [-1, 1]; 0 where `given` and `other` are one."""
    g, r, t = (_unit(v) for v in (made, given, other))
    apart = _angle(t, r)
    return 0.0 if apart < ALIKE else (_angle(g, t) - _angle(g, r)) / apart


def another_picture(condition: VisualCondition) -> VisualCondition | None:
    """Another picture of the condition's person; None where it is not known who that is.

    A photograph's is the file that `truth["another"]` names. A drawn person is drawn again by the identity:
    another pose, light and expression, the same hair, glasses and age.
    """
    from PIL import Image

    truth = condition.truth
    if (path := truth.get("another")) is not None:
        from sow.data.images import read_image

        return VisualCondition(read_image(str(path), "data.root")[0], name=str(path))
    if truth.get("identity") is None or "seed" not in truth:
        return None
    from sow.people.captions.attributes import VOCABULARY, Attributes
    from sow.people.drawing.render import face_condition

    known = Attributes(**truth["attributes"])
    expressions: Sequence[str] = VOCABULARY["expression"]
    other = expressions[(expressions.index(known.expression) + 1) % len(expressions)]
    seed = int(truth["seed"]) + _OTHER_SEED
    attributes = replace(known, expression=other)
    image, mask = face_condition(seed, int(truth["identity"]), attributes, condition.image.width)
    return VisualCondition(
        Image.fromarray(image),
        Image.fromarray(mask.astype(np.uint8) * 255),
        name=f"{condition.name}, another",
    )


def _unit(v: ArrayLike) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    out = np.asarray(v, np.float64)
    return out / np.linalg.norm(out)


def _angle(a: ArrayLike, b: ArrayLike) -> float:
    return float(np.arccos(np.clip(np.dot(a, b), -1, 1)))
