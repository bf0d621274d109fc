"""The W&B dashboard as code: a workspace with panels for Tables II to IV, gate histories and phase curves.

    # saves the workspace; needs wandb-workspaces and a login:
    python tools/dashboard.py publish --entity ENTITY --project sow
    # the same panels from the offline W&B runs below RUNS:
    python tools/dashboard.py draw RUNS docs/figures/dashboard.png
    python tools/dashboard.py json                                      # the panels as plain containers

`SECTIONS` is all there is to edit; both commands read it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sow.runs.wandb_offline import OfflineRun


@dataclass(frozen=True)
class Panel:
    """One panel.

    `keys` are summary keys of bars, a regular expression of histories for lines, names of media; `x` the
    history on the horizontal axis; `study` the job type whose runs it shows, None = all.
    """

    title: str
    kind: Literal["bars", "lines", "media", "parallel", "importance", "compare"]
    keys: tuple[str, ...] = ()
    x: str = "step"
    label: str = ""
    study: str | None = None


def rows(table: str) -> list[str]:
    """Names of the rows of a table's experiment."""
    experiment = yaml.safe_load((ROOT / "conf" / "experiment" / f"{table}.yaml").read_text())
    return list(experiment["study"]["rows"])


def of_table(table: str) -> tuple[Panel, ...]:
    """Bars of a table's rows, a panel a metric."""
    metrics = {"id_distance": "ID-Distance (lower is better)", "failure": "failure rate (lower is better)"}
    return tuple(
        Panel(
            label.partition(" (")[0],
            "bars",
            tuple(f"{row}/{metric}" for row in rows(table)),
            label=label,
            study="benchmark",
        )
        for metric, label in metrics.items()
    )


SECTIONS: dict[str, tuple[Panel, ...]] = {
    "Table II: position, modulation, prompt": of_table("table2"),
    "Table III: parts of the modulation": of_table("table3"),
    "Table IV: cycles and their position": of_table("table4"),
    "Gate histories": (
        Panel("R_c by layer", "lines", (r"r_c/.*",), label="R_c", study="generate"),
        Panel("gate factor by layer", "lines", (r"gate/.*",), label="factor", study="generate"),
        Panel("norm of the latents", "lines", ("norm",), label="norm", study="generate"),
    ),
    "Phase curves": (
        Panel(
            "text sensitivity",
            "lines",
            ("effect", "text"),
            x="start",
            label="effect of a text window",
            study="text_sensitivity",
        ),
        Panel(
            "semantic formation",
            "lines",
            (r"cosine_\d+",),
            x="start",
            label="cosine similarity",
            study="semantic_formation",
        ),
        Panel(
            "diffusion in diffusion",
            "lines",
            ("contrast_kept", "own_kept", "own_kept_suppressed"),
            x="k",
            label="share kept",
            study="diffusion_in_diffusion",
        ),
    ),
    "Runs": (
        Panel("images", "media", ("image", "canvas", "cycles"), study="generate"),
        Panel("what the runs did", "parallel", ("gate.tau", "cycle.t1", "cycle.t2", "id_distance")),
        Panel("importance", "importance", ("id_distance",)),
        Panel("differences", "compare"),
    ),
}


def workspace(entity: str, project: str) -> Any:
    """The workspace as `wandb_workspaces` builds it; nothing is sent."""
    import wandb_workspaces.reports.v2 as reports
    import wandb_workspaces.workspaces as workspaces

    def built(panel: Panel) -> Any:
        if panel.kind == "bars":
            metrics = [reports.SummaryMetric(key) for key in panel.keys]
            return reports.BarPlot(title=panel.title, metrics=metrics, title_x=panel.label)
        if panel.kind == "lines":
            expression = "|".join(f"^{key}$" for key in panel.keys)
            return reports.LinePlot(
                title=panel.title, x=panel.x, metric_regex=expression, title_x=panel.x, title_y=panel.label
            )
        if panel.kind == "media":
            return reports.MediaBrowser(title=panel.title, media_keys=list(panel.keys))
        if panel.kind == "parallel":
            *configs, metric = panel.keys
            columns = [reports.ParallelCoordinatesPlotColumn(metric=reports.Config(key)) for key in configs]
            columns.append(reports.ParallelCoordinatesPlotColumn(metric=reports.SummaryMetric(metric)))
            return reports.ParallelCoordinatesPlot(title=panel.title, columns=columns)
        if panel.kind == "importance":
            return reports.ParameterImportancePlot(with_respect_to=panel.keys[0])
        return reports.RunComparer(diff_only=True)

    sections = [
        workspaces.Section(name=name, panels=[built(p) for p in panels], is_open=True)
        for name, panels in SECTIONS.items()
    ]
    return workspaces.Workspace(
        entity=entity, project=project, name="Selective One-Way Diffusion", sections=sections
    )


