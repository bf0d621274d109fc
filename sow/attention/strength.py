"""The adjustment factors of P+ and P- (Eq. 4 and 5)."""

from __future__ import annotations

from typing import Annotated

from sow.types import Bound, component


@component("p_plus")
class PPlus:
    """P+ (Eq. 5): rows of the condition-related region attend more to the condition, by `omega` before decays
    and gate.

    `omega` 0 adds exactly zero, which is what the option `none` is.
    """

    omega: Annotated[float, Bound(ge=0)]


@component("p_minus")
class PMinus:
    """P- (Eq. 4): rows of the condition attend less to everything outside it,
    by `omega` before decay and gate."""

    omega: Annotated[float, Bound(ge=0)]
