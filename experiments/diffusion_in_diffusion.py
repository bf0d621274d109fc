"""`study=diffusion_in_diffusion`: Fig. 4, with numbers for every merge step, row, layout and quadrant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sow.config.bounds import need_at_least
from sow.errors import UserError
from sow.report import figures

from .core.finding import Finding
from .diffusion_in_diffusion_numbers import ALONE, NAME, headline, markdown, short

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from sow.types import Canvas

    from .core.study import StudyContext

ROWS = {  # the rows of Fig. 4
    "unprocessed": "(a) merged",
    "enhanced": "(b) upper right\nattends to lower left",
    "suppressed": "(c) upper right\nattends to itself",
}
SHOWN = 11  # columns of the figure
LAYOUTS = ("top_bottom", "bottom_top", "left_right", "right_left")


@dataclass(frozen=True)
class DiffusionInDiffusion:
    """`first` and `second` (a colour [r, g, b] or the path of a picture) merged at x_k, k = 0 .. `steps`, in `layouts`.

    `enhance` lifts row (b)'s attention, `suppress` row (c)'s attention to itself, in ranges of a row's logits; None
    leaves row (c)'s upper right quarter no other keys.
    """

    first: list[int] | str
    second: list[int] | str
    layouts: list[str]
    steps: int
    enhance: float
    suppress: float | None
    batch: int
    publish: bool

    def __post_init__(self) -> None:
        for name in ("first", "second"):
            color = getattr(self, name)
            if not isinstance(color, str) and (len(color) != 3 or not all(0 <= c <= 255 for c in color)):
                raise UserError(f"a colour is [r, g, b] of 0..255, got {color} (study.{name})")
        wrong = [name for name in self.layouts if name not in LAYOUTS]
        if wrong or not self.layouts:
            raise UserError(f"layouts are of {', '.join(LAYOUTS)}, got {self.layouts} (study.layouts)")
        if self.steps < 3:
            raise UserError(f"need at least 3 steps to have thirds, got {self.steps} (study.steps)")
        need_at_least(self, "study", enhance=0, suppress=0)

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
        canvas = sampler.canvas
        images = [self.source(which, canvas) for which in (self.first, self.second)]
        sources = np.stack([np.asarray(image, np.float64) for image in images])
        trajectory = Trajectory.of(sampler.backbone, self.steps, self.batch)
        _ = context.tracked  # the input is known to be good
        with context.timed("invert"):
            latents = sampler.backbone.encode(torch.stack([to_tensor(image) for image in images]))
            states = trajectory.invert(latents)
        device, size = sampler.backbone.device, canvas.latent_size
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
        rows, quadrants = self.measured(pictures, sources)
        found = headline(rows, self.steps)
        with context.timed("figures"):
            figure = figures.save(context.folder, NAME, self.figure(pictures, rows))
            others = {}
            if len(self.layouts) > 1:
                others["layouts"] = figures.save(context.folder, f"{NAME}_layouts", self.sheets(pictures))
        table = short(rows)
        Finding(
            name=NAME,
            headline={"steps": self.steps, "first": self.first, "second": self.second, **found},
            markdown=markdown(found, table, self.steps),
            figure=figure,
            tables={NAME: rows, f"{NAME}_quadrants": quadrants},
            short=table,
            history=table,
            pictures=others,
        ).deliver(context, self.publish)

    def measured(
        self, pictures: Mapping[str, Mapping[int, NDArray[np.float64]]], sources: NDArray[np.float64]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The two tidy tables: a row a picture, a row a quadrant of a picture."""
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

    def figure(
        self, pictures: Mapping[str, Mapping[int, NDArray[np.float64]]], rows: Sequence[Mapping[str, Any]]
    ) -> Any:
        """Fig. 4 for the first layout, and below it the curves over k, means over all layouts."""
        columns = min(SHOWN, self.steps + 1)

        def paint(figure: Any) -> None:
            above, below = figure.subfigures(2, 1, height_ratios=(4.2, 2.2))
            self.sheet(above.subplots(), pictures, self.layouts[0])
            self.curves(below.subplots(1, 3), rows)

        return figures.draw(max(7.0, 0.9 * columns + 1), 6.4, paint)

    def sheets(self, pictures: Mapping[str, Mapping[int, NDArray[np.float64]]]) -> Any:
        """The pictures of every layout."""
        columns = min(SHOWN, self.steps + 1)

        def paint(figure: Any) -> None:
            for axis, layout in zip(
                figure.subplots(len(self.layouts), 1, squeeze=False)[:, 0], self.layouts, strict=True
            ):
                self.sheet(axis, pictures, layout)

        return figures.draw(max(7.0, 0.9 * columns + 1), 4.0 * len(self.layouts), paint)

    def sheet(
        self, axis: Any, pictures: Mapping[str, Mapping[int, NDArray[np.float64]]], layout: str
    ) -> None:
        """The three rows of one layout; below each picture the red channel of both halves, as Fig. 4 prints it."""
        import numpy as np
        from PIL import Image

        from sow.dynamics.halves import first_half, mean_color
        from sow.dynamics.plots import montage

        ks = sorted(pictures["unprocessed"])
        shown = sorted({ks[round(i)] for i in np.linspace(0, len(ks) - 1, min(SHOWN, len(ks)))})
        number = self.layouts.index(layout)
        found = [[pictures[row][k][number] for k in shown] for row in ROWS]
        where = first_half(layout, *found[0][0].shape[:2])
        montage(
            axis,
            [[Image.fromarray(p.astype("uint8")) for p in row] for row in found],
            [f"k = {k}" for k in shown],
            list(ROWS.values()),
            [
                [f"{mean_color(p, where)[0]:.0f} | {mean_color(p, ~where)[0]:.0f}" for p in row]
                for row in found
            ],
        )
        axis.set_title(
            f"merged at $x_k$ of {self.steps} steps, {layout.replace('_', ' / ')}; below: red channel of first | second",
            pad=16,
        )

    def curves(self, axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
        """Mixing, and where the upper right quarter's colour goes."""
        from sow.dynamics.merging import mean_by_k
        from sow.dynamics.plots import curve

        panels = (
            ("mixing", "mixing (1 - contrast / original)", (ALONE, "unprocessed")),
            (
                "upper_right_to_lower_left",
                "upper right to lower left's\nsource colour (gray levels)",
                ("unprocessed", "enhanced"),
            ),
            (
                "upper_right_kept",
                "upper right's own colour kept\n(0 lower left's, 1 its own)",
                ("unprocessed", "suppressed"),
            ),
        )
        numbers = {name: i for i, name in enumerate((*ROWS, ALONE))}
        for axis, (column, label, names) in zip(axes, panels, strict=True):
            for name in names:
                ks, values = mean_by_k(rows, name, column)
                curve(axis, ks, values, label=name, number=numbers[name])
            axis.set(xlabel=f"merge step k (0 clean, {self.steps} noise)", ylabel=label)
            axis.grid(alpha=0.25)
            axis.legend()
