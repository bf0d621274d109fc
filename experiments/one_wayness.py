"""`study=one_wayness`: whole methods by their Jacobian and by finite perturbations."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from sow.report import figures
from sow.types import Bound, component

from .core.fields import Count, Prompts, Resamples
from .core.finding import Finding, bracket, markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from .core.laboratory import Laboratory
    from .core.study import StudyContext

NAME = "one_wayness"
WAYS = ("jacobian", "perturbation")
Energies = Mapping[str, Mapping[str, Any]]  # method -> way -> (2, images): out of the condition, into it


@component("study")
class OneWayness:
    """See conf/study/one_wayness.yaml; t1, t2, t3 and the number of cycles are the configuration's."""

    prompts: Prompts
    images: Count
    probes: Count
    draws: Count
    strength: Annotated[float, Bound(gt=0)]
    steps: Count
    batch: Count
    resamples: Resamples
    full: bool
    publish: bool

    def run(self, context: StudyContext) -> None:
        """Draw canvases, pull probes back through each method, perturb them, rank."""
        from sow.dynamics import one_way
        from sow.method.process import process_of

        from .core.laboratory import Cells, Laboratory, counted, each

        config, sampler = context.config, context.sampler()
        size = sampler.canvas.latent_size
        schedule = process_of(sampler.backbone, config.num_inference_steps, size)
        steps = tuple(reversed(schedule.timesteps))
        lab = Laboratory(sampler.backbone, schedule, steps, size, self.batch)
        drawn = Laboratory(sampler.backbone, process_of(sampler.backbone, self.steps, size), (), size, 16)
        t1, t2 = config.cycle.resolve(schedule.steps, schedule.sigmas)
        t3 = config.preservation.resolve(config.cycle, schedule.steps, schedule.sigmas)
        _ = context.tracked  # the input is known to be good
        cells, prompts = Cells(context), each(self.images, self.prompts)
        seeds = [config.seed + i for i in range(self.images)]
        with context.timed("images"):
            x0 = cells("images", lambda: drawn.samples(prompts, seeds))
        parts = [slice(at, at + self.batch) for at in range(0, self.images, self.batch)]
        methods = one_way.loops(t1, t2, config.cycle.cycles, t3)
        found: dict[str, dict[str, Any]] = {name: {way: [] for way in WAYS} for name in methods}
        units = [(name, part) for name in methods for part in parts]
        for name, part in counted(units, "methods"):
            make = partial(self.measured, lab, methods[name], (t1, t2), x0[part], prompts[part], seeds[part])
            with context.timed(name):
                both = cells(f"{name} {part.start}", make)
            for way in WAYS:
                found[name][way].append(both[way].double().cpu().numpy())
        energies = {
            name: {way: np.concatenate(v, 1) for way, v in ways.items()} for name, ways in found.items()
        }
        headline = self.headline(context, energies)
        rows = [
            {"method": name, "way": way, "image": i, "forth": float(f), "back": float(b)}
            for name, ways in energies.items()
            for way, (forth, back) in ways.items()
            for i, (f, b) in enumerate(zip(forth, back, strict=True))
        ]
        short = [
            {"method": name, **{way: bracket(of[way], 3) for way in WAYS}}
            for name, of in headline["methods"].items()
        ]
        Finding(
            NAME,
            headline,
            self.markdown(headline, short, (t1, t2, config.cycle.cycles, t3)),
            self.figure(headline),
            {NAME: rows},
            short,
            history=(),
        ).deliver(context, self.publish)

    def measured(
        self,
        lab: Laboratory,
        loop: Any,
        between: tuple[int, int],
        canvas: Tensor,
        prompts: list[str],
        seeds: list[int],
    ) -> dict[str, Tensor]:
        """Both energies of some canvases by either way, (2, B) each."""
        import torch

        from sow.dynamics import one_way

        height, width = lab.size
        middle = torch.zeros(lab.size, dtype=torch.bool, device=canvas.device)
        middle[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
        alphas = [lab.axis.final_alpha, *(lab.axis.alpha(t) for t in lab.schedule.timesteps)]
        method = one_way.Method(
            loop,
            lambda x, level: lab.denoise(x, level, prompts),
            [a.to(canvas) for a in alphas],
            *between,
            middle,
            lambda number: lab.noise([s + (number + 1) * 10**6 for s in seeds]),
        )
        probes = torch.stack(
            [lab.noise([s + (i + 1) * 10**8 for s in seeds]).sign() for i in range(self.probes)]
        )
        draws = [[s + (i + 1) * 10**9 for s in seeds] for i in range(self.draws)]
        ways = (
            one_way.by_jacobian(method, canvas, probes),
            one_way.by_perturbation(method, canvas, self.strength, draws),
        )
        return {way: torch.stack(both).detach() for way, both in zip(WAYS, ways, strict=True)}

    def headline(self, context: StudyContext, energies: Energies) -> dict[str, Any]:
        """w of each method by either way with intervals over images, and how the ways rank methods."""
        from sow.dynamics.curves import interval, rank_correlation

        how = context.resampling(self.resamples)

        def ranks(index: Any) -> float:
            return rank_correlation(*([w_of(ways[way], index) for ways in energies.values()] for way in WAYS))

        methods = {
            name: {way: interval(partial(w_of, both), self.images, how) for way, both in ways.items()}
            for name, ways in energies.items()
        }
        return {"methods": methods, "spearman": interval(ranks, self.images, how)}

    def figure(self, found: Mapping[str, Any]) -> Figure:
        """Both w of each method, with their intervals."""

        def paint(figure: Figure) -> None:
            axis = figure.subplots()
            axis.plot([-1, 1], [-1, 1], color="black", linewidth=0.8)
            for number, (name, of) in enumerate(found["methods"].items()):
                x, y = (of[way] for way in WAYS)
                error = [
                    [[max(0.0, v["value"] - v["low"])], [max(0.0, v["high"] - v["value"])]] for v in (x, y)
                ]
                color = figures.CYCLE[number % len(figures.CYCLE)]
                marker = "osD^v"[number % 5]
                axis.errorbar(
                    x["value"], y["value"], error[1], error[0], fmt=marker, color=color, label=name, alpha=0.8
                )
            axis.set(xlabel="w by the Jacobian", ylabel=f"w by perturbations of {self.strength:g}")
            axis.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05))
            axis.legend()

        return figures.draw(4.6, 4.2, paint)

    def markdown(self, found: Mapping[str, Any], short: list[dict[str, Any]], loop: Any) -> str:
        """What its page says."""
        t1, t2, cycles, t3 = loop
        return (
            f"![One-wayness of methods by two ways]({NAME}.png)\n\n"
            "w of the canvas's middle against the rest, by vector-Jacobian products through the whole method "
            f"and by perturbations of {self.strength:g}, on {self.images} of the model's own images as "
            f"canvases; loops without guidance and modulation, t2 {t2}, t1 {t1}, {cycles} cycles, t3 "
            f"{list(t3)}; 95 % intervals over images. Spearman's rank correlation of the two over methods: "
            f"{bracket(found['spearman'])}.\n\n{markdown_table(short)}"
        )


def w_of(both: Any, index: Any) -> float:
    """w of the energies (2, images) at `index`, summed over images."""
    forth, back = both[:, index].sum(1)
    return float((forth - back) / (forth + back)) if forth + back > 0 else float("nan")
