"""`study=memorisation`: speciation and collapse of the training set, and how near samples come to it (arXiv
2402.18491)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from sow.errors import UserError
from sow.report import figures
from sow.store.files import place_of
from sow.types import Bound, component

from .core.fields import LIMIT, Prompts
from .core.finding import Finding, bracket, markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image
    from torch import Tensor

    from sow.dynamics.measures.memorisation import Nearest

    from .core.laboratory import Laboratory
    from .core.study import StudyContext

NAME = "memorisation"
PEOPLE = "people"
IMAGES = (".jpg", ".jpeg", ".png", ".webp")


@component("study")
class Memorisation:
    """`count` pictures of the set that the model was trained on: "people", as the embedded world draws it,
    or a folder.

    `held_out` pictures more of the same kind, and `images` samples of the model, are compared with them.
    """

    training: str
    prompts: Prompts
    count: Annotated[int, Bound(ge=3, le=LIMIT)]
    held_out: Annotated[int, Bound(ge=1, le=LIMIT)]
    images: Annotated[int, Bound(ge=1, le=LIMIT)]
    starts: Annotated[int, Bound(ge=1, le=LIMIT)]
    share: Annotated[float, Bound(gt=0, lt=1)]
    levels: Annotated[int, Bound(ge=3, le=LIMIT)]
    steps: Annotated[int, Bound(ge=1, le=LIMIT)]
    batch: Annotated[int, Bound(ge=1, le=LIMIT)]
    resamples: Annotated[int, Bound(ge=100, le=LIMIT)]
    full: bool
    publish: bool

    def __post_init__(self) -> None:
        if self.starts > self.count:
            raise UserError(
                f"need at most {self.count} starts, got {self.starts} (study.starts, study.count)"
            )

    def run(self, context: StudyContext) -> None:
        """Encode the training set, find its speciation and collapse, draw samples and look for their nearest
        pictures."""
        from sow.dynamics.measures import memorisation

        from .core.laboratory import Cells, Laboratory, each

        lab = Laboratory.of(context, self.levels, self.steps, self.batch)
        seeds = [context.config.seed + i for i in range(self.images)]
        cells = Cells(context)
        with context.timed("training set"):
            latents = cells("training", lambda: self.encoded(lab))
        _ = context.tracked  # the input is known to be good
        known, unseen = latents[: self.count], latents[self.count :]
        with context.timed("samples"):
            samples = cells("samples", lambda: lab.samples(each(self.images, self.prompts), seeds))
        with context.timed("measure"):
            starts = [i * self.count // self.starts for i in range(self.starts)]
            n = lab.noise([s + 10**6 for s in range(self.starts)])
            excess = memorisation.excess_entropy(known, starts, lab.levels, n).numpy()
            near = {
                "samples": memorisation.nearest(samples, known),
                "held out": memorisation.nearest(unseen, known),
            }
            found = self.headline(context, lab, known, excess, near)
        rows = [
            {"timestep": t, "log_snr": level, "unit": i, "excess": float(excess[i, j])}
            for j, (t, level) in enumerate(zip(lab.timesteps, lab.levels, strict=True))
            for i in range(len(excess))
        ]
        pairs = [
            {"kind": kind, "picture": i, "nearest": int(w), "distance": float(d), "ratio": float(r)}
            for kind, of in near.items()
            for i, (w, d, r) in enumerate(zip(*of, strict=True))
        ]
        short = [
            {"timestep": t, "log_snr": level, "excess": float(excess[:, j].mean())}
            for j, (t, level) in enumerate(zip(lab.timesteps, lab.levels, strict=True))
        ]
        figure = self.figure(context, lab, excess, found, near)
        tables: dict[str, list[dict[str, Any]]] = {NAME: rows, "nearest": pairs}
        Finding(NAME, found, self.markdown(found), figure, tables, short).deliver(context, self.publish)

    def encoded(self, lab: Laboratory) -> Tensor:
        """Latents of the training pictures, then of the held-out ones."""
        import torch

        from sow.method.seed_init import to_tensor

        height, width = (side * lab.backbone.factor for side in lab.size)
        pictures = self.pictures((width, height))
        parts = [
            lab.backbone.encode(torch.stack([to_tensor(p) for p in pictures[at : at + self.batch]]))
            for at in range(0, len(pictures), self.batch)
        ]
        return torch.cat(parts)

    def pictures(self, size: tuple[int, int]) -> list[Image.Image]:
        """`count` training pictures and `held_out` others, (width, height) `size`.

        Of a folder the last ones by name are held out. Raises UserError for a folder that has too few.
        """
        from PIL import Image

        if self.training == PEOPLE:
            from sow.people.drawing.render import render
            from sow.people.training.figures import HELD_OUT_SEEDS, TRAINING_SEEDS

            side = max(size)
            seeds = [TRAINING_SEEDS + i for i in range(self.count)]
            seeds += [HELD_OUT_SEEDS + i for i in range(self.held_out)]
            return [Image.fromarray(render(s, side).image).resize(size) for s in seeds]
        from sow.data.images import read_image

        folder = place_of(self.training, "study.training")
        files = sorted(p for p in folder.glob("*") if p.suffix.lower() in IMAGES) if folder.is_dir() else []
        wanted = self.count + self.held_out
        if len(files) < wanted:
            raise UserError(
                f"{folder} holds {len(files)} pictures, {wanted} are needed (study.training, study.count, "
                f"study.held_out)"
            )
        chosen = files[: self.count] + files[len(files) - self.held_out :]
        return [read_image(str(f), "study.training")[0].convert("RGB").resize(size) for f in chosen]

    def headline(
        self, context: StudyContext, lab: Laboratory, known: Tensor, excess: Any, near: Mapping[str, Nearest]
    ) -> dict[str, Any]:
        """Levels of speciation and collapse, and the medians of the distance ratios."""
        from sow.dynamics.curves import interval
        from sow.dynamics.measures import change_points, memorisation

        how = context.resampling(self.resamples)

        def collapse(axis: Any, curve: Any) -> float:
            return memorisation.collapse_level(axis, curve, self.count, self.share)

        flat = known.flatten(1).double()
        speciation = partial(memorisation.speciation_of, (flat @ flat.T).cpu().numpy())
        few = context.resampling(min(self.resamples, 200))  # an eigenvalue of `count` points each
        found: dict[str, Any] = {
            "pictures": self.count,
            "speciation": interval(speciation, len(flat), few),
            "collapse": change_points.located(collapse, lab.levels, excess, how),
        }
        found["window"] = {"from": found["speciation"], "to": found["collapse"]}
        for kind, of in near.items():
            ratio = of.ratio.cpu().numpy()
            found[kind.replace(" ", "_")] = interval(partial(median_of, ratio), len(ratio), how)
        return found

    def figure(
        self,
        context: StudyContext,
        lab: Laboratory,
        excess: Any,
        found: Mapping[str, Any],
        near: Mapping[str, Nearest],
    ) -> Figure:
        """The excess entropy as a share of log n, with both levels; how near samples and held-out pictures
        come."""
        import math

        import numpy as np

        from sow.dynamics.plots import banded

        from .core.laboratory import axes

        def paint(figure: Figure) -> None:
            left, right = figure.subplots(1, 2)
            how = context.resampling(self.resamples)
            banded(left, lab.levels, excess / math.log(self.count), how, label="excess entropy", number=0)
            places = {"speciation": found["speciation"]["value"], "collapse": found["collapse"]["value"]}
            for number, (name, place) in enumerate(places.items(), 1):
                left.axvline(place, color=figures.CYCLE[number], linestyle="--", label=name)
            left.set_ylabel(f"share of log {self.count}")
            axes(left, lab.axis)
            left.legend()
            for number, (kind, of) in enumerate(near.items()):
                ordered = np.sort(of.ratio.cpu().numpy())
                heights = np.arange(1, len(ordered) + 1) / len(ordered)
                right.step(ordered, heights, where="post", color=figures.CYCLE[number], label=kind)
            right.set(
                xlabel="distance to the nearest training picture / to the second", ylabel="share of pictures"
            )
            right.set_xlim(0, 1.02)
            right.legend()

        return figures.draw(8.5, 3.4, paint)

    def markdown(self, found: Mapping[str, Any]) -> str:
        """What README says."""
        rows = [
            {
                "pictures": found["pictures"],
                "speciation, log SNR": bracket(found["speciation"]),
                "collapse, log SNR": bracket(found["collapse"]),
                "ratio, samples": bracket(found["samples"]),
                "ratio, held out": bracket(found["held_out"]),
            }
        ]
        return (
            f"![Speciation, collapse and the nearest training pictures]({NAME}.png)\n\n"
            f"The training set as latents (after arXiv 2402.18491): speciation where the variance along its "
            f"first principal axis "
            f"equals the noise's; collapse where the entropy of which of these {found['pictures']} pictures "
            f"a state came from has "
            f"fallen to {self.share:.0%} of its log; median ratio of the distances to the nearest and the "
            f"second training picture, "
            "well below the held-out pictures' only for copies; 95 % intervals over pictures.\n\n"
            f"{markdown_table(rows)}"
        )


def median_of(values: Any, index: Any) -> float:
    """The median of `values` (units,) at `index`."""
    import numpy as np

    return float(np.median(values[index]))
