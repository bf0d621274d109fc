"""The gate R_c (Eq. 7): how much of the related region's attention to the condition sits in its nearest
fifth.

Notation
    a_i     score of point i of the guiding box towards the condition, from min-max-normalised logits (A13)
    m, k    number of points, and k = ceil(m / 5)
    R_c     mean over heads of sum_{j <= k} a_j / sum_{i <= m} a_i, points ordered by distance to o*
    s       sqrt(max(0, R_c - tau)), the factor of Eq. 8
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from sow.types import Bound, component

if TYPE_CHECKING:
    from torch import Tensor


def nearest_count(m: int, fraction: float) -> int:
    """k = ceil(m * fraction), computed without the rounding of m * 0.2 (15 points have 3 nearest, not 4)."""
    return max(1, math.ceil(round(m * fraction, 9)))


def r_c(scores: Tensor, fraction: float) -> Tensor:
    """Eq. 7 for `scores` (B, H, m), non-negative, points nearest first; returns (B,). All-zero scores count
    as uniform."""
    m = scores.shape[-1]
    k = nearest_count(m, fraction)
    total = scores.sum(-1)
    share = scores[..., :k].sum(-1) / total.where(total > 0, total + 1)
    return share.where(total > 0, share * 0 + k / m).mean(-1)


class Gate(Protocol):
    """How R_c is read, and how far it opens the modulation."""

    @property
    def tau(self) -> float: ...
    @property
    def queries(self) -> str: ...
    @property
    def score(self) -> str: ...
    @property
    def scope(self) -> str: ...
    @property
    def min_points(self) -> int: ...
    @property
    def fraction(self) -> float: ...

    def factor(self, value: Tensor) -> Tensor:
        """s of Eq. 8 for R_c of any shape; a missing R_c is nan."""
        ...


@component("gate")
class RegionGate:
    """The gate of Eq. 7 and 8.

    `tau`         threshold
    `queries`     "related": points are query tokens of the related region, averaged over the condition's
                  keys; "condition": points are key tokens of the related region, averaged over the
                  condition's queries (A13)
    `score`       "logits" min-max-normalised, or "softmax" probabilities (A13)
    `scope`       "layer": each layer gates itself; "previous": one value from the 16 x 16 layers of the step
                  before (A14)
    `min_points`  layers with fewer points use the finest layer's R_c of the step before (A19); 0 = never
    `fraction`    the nearest share of the points, one fifth
    """

    tau: Annotated[float, Bound(ge=0, le=1)]
    queries: Literal["related", "condition"]
    score: Literal["logits", "softmax"]
    scope: Literal["layer", "previous"]
    min_points: Annotated[int, Bound(ge=0)]
    fraction: Annotated[float, Bound(gt=0, le=1)]

    def factor(self, value: Tensor) -> Tensor:
        """s of Eq. 8 for R_c of any shape; a missing R_c (nan) keeps the gate shut."""
        return (value - self.tau).nan_to_num(0.0).clamp_min(0).sqrt()


@component("gate")
class AlwaysOpen:
    """No R_c judgement (Table III): modulation at every step with `factor` "one" (1) or "sqrt" (sqrt(1 -
    tau)).

    R_c is still measured for the trace, by the readings of `RegionGate`.
    """

    factor_of: Literal["one", "sqrt"]
    tau: Annotated[float, Bound(ge=0, le=1)]
    queries: Literal["related", "condition"]
    score: Literal["logits", "softmax"]
    scope: Literal["layer", "previous"]
    min_points: Annotated[int, Bound(ge=0)]
    fraction: Annotated[float, Bound(gt=0, le=1)]

    def factor(self, value: Tensor) -> Tensor:
        """1 or sqrt(1 - tau) whatever R_c is."""
        return value.nan_to_num(0.0) * 0 + (1.0 if self.factor_of == "one" else math.sqrt(1 - self.tau))
