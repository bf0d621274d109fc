"""The picture of `study=information_flow`: a column per method, the same scales in every column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sow.report import figures
from sow.report.figures import COLORS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OUT, BACK, HELD_COLOR = COLORS["vermilion"], COLORS["blue"], COLORS["orange"]
FLOWS = {
    "c_to_nc": ("c → nc", COLORS["blue"], "-"),
    "cr_to_c": ("cr → c", COLORS["vermilion"], "-"),
    "rest_to_c": ("rest → c", COLORS["orange"], "--"),
}


def paint(
    frames: Mapping[str, pd.DataFrame], methods: Sequence[str], maps: Mapping[str, Any], tau: float
) -> Figure:
    """Maps of change, responses over the perturbed step, attention over the steps, R_c over the steps."""
    rows = ["out", "back", "curves"] * bool(len(frames["responses"])) + ["attention"]
    rows += ["gates"] if len(frames["gates"]) else []
    heights = {"out": 1.25, "back": 1.25}

    sizes = [heights.get(r, 1.0) for r in rows]
    title = "Who changes whom: the same plans, the same noise, one region perturbed at one step"

    def fill(figure: Figure) -> None:
        shape = len(rows), len(methods)
        axes = figure.subplots(*shape, squeeze=False, sharey="row", height_ratios=sizes)
        limit, image = brightest(maps), None
        for column, method in enumerate(methods):
            axes[0, column].set_title(method.replace("_", " "), fontweight="bold")
            for axis, kind in zip(axes[:, column], rows, strict=True):
                if kind in CURVES:
                    CURVES[kind](axis, frames, method, tau)
                    axis.set_xlabel("denoising step of the run")
                else:
                    image = change(axis, maps.get(method), kind, limit) or image
        for (first, *_, last), kind in zip(([*line, line[-1]] for line in axes), rows, strict=True):
            first.set_ylabel(LABELS[kind])
            if kind in CURVES:
                last.legend(loc="best")
        if image is not None:
            shown = [
                axis for kind, line in zip(rows, axes, strict=True) if kind not in CURVES for axis in line
            ]
            figure.colorbar(image, ax=shown, label="change of x₀ (RMS over channels)", aspect=30, pad=0.01)
        figure.suptitle(title if "out" in rows else "Attention between regions")

    return figures.draw(2.6 * len(methods) + 0.6, 1.75 * sum(sizes) + 0.4, fill)


LABELS = {
    "out": "condition perturbed:\nchange of x₀",
    "back": "surroundings perturbed:\nchange of x₀",
    "curves": "norm of the change of x₀\nper unit of noise",
    "attention": "attention mass\n(1 = uniform)",
    "gates": "R_c (mean of layers)",
}


def brightest(maps: Mapping[str, Any]) -> float:
    """The upper end of the maps' colour scale, the same in all of them."""
    values = [float(m.max()) for changes, _ in maps.values() for (_, step), m in changes.items() if step == 0]
    return max(values, default=1.0) or 1.0


def change(axis: Axes, found: Any, kind: str, limit: float) -> Any:
    """|change of x_0| after a perturbation at the first step, logarithmic,
    outlines of c (white) and cr; its image."""
    from matplotlib.colors import LogNorm

    axis.set_xticks([])
    axis.set_yticks([])
    if found is None:
        return None
    changes, layout = found
    known = {source for source, _ in changes}
    condition = "held" if "held" in known else "condition"
    sources = [condition] if kind == "out" else ["related", "rest"]
    steps = sorted({step for source, step in changes if source in sources})
    if not steps:
        return None
    step = steps[0]  # the one noise level that all methods share
    # Independent perturbations of the two parts of the surroundings add in energy.
    total = sum(changes[s, step] ** 2 for s in sources if (s, step) in changes) ** 0.5
    norm = LogNorm(limit * 1e-3, limit)
    image = axis.imshow(total.clamp_min(limit * 1e-4), norm=norm, interpolation="nearest")
    for index, color in ((0, "white"), (1, COLORS["sky"])):
        inside = layout[..., index].numpy()
        if inside.any() and not inside.all():
            axis.contour(inside, levels=[0.5], colors=[color], linewidths=0.9)
    axis.text(0.02, 0.02, f"step {step}", transform=axis.transAxes, color="white", fontsize=6)
    return image


def curves(axis: Axes, frames: Mapping[str, pd.DataFrame], method: str, tau: float) -> None:
    """Responses over the step at which the perturbation was made, mean and each run."""
    from sow.dynamics.summary import energies

    part = frames["responses"]
    table = energies(part[part.method == method])
    for name, words, color, line in (
        ("held_out", "held condition → others", OUT, "-"),
        ("out", "condition once → others", HELD_COLOR, ":"),
        ("back", "others → condition", BACK, "--"),
    ):
        name = f"{name}_norm"
        shown = table.dropna(subset=[name])
        if len(shown):
            mean = shown.groupby("step")[name].mean()
            axis.plot(mean.index, mean.clip(lower=1e-6), color=color, ls=line, marker="o", label=words)
            axis.plot(shown.step, shown[name].clip(lower=1e-6), ".", color=color, alpha=0.35, ms=2.5)
    axis.set_yscale("log")
    watched = frames["attention"]  # every step, not only the perturbed ones
    shade(axis, watched[watched.method == method])


def attention(axis: Axes, frames: Mapping[str, pd.DataFrame], method: str, tau: float) -> None:
    """Attention over uniform, mean over layers; band: the middle half of layers and runs."""
    from sow.dynamics.summary import ratios

    part = frames["attention"]
    for name, table in ratios(part[part.method == method]).items():
        if name in FLOWS and len(table):
            words, color, line = FLOWS[name]
            middle(axis, table.groupby("step").ratio, color, line, words)
    axis.axhline(1, color=COLORS["gray"], lw=0.6)
    shade(axis, part[part.method == method])


def gates(axis: Axes, frames: Mapping[str, pd.DataFrame], method: str, tau: float) -> None:
    """R_c as the run's gate reads it in every method, against tau; band:
    the middle half of layers and runs."""
    part = frames["gates"][frames["gates"].method == method]
    middle(axis, part.groupby("step").r_c, COLORS["green"], "-", "R_c")
    axis.axhline(tau, color=COLORS["black"], ls="--", lw=0.8, label=f"tau = {tau:g}")
    axis.axhline(0.2, color=COLORS["gray"], ls=":", lw=0.8, label="uniform, 1/5")
    shade(axis, part)


def middle(axis: Axes, grouped: Any, color: str, line: str, label: str) -> None:
    """Mean by step, and the middle half as a band."""
    mean = grouped.mean()
    axis.plot(mean.index, mean, color=color, ls=line, label=label)
    axis.fill_between(
        mean.index, grouped.quantile(0.25), grouped.quantile(0.75), color=color, alpha=0.17, lw=0
    )


def shade(axis: Axes, part: pd.DataFrame) -> None:
    """Gray behind the steps that lie in the cycles."""
    inside = part[part.phase == "cycle"].step
    if len(inside):
        axis.axvspan(inside.min() - 0.5, inside.max() + 0.5, color=COLORS["gray"], alpha=0.12, lw=0)


CURVES = {"curves": curves, "attention": attention, "gates": gates}
