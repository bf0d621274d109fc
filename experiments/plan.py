"""`study=plan`: plans for a whole data set and nothing else, with what they cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sow import report
from sow.errors import UserError
from sow.types import Bound, component

from .core.fields import LIMIT, Count

if TYPE_CHECKING:
    from sow.types import Canvas, Plan, Request

    from .core.study import StudyContext

SPLITS = ("validation", "test", "all", "request")


@component("study")
class MakePlans:
    """Plans of the first `limit` groups of a `split` of the data, or of the configured request (`split`
    request).

    `workers` plans are made at the same time; the first `drawn` are drawn. `canvas` [width, height] with the
    VAE's `factor` spares loading the model.
    """

    split: Literal["validation", "test", "all", "request"]
    limit: Annotated[int | None, Bound(ge=1, le=LIMIT)]
    workers: Count
    drawn: Annotated[int, Bound(ge=0, le=LIMIT)]
    canvas: list[int] | None
    factor: Count

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise UserError(f"study.split={self.split} is not one of {', '.join(SPLITS)}")
        if self.canvas is not None and (len(self.canvas) != 2 or min(self.canvas) < 1):
            raise UserError(f"the canvas is [width, height] in pixels, got {self.canvas} (study.canvas)")

    def run(self, context: StudyContext) -> None:
        """Plan, write `plans.json`, draw, and sum up;
        UserError after all are tried when one could not be made."""
        from sow.planner.drawing import draw_plan

        canvas = self._canvas(context)
        requests = self._requests(context)
        started = time.time()
        with context.timed("plan"):
            plans = self._make(context, requests, canvas)
            context.planned(plans)
        tracked = context.tracked
        rows = [{"id": r.id, "task": r.task, **p.to_dict()} for r, p in zip(requests, plans, strict=True)]
        context.folder.save_json("plans.json", rows)
        pictures = {
            r.id: context.folder.save_image(f"{r.id}.png", draw_plan(r, p, canvas))
            for r, p in list(zip(requests, plans, strict=True))[: self.drawn]
        }
        summary = costs(plans, started)
        context.folder.save_json("metrics.json", summary)
        tracked.images(pictures)
        tracked.summary(summary)
        context.console.print(report.table(summary, context.seconds))
        context.console.print(f"plans: {context.folder.path / 'plans.json'}")

    def _canvas(self, context: StudyContext) -> Canvas:
        if self.canvas is None:
            return context.sampler().canvas
        from sow.models.backbone import make_canvas

        width, height = self.canvas
        return make_canvas(width, height, self.factor, context.config.calibration.condition_size)

    def _requests(self, context: StudyContext) -> list[Request]:
        if self.split == "request":
            return context.requests(1)
        groups = context.config.data.groups(self.split)
        if not groups:
            raise UserError(f"the data has no groups in {self.split} (data, study.split)")
        return [group.request for group in groups[: self.limit]]

    def _make(self, context: StudyContext, requests: Sequence[Request], canvas: Canvas) -> list[Plan]:
        from sow.planner import make_plans

        config = context.config

        def one(request: Request) -> Plan:
            return make_plans([request], config.planner, config.position, config.intensify, canvas)[0]

        done: dict[int, Plan] = {}
        failed: list[str] = []
        with report.bar(len(requests), "planning") as move, ThreadPoolExecutor(self.workers) as pool:
            futures: dict[Future[Plan], int] = {pool.submit(one, r): i for i, r in enumerate(requests)}
            try:
                for future in as_completed(futures):
                    try:
                        done[futures[future]] = future.result()
                    except UserError as error:
                        failed.append(f"{requests[futures[future]].id}: {error}")
                    move("planning", 1)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if failed:
            raise UserError(
                f"{len(failed)} of {len(requests)} plans could not be made, first {sorted(failed)[0]}; "
                "those of a language model that were made are stored, so that the same command asks for the "
                "missing ones only"
            )
        return [done[i] for i in range(len(requests))]


def costs(plans: Sequence[Plan], started: float) -> dict[str, Any]:
    """What the plans took: those asked for since `started` (UNIX seconds),
    and how many came from the store."""
    asked = [p for p in plans if _since(p.details.get("asked"), started)]
    stored = [p for p in plans if p.details.get("asked") and not _since(p.details["asked"], started)]
    known = [p.details["cost_usd"] for p in asked if p.details.get("cost_usd") is not None]
    return {
        "plans": len(plans),
        "asked_now": len(asked),
        "from_the_store": len(stored),
        "planned_offline_instead": sum("fallback_from" in p.details for p in plans),
        "requests": sum(p.details["requests"] for p in asked),
        "tokens_in": sum(p.details["tokens_in"] for p in asked),
        "tokens_out": sum(p.details["tokens_out"] for p in asked),
        "cost_usd": round(sum(known), 6) if asked and len(known) == len(asked) else None,
        "seconds_of_answers": round(sum(p.details["seconds"] for p in asked), 3),
    }


def _since(stamp: str | None, started: float) -> bool:
    return stamp is not None and datetime.fromisoformat(stamp).timestamp() >= started - 0.001
