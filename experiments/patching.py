"""`study=patching`: one layer's activation, in some steps and one region, put in from a run with another
prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sow.errors import UserError
from sow.report import figures
from sow.types import Bound, component

from .core.fields import LIMIT
from .core.finding import Finding, bracket, markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from sow.dynamics.measures.patching import Tape

    from .core.laboratory import Laboratory
    from .core.study import StudyContext

NAME = "patching"
REGIONS = ("everywhere", "left", "right", "middle")


@component("study")
class Patching:
    """`images` per pair of runs that share their noise, one under `prompt`, whose activations under `other`
    are put in.

    `layers` are names of the network's modules, or "attention": every attention block. Steps are put in by
    `windows`
    consecutive parts of the run, regions one at a time.
    """

    prompt: str
    other: str
    layers: list[str] | Literal["attention"]
    windows: Annotated[int, Bound(ge=1, le=LIMIT)]
    regions: list[str]
    images: Annotated[int, Bound(ge=1, le=LIMIT)]
    steps: Annotated[int, Bound(ge=1, le=LIMIT)]
    batch: Annotated[int, Bound(ge=1, le=LIMIT)]
    resamples: Annotated[int, Bound(ge=100, le=LIMIT)]
    full: bool
    publish: bool

    def __post_init__(self) -> None:
        for name in self.regions:
            if name not in REGIONS:
                raise UserError(f"regions are of {', '.join(REGIONS)}, got {name!r} (study.regions)")
        if not self.regions or self.windows > self.steps:
            raise UserError(
                f"need a region and at most {self.steps} windows of steps, got {self.windows} "
                "(study.regions, study.windows, study.steps)"
            )

    def run(self, context: StudyContext) -> None:
        """Record the other run, then patch each place of this one."""
        from .core.laboratory import Cells, Laboratory, counted

        lab = Laboratory.of(context, 2, self.steps, max(self.batch, self.images))
        layers = layers_of(lab.backbone.unet, self.layers)
        _ = context.tracked  # the input is known to be good
        cells, seeds = Cells(context), [context.config.seed + i for i in range(self.images)]
        with context.timed("record"):
            source, theirs = self.recorded(lab, layers, seeds)
            own = self.walked(lab, seeds, self.prompt)
        spans = windows(self.steps, self.windows)
        places = [
            (layer, w, region) for layer in layers for w in range(len(spans)) for region in self.regions
        ]
        rows: list[dict[str, Any]] = []
        for layer, w, region in counted(places, "places"):

            def patched(layer: str = layer, w: int = w, region: str = region) -> dict[str, Any]:
                return self.patched(lab, source, (own, theirs), layer, spans[w], region, seeds)

            with context.timed("patched"):
                found = cells(f"{layer} {w} {region}", patched)
            for i in range(self.images):
                rows.append(
                    {
                        "layer": layer,
                        "first_timestep": lab.schedule.timesteps[spans[w][0]],
                        "last_timestep": lab.schedule.timesteps[spans[w][-1]],
                        "region": region,
                        "image": i,
                        **{name: float(values[i]) for name, values in found.items()},
                    }
                )
        short = self.short(context, rows)
        headline = {"layers": len(layers), "windows": len(spans), "most": short[0]}
        headline["window"] = self.window(context, lab, rows, spans)
        Finding(
            NAME, headline, self.markdown(short), self.figure(rows, layers), {NAME: rows}, short, history=[]
        ).deliver(context, self.publish)

    def walked(self, lab: Laboratory, seeds: Sequence[int], prompt: str, tape: Tape | None = None) -> Tensor:
        """x_0 of the runs of `seeds` under `prompt`; the tape is told each step."""
        return lab.walk(lab.noise(seeds), [prompt] * len(seeds), tape)

    def recorded(self, lab: Laboratory, layers: Sequence[str], seeds: Sequence[int]) -> tuple[Tape, Tensor]:
        """Activations of the other runs, and where those end."""
        from sow.dynamics.measures import patching

        with patching.recorded(lab.backbone.unet, layers) as tape:
            return tape, self.walked(lab, seeds, self.other, tape)

    def patched(
        self,
        lab: Laboratory,
        source: Tape,
        ends: tuple[Tensor, Tensor],
        layer: str,
        span: Sequence[int],
        region: str,
        seeds: Sequence[int],
    ) -> dict[str, Any]:
        """How far the runs move, inside the region and outside, (B,) each; nan outside everywhere."""
        import torch

        from sow.dynamics.measures import patching

        where = region_mask(region, lab.size)
        sites = [(layer, k) for k in span]
        with patching.patched(lab.backbone.unet, source, sites, where) as tape:
            end = self.walked(lab, seeds, self.prompt, tape)
        own, other = ends
        inside = patching.moved(own, other, end, where)
        outside = (
            patching.moved(own, other, end, ~where) if not where.all() else torch.full_like(inside, torch.nan)
        )
        return {"moved": inside, "moved_outside": outside}

    def window(
        self, context: StudyContext, lab: Laboratory, rows: Sequence[Mapping[str, Any]], spans: Any
    ) -> dict[str, Any]:
        """By where a tenth and nine tenths of what all layers move in the first region is moved."""
        import numpy as np

        from sow.dynamics.measures import change_points

        from .core.laboratory import ENDS, window

        moved = np.zeros((self.images, len(spans)))
        place = {lab.schedule.timesteps[span[0]]: i for i, span in enumerate(reversed(spans))}
        for row in rows:
            if row["region"] == self.regions[0]:
                moved[row["image"], place[row["first_timestep"]]] += row["moved"]
        borders = [lab.axis.state(self.steps), *(lab.axis.state(span[0]) for span in reversed(spans))]

        def ends(index: Any) -> tuple[float, float]:
            total = np.concatenate([[0], moved[index].mean(0).cumsum()])
            early, late = (change_points.crossing(borders, total / total[-1], share) for share in ENDS)
            return early, late

        return window(ends, self.images, context.resampling(self.resamples))

    def short(self, context: StudyContext, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The ten places that move most, with intervals over images."""
        from sow.dynamics.curves import mean_interval

        places: dict[tuple[Any, ...], list[float]] = {}
        for row in rows:
            key = row["layer"], row["first_timestep"], row["last_timestep"], row["region"]
            places.setdefault(key, []).append(row["moved"])
        most = sorted(places, key=lambda key: -sum(places[key]) / len(places[key]))[:10]
        how = context.resampling(self.resamples)
        return [
            {
                "layer": layer,
                "timesteps": f"{last} to {first}",
                "region": region,
                "moved": bracket(mean_interval(places[layer, first, last, region], how)),
            }
            for layer, first, last, region in most
        ]

    def figure(self, rows: Sequence[Mapping[str, Any]], layers: Sequence[str]) -> Figure:
        """A map of layers and windows per region, all on one scale."""
        import pandas as pd

        table = pd.DataFrame(rows).groupby(["region", "layer", "last_timestep"]).moved.mean().unstack()

        def paint(figure: Figure) -> None:
            panels = figure.subplots(1, len(self.regions), squeeze=False)[0]
            top = float(table.abs().max(axis=None)) or 1.0
            for axis, region in zip(panels, self.regions, strict=True):
                values = table.loc[region].loc[list(layers)].iloc[:, ::-1]
                shown = axis.imshow(values, vmin=-top, vmax=top, cmap="RdBu_r", aspect="auto")
                axis.set_xticks(range(values.shape[1]), [str(t) for t in values.columns])
                axis.set(title=region, xlabel="from timestep")
                axis.set_yticks(range(len(layers)), layers if axis is panels[0] else [""] * len(layers))
            figure.colorbar(shown, ax=list(panels), label="moved, in the region")

        return figures.draw(3.5 + 2.2 * len(self.regions), 1.6 + 0.25 * len(layers), paint)

    def markdown(self, short: Sequence[Mapping[str, Any]]) -> str:
        """What README says."""
        return (
            f"![What a patched activation moves]({NAME}.png)\n\n"
            f'Runs under "{self.prompt}" with one activation of the run under "{self.other}" from the same '
            f"noise, {self.images} "
            "images: the share of the way from one outcome to the other that the outcome inside the region "
            "moves; the places that "
            f"move most, with 95 % intervals over images.\n\n{markdown_table(short)}"
        )


def layers_of(unet: Any, wanted: Sequence[str]) -> list[str]:
    """Names of modules, "attention" every attention block; raises UserError for a name that the network
    lacks."""
    names = [name for name, _ in unet.named_modules() if name]
    if wanted == "attention":
        return [name for name in names if name.split(".")[-2:-1] == ["attentions"]]
    for name in wanted:
        if name not in names:
            raise UserError(f"the network has no layer {name} (study.layers)")
    return list(wanted)


def windows(steps: int, count: int) -> list[list[int]]:
    """`count` consecutive parts of the steps 0 .. steps - 1, as even as they can be."""
    return [list(range(i * steps // count, (i + 1) * steps // count)) for i in range(count)]


def region_mask(name: str, size: tuple[int, int]) -> Tensor:
    """One of `REGIONS` as (h, w) bool; the middle is half the height and width."""
    import torch

    height, width = size
    out = torch.zeros(size, dtype=torch.bool)
    if name == "middle":
        out[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    else:
        out[:, slice(width // 2) if name == "left" else slice(width // 2, None)] = True
    return torch.ones_like(out) if name == "everywhere" else out
