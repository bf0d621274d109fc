"""From finished batches to a run folder: records, pictures and the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sow.errors import UserError
from sow.report import blocks, figures, tables, writers

from .store import link

if TYPE_CHECKING:
    from sow.data import Group

    from ..core.study import StudyContext
    from .settings import Settings
    from .work import Work

NOT_A_METRIC = ("name", "plan", "image")


def collate(study: Settings, work: Work, context: StudyContext) -> tables.Table:
    """Write the run folder of a benchmark all of whose batches are there, and show its table."""
    folder, store = context.folder, work.store
    place = {g.id: i for i, g in enumerate(work.groups)}
    rank = {row.name: i for i, row in enumerate(study.shown)}
    records: list[dict[str, Any]] = []
    plans: dict[str, dict[str, Any]] = {}
    seconds = []
    for batch, found in (part for whole in work.batches for part in work.found(whole)):
        row = batch.row.name
        for record in found:
            name = record["name"]
            link(store.image(batch.key, name), folder.path / f"images/{row}/{name}.png")
            plans.setdefault(row, {})[name] = record["plan"]
            kept = {k: v for k, v in record.items() if k not in NOT_A_METRIC}
            records.append({"row": row, **kept, "sha256": record["image"]})
        seconds.append(_seconds(row, batch.names, store.seconds(batch.key)))
    records.sort(key=lambda r: (rank[r["row"]], place[r["group"]], r["seed"]))
    seconds.sort(key=lambda r: (rank[r["row"]], place[r["names"].split(",")[0].rpartition("-")[0]]))
    (folder.path / "errors.json").unlink(missing_ok=True)  # an earlier attempt's
    if work.failures:
        folder.save_json("errors.json", work.failures)
    if not records:
        raise UserError(f"no image could be made: {work.failures[0]['error']}")
    folder.save_table("records.parquet", records)
    folder.save_table("seconds.parquet", seconds)
    folder.save_json("plans.json", plans)
    folder.save_json("groups.json", [_group(g) for g in work.groups])
    for group in work.groups:
        for i, condition in enumerate(group.request.conditions):
            folder.save_image(f"conditions/{group.id}{f'.{i}' if i else ''}.png", condition.on_gray())
    folder.save_json("rows.json", [row.to_dict() for row in study.shown])
    folder.save_json("table.json", describe(study, work, context))
    table = tables.from_folder(folder.path)
    writers.save(folder, table, "table")
    if study.pareto:
        from .pareto import draw

        figure = figures.save(folder, "pareto", draw(table, study.pareto))
        context.tracked.images({"pareto": figure})
        context.console.print(f"figure: {figure}")
    context.tracked.summary(summary(table))
    context.console.print(writers.terminal(table))
    context.console.print(f"table: {folder.path / 'table.md'}")
    if study.publish:
        spent = [v for r in seconds for k, v in r.items() if k.startswith("batch/") and v is not None]
        made = context.made(len(records), sum(spent))
        writers.publish(table, made=made)
        if study.pareto:
            name = f"{study.name}-pareto"
            blocks.publish(name, f"![{study.title}: quality at equal compute](pareto.png)", figure, made=made)
    return table


def describe(study: Settings, work: Work, context: StudyContext) -> dict[str, Any]:
    """table.json: what the table is and what it was measured on."""
    return {
        "name": study.name,
        "title": study.title,
        "marks": study.marks,
        "columns": study.columns,
        "units": "prompt",  # whose groups are drawn together; older folders: each alone
        "reference": study.reference if study.reference in {r.name for r in study.shown} else None,
        "resampling": {
            "level": study.level,
            "resamples": study.resamples,
            "seed": study.resample_seed,
        },
        "caption": caption(study, work, context),
    }


def caption(study: Settings, work: Work, context: StudyContext) -> list[str]:
    """Model, data, n, seeds, whether these groups chose the hyper-parameters,
    and the source of the paper's numbers."""
    config, groups = context.config, work.groups
    settings = {s: sum(g.setting == s for g in groups) for s in dict.fromkeys(g.setting for g in groups)}
    split = ", ".join(f"{n} {s}" for s, n in settings.items())
    models = list(dict.fromkeys(b.config.choices["model"] for b in work.batches)) or [config.choices["model"]]
    chosen = config.choices
    out = [
        f"Here: model {' and '.join(models)}, calibration {chosen['calibration']}, data {chosen['data']}, "
        f"{study.split} split, {len(groups)} groups ({split}), {study.seeds} "
        f"image{'s' if study.seeds > 1 else ''} per group, {config.num_inference_steps} steps, metrics "
        f"{chosen['metrics']}."
    ]
    if study.split == "test":
        out.append("No hyper-parameter was chosen on these groups.")
    else:
        out.append("Tuned on these groups: the validation split is where hyper-parameters are chosen.")
    if work.failures:
        out.append(f"{len(work.failures)} images could not be made and are left out; n is what each row has.")
    out += fewer(study, work)
    out.append(
        f"Paper: {study.source}; another model, other data and other judges, so compare orders, not values."
    )
    metrics = {c["metric"] for c in study.columns}
    if "seconds" in metrics:
        from ..core.study import device

        shared = "what rows share is made once and counted with the first (cache.memory_mb=0 keeps nothing)"
        reuse = "nothing is reused between rows" if config.cache.memory_mb == 0 else shared
        out.append(
            f"Seconds per image are those of generation on {device()}, {config.batch_size} in a batch; "
            f"{reuse}."
        )
    if "train_seconds" in metrics:
        out.append(
            "A method that learns the condition takes one image per batch; its training is counted apart, "
            "once per condition."
        )
    return out


def fewer(study: Settings, work: Work) -> list[str]:
    """Sentences about rows that have fewer groups than the table: which, and how they are compared."""
    counts = {r.name: len(work.groups_of(r)) for r in study.shown if r.overrides is not None}
    if len(set(counts.values())) < 2:
        return []
    return [
        "Rows with a smaller n have the first groups of each setting; differences, and the order of two "
        "rows, are of the groups that both have."
    ]


def summary(table: tables.Table) -> dict[str, float]:
    """`row/metric` and the ends of its interval, for the tracker."""
    out = {}
    for line in table.lines:
        for column, cell in zip(table.columns, line.cells, strict=True):
            if cell.ours is not None:
                out[f"{line.name}/{column.metric}"] = cell.ours.mean
                out[f"{line.name}/{column.metric}.low"] = cell.ours.low
                out[f"{line.name}/{column.metric}.high"] = cell.ours.high
    return out


def _group(group: Group) -> dict[str, Any]:
    return {
        "id": group.id,
        "setting": group.setting,
        "split": group.split,
        "prompt": group.request.prompt,
        "conditions": len(group.request.conditions),
    }


def _seconds(row: str, names: Sequence[str], seconds: Mapping[str, Any]) -> dict[str, Any]:
    """A batch's times: those of generation and of training an image, and the parts of the whole."""
    images = seconds.get("images", len(names))
    generated = seconds.get("without_training", seconds.get("generate"))
    return {
        "row": row,
        "names": ",".join(names),
        "seconds": None if generated is None else generated / images,
        "train_seconds": seconds["train"] / images if "train" in seconds else None,
        **{f"batch/{k}": seconds.get(k) for k in ("load", "plan", "generate", "measure")},
        **{f"phase/{k}": v for k, v in seconds.get("phases", {}).items()},
        "unet_evaluations": seconds.get("unet_evaluations"),
    }
