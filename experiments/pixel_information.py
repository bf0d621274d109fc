"""`study=pixel_information`: which pixels does a piece of text inform, and at which noise level? (arXiv
2310.07972)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sow.report import figures
from sow.types import Bound, component

from .core.fields import LIMIT, Filled
from .core.finding import Finding, bracket, markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .core.laboratory import Curves, Laboratory
    from .core.study import StudyContext

NAME = "pixel_information"


@component("study.texts")
class Text:
    """A piece of text by name: the caption that has it, and the caption that lacks it."""

    name: str
    given: str
    without: str


@component("study")
class PixelInformation:
    """`images` of the model's own per text, under the caption `given`, asked with it and with the one
    `without`.

    `texts`: of each its name, a caption `given`, and the one `without` what is asked about.
    """

    texts: Annotated[list[Text], Filled]
    images: Annotated[int, Bound(ge=1, le=LIMIT)]
    levels: Annotated[int, Bound(ge=3, le=LIMIT)]
    steps: Annotated[int, Bound(ge=1, le=LIMIT)]
    estimator: Literal["gap", "errors"]
    batch: Annotated[int, Bound(ge=1, le=LIMIT)]
    resamples: Annotated[int, Bound(ge=100, le=LIMIT)]
    full: bool
    publish: bool

    def run(self, context: StudyContext) -> None:
        """Draw images under each caption, measure what it tells of each pixel, show maps and curves."""
        import torch

        from sow.dynamics.measures import pixel_information

        from .core.laboratory import Cells, Laboratory, counted, means, tidy

        lab = Laboratory.of(context, self.levels, self.steps, self.batch)
        _ = context.tracked  # the input is known to be good
        cells, curves, maps, pictures = Cells(context), {}, {}, {}
        seeds = [context.config.seed + i for i in range(self.images)]
        for text in counted(self.texts, "texts"):
            given, without = [text.given] * self.images, [text.without] * self.images

            def measured(given: Any = given, without: Any = without) -> dict[str, torch.Tensor]:
                x0, n = lab.samples(given, seeds), lab.noise([s + 10**6 for s in seeds])
                rate = pixel_information.rates(lab.denoise, x0, given, without, lab.levels, n, self.estimator)
                return {
                    "first": x0[:1],
                    "rate": rate.flatten(2).sum(2),
                    "map": pixel_information.map_of(lab.levels, rate),
                }

            name = text.name
            with context.timed(name):
                found = cells(name, measured)
            curves[name] = found["rate"].double().cpu().numpy()
            maps[name] = found["map"].double().cpu().numpy()
            pictures[name] = lab.backbone.decode(found["first"])[0].permute(1, 2, 0).numpy()
        headline = self.headline(context, lab, curves, maps)
        tables = {NAME: tidy(lab, curves, "rate"), "maps": map_rows(maps)}
        Finding(
            NAME,
            headline,
            self.markdown(headline),
            self.figure(context, lab, curves, maps, pictures),
            tables,
            means(lab, curves),
        ).deliver(context, self.publish)

    def headline(
        self, context: StudyContext, lab: Laboratory, curves: Curves, maps: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Nats per image, where on the axis they come, and the share of pixels that holds half of them."""
        from sow.dynamics.curves import mean_interval
        from sow.dynamics.measures import change_points

        from .core.laboratory import gathered, placed, window

        how = context.resampling(self.resamples)
        located = placed({"peak": change_points.peak}, lab.levels, curves, how)
        texts = {
            name: {
                **located[name],
                "timestep": lab.timestep(located[name]["peak"]["value"]),
                "nats": mean_interval(maps[name].sum((1, 2)), how),
                "half_in": half_in(maps[name].mean(0)),
            }
            for name in curves
        }
        return {"texts": texts, "window": window(partial(gathered, lab.levels, curves), self.images, how)}

    def figure(
        self,
        context: StudyContext,
        lab: Laboratory,
        curves: Curves,
        maps: Mapping[str, Any],
        pictures: Mapping[str, Any],
    ) -> Figure:
        """Rates over the level; below them each text's first image and its mean map, all maps on one
        scale."""
        from sow.dynamics.plots import banded

        from .core.laboratory import axes

        top = max(float(m.mean(0).max()) for m in maps.values()) or 1.0

        def paint(figure: Figure) -> None:
            parts: Any = figure.subfigures(2, 1, height_ratios=(1.5, 2))
            above, below = parts
            axis = above.subplots()
            for number, (name, values) in enumerate(curves.items()):
                banded(
                    axis, lab.levels, values, context.resampling(self.resamples), label=name, number=number
                )
            axis.set_ylabel("nats per unit of log SNR")
            axes(axis, lab.axis)
            axis.legend()
            grid = below.subplots(2, len(maps), squeeze=False)
            for (name, values), (first, second) in zip(maps.items(), grid.T, strict=True):
                first.imshow(pictures[name])
                first.set_title(name, fontsize=8)
                shown = second.imshow(values.mean(0), vmin=0, vmax=top, cmap="viridis")
                first.axis("off")
                second.axis("off")
            below.colorbar(shown, ax=grid.ravel().tolist(), label="nats per latent pixel", shrink=0.8)

        return figures.draw(max(5.0, 1.9 * len(maps)), 6.0, paint)

    def markdown(self, found: Mapping[str, Any]) -> str:
        """What README says."""
        rows = [
            {
                "text": name,
                "nats per image": bracket(of["nats"]),
                "half of them in": f"{of['half_in']:.0%} of the pixels",
                "most at log SNR": bracket(of["peak"]),
                "timestep": of["timestep"],
            }
            for name, of in found["texts"].items()
        ]
        return (
            f"![Which pixels a text informs]({NAME}.png)\n\n"
            "Mutual information of a piece of text and each pixel of the latents, from the difference of the "
            "model's predictions "
            f"with and without it (arXiv 2310.07972), means over {self.images} of the model's own images; 95 "
            f"% intervals over "
            f"images.\n\n{markdown_table(rows)}"
        )


def half_in(mean: Any) -> float:
    """The smallest share of pixels that holds half of a map (h, w) of information; nan without any."""
    import numpy as np

    falling = np.sort(np.maximum(np.asarray(mean, float), 0).ravel())[::-1]
    total = falling.cumsum()
    return (
        float((np.searchsorted(total, total[-1] / 2) + 1) / len(falling)) if total[-1] > 0 else float("nan")
    )


def map_rows(maps: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per text and pixel: the mean over images in nats."""
    return [
        {"curve": name, "row": r, "column": c, "nats": float(value)}
        for name, values in maps.items()
        for r, line in enumerate(values.mean(0))
        for c, value in enumerate(line)
    ]
