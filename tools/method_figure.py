"""The picture of the method in README.md: `python -m tools.method_figure` draws docs/figures/method.png."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sow.report import figures
from sow.report.blocks import publish_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, RED, GREEN, GRAY = (figures.COLORS[name] for name in ("blue", "vermilion", "green", "gray"))
T1, T2, K, CYCLES = 5, 7, 10, 4  # four of the ten cycles, so that they can be told apart
T3 = (4, 3)


def main() -> None:
    """Draw and write."""
    figure = figures.draw(10.6, 4.7, paint)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "method.png"
        figure.savefig(path, dpi=150)
        publish_picture("method", path)


def paint(figure: Figure) -> None:
    """Four panels of what happens, above the way of the latents through the noise levels."""
    grid = figure.add_gridspec(
        2, 4, height_ratios=[1.15, 1], hspace=-0.05, wspace=0.12, left=0.06, right=0.99, top=0.93, bottom=0.1
    )
    panels = (
        ("1  Plan", plan),
        ("2  Seed initialisation", seed_initialisation),
        ("3  Cycles, attention modulated", modulation),
        ("4  Preservation", preservation),
    )
    for column, (title, draw) in enumerate(panels):
        axis = figure.add_subplot(grid[0, column])
        axis.set(xlim=(0, 10), ylim=(0, 10), xticks=[], yticks=[], aspect="equal")
        axis.set_title(title, fontsize=10, loc="left", fontweight="bold")
        for side in axis.spines.values():
            side.set_visible(False)
        draw(axis)
    levels(figure.add_subplot(grid[1, :]))


def plan(axis: Axes) -> None:
    """The planner's boxes on an empty canvas, and the intensified prompt."""
    box(axis, 1, 2.2, 7.6, 7.6, GRAY, "canvas", fill=0.06)
    box(axis, 2.7, 2.4, 4.2, 5.2, BLUE, "related region", fill=0.15, below=True)
    box(axis, 3.6, 5.6, 2.4, 2.6, RED, "condition", fill=0.35)
    axis.text(5, 0.9, "prompt c  →  intensified prompt c'", ha="center", fontsize=7.5)


def seed_initialisation(axis: Axes) -> None:
    """The condition pasted on gray; canvas and condition inverted."""
    box(axis, 1, 2.2, 7.6, 7.6, GRAY, "gray", fill=0.45)
    box(axis, 3.6, 5.6, 2.4, 2.6, RED, "v", fill=0.6)
    axis.text(
        5,
        0.9,
        "DDIM inversion: canvas to x_t2,\ncondition to v_1 … v_t2",
        ha="center",
        va="center",
        fontsize=7.5,
    )


def modulation(axis: Axes) -> None:
    """The attention map: which block is lowered, which is lifted."""
    box(axis, 2.4, 2.2, 7.2, 7.2, GRAY, "", fill=0.05)
    box(axis, 4.2, 7.6, 5.4, 1.8, BLUE, "P⁻  lowered", fill=0.3, centre=True)
    box(axis, 2.4, 4.6, 1.8, 3.0, RED, "P⁺\nlifted", fill=0.3, centre=True)
    for y, words in ((8.5, "condition"), (6.1, "related"), (3.4, "rest")):
        axis.text(2.2, y, words, ha="right", va="center", fontsize=6.5)
    axis.text(3.3, 9.6, "condition", ha="center", fontsize=6.5)
    axis.text(6.9, 9.6, "everything else", ha="center", fontsize=6.5)
    axis.text(0.1, 5.8, "queries", rotation=90, va="center", fontsize=6.5)
    axis.text(
        5.4,
        0.9,
        "strength: ω, decays in time and distance,\nand a gate: open where R_c > τ",
        ha="center",
        va="center",
        fontsize=7.5,
    )


def preservation(axis: Axes) -> None:
    """The finished image keeps the condition inside its box."""
    box(axis, 1, 2.2, 7.6, 7.6, GREEN, "image", fill=0.25)
    box(axis, 3.6, 5.6, 2.4, 2.6, RED, "kept", fill=0.35)
    axis.text(5, 0.9, "replace at t3, denoise to 0 with c,\ndecode", ha="center", va="center", fontsize=7.5)


def box(
    axis: Axes, x: float, y: float, width: float, height: float, color: str, words: str,
    *, fill: float, below: bool = False, centre: bool = False,
) -> None:  # fmt: skip
    """A coloured rectangle with its name in a corner or the middle."""
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Rectangle

    axis.add_patch(Rectangle((x, y), width, height, facecolor=to_rgba(color, fill), edgecolor=color, lw=1.2))
    if centre:
        axis.text(x + width / 2, y + height / 2, words, ha="center", va="center", fontsize=7.5)
    else:
        place = (x + 0.2, y + 0.2) if below else (x + 0.2, y + height - 0.2)
        axis.text(*place, words, fontsize=6.5, va="bottom" if below else "top")


def levels(axis: Axes) -> None:
    """Noise level against time: inversion up, cycles between t1 and t2, preservation down."""

    def line(points: list[tuple[float, float]], color: str, style: str = "-") -> None:
        axis.plot(*zip(*points), style, color=color, lw=1.8, solid_capstyle="round")

    line([(0.0, 0), (2.2, T2)], GRAY)
    x, replaced = 2.2, []
    for cycle in range(CYCLES):
        line([(x, T2), (x + 1.0, T1)], BLUE)
        replaced += [(x, T2), (x + 0.5, (T1 + T2) / 2), (x + 1.0, T1)]
        x += 1.0
        if cycle < CYCLES - 1:
            line([(x, T1), (x + 0.25, T2)], RED, ":")
            x += 0.25
    line([(x, T1), (x + 2.5, 0)], GREEN)
    replaced += [(x + 2.5 * (T1 - t) / T1, t) for t in T3]
    axis.plot(*zip(*replaced), "o", color="black", ms=3.5)
    axis.text(0.75, 4.6, "inversion\n(2)", ha="center", fontsize=8, color="dimgray")
    axis.text(
        4.5,
        T2 + 0.7,
        "cycles (3): denoise with modulated attention, inject noise, N times",
        ha="center",
        fontsize=8,
    )
    axis.text(x + 1.45, 3.4, "preservation (4)", fontsize=8, color=GREEN)
    axis.text(3.0, 1.6, "●  the condition's own latents are put back (replace)", fontsize=8)
    axis.text(3.0, 0.5, "· · ·  noise is injected (Eq. 2)", fontsize=8, color=RED)
    axis.set(xlim=(-0.1, x + 2.9), ylim=(-0.4, K - 1.0), xticks=[], yticks=[0, T3[1], T3[0], T1, T2])
    axis.set_yticklabels(["0", "", "t3", "t1", "t2"], fontsize=8)
    axis.set_ylabel("noise level", fontsize=8)
    axis.grid(False)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


if __name__ == "__main__":
    main()
