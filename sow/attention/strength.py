"""The adjustment factors of P+ and P- (Eq. 4 and 5)."""

from __future__ import annotations

from dataclasses import dataclass

from sow.errors import UserError


@dataclass(frozen=True)
class PPlus:
    """P+ (Eq. 5): rows of the condition-related region attend more to the condition, by `omega` before decays and gate.

    `omega` 0 adds exactly zero, which is what the option `none` is.
    """

    omega: float
    _target_: str = "sow.attention.strength.PPlus"

    def __post_init__(self) -> None:
        if self.omega < 0:
            raise UserError(f"need omega >= 0, got {self.omega} (p_plus.omega)")


@dataclass(frozen=True)
class PMinus:
    """P- (Eq. 4): rows of the condition attend less to everything outside it, by `omega` before decay and gate."""

    omega: float
    _target_: str = "sow.attention.strength.PMinus"

    def __post_init__(self) -> None:
        if self.omega < 0:
            raise UserError(f"need omega >= 0, got {self.omega} (p_minus.omega)")
