"""`study=information_flow`: is one-way diffusion one-way? Plain sampling, COW and SOW side by side on the
same plans.

Three measures, one row a number on disk: attention mass between condition, related region and rest
(attention.parquet), R_c of every layer (gates.parquet), and the change of the final latents in each region
after a perturbation of one region at one step (responses.parquet). `sow/dynamics/` defines them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sow.errors import UserError
from sow.types import Bound, Request, component

from . import information_flow_figure as pictures
from .core.fields import LIMIT, Count, Filled
from .core.finding import Finding, markdown_table
from .core.recompose import with_words

if TYPE_CHECKING:
    import pandas as pd

    from sow.config.compose import Config
    from sow.pipeline.pipeline import Pipeline
    from sow.types import Plan

    from .core.study import StudyContext

NAME = "information_flow"
PLAIN = "plain"
SOURCES = ("condition", "related", "rest", "held")
COLUMNS = {  # headline number -> what it is called in a table
    "one_wayness": "one-wayness w",
    "one_wayness_once": "w, condition perturbed once",
    "held_out": "held condition -> others",
    "out": "condition once -> others",
    "back": "others -> condition",
    "c_to_nc": "attention c -> nc",
    "cr_to_c": "attention cr -> c",
    "rest_to_c": "attention rest -> c",
    "text_to_nc": "attention text -> nc",
    "c_to_text": "attention c -> text",
    "r_c": "R_c",
    "open": "gates open",
}


@component("study")
class InformationFlow:
    """See conf/study/information_flow.yaml."""

    methods: Annotated[Mapping[str, Any], Filled]
    only: list[str] | None
    seeds: Count
    causal_seeds: Annotated[int, Bound(ge=0, le=LIMIT)]
    positions: Count
    strength: Annotated[float, Bound(gt=0)]
    sources: list[str]
    region: Literal["mask", "box"]
    noise_seed: int
    publish: bool

    def __post_init__(self) -> None:
        for name, words in self.methods.items():
            if words != PLAIN and not isinstance(words, (list, tuple)):
                raise UserError(f"{name} is `plain` or a list of overrides, got {words!r} (study.methods)")
        for name in self.only or ():
            if name not in self.methods:
                raise UserError(
                    f"{name} is an unknown method: choose among {', '.join(self.methods)} (study.only)"
                )
        if wrong := [s for s in self.sources if s not in SOURCES]:
            raise UserError(f"sources are of {', '.join(SOURCES)}, got {wrong[0]!r} (study.sources)")

    def configurations(self, config: Config) -> list[Config]:
        """Those of the methods that are compared."""
        methods = [self.methods[n] for n in self.methods if self.only is None or n in self.only]
        return [with_words(config, words) for words in methods if words and words != PLAIN]

    def run(self, context: StudyContext) -> None:
        """Observe and perturb every method on the same requests and plans; tables, figure, numbers."""
        import pandas as pd

        from sow.dynamics.summary import history

        config = context.config
        requests = context.requests_by_seed(self.seeds)
        base = context.sampler()
        plans = base.plan(requests)
        tables: dict[str, list[dict[str, Any]]] = {"attention": [], "gates": [], "responses": []}
        maps: dict[str, Any] = {}
        methods = {n: words for n, words in self.methods.items() if self.only is None or n in self.only}
        for name, words in methods.items():
            sampler = sampler_of(config, base, words)
            own = same_places(plans, sampler.plan(requests) if words != PLAIN else plans)
            context.console.print(f"{name}: watching {len(requests)} runs, perturbing {self.causal_seeds}")
            with context.timed(name):
                rows = self.measure(context, sampler, requests, own, maps, name)
            for table, found in rows.items():
                tables[table] += [{"method": name, **row} for row in found]
        frames = {name: pd.DataFrame(rows) for name, rows in tables.items()}
        numbers = headline(frames, list(methods))
        short = [
            {"": words, **{method: row.get(column) for method, row in numbers.items()}}
            for column, words in COLUMNS.items()
            if any(row.get(column) is not None for row in numbers.values())
        ]
        text = f"{markdown_table(short)}\n{self.caption()}"
        figure = pictures.paint(frames, list(methods), maps, config.gate.tau)
        Finding(NAME, numbers, text, figure, tables, short, history(frames)).deliver(context, self.publish)

    def caption(self) -> str:
        """What the table's rows mean."""
        return (
            "*sampling* goes from x_t2 with neither cycles, replacement nor modulation; *COW* is SOW "
            "without modulation on the same plans, not `method=cow`. Latents of one region are perturbed by "
            f"noise of standard deviation {self.strength:g} at {self.positions} steps of "
            f"{min(self.causal_seeds, self.seeds)} runs each; responses are norms of the change of the "
            "final latents per unit of it, mean over steps. w = (out - back) / (out + back) of their "
            "energies: 1 where the condition changes the others and is changed by none, 0 where both are "
            "alike. A *held* condition is perturbed in every replacement from that step on; a perturbation "
            "made once is undone by the next. Attention is mass over what uniform attention would give, "
            f"over all steps and layers of {self.seeds} runs.\n"
        )

    def measure(
        self,
        context: StudyContext,
        sampler: Pipeline,
        requests: Sequence[Request],
        plans: Sequence[Plan],
        maps: dict[str, Any],
        name: str,
    ) -> dict[str, list[dict[str, Any]]]:
        """The three tables of one method; the maps of |change| of the first request go to `maps[name]`."""
        from sow.dynamics.record import Probe, flow_rows, layout, response_rows

        shadows = shadow(sampler, context.config)
        attention, gates, _ = flow_rows(sampler, requests, plans, self.region, shadows)
        probe = Probe(tuple(self.sources), self.positions, self.strength, self.region, self.noise_seed)
        responses: list[dict[str, Any]] = []
        for request, plan in list(zip(requests, plans, strict=True))[: self.causal_seeds]:
            rows, changes, _ = response_rows(sampler, request, plan, probe)
            responses += rows
            maps.setdefault(name, (changes, layout(sampler, request, plan, self.region)))
        return {"attention": attention, "gates": gates, "responses": responses}


