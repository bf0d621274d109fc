"""`study=calibrate`: the numbers of `conf/calibration` for another model, chosen on validation groups alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sow.config.bounds import need_at_least
from sow.data import SETTINGS
from sow.errors import UserError
from sow.metrics import columns

from .benchmark.benchmark import Benchmark

if TYPE_CHECKING:
    from sow.report.statistics import Comparison, Estimate

    from .core.study import StudyContext

STEP = {"key", "values", "setting"}
COLUMN = {"metric": "score", "label": "Score", "better": "higher", "format": "number"}


@dataclass(frozen=True)
class Candidate:
    """A value that was tried: its score over the groups, against the first value's, and the metrics' means."""

    value: Any
    score: Estimate
    against: Comparison | None
    metrics: Mapping[str, float | None]


@dataclass(frozen=True)
class Calibrate:
    """Coordinate search: each of `steps` tries its values with the best of the steps before.

    `limit`   groups of the validation split, the settings in turn; `seeds` images each
    `score`   weight of each metric's mean; `missing` values where a metric does not exist
    `margin`  by which a value has to beat the first of its step to be chosen
    """

    limit: int
    seeds: int
    score: dict[str, float]
    missing: dict[str, float]
    margin: float
    steps: list[dict[str, Any]]
    level: float
    resamples: int
    resample_seed: int

    def __post_init__(self) -> None:
        from sow.report.statistics import Resampling

        Resampling(self.level, self.resamples, self.resample_seed)
        if not self.score:
            raise UserError("a score needs at least one metric (study.score)")
        need_at_least(self, "study", margin=0)
        for step in self.steps:
            if set(step) != STEP:
                raise UserError(f"a step has key, values and setting, got {step!r} (study.steps)")
            if step["setting"] not in (None, *SETTINGS):
                raise UserError(
                    f"{step['key']} has setting={step['setting']}: choose {', '.join(SETTINGS)} or null (study.steps)"
                )
            if not isinstance(step["values"], list) or len(step["values"]) < 2:
                raise UserError(
                    f"{step['key']} needs at least two values, got {step['values']!r} (study.steps)"
                )

    def run(self, context: StudyContext) -> None:
        """Try all values, write `calibration.json`, `calibration.md` and the suggested `calibrated.yaml`."""
        context.metrics.check()
        known = columns(context.metrics)
        for metric in self.score:
            if known and metric not in known:
                raise self._unmeasured(metric)
        chosen: dict[str, Any] = {}
        told = []
        for number, step in enumerate(self.steps):
            tried = self._try(context, number, step, chosen)
            best = choose(tried, self.margin)
            chosen[step["key"]] = best.value
            told.append({**step, "chosen": best.value, "tried": [_plain(c) for c in tried]})
            context.console.print(f"{step['key']} = {json.dumps(best.value)}, score {best.score.mean:.3f}")
            context.folder.save_json("calibration.json", told)
        context.folder.save_bytes("calibration.md", markdown(told).encode())
        words = [w for w in context.config.overrides if not w.startswith(("paths.", "tracker"))]
        command = " ".join(["python run.py", *words])
        file = context.folder.save_bytes("calibrated.yaml", suggestion(told, command, self.limit).encode())
        context.tracked.summary({t["key"]: t["chosen"] for t in told if not isinstance(t["chosen"], list)})
        context.console.print(f"suggestion: {file}")

    def _try(
        self, context: StudyContext, number: int, step: Mapping[str, Any], chosen: Mapping[str, Any]
    ) -> list[Candidate]:
        """The candidates of a step, measured."""
        from sow.report.statistics import Resampling, compare, estimate

        from .benchmark.work import Work

        words = [f"calibration.{key}={word(value)}" for key, value in chosen.items()]
        rows = {
            f"{number}.{i}": {"overrides": [*words, f"calibration.{step['key']}={word(value)}"]}
            for i, value in enumerate(step["values"])
        }
        study = self._benchmark(rows, step["setting"])
        work = Work(study, context)
        if missing := work.missing(work.batches):
            work.generate(missing)
        records: dict[str, list[dict[str, Any]]] = {name: [] for name in rows}
        for batch in work.batches:
            found = work.store.read(batch.key, batch.names)
            assert found is not None, "a batch was lost between two looks at it"
            records[batch.row.name] += found
        how = Resampling(self.level, self.resamples, self.resample_seed)
        scores = {name: [(r["group"], self._score(r)) for r in found] for name, found in records.items()}
        first = scores[f"{number}.0"]
        return [
            Candidate(
                value,
                estimate(scores[f"{number}.{i}"], how),
                compare(scores[f"{number}.{i}"], first, how) if i else None,
                {m: _mean([self._value(r, m) for r in records[f"{number}.{i}"]]) for m in self.score},
            )
            for i, value in enumerate(step["values"])
        ]

    def _benchmark(self, rows: dict[str, Any], setting: str | None) -> Benchmark:
        return Benchmark(
            name="calibrate",
            title="Calibration",
            source="",
            split="validation",  # never another: the test split chooses nothing
            settings=None if setting is None else [setting],
            limit=self.limit,
            seeds=self.seeds,
            only=None,
            shard=None,
            marks=[],
            columns=[COLUMN],
            rows=rows,
            reference=None,
            level=self.level,
            resamples=self.resamples,
            resample_seed=self.resample_seed,
            publish=False,
        )

    def _score(self, record: Mapping[str, Any]) -> float:
        return sum(weight * self._value(record, metric) for metric, weight in self.score.items())

    def _unmeasured(self, metric: str) -> UserError:
        return UserError(
            f"the metrics do not measure {metric}: choose metrics that do (metrics=people), or leave it out of the score with "
            f"~study.score.{metric} (study.score)"
        )

    def _value(self, record: Mapping[str, Any], metric: str) -> float:
        if metric not in record:
            raise self._unmeasured(metric)
        value = record[metric]
        return self.missing.get(metric, 0.0) if value is None else float(value)


def choose(tried: Sequence[Candidate], margin: float) -> Candidate:
    """The candidate of the highest score; the first one unless another beats it by more than `margin`."""
    best = max(tried, key=lambda c: c.score.mean)
    return best if best.score.mean > tried[0].score.mean + margin else tried[0]


def word(value: Any) -> str:
    """A value as Hydra's grammar writes it."""
    return json.dumps(value)


