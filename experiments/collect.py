"""`study=collect`: all runs under a folder as one tidy table, with a figure of what a metric depends on."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from sow import report
from sow.errors import UserError
from sow.runs import reading
from sow.runs.records import MANIFEST, NOT_THE_RUN, manifests_below
from sow.store.files import place_of
from sow.types import Bound, component

from .core.fields import LIMIT, Count

if TYPE_CHECKING:
    from .core.study import StudyContext

log = logging.getLogger(__name__)
NOT_A_METRIC = {"row", "group", "setting", "seed", "sha256", "key"}


@component("study")
class Collect:
    """A row per complete run under `folder`: where and when, every key that differs between the runs, every
    number.

    `metric` is what the figure is about, None = the first of `preferred` that is there; it shows the `axes`
    most important keys, numbers of more than `bins` values in as many bins.
    """

    folder: str
    metric: str | None
    preferred: list[str]
    axes: Count
    bins: Annotated[int, Bound(ge=2, le=LIMIT)]

    @cached_property
    def manifests(self) -> dict[Path, dict[str, Any]]:
        """Complete runs and their manifests, by folder; other collections are no runs."""
        found = manifests_below(place_of(self.folder, "study.folder"))
        return {run: m for run, m in found if m.get("choices", {}).get("study") != "collect"}

    def files(self) -> list[tuple[Path, str]]:
        """What the table is made of, for the run key: a run is known by its place in the folder."""
        root, names = place_of(self.folder, "study.folder"), (MANIFEST, "metrics.json", "records.parquet")
        found = (run / name for run in self.manifests for name in names)
        return [(file, file.relative_to(root).as_posix()) for file in found]

    def run(self, context: StudyContext) -> None:
        """Read, tabulate, draw."""
        from .collect_figure import draw

        if not self.manifests:
            raise UserError(f"there is no complete run below {self.folder} (study.folder)")
        with context.timed("read"):
            rows = tidy(self.manifests, place_of(self.folder, "study.folder"))
        metrics = [name for name in rows[0] if name.startswith("metric.")]
        keys = [name for name in rows[0] if name.startswith(("config.", "choice."))]
        with context.timed("write"):
            context.folder.save_table("runs.parquet", [{k: _cell(v) for k, v in row.items()} for row in rows])
            context.folder.save_bytes("runs.csv", comma_separated(rows).encode())
        tracked = context.tracked
        tracked.table("runs", rows)
        numbers: dict[str, Any] = {"runs": len(self.manifests), "rows": len(rows), "keys": len(keys)}
        metric = self._metric(metrics)
        if metric is not None:
            found = importances(rows, keys, metric, self.bins)
            numbers |= {f"importance/{key}": value for key, value in found.items()}
            if found:
                shown = list(found)[: self.axes]
                figure = draw(context.folder, rows, shown, found, metric)
                tracked.images({"collect": figure})
                context.console.print(f"figure: {figure}")
            else:
                context.console.print(f"no figure: no key differs among the runs that have {metric}")
        context.folder.save_json("metrics.json", numbers)
        tracked.summary(numbers)
        context.console.print(report.table(numbers, context.seconds))
        context.console.print(f"table: {context.folder.path / 'runs.csv'}")

    def _metric(self, metrics: Sequence[str]) -> str | None:
        if self.metric is not None:
            if f"metric.{self.metric}" not in metrics:
                names = ", ".join(m.partition(".")[2] for m in metrics)
                raise UserError(f"no run has the number {self.metric}: choose among {names} (study.metric)")
            return f"metric.{self.metric}"
        wanted = [f"metric.{name}" for name in self.preferred]
        return next((name for name in wanted if name in metrics), metrics[0] if metrics else None)


def tidy(runs: Mapping[Path, Mapping[str, Any]], root: Path) -> list[dict[str, Any]]:
    """A row per run, or per row of a benchmark; the keys of a configuration and options that are the same
    everywhere are left out.

    Columns: run, row, study, finished, seconds, commit; choice.GROUP; config.KEY; metric.NAME. Every row has
    all of them.
    """
    found = []
    for run, manifest in runs.items():
        told = manifest.get("choices", {})
        about = {
            "run": str(run.relative_to(root)),
            "study": told.get("study"),
            "finished": manifest.get("finished"),
            "seconds": manifest.get("total_seconds"),
            "commit": (manifest.get("git") or {}).get("commit"),
        }
        choices = {f"choice.{k}": v for k, v in told.items() if k not in (*NOT_THE_RUN, "study")}
        kept = {k: v for k, v in manifest.get("config", {}).items() if k not in (*NOT_THE_RUN, "study")}
        config = {f"config.{k}": v for k, v in flat(kept)}
        for row, numbers in measured(run):
            metrics = {f"metric.{k}": v for k, v in numbers.items()}
            found.append(({**about, "row": row}, {**choices, **config}, metrics))
    names = list(dict.fromkeys(k for _, keys, _ in found for k in keys))
    differing = [
        n for n in names if len({json.dumps(keys.get(n), sort_keys=True) for _, keys, _ in found}) > 1
    ]
    measures = list(dict.fromkeys(k for _, _, metrics in found for k in metrics))
    return [
        {**about, **{n: keys.get(n) for n in differing}, **{m: metrics.get(m) for m in measures}}
        for about, keys, metrics in found
    ]


def flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of a configuration by dotted key; a `_target_` follows from the group's option."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif name != "_target_":
            yield f"{prefix}{name}", value


def measured(folder: Path) -> Iterator[tuple[str | None, dict[str, float]]]:
    """(row, numbers) of a run folder: those of metrics.json,
    or the means over each row of a benchmark's records."""
    if (folder / "records.parquet").is_file():
        import pandas

        records = pandas.read_parquet(folder / "records.parquet")
        for name, part in records.groupby("row", sort=False):
            numbers = part.drop(columns=[c for c in part if c in NOT_A_METRIC])
            means = numbers.select_dtypes(["number", "bool"]).astype(float).mean()
            yield str(name), {str(k): float(v) for k, v in means.items() if v == v}
        return
    values = {}
    if (folder / "metrics.json").is_file():
        try:
            values = reading.numbers(folder, "metrics")
        except UserError as error:
            log.warning("%s", error)
    yield (
        None,
        {k: float(v) for k, v in values.items() if isinstance(v, (int, float)) and k not in NOT_A_METRIC},
    )


