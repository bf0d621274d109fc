"""Whether the planner's intensified prompt is used (Table II, PI)."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from sow.types import Plan, Request, component


class Intensify(Protocol):
    """Chooses c' of a plan."""

    def apply(self, request: Request, plan: Plan) -> Plan:
        """The plan with the prompt to use."""
        ...


@component("intensify")
class Planned:
    """c' as the planner wrote it (Sec. IV-A, stage 1)."""

    def apply(self, request: Request, plan: Plan) -> Plan:
        """The plan unchanged."""
        return plan


@component("intensify")
class Off:
    """No prompt intensification: c' = c (Table II, no PI)."""

    def apply(self, request: Request, plan: Plan) -> Plan:
        """The plan with the user's own prompt."""
        return replace(plan, prompt=request.prompt, details={**plan.details, "intensify": "off"})