def sampler_of(config: Config, base: Pipeline, words: Any) -> Pipeline:
    """The run's sampler with `words` on top of its own overrides,
    or without any of the method for `plain`."""
    from sow.dynamics.plain import plain
    from sow.pipeline.factory import build

    if words == PLAIN:
        return plain(base)
    if not words:
        return base
    sampler = build(with_words(config, words))
    if sampler.backbone is not base.backbone:
        raise UserError("the methods of one study share one model: leave model out (study.methods)")
    return sampler


def shadow(sampler: Pipeline, config: Config) -> dict[str, tuple[Any, Any, Any]]:
    """What reads R_c: the method's own modulation, gate and decay, else the run's;
    nothing if neither has a modulation."""
    from sow.attention.modulation import NoModulation

    owners: dict[str, Any] = {"own": sampler.method, "run": config}
    for name, own in owners.items():
        if not isinstance(own.modulation, NoModulation):
            return {name: (own.modulation, own.gate, own.decay_distance)}
    return {}


def same_places(plans: Sequence[Plan], own: Sequence[Plan]) -> list[Plan]:
    """Each method's own prompt in the boxes and related regions of `plans`: what differs is the flow."""
    return [replace(o, boxes=p.boxes, related=p.related) for p, o in zip(plans, own, strict=True)]


def headline(frames: Mapping[str, pd.DataFrame], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Per method: energies summed over steps, then w; RMS responses; attention relative to uniform; R_c.

    Means over requests. One-wayness also stands for the cycles and the preservation alone, None where a stage
    is absent.
    """
    from sow.dynamics.summary import attention_ratios, flows, gate_numbers

    out: dict[str, dict[str, Any]] = {}
    for name in methods:
        part = {k: f[f.method == name] if len(f) else f for k, f in frames.items()}
        out[name] = {
            **flows(part["responses"]),
            **attention_ratios(part["attention"]),
            **gate_numbers(part["gates"]),
        }
    return out
