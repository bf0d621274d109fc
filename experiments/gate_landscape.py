"""`study=gate_landscape`: which reading of R_c (Eq. 7, A13) straddles tau? Its distribution per layer over
real runs.

The paper's tau is tuned on readings that it does not fix. Every reading here watches the same runs, and none
of them acts on them: what is read is what the gate would have seen, had it read that way at that step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Annotated, Any

from sow.errors import UserError
from sow.report import figures
from sow.report.figures import COLORS
from sow.types import component

from .core.fields import Count, Filled
from .core.finding import Finding, markdown_table
from .core.groups import evenly

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from sow.config.compose import Config
    from sow.types import Request

    from .core.study import StudyContext

NAME = "gate_landscape"
SHORT = ("reading", "mean", "uniform", "above_tau", "above_paper_tau", "open_gates", "straddles", "half_open")
OF_GATE = ("queries", "score", "scope", "min_points", "fraction")
OF_MODULATION = ("normalisation", "region", "resolutions", "blocks", "branches")


@component("study")
class GateLandscape:
    """See conf/study/gate_landscape.yaml."""

    groups: Count
    split: str
    readings: Annotated[Mapping[str, Any], Filled]
    only: list[str] | None
    paper_tau: float
    straddle: list[float]
    publish: bool

    def __post_init__(self) -> None:
        if len(self.straddle) != 2 or not 0 <= self.straddle[0] < self.straddle[1] <= 1:
            raise UserError(f"need 0 <= low < high <= 1, got {self.straddle} (study.straddle)")
        for name in self.only or ():
            if name not in self.readings:
                raise UserError(
                    f"{name} is an unknown reading: choose among {', '.join(self.readings)} (study.only)"
                )
        for name, change in self.readings.items():
            for key in change if isinstance(change, Mapping) else ["?"]:
                if key not in (*OF_GATE, *OF_MODULATION):
                    words = ", ".join((*OF_GATE, *OF_MODULATION))
                    raise UserError(
                        f"{key} is not part of a reading: choose among {words} (study.readings.{name})"
                    )

    def run(self, context: StudyContext) -> None:
        """Watch the runs, one table of every R_c, its summary, the figure."""
        import pandas as pd

        from sow.dynamics.record import flow_rows

        config = context.config
        readings = [name for name in self.readings if self.only is None or name in self.only]
        shadows = {name: shadow(config, self.readings[name], name) for name in readings}
        requests, settings = chosen(config, self.split, self.groups)
        sampler = context.sampler()
        with context.timed("plan"):
            plans = sampler.plan(requests)
        with context.timed("watch"):
            _, rows, _ = flow_rows(sampler, requests, plans, None, shadows, phases=("cycle",))
        table = pd.DataFrame([{**row, "setting": settings[row["request"]]} for row in rows])
        if not len(table):
            raise UserError(
                "no layer has both a condition and a related region: take a larger canvas or another box "
                "(height, width)"
            )
        tau = config.gate.tau
        full = summary(table, tau, self.paper_tau, self.straddle)
        short = [{k: row[k] for k in SHORT} for row in full]
        straddling = [row["reading"] for row in full if row["straddles"]]
        of_paper = [row["reading"] for row in full if row["straddles_paper_tau"]]
        Finding(
            NAME,
            {
                "tau": tau,
                "paper_tau": self.paper_tau,
                "runs": len(requests),
                "straddling": straddling,
                "straddling_paper_tau": of_paper,
                "readings": {row["reading"]: row for row in full},
            },
            f"{markdown_table(short)}\n{self.caption(tau, straddling, of_paper, len(requests))}",
            paint(table, readings, tau, self.paper_tau),
            {NAME: table.to_dict("records"), f"{NAME}_layers": by_layer(table, tau)},
            short,
            history(table),
        ).deliver(context, self.publish)

    def caption(self, tau: float, straddling: Sequence[str], of_paper: Sequence[str], runs: int) -> str:
        """What the table says of tau."""
        found, paper = (", ".join(names) or "none of these readings" for names in (straddling, of_paper))
        return (
            f"R_c over the layers whose own value decides and all steps in the cycles of {runs} runs of the "
            f"configured method. *above tau*: share of values above tau = {tau:g}; *open gates*: share of "
            "all layers and steps whose gate would be open, those of too few points by the value they "
            "borrow; *uniform*: what uniform attention reads, k / m. *half open*: the tau above which half "
            f"of the values would lie. Straddling tau: {found}; straddling the paper's {self.paper_tau:g}: "
            f"{paper}.\n"
        )


def shadow(config: Config, change: Mapping[str, Any], name: str) -> tuple[Any, Any, Any]:
    """(modulation, gate, decay) of one reading, validated as the components validate themselves."""
    from sow.attention.gate import RegionGate
    from sow.attention.modulation import Modulation

    if not isinstance(config.modulation, Modulation):
        raise UserError("there is nothing to gate without modulation: take modulation=dynamic (modulation)")
    own = {f.name: getattr(config.gate, f.name) for f in fields(RegionGate)}
    try:
        gate = RegionGate(**{**own, **{k: v for k, v in change.items() if k in OF_GATE}})
        modulation = replace(config.modulation, **{k: v for k, v in change.items() if k in OF_MODULATION})
    except UserError as error:
        raise UserError(f"{error} (study.readings.{name})") from error
    return modulation, gate, config.decay_distance


def chosen(config: Config, split: str, count: int) -> tuple[list[Request], dict[str, str]]:
    """`count` requests spread over the split, and the setting of each by id.

    Their task is left to the sampler: it decides what follows the cycles, and gates live in the cycles.
    """
    taken = evenly(config.data.groups(split), count)
    return [replace(g.request, task=None) for g in taken], {g.request.id: g.setting for g in taken}


def summary(
    table: pd.DataFrame, tau: float, paper_tau: float, straddle: Sequence[float]
) -> list[dict[str, Any]]:
    """One row per reading, of the layers whose own R_c decides (all layers where none does); open_gates
    counts every layer.

    A layer of few points reads far above tau whatever its attention does (k / m of 3 points is a third), and
    borrows.
    """
    rows = []
    for name, whole in table.groupby("reading", sort=False):
        part = whole[whole.own] if whole.own.any() else whole
        above, of_paper = float((part.r_c > tau).mean()), float((part.r_c > paper_tau).mean())
        low, tenth, middle, ninth, high = part.r_c.quantile([0.05, 0.1, 0.5, 0.9, 0.95])
        rows.append(
            {
                "reading": str(name),
                "mean": float(part.r_c.mean()),
                "low_5%": float(low),
                "high_95%": float(high),
                "uniform": float(part.uniform.mean()),
                "above_tau": above,
                "above_paper_tau": of_paper,
                "open_gates": float(whole.open.mean()),
                "straddles": straddle[0] < above < straddle[1],
                "straddles_paper_tau": straddle[0] < of_paper < straddle[1],
                "half_open": float(middle),
                "tenth_open": float(ninth),
            }
        )
    return rows


def by_layer(table: pd.DataFrame, tau: float) -> list[dict[str, Any]]:
    """One row per reading and layer."""
    grouped = table.assign(above=table.r_c > tau).groupby(["reading", "layer", "tokens"], sort=False)
    numbers = grouped.agg(
        mean=("r_c", "mean"),
        std=("r_c", "std"),
        low=("r_c", lambda x: x.quantile(0.05)),
        high=("r_c", lambda x: x.quantile(0.95)),
        uniform=("uniform", "mean"),
        points=("points", "mean"),
        above_tau=("above", "mean"),
        open_gates=("open", "mean"),
    )
    return numbers.reset_index().to_dict("records")


def history(table: pd.DataFrame) -> list[dict[str, float]]:
    """Mean R_c of every reading over the steps."""
    means = table.groupby(["step", "reading"], sort=True).r_c.mean().unstack()
    return [{str(name): float(value) for name, value in row.items()} for _, row in means.iterrows()]


def short_name(layer: str) -> str:
    """down_blocks.0.attentions.1.transformer_blocks.0.attn1 -> down 0.1."""
    parts = layer.split(".")
    block = parts[0].removesuffix("_blocks").removesuffix("_block")
    numbers = [p for p in parts[1:] if p.isdigit()]
    return f"{block} {'.'.join(numbers[:-1] if len(numbers) > 1 else numbers)}".strip()


def paint(table: pd.DataFrame, readings: Sequence[str], tau: float, paper_tau: float) -> Figure:
    """A panel per reading: the middle 90 % (thin), the middle half (thick) and median of R_c in every layer.

    Layers stand in the order of the UNet, against tau and against what uniform attention would read.
    """
    layers = list(dict.fromkeys(table.layer))
    sizes = table.groupby("layer").tokens.first()
    heads = [f"{short_name(n)}\n{sizes[n]}" for n in layers]
    columns = 2 if len(readings) > 1 else 1
    rows = -(-len(readings) // columns)

    def fill(figure: Figure) -> None:
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axis in axes.flat[len(readings) :]:
            axis.set_visible(False)
        for axis, name in zip(axes.flat, readings):
            part = table[table.reading == name]
            for place, layer in enumerate(layers):
                values = part[part.layer == layer]
                if not len(values):
                    continue
                color = COLORS["blue"] if values.own.any() else COLORS["gray"]
                q = values.r_c.quantile([0.05, 0.25, 0.5, 0.75, 0.95]).to_list()
                axis.plot([place] * 2, [q[0], q[4]], color=color, lw=1)
                axis.plot([place] * 2, [q[1], q[3]], color=color, lw=4, solid_capstyle="butt")
                axis.plot(place, q[2], "o", color="white", mec=COLORS["black"], mew=0.6, ms=3.5)
                uniform = values.uniform.mean()
                axis.plot([place - 0.35, place + 0.35], [uniform] * 2, color=COLORS["orange"], lw=1.2)
            axis.axhline(tau, color=COLORS["vermilion"], ls="--", lw=1)
            axis.axhline(paper_tau, color=COLORS["black"], ls=":", lw=1)
            opened = float(part.open.mean()) if len(part) else float("nan")
            axis.set_title(f"{name.replace('_', ' ')}: {opened:.1%} of gates open", fontsize=8)
            axis.set_xticks(range(len(layers)), heads, rotation=60, fontsize=6)
        for axis in axes[:, 0]:
            axis.set_ylabel("R_c")
        for axis in axes[-1]:
            axis.set_xlabel("self-attention layer, tokens")
        looks: dict[str, dict[str, Any]] = {
            f"tau = {tau:g}": {"color": COLORS["vermilion"], "ls": "--"},
            f"the paper's {paper_tau:g}": {"color": COLORS["black"], "ls": ":"},
            "uniform attention": {"color": COLORS["orange"]},
            "middle half (thin: 90 %)": {"color": COLORS["blue"], "lw": 4},
            "too few points, borrows": {"color": COLORS["gray"], "lw": 4},
        }
        handles = [axes[0, 0].plot([], [], label=words, **look)[0] for words, look in looks.items()]
        figure.legend(handles=handles, loc="outside upper center", ncols=5)

    return figures.draw(4.2 * columns, 1.7 * rows + 0.9, fill)
