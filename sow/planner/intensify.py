"""Whether the planner's intensified prompt is used (Table II, PI)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from sow.types import Plan, Request


class Intensify(Protocol):
    """Chooses c' of a plan."""

    def apply(self, request: Request, plan: Plan) -> Plan:
        """The plan with the prompt to use."""
        ...


@dataclass(frozen=True)
class Planned:
    """c' as the planner wrote it (Sec. IV-A, stage 1)."""

    def apply(self, request: Request, plan: Plan) -> Plan:
        """The plan unchanged."""
        return plan


@dataclass(frozen=True)
class Off:
    """No prompt intensification: c' = c (Table II, no PI)."""

    def apply(self, request: Request, plan: Plan) -> Plan:
        """The plan with the user's own prompt."""
        return replace(plan, prompt=request.prompt, details={**plan.details, "intensify": "off"})
