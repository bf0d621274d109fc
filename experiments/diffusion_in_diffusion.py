"""`study=diffusion_in_diffusion`: Fig. 4, with numbers for every merge step, row, layout and quadrant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from sow.errors import UserError
from sow.report import figures
from sow.types import Bound, component

from .core.finding import Finding, markdown_table

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from PIL import Image

    from sow.types import Canvas

    from .core.study import StudyContext

    Pictures = Mapping[str, Mapping[int, NDArray[np.float64]]]

NAME = "diffusion_in_diffusion"
ALONE = "alone"  # each source denoised on its own, the finished pictures merged
ROWS = {  # the rows of Fig. 4
    "unprocessed": "(a) merged",
    "enhanced": "(b) upper right\nattends to lower left",
    "suppressed": "(c) upper right\nattends to itself",
}
SHOWN = 11  # columns of the figure
LAYOUTS = ("top_bottom", "bottom_top", "left_right", "right_left")
Rows = Sequence[Mapping[str, Any]]


@component("study")
class DiffusionInDiffusion:
    """`first` and `second` (a colour [r, g, b] or the path of a picture) merged at x_k, k = 0 .. `steps`.

    They are merged in `layouts`. `enhance` lifts row (b)'s attention, `suppress` row (c)'s attention to
    itself, in ranges of a row's logits; None leaves row (c)'s upper right quarter no other keys.
    """

    first: list[int] | str
    second: list[int] | str
    layouts: list[str]
    steps: int
    enhance: Annotated[float, Bound(ge=0)]
    suppress: Annotated[float | None, Bound(ge=0)]
    batch: int
    publish: bool

    def __post_init__(self) -> None:
        for name in ("first", "second"):
            color = getattr(self, name)
            if not isinstance(color, str) and (len(color) != 3 or not all(0 <= c <= 255 for c in color)):
                raise UserError(f"a colour is [r, g, b] of 0..255, got {color} (study.{name})")
        if not self.layouts or not set(self.layouts) <= set(LAYOUTS):
            raise UserError(f"layouts are of {', '.join(LAYOUTS)}, got {self.layouts} (study.layouts)")
        if self.steps < 3:
            raise UserError(f"need at least 3 steps to have thirds, got {self.steps} (study.steps)")

    def files(self) -> list[str]:
        """Pictures that are read."""
        return [source for source in (self.first, self.second) if isinstance(source, str)]

    def source(self, which: list[int] | str, canvas: Canvas) -> Image.Image:
        """One source at the canvas's size; a picture is cropped to its shape from the middle."""
        from PIL import Image, ImageOps

        from sow.data.images import read_image

        size = (canvas.width, canvas.height)
        if isinstance(which, str):
            return ImageOps.fit(read_image(which, "study.first, study.second")[0], size)
        return Image.new("RGB", size, tuple(which))

    def run(self, context: StudyContext) -> None:
        """Invert both sources, merge at every k, denoise in every row, measure, show."""
        import numpy as np
        import torch

        from sow.dynamics import merging
        from sow.dynamics.trajectory import Trajectory
        from sow.method.seed_init import to_tensor

        sampler = context.sampler()
        images = [self.source(which, sampler.canvas) for which in (self.first, self.second)]
        trajectory = Trajectory.of(sampler.backbone, self.steps, self.batch)
        _ = context.tracked  # the input is known to be good
        with context.timed("invert"):
            states = trajectory.invert(sampler.backbone.encode(torch.stack([to_tensor(i) for i in images])))
        device, size = sampler.backbone.device, sampler.canvas.latent_size
        steerings = {
            "unprocessed": None,
            "enhanced": merging.corner_steering(size, self.enhance, device),
            "suppressed": merging.corner_isolation(size, self.suppress, device),
        }
        with context.timed(ALONE):
            pictures = {ALONE: merging.unmerged_runs(trajectory, states, self.layouts)}
        for row, steering in steerings.items():
            with context.timed(row):
                pictures[row] = merging.merged_runs(trajectory, states, self.layouts, steering)
        rows, quadrants = self.measured(pictures, np.stack([np.asarray(i, np.float64) for i in images]))
        found, table = headline(rows, self.steps), short(rows)
        Finding(
            NAME,
            {"steps": self.steps, "first": self.first, "second": self.second, **found},
            markdown(found, table, self.steps),
            self.figure(pictures, rows),
            {NAME: rows, f"{NAME}_quadrants": quadrants},
            table,
            pictures={"layouts": self.sheets(pictures)} if len(self.layouts) > 1 else {},
        ).deliver(context, self.publish)

    def measured(
        self, pictures: Pictures, sources: NDArray[np.float64]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The two tidy tables: a row per picture, a row per quadrant of a picture."""
        from sow.dynamics.merging import measure

        rows, quadrants = [], []
        for row, by_k in pictures.items():
            for k, found in sorted(by_k.items()):
                for layout, picture in zip(self.layouts, found, strict=True):
                    numbers, each = measure(picture, layout, sources)
                    key = {"k": k, "noise": k / self.steps, "row": row, "layout": layout}
                    rows.append({**key, **numbers})
                    quadrants += [{**key, **q} for q in each]
        return rows, quadrants

    @property
    def width(self) -> float:
        """Inches of the figures."""
        return max(7.0, 0.9 * min(SHOWN, self.steps + 1) + 1)

    def figure(self, pictures: Pictures, rows: Rows) -> Figure:
        """Fig. 4 for the first layout, and below it the curves over k, means over all layouts."""

        def paint(figure: Any) -> None:
            above, below = figure.subfigures(2, 1, height_ratios=(4.2, 2.2))
            self.sheet(above.subplots(), pictures, self.layouts[0])
            self.curves(below.subplots(1, 3), rows)

        return figures.draw(self.width, 6.4, paint)

    def sheets(self, pictures: Pictures) -> Figure:
        """The pictures of every layout."""

        def paint(figure: Figure) -> None:
            axes = figure.subplots(len(self.layouts), 1, squeeze=False)[:, 0]
            for axis, layout in zip(axes, self.layouts, strict=True):
                self.sheet(axis, pictures, layout)

        return figures.draw(self.width, 4.0 * len(self.layouts), paint)

    def sheet(self, axis: Any, pictures: Pictures, layout: str) -> None:
        """The three rows of one layout; below each picture both halves' red channel, as Fig. 4 prints it."""
        from PIL import Image

        from sow.dynamics.halves import first_half, mean_color
        from sow.dynamics.plots import montage
        from sow.dynamics.samples import spread

        ks = spread(sorted(pictures["unprocessed"]), SHOWN)
        found = [[pictures[row][k][self.layouts.index(layout)] for k in ks] for row in ROWS]
        where = first_half(layout, *found[0][0].shape[:2])
        sheet = [[Image.fromarray(p.astype("uint8")) for p in row] for row in found]
        red = [
            [f"{mean_color(p, where)[0]:.0f} | {mean_color(p, ~where)[0]:.0f}" for p in row] for row in found
        ]
        montage(axis, sheet, [f"k = {k}" for k in ks], list(ROWS.values()), red)
        words = f"{layout.replace('_', ' / ')}; below: red channel of first | second"
        axis.set_title(f"merged at $x_k$ of {self.steps} steps, {words}", pad=16)

    def curves(self, axes: Any, rows: Rows) -> None:
        """Mixing, and where the upper right quarter's colour goes."""
        from sow.dynamics.merging import mean_by_k
        from sow.dynamics.plots import curve

        nearer = "upper right to lower left's\nsource colour (gray levels)"
        kept = "upper right's own colour kept\n(0 lower left's, 1 its own)"
        panels = (
            ("mixing", "mixing (1 - contrast / original)", (ALONE, "unprocessed")),
            ("upper_right_to_lower_left", nearer, ("unprocessed", "enhanced")),
            ("upper_right_kept", kept, ("unprocessed", "suppressed")),
        )
        for axis, (column, label, names) in zip(axes, panels, strict=True):
            for name in names:
                ks, values = mean_by_k(rows, name, column)
                curve(axis, ks, values, label=name, number=(*ROWS, ALONE).index(name))
            axis.set(xlabel=f"merge step k (0 clean, {self.steps} noise)", ylabel=label)
            axis.legend()


def headline(rows: Rows, steps: int) -> dict[str, Any]:
    """The numbers of its page, means over the layouts.

    k = 1 .. K/3 is the earliest third of the merges, k > 2K/3 the latest. `of_decoded` is the contrast
    against a merge at k = 0, which only the decoder has seen: what the denoising itself mixed.
    """
    from sow.dynamics.merging import mean_by_k

    def values(row: str, column: str) -> dict[int, float]:
        return dict(zip(*mean_by_k(rows, row, column), strict=True))

    kept, alone = values("unprocessed", "contrast_kept"), values(ALONE, "contrast_kept")
    decoded = kept.pop(0)
    of_decoded = {k: v / decoded if decoded else float("nan") for k, v in kept.items()}
    plain, lifted = (values(row, "upper_right_to_lower_left") for row in ("unprocessed", "enhanced"))
    nearer = {k: plain[k] - lifted[k] for k in kept}
    own_plain, own = (values(row, "upper_right_kept") for row in ("unprocessed", "suppressed"))
    early, late = [k for k in kept if 3 * k <= steps], [k for k in kept if 3 * k > 2 * steps]
    return {
        "contrast_kept": kept,
        "contrast_kept_decoder_only": decoded,
        "contrast_kept_alone_lowest": min(alone.values()),
        "earliest_third": ends(kept, of_decoded, early),
        "latest_third": ends(kept, of_decoded, late),
        "enhanced_nearer_by": nearer,
        "enhanced_nearer_by_mean": sum(nearer.values()) / len(nearer),
        "enhanced_nearer_by_lowest": min(nearer.values()),
        "suppressed_upper_right_kept": own,
        "suppressed_upper_right_kept_lowest": min(own[k] for k in kept),
        "unprocessed_upper_right_kept": own_plain,
        "unprocessed_upper_right_kept_lowest": min(own_plain[k] for k in kept),
        "upper_right_kept_decoder_only": own_plain[0],
        "holds": {
            "earliest_third_keeps_90_percent": min(kept[k] for k in early) >= 0.9,
            "earliest_third_keeps_90_percent_of_decoded": min(of_decoded[k] for k in early) >= 0.9,
            "latest_third_keeps_at_most_25_percent": max(kept[k] for k in late) <= 0.25,
            "enhanced_never_farther": min(nearer.values()) >= 0,
            "enhanced_strictly_nearer_from_a_third": min(v for k, v in nearer.items() if 3 * k >= steps) > 0,
            "suppressed_keeps_95_percent": min(own[k] for k in kept) >= 0.95,
            "suppressed_keeps_more_than_unprocessed": all(own[k] >= own_plain[k] for k in kept),
        },
    }


def ends(kept: Mapping[int, float], of_decoded: Mapping[int, float], ks: Sequence[int]) -> dict[str, float]:
    """Mean, lowest and highest contrast over some merge steps."""
    out = {}
    for suffix, values in (("", [kept[k] for k in ks]), ("_of_decoded", [of_decoded[k] for k in ks])):
        out[f"mean{suffix}"] = sum(values) / len(ks)
        out[f"lowest{suffix}"], out[f"highest{suffix}"] = min(values), max(values)
    return out


def short(rows: Rows) -> list[dict[str, Any]]:
    """A line per merge step, means over the layouts."""
    from sow.dynamics.merging import mean_by_k

    columns = {
        "contrast_kept": ("unprocessed", "contrast_kept"),
        "alone": (ALONE, "contrast_kept"),
        "to_lower_left": ("unprocessed", "upper_right_to_lower_left"),
        "to_lower_left_enhanced": ("enhanced", "upper_right_to_lower_left"),
        "own_kept": ("unprocessed", "upper_right_kept"),
        "own_kept_suppressed": ("suppressed", "upper_right_kept"),
    }
    found = {name: mean_by_k(rows, *where)[1] for name, where in columns.items()}
    ks = mean_by_k(rows, "unprocessed", "contrast_kept")[0]
    return [{"k": k, **{name: found[name][i] for name in columns}} for i, k in enumerate(ks)]


def markdown(found: Mapping[str, Any], table: Rows, steps: int) -> str:
    """What its page says."""
    early, late = found["earliest_third"], found["latest_third"]
    kept = (
        f"lowest {found['suppressed_upper_right_kept_lowest']:.1%}, unprocessed "
        f"{found['unprocessed_upper_right_kept_lowest']:.1%}, the decoder alone "
        f"{found['upper_right_kept_decoder_only']:.1%}"
    )
    expected = {  # what is expected, what was found, whether it holds: in the order of `holds`
        "(a) merged near the clean picture (k <= K / 3): at least 90 % of the contrast": (
            f"{early['mean']:.1%} on average, lowest {early['lowest']:.1%}"
        ),
        "... of what the decoder alone leaves (k = 0)": (
            f"{early['mean_of_decoded']:.1%} on average, lowest {early['lowest_of_decoded']:.1%}"
        ),
        "(a) merged in the noise (k > 2 K / 3): at most 25 %": (
            f"{late['mean']:.1%} on average, highest {late['highest']:.1%}"
        ),
        "(b) enhanced: upper right never farther from lower left's colour": (
            f"nearer by {found['enhanced_nearer_by_mean']:.1f} gray levels on average, lowest "
            f"{found['enhanced_nearer_by_lowest']:.2f}"
        ),
        "(b) strictly nearer for k >= K/3": "",
        "(c) suppressed: upper right keeps at least 95 % of its contrast": kept,
        "(c) never less than unprocessed": "",
    }
    lines = [
        f"| {words} | {numbers} | {'yes' if holds else 'no'} |"
        for (words, numbers), holds in zip(expected.items(), found["holds"].values(), strict=True)
    ]
    return "\n".join(
        [
            f"![Two pictures merged at every step and denoised]({NAME}.png)",
            "",
            f"K = {steps}, means over the layouts; contrast is the share of the sources' own, distances are "
            "in gray levels. Each source denoised alone, the finished pictures merged, keeps at least "
            f"{found['contrast_kept_alone_lowest']:.1%}; halves merged as clean latents and only decoded "
            f"keep {found['contrast_kept_decoder_only']:.1%}.",
            "",
            "| expected | found | holds |",
            "| --- | --- | --- |",
            *lines,
            "",
            markdown_table(table),
        ]
    )