def _cell(value: Any) -> Any:
    """A column of parquet has one type: what is no number or text becomes text."""
    return value if isinstance(value, (int, float, str, type(None))) else json.dumps(value)


def comma_separated(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table for eyes and spreadsheets."""
    import pandas

    return pandas.DataFrame([{k: _cell(v) for k, v in row.items()} for row in rows]).to_csv(index=False)


def importances(
    rows: Sequence[Mapping[str, Any]], keys: Sequence[str], metric: str, bins: int
) -> dict[str, float]:
    """Epsilon squared of each key that differs among the rows with `metric`, in [0, 1], the largest first.

    epsilon^2 = max(0, (SS_between - df_between MS_within) / SS_total) of a one-way analysis of variance over
    the key's levels; numbers with more than `bins` values are cut at their quantiles. It is 0 in expectation
    for a key without influence, where the plain share of variance grows with the number of levels.
    Interactions are not in it. Keys that name the same levels in every row, as a group's option and its
    numbers, are given once.
    """
    kept = [row for row in rows if row.get(metric) is not None]
    values = np.array([row[metric] for row in kept], dtype=float)
    found: dict[str, float] = {}
    seen: set[tuple[int, ...]] = set()
    for key in keys:
        level = levels([row.get(key) for row in kept], bins)
        pattern = tuple(int(i) for i in level)
        if len(set(pattern)) < 2 or pattern in seen:
            continue
        seen.add(pattern)
        found[key] = epsilon_squared(values, level)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def levels(column: Sequence[Any], bins: int) -> NDArray[np.int64]:
    """The level (n,) int64 of each value, numbered in order of appearance;
    many numbers are binned at their quantiles."""
    if (
        all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in column)
        and len(set(column)) > bins
    ):
        cuts = np.quantile(np.array(column, dtype=float), np.linspace(0, 1, bins + 1)[1:-1])
        column = np.searchsorted(cuts, np.array(column, dtype=float), side="right").tolist()
    words = [json.dumps(v, sort_keys=True, default=str) for v in column]
    order = {word: i for i, word in enumerate(dict.fromkeys(words))}
    return np.array([order[word] for word in words], dtype=np.int64)


def epsilon_squared(values: NDArray[np.float64], level: NDArray[np.int64]) -> float:
    """See `importances`; 0 where every level has one value or nothing varies."""
    total = float(((values - values.mean()) ** 2).sum())
    groups = [values[level == i] for i in np.unique(level)]
    within = float(sum(((g - g.mean()) ** 2).sum() for g in groups))
    free = len(values) - len(groups)
    if total <= 0 or free <= 0:
        return 0.0
    return max(0.0, (total - within - (len(groups) - 1) * within / free) / total)
