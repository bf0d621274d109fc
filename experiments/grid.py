"""`study=grid`: rows (methods, ablations) x requests as one labelled figure, PNG and PDF;
conf/experiment/fig*.yaml.

The run folder is also one that `study=gallery` and `study=preference` read: images/, conditions/,
records.parquet, rows.json, groups.json, table.json.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sow.config.schema import construct
from sow.errors import UserError
from sow.types import Bound, Request, component

from .benchmark.rows import NAME, Row, compose_row, parse_rows
from .core.fields import Count
from .core.samples import mean, numbers
from .gallery.pictures import about_model, on_gray, slug

if TYPE_CHECKING:
    from sow.config.compose import Config
    from sow.types import Sample

    from .core.study import StudyContext


@component("study.requests")
class Asked:
    """One request of a grid: `prompt` with **stressed** words, `task` and `seed`.

    `condition` are words of a command line that make it, or `photo` says which of study.images it is, from 0.
    """

    prompt: str
    task: str | None = None
    seed: int | None = None
    photo: int | None = None
    condition: tuple[str, ...] = ()

    @property
    def plain(self) -> str:
        """The prompt as the model reads it."""
        return self.prompt.replace("**", "")


@component("study")
class Grid:
    """A figure of images, rows of methods by columns of requests.

    `name`      of the figure's files; `title` above it, `caption` below, before what made it
    `rows`      as those of study=benchmark: label, overrides
    `requests`  prompt, task, seed, condition (words of a command line), photo
    `images`    photographs that take the place of the configured conditions, with `masks` (none, face or one
                per
                photograph): request i gets the one its `photo` names, else the i-th, from the start again
    `stand_in`  requests and a sentence for the caption when no images are given; null = `requests` serve
    `across`    what runs from left to right: requests (below one another after `columns` of them) or rows
    `inset`     the condition in the image's lower right corner; else in a row or column of its own
    `size`      inches of an image
    `chosen`    what the caption says of how the images were chosen
    `publish`   figure and caption on their page of docs/
    """

    name: str
    title: str
    caption: str
    rows: dict[str, Any]
    requests: list[Any]
    images: Any
    masks: Any
    stand_in: Any
    across: Literal["requests", "rows"]
    columns: Count
    inset: bool
    size: Annotated[float, Bound(gt=0)]
    chosen: str
    publish: bool

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise UserError(
                f"the name {self.name!r} names files: use letters, digits and _ . + - (study.name)"
            )
        for row in parse_rows(self.rows):
            if row.overrides is None:
                raise UserError(f"row {row.name} makes no images: give it overrides (study.rows.{row.name})")
        _parse(self.requests, "study.requests")
        if self.stand_in is not None:
            if not isinstance(self.stand_in, Mapping) or set(self.stand_in) != {"caption", "requests"}:
                raise UserError(f"stand_in has caption and requests, got {self.stand_in!r} (study.stand_in)")
            _parse(self.stand_in["requests"], "study.stand_in")
        self._photographs()

    def files(self) -> list[str]:
        """Photographs and masks, for the run key."""
        photographs, masks = self._photographs()
        words = [w.partition("=")[2].strip("'\"") for a in self.asked for w in a.condition]
        return [*photographs, *masks, *words]

    @property
    def asked(self) -> list[Asked]:
        """The requests that are made: those whose photograph is there."""
        photographs, _ = self._photographs()
        if not photographs and self.stand_in is not None:
            return _parse(self.stand_in["requests"], "study.stand_in")
        asked = _parse(self.requests, "study.requests")
        return [a for a in asked if not photographs or a.photo is None or a.photo < len(photographs)]

    def configurations(self, config: Config) -> list[Config]:
        """Those of the rows, which may choose other components than the run's."""
        return [compose_row(config, row, config.task.name) for row in parse_rows(self.rows)]

    def run(self, context: StudyContext) -> None:
        """Generate row after row, draw, write."""
        from sow.report import blocks, figures

        from .grid_figure import figure_of, panels

        config, rows = context.config, parse_rows(self.rows)
        context.metrics.check()
        if not self.asked:
            raise UserError("no request is left for these photographs: give more of them (study.images)")
        with context.timed("compose"):
            requests = self._requests(config)
            tasks = list(dict.fromkeys(str(r.task) for r in requests))
            configs = {(row.name, task): compose_row(config, row, task) for row in rows for task in tasks}
        samples = {
            row.name: self._row(context, [configs[row.name, t] for t in tasks], requests) for row in rows
        }
        with context.timed("write"):
            caption = self.words({row.label or row.name: configs[row.name, tasks[0]] for row in rows})
            self._write(context, rows, requests, samples, caption)
            images = {row.label or row.name: [s.image for s in samples[row.name]] for row in rows}
            columns = None if self.across == "rows" else self.columns
            conditions = [on_gray(r.conditions) for r in requests]
            lines = panels(images, [a.prompt for a in self.asked], conditions, columns, self.inset)
            path = figures.save(context.folder, self.name, figure_of(lines, self.title, caption, self.size))
            context.folder.save_bytes("caption.md", f"{caption}\n".encode())
        context.tracked.images({self.name: path})
        context.console.print(caption)
        context.console.print(f"figure: {path}")
        if self.publish:
            block = f"![{self.title}]({path.name})\n\n{caption}"
            blocks.publish(self.name, block, path, made=context.made())

    def words(self, rows: Mapping[str, Config]) -> str:
        """The caption: the figure's own words, which photographs, which models,
        how many steps; `rows` by label."""
        configs = list(rows.values())
        models = dict.fromkeys(about_model(c.choices, c.resolved["model"]) for c in configs)
        steps: dict[int, list[str]] = {}
        for label, c in rows.items():
            own = c.resolved["method"].get("num_inference_steps") or c.num_inference_steps
            steps.setdefault(own, []).append(label)
        counted = [f"{n} steps" + (f" ({', '.join(v)})" if len(steps) > 1 else "") for n, v in steps.items()]
        words = [self.caption.strip()]
        if self.stand_in is not None and not self._photographs()[0]:
            words.append(str(self.stand_in["caption"]).strip())
        seeds = sorted({a.seed if a.seed is not None else configs[0].seed for a in self.asked})
        words.append(
            f"Made by {' and '.join(models)}, {', '.join(counted)}, seed{'s' * (len(seeds) > 1)} "
            f"{', '.join(map(str, seeds))}; {self.chosen}."
        )
        return " ".join(w for w in words if w)

    def _photographs(self) -> tuple[list[str], list[str]]:
        """Photographs, and as many masks."""
        photographs = [] if self.images is None else self.images
        photographs = [photographs] if isinstance(photographs, str) else list(photographs)
        masks = [self.masks] if isinstance(self.masks, str) else list(self.masks)
        masks = masks * len(photographs) if len(masks) == 1 else masks
        if photographs and len(masks) != len(photographs):
            raise UserError(
                f"{len(masks)} masks for {len(photographs)} photographs: give none, face or one each "
                "(study.masks)"
            )
        return [str(p) for p in photographs], [str(m) for m in masks]

    def _requests(self, config: Config) -> list[Request]:
        photographs, masks = self._photographs()
        out: list[Request] = []
        composed: dict[tuple[Any, ...], Config] = {}
        for i, asked in enumerate(self.asked):
            task, seed = asked.task or config.task.name, config.seed if asked.seed is None else asked.seed
            words = list(asked.condition)
            if photographs:
                k = i % len(photographs) if asked.photo is None else asked.photo
                files = {"image": photographs[k], "mask": masks[k]}
                words = ["condition=photo", *(f"condition.{n}={v}" for n, v in files.items())]
            key = (task, *words)
            if key not in composed:
                composed[key] = compose_row(config, Row(f"request_{i}", "", tuple(words)), task)
            name = f"{i:02d}-{slug(asked.plain)[:24].strip('-')}"
            out.append(Request(composed[key].condition.load(seed), asked.plain, task, seed, name))
        return out

    def _row(
        self, context: StudyContext, configs: Sequence[Config], requests: Sequence[Request]
    ) -> list[Sample]:
        """The samples of one row in the order of the requests; a task has a sampler of its own."""
        from sow.pipeline.factory import build

        made: dict[str, Sample] = {}
        for config in configs:
            with context.timed("load"):
                sampler = build(config)
            mine = [r for r in requests if r.task == config.task.name]
            made |= {s.request.id: s for s in context.generate(sampler, mine)}
        return [made[r.id] for r in requests]

    def _write(
        self,
        context: StudyContext,
        rows: Sequence[Row],
        requests: Sequence[Request],
        samples: Mapping[str, Sequence[Sample]],
        caption: str,
    ) -> None:
        folder = context.folder
        records: list[dict[str, Any]] = []
        means, plans = {}, {}
        for row in rows:
            made = samples[row.name]
            own = [numbers(s, m) for s, m in zip(made, context.measure(made), strict=True)]
            for sample, values in zip(made, own, strict=True):
                r = sample.request
                folder.save_image(f"images/{row.name}/{r.id}-{r.seed}.png", sample.image)
                place = {"row": row.name, "group": r.id, "setting": r.task, "seed": r.seed}
                records.append({**place, **values, **place})
            means[row.name] = mean(own)
            plans[row.name] = {s.request.id: s.plan.to_dict() for s in made}
        for request in requests:
            folder.save_image(f"conditions/{request.id}.png", on_gray(request.conditions))
        groups = [{"id": r.id, "setting": r.task, "prompt": r.prompt} for r in requests]
        folder.save_table("records.parquet", records)
        folder.save_json("groups.json", groups)
        folder.save_json("rows.json", [row.to_dict() for row in rows])
        folder.save_json(
            "table.json", {"name": self.name, "title": self.title, "caption": caption, "marks": []}
        )
        folder.save_json("plans.json", plans)
        folder.save_json("metrics.json", means)


def _parse(requests: Any, key: str) -> list[Asked]:
    """Requests from their YAML; raises UserError for one that cannot be."""
    if not isinstance(requests, (list, tuple)) or not requests:
        raise UserError(f"a grid needs a list of requests, got {requests!r} ({key})")
    out = []
    for i, value in enumerate(requests):
        if not isinstance(value, Mapping):
            raise UserError(f"a request has a prompt, got {value!r} ({key}.{i})")
        asked = construct(Asked, value, f"{key}.{i}")
        if wrong := next((w for w in asked.condition if not re.match(r"condition[.=]", w)), None):
            raise UserError(
                f"{wrong} does not belong to the condition: begin with condition= or condition. ({key}.{i})"
            )
        out.append(asked)
    return out
