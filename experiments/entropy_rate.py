"""`study=entropy_rate`: at which noise level does a model decide an attribute? A curve per attribute (arXiv
2602.09651)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sow.errors import UserError
from sow.report import figures
from sow.types import Bound, component

from .core.fields import LIMIT, Filled
from .core.finding import Finding, bracket, markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .core.laboratory import Curves, Laboratory
    from .core.study import StudyContext

NAME = "entropy_rate"


@component("study.attributes")
class Attribute:
    """An attribute's name, captions that name one value of it each, and the caption that names none."""

    name: str
    given: list[str]
    without: str

    @property
    def prior(self) -> float:
        """Its entropy in nats, all values alike."""
        return math.log(len(set(self.given)))


@component("study")
class EntropyRate:
    """`images` of the model's own per attribute, asked at `levels` with and without the attribute's words.

    `attributes`: of each its name, the caption `without` it, and captions `given` that name one value each.
    """

    attributes: Annotated[list[Attribute], Filled]
    images: Annotated[int, Bound(ge=1, le=LIMIT)]
    levels: Annotated[int, Bound(ge=3, le=LIMIT)]
    steps: Annotated[int, Bound(ge=1, le=LIMIT)]
    estimator: Literal["gap", "errors"]
    batch: Annotated[int, Bound(ge=1, le=LIMIT)]
    resamples: Annotated[int, Bound(ge=100, le=LIMIT)]
    full: bool
    publish: bool

    def __post_init__(self) -> None:
        for one in self.attributes:
            if len(set(one.given)) < 2:
                raise UserError(
                    f"{one.name} needs two or more different captions, got {one.given} (study.attributes)"
                )

    def run(self, context: StudyContext) -> None:
        """Draw images under each caption, measure the rate at each level, show entropies and rates."""
        import torch

        from sow.dynamics.measures import entropy_rate

        from .core.laboratory import Cells, Laboratory, counted, each, means, tidy

        lab = Laboratory.of(context, self.levels, self.steps, self.batch)
        _ = context.tracked  # the input is known to be good
        cells, curves = Cells(context), {}
        for one in counted(self.attributes, "attributes"):
            given, without = each(self.images, one.given), [one.without] * self.images
            seeds = [context.config.seed + i for i in range(self.images)]

            def rates(given: Any = given, without: Any = without, seeds: Any = seeds) -> torch.Tensor:
                x0, n = lab.samples(given, seeds), lab.noise([s + 10**6 for s in seeds])
                return entropy_rate.rates(lab.denoise, x0, given, without, lab.levels, n, self.estimator)

            with context.timed(one.name):
                curves[one.name] = cells(one.name, rates).double().cpu().numpy()
        found = self.headline(context, lab, curves)
        figure = self.figure(context, lab, curves)
        Finding(
            NAME, found, self.markdown(found), figure, {NAME: tidy(lab, curves, "rate")}, means(lab, curves)
        ).deliver(context, self.publish)

    def headline(self, context: StudyContext, lab: Laboratory, curves: Curves) -> dict[str, Any]:
        """Where each attribute is decided, the window of the middle 80 %, and how much of its entropy was
        gained."""
        import torch

        from sow.dynamics.curves import mean_interval
        from sow.dynamics.measures import change_points
        from sow.dynamics.measures.pixel_information import integral

        from .core.laboratory import gathered, placed, window

        places = {
            "decided": change_points.peak,
            "from": lambda a, c: change_points.gathered(a, c, 0.1),
            "to": lambda a, c: change_points.gathered(a, c, 0.9),
        }
        how = context.resampling(self.resamples)
        located = placed(places, lab.levels, curves, how)
        out: dict[str, Any] = {}
        for one, (name, values) in zip(self.attributes, curves.items(), strict=True):
            whole = integral(lab.levels, torch.from_numpy(values))[:, -1].numpy()
            out[name] = {
                **located[name],
                "timestep": lab.timestep(located[name]["decided"]["value"]),
                "prior": one.prior,
                "gained": mean_interval(whole, how),
            }
        return {"attributes": out, "window": window(partial(gathered, lab.levels, curves), self.images, how)}

    def figure(self, context: StudyContext, lab: Laboratory, curves: Curves) -> Figure:
        """Rates, and the entropy that is left, with bands over images."""
        import torch

        from sow.dynamics.measures import entropy_rate
        from sow.dynamics.plots import banded

        from .core.laboratory import axes

        how = context.resampling(self.resamples)

        def paint(figure: Figure) -> None:
            left, right = figure.subplots(1, 2)
            for number, one in enumerate(self.attributes):
                rates = torch.from_numpy(curves[one.name])
                entropy = entropy_rate.entropy(lab.levels, rates, one.prior)
                banded(left, lab.levels, rates, how, label=one.name, number=number)
                banded(right, lab.levels, entropy, how, label=one.name, number=number)
            left.set_ylabel("information per unit of log SNR, nats")
            right.set_ylabel("entropy left, nats")
            for axis in (left, right):
                axes(axis, lab.axis)
                axis.legend()

        return figures.draw(8.5, 3.4, paint)

    def markdown(self, found: Mapping[str, Any]) -> str:
        """What README says."""
        rows = [
            {
                "attribute": name,
                "decided at log SNR": bracket(of["decided"]),
                "timestep": of["timestep"],
                "10 % gained by": bracket(of["from"]),
                "90 % gained by": bracket(of["to"]),
                "gained, nats": bracket(of["gained"]),
                "entropy, nats": of["prior"],
            }
            for name, of in found["attributes"].items()
        ]
        return (
            f"![When attributes are decided]({NAME}.png)\n\n"
            f"What a state says about an attribute, from the difference of the model's predictions with and "
            f"without the words "
            f"(I-MMSE, arXiv 2602.09651), for {self.images} of the model's own images per attribute; log SNR "
            f"with 95 % "
            "intervals over images. More gained than the attribute has entropy means that the two captions "
            "differ by more "
            "than it, or that the model is not exact.\n\n"
            f"{markdown_table(rows)}"
        )
