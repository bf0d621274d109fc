"""Whether a likeness is a copy: the face made, beside the given picture and another of the same person.

The copy-paste measure of MultiID-Bench (arXiv 2510.14975): with angles theta between embeddings,
(theta(made, other) - theta(made, given)) / theta(other, given). 1 is the given picture again, -1 the other
one, 0 as near to both; by the triangle inequality it lies between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sow.types import VisualCondition

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

COPYING = {  # columns of every metric that reads identities
    "id_distance_other": "the same distance to another picture of the condition's person",
    "copy_paste": "how much nearer the face is to the given picture than to the other one: 1 a copy, 0 "
    "as near to both, -1 the other",
}
ALIKE = 1e-6  # radians up to which the two pictures are one, as their authors have it


def copy_paste(made: ArrayLike, given: ArrayLike, other: ArrayLike) -> float:
    """The measure for three embeddings of any length, in [-1, 1]; 0 where `given` and `other` are one."""
    g, r, t = (_unit(v) for v in (made, given, other))
    apart = _angle(t, r)
    return 0.0 if apart < ALIKE else (_angle(g, t) - _angle(g, r)) / apart


def another_picture(condition: VisualCondition) -> VisualCondition | None:
    """Another picture of the condition's person, that `truth["another"]` draws or reads; None where it is not
    known who it is."""
    another = condition.truth.get("another")
    return None if another is None else another()


def _unit(v: ArrayLike) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    out = np.asarray(v, np.float64)
    return out / np.linalg.norm(out)


def _angle(a: ArrayLike, b: ArrayLike) -> float:
    return float(np.arccos(np.clip(np.dot(a, b), -1, 1)))