def draw(runs: Sequence[OfflineRun], target: Path) -> None:
    """Bars and lines of every section as one picture: of each panel the latest run that has it."""
    from sow.report import figures

    def paint(figure: Any) -> None:
        sections = {n: [p for p in panels if p.kind in ("bars", "lines")] for n, panels in SECTIONS.items()}
        sections = {name: panels for name, panels in sections.items() if panels}
        for part, (name, panels) in zip(figure.subfigures(len(sections), 1), sections.items(), strict=True):
            part.suptitle(name, fontsize=10, x=0.01, ha="left")
            for axis, panel in zip(part.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
                fill(axis, panel, runs)

    figure = figures.draw(11, 14, paint)
    with figures.style():
        figure.savefig(target, dpi=90)


def fill(axis: Axes, panel: Panel, runs: Sequence[OfflineRun]) -> None:
    """One panel from the last of the runs that have most to show in it; says so if there is none."""
    pool = [run for run in runs if panel.study in (None, run.job_type)]
    shown = [len(values(panel, run)) if panel.kind == "bars" else len(curves(panel, run)) for run in pool]
    if most := max(shown, default=0):
        run = [run for count, run in zip(shown, pool, strict=True) if count == most][-1]
        model = next((tag.partition(":")[2] for tag in run.tags if tag.startswith("model:")), "")
        axis.set_title(f"{panel.title}{f' (model={model})' if model else ''}", fontsize=9)
        return bars(axis, panel, run) if panel.kind == "bars" else lines(axis, panel, run)
    axis.set_title(panel.title, fontsize=9)
    axis.text(
        0.5, 0.5, "no such run yet", ha="center", va="center", transform=axis.transAxes, color="#666666"
    )
    axis.set_xticks([])
    axis.set_yticks([])


def values(panel: Panel, run: OfflineRun) -> dict[str, float]:
    """The numbers of the summary that the panel shows."""
    return {key: run.summary[key] for key in panel.keys if isinstance(run.summary.get(key), (int, float))}


def bars(axis: Axes, panel: Panel, run: OfflineRun) -> None:
    """Values with their intervals, where the summary has them."""
    from sow.report import figures

    found = dict(reversed(values(panel, run).items()))
    low = [max(0.0, v - (run.summary.get(f"{k}.low") or v)) for k, v in found.items()]
    high = [max(0.0, (run.summary.get(f"{k}.high") or v) - v) for k, v in found.items()]
    axis.barh(
        range(len(found)),
        list(found.values()),
        xerr=[low, high],
        color=figures.COLORS["sky"],
        ecolor="#222222",
    )
    axis.set_yticks(range(len(found)), [key.partition("/")[0] for key in found], fontsize=7)
    axis.set_xlabel(panel.label, fontsize=8)


def curves(panel: Panel, run: OfflineRun) -> dict[str, list[tuple[float, float]]]:
    """Points of each history that the panel shows."""
    expression = re.compile("|".join(f"(?:{key})" for key in panel.keys))
    found: dict[str, list[tuple[float, float]]] = {}
    for row in run.history:
        if not isinstance(row.get(panel.x), (int, float)):
            continue
        for key, value in row.items():
            if expression.fullmatch(key) and isinstance(value, (int, float)) and value == value:
                found.setdefault(key, []).append((row[panel.x], value))
    return found


def lines(axis: Axes, panel: Panel, run: OfflineRun) -> None:
    """A line per history, told apart by colour and dash."""
    from sow.report import figures

    for i, (name, points) in enumerate(curves(panel, run).items()):
        color, dash = (
            figures.CYCLE[i % len(figures.CYCLE)],
            ("-", "--", ":", "-.")[i // len(figures.CYCLE) % 4],
        )
        axis.plot(*zip(*points, strict=True), dash, color=color, lw=1.1, label=layer(name))
    if len(axis.lines) > 1:
        axis.legend(fontsize=5, ncols=2 if len(axis.lines) > 6 else 1)
    axis.set_xlabel(panel.x, fontsize=8)
    axis.set_ylabel(panel.label, fontsize=8)


def layer(name: str) -> str:
    """A history's name without its kind and what all layers share:
    gate/up_blocks.1.attentions.0. ... is up 1.0."""
    name = name.partition("/")[2] or name
    name = re.sub(r"(\.transformer_blocks\.0)?\.attn1$", "", name)
    return re.sub(r"_blocks?\.(\d+\.)?attentions\.", lambda found: f" {found[1] or ''}", name)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    publish = verbs.add_parser("publish")
    publish.add_argument("--entity", required=True)
    publish.add_argument("--project", default="sow")
    drawing = verbs.add_parser("draw")
    drawing.add_argument("runs", type=Path)
    drawing.add_argument("target", type=Path)
    verbs.add_parser("json")
    arguments = parser.parse_args()
    if arguments.verb == "publish":
        print(workspace(arguments.entity, arguments.project).save().url)
    elif arguments.verb == "draw":
        from sow.runs.wandb_offline import runs_below

        draw(runs_below(arguments.runs), arguments.target)
    else:
        print(json.dumps({name: [asdict(p) for p in panels] for name, panels in SECTIONS.items()}, indent=1))


if __name__ == "__main__":
    main()