def suggestion(told: Sequence[Mapping[str, Any]], command: str, limit: int) -> str:
    """A calibration file with the values that differ from the paper's."""
    import yaml

    values: dict[str, Any] = {}
    for step in told:
        if step["chosen"] == step["values"][0]:
            continue
        *path, name = step["key"].split(".")
        node = values
        for part in path:
            node = node.setdefault(part, {})
        node[name] = step["chosen"]
    lines = [
        "# Numbers for one model and its data, chosen on the validation split; what is not here is the paper's.",
        f"# {command} ({limit} groups; one value after another)",
        "defaults:",
        "  - paper",
    ]
    text = yaml.safe_dump(values, sort_keys=False) if values else ""
    return "\n".join(lines) + "\n" + text


def markdown(told: Sequence[Mapping[str, Any]]) -> str:
    """Every value that was tried, with its score, interval and difference to the first."""
    lines = ["| value | score | Δ to the first (p) | metrics |", "| :--- | ---: | ---: | :--- |"]
    for step in told:
        for tried in step["tried"]:
            score, against = tried["score"], tried["against"]
            difference = f"{against['difference']:+.3f} (p={against['p']:.3f})" if against else "-"
            mark = "**" if tried["value"] == step["chosen"] else ""
            metrics = ", ".join(f"{m} {v:.3f}" for m, v in tried["metrics"].items() if v is not None)
            interval = "" if score["low"] is None else f" [{score['low']:.3f}, {score['high']:.3f}]"
            lines.append(
                f"| {mark}{step['key']} = {word(tried['value'])}{mark} | {score['mean']:.3f}{interval} "
                f"| {difference} | {metrics} |"
            )
    return "\n".join(lines) + "\n"


def _plain(candidate: Candidate) -> dict[str, Any]:
    from dataclasses import asdict

    from sow.runs.records import jsonable

    return jsonable(asdict(candidate))


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
