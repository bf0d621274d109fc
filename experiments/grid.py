"""`study=grid`: rows (methods, ablations) x requests as one labelled figure, PNG and PDF; conf/experiment/fig*.yaml.

The run folder is also one that `study=gallery` and `study=preference` read: images/, conditions/, records.parquet,
rows.json, groups.json, table.json.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sow.config.bounds import need_above, need_at_least
from sow.errors import UserError
from sow.types import Request

from .benchmark.rows import NAME, Row, compose_row, parse_rows
from .gallery.pictures import about_model, on_gray, slug

if TYPE_CHECKING:
    from sow.config.compose import Config
    from sow.types import Sample

    from .core.study import StudyContext

ASKED = {"prompt": str, "task": str, "seed": int, "photo": int, "condition": list}


@dataclass(frozen=True)
class Asked:
    """One request of a grid: `prompt` with **stressed** words, `task`, `seed`, words of a command line that make its
    `condition`, or which of study.images it is (`photo`, from 0)."""

    prompt: str
    task: str | None = None
    seed: int | None = None
    photo: int | None = None
    condition: tuple[str, ...] = ()

    @property
    def plain(self) -> str:
        """The prompt as the model reads it."""
        return self.prompt.replace("**", "")


@dataclass(frozen=True)
class Grid:
    """A figure of images, rows of methods by columns of requests.

    `name`      of the figure's files; `title` above it, `caption` below, before what made it
    `rows`      as those of study=benchmark: label, overrides
    `requests`  prompt, task, seed, condition (words of a command line), photo
    `images`    photographs that take the place of the configured conditions, with `masks` (none, face or one a
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
    columns: int
    inset: bool
    size: float
    chosen: str
    publish: bool

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise UserError(
                f"the name {self.name!r} names files: use letters, digits and _ . + - (study.name)"
            )
        need_at_least(self, "study", columns=1)
        need_above(self, "study", size=0)
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

    def run(self, context: StudyContext) -> None:
        """Generate row after row, draw, write."""
        from sow.report import blocks, figures

        from .grid_figure import figure_of

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
            figure = figure_of(self, rows, requests, samples, caption)
            path = figures.save(context.folder, self.name, figure)
            context.folder.save_bytes("caption.md", f"{caption}\n".encode())
        context.tracked.images({self.name: path})
        context.console.print(caption)
        context.console.print(f"figure: {path}")
        if self.publish:
            blocks.publish(self.name, caption, path)

    def words(self, rows: Mapping[str, Config]) -> str:
        """The caption: the figure's own words, which photographs, which models, how many steps; `rows` by label."""
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
        """Photographs and a mask each."""
        photographs = (
            []
            if self.images is None
            else [self.images]
            if isinstance(self.images, str)
            else list(self.images)
        )
        masks = [self.masks] if isinstance(self.masks, str) else list(self.masks)
        masks = masks * len(photographs) if len(masks) == 1 else masks
        if photographs and len(masks) != len(photographs):
            raise UserError(
                f"{len(masks)} masks for {len(photographs)} photographs: give none, face or one each (study.masks)"
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
                words = [
                    "condition=photo",
                    f"condition.image={photographs[k]}",
                    f"condition.mask={masks[k]}",
                ]
            key = (task, *words)
            if key not in composed:
                composed[key] = compose_row(config, Row(f"request_{i}", "", tuple(words), {}), task)
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
            mine = [r for r in requests if r.task == config.task.name]
            with context.timed("load"):
                sampler = build(config)
            with context.timed("plan"):
                plans = sampler.plan(mine)
            with context.timed("generate"):
                made |= {s.request.id: s for s in sampler.generate(mine, plans=plans)}
        return [made[r.id] for r in requests]

    def _write(
        self,
        context: StudyContext,
        rows: Sequence[Row],
        requests: Sequence[Request],
        samples: Mapping[str, Sequence[Sample]],
        caption: str,
    ) -> None:
        from .generate import mean, numbers

        folder, records, means = context.folder, [], {}
        for row in rows:
            measured = context.metrics.measure(list(samples[row.name]))
            own = [numbers(s, m) for s, m in zip(samples[row.name], measured, strict=True)]
            for sample, values in zip(samples[row.name], own, strict=True):
                r = sample.request
                folder.save_image(f"images/{row.name}/{r.id}-{r.seed}.png", sample.image)
                place = {"row": row.name, "group": r.id, "setting": r.task, "seed": r.seed}
                records.append({**place, **{k: v for k, v in values.items() if k != "seed"}})
            means[row.name] = mean(own)
        for request in requests:
            folder.save_image(f"conditions/{request.id}.png", on_gray(request.conditions))
        folder.save_table("records.parquet", records)
        folder.save_json(
            "groups.json", [{"id": r.id, "setting": r.task, "prompt": r.prompt} for r in requests]
        )
        folder.save_json("rows.json", [row.to_dict() for row in rows])
        folder.save_json(
            "table.json", {"name": self.name, "title": self.title, "caption": caption, "marks": []}
        )
        plans = {row.name: {s.request.id: s.plan.to_dict() for s in samples[row.name]} for row in rows}
        folder.save_json("plans.json", plans)
        folder.save_json("metrics.json", means)


def _parse(requests: Any, key: str) -> list[Asked]:
    """Requests from their YAML; raises UserError for one that cannot be."""
    if not isinstance(requests, (list, tuple)) or not requests:
        raise UserError(f"a grid needs a list of requests, got {requests!r} ({key})")
    out = []
    for value in requests:
        if not isinstance(value, Mapping) or not isinstance(value.get("prompt"), str):
            raise UserError(f"a request has a prompt, got {value!r} ({key})")
        for name, given in value.items():
            if name not in ASKED:
                raise UserError(f"{name} is no part of a request: choose among {', '.join(ASKED)} ({key})")
            if given is not None and (not isinstance(given, ASKED[name]) or isinstance(given, bool)):
                raise UserError(f"{name}={given!r} is no {ASKED[name].__name__} ({key})")
        words = [str(w) for w in value.get("condition") or ()]
        if wrong := next((w for w in words if not re.match(r"condition[.=]", w)), None):
            raise UserError(
                f"{wrong} is no word of the condition: begin with condition= or condition. ({key})"
            )
        out.append(Asked(**{**value, "condition": tuple(words)}))
    return out
