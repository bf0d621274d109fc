"""`study=claims`: what the paper claims, held against measured tables."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sow.config.schema import construct
from sow.errors import UserError
from sow.metrics import mean
from sow.report import figures, tables
from sow.report.statistics import Comparison, Resampling, compare, detectable, holm
from sow.runs.records import MANIFEST, manifests_below, read_manifest
from sow.store.files import place_of
from sow.types import Bound, component

from .core.fields import Inside, Resamples
from .core.finding import Finding

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .core.study import StudyContext

Verdict = Literal["supported", "contradicted", "not supported", "undecided", "not measured"]
BOUNDED = ("same", "not lower", "not higher")  # decided by the interval alone
MIXED = (0.1, 0.9)  # of a gate that is always open, or never, a table says nothing
NAMES = {"id_distance": "ID-Distance ↓", "truncated": "truncated ↓", "failure": "truncated or second face ↓"}
COLORS = {
    "supported": figures.COLORS["green"],
    "contradicted": figures.COLORS["vermilion"],
    "not supported": figures.COLORS["orange"],
    "undecided": figures.COLORS["gray"],
}


@component("study.claims")
class Claim:
    """A sentence of the paper as a difference between two rows of a table.

    `row` minus `against` in `metric` is lower or higher than nothing, or, `direction` same, not lower or not
    higher, within `worth` of it on both sides or on that one: the smallest difference that matters, in the
    metric's unit. `mixed` names a share, as that of open
    gates: the claim is undecided where its mean in `row` does not lie within MIXED.
    """

    name: str
    says: str
    source: str
    table: str
    row: str
    against: str
    metric: str
    direction: Literal["lower", "higher", "same", "not lower", "not higher"]
    worth: Annotated[float, Bound(gt=0)]
    mixed: str | None = None


@dataclass(frozen=True)
class Outcome:
    """A claim with its `difference` (None where the table or a row is missing), Holm-corrected `p` over all
    claims that a test decides, the smallest difference that would have been seen, and its rows' `model`."""

    claim: Claim
    difference: Comparison | None
    p: float
    detectable: float
    verdict: Verdict
    model: str


def verdict(claim: Claim, found: Comparison, p: float, level: float) -> Verdict:
    """What a difference says of a claim.

    A difference the claimed way: supported or contradicted where the corrected test says so; not supported
    where the interval leaves out that it is `worth` as much; else undecided. No difference: supported where
    the interval lies within `worth`, on both sides or on the one that the claim excludes, contradicted where
    it lies beyond.
    """
    if claim.direction in BOUNDED:
        least = -claim.worth if claim.direction != "not higher" else -math.inf
        most = claim.worth if claim.direction != "not lower" else math.inf
        if least < found.low and found.high < most:
            return "supported"
        return "contradicted" if found.low > most or found.high < least else "undecided"
    sign = 1 if claim.direction == "higher" else -1
    if p <= 1 - level:
        return "supported" if sign * found.difference > 0 else "contradicted"
    best = max(sign * found.low, sign * found.high)
    return "not supported" if best < claim.worth else "undecided"


@component("study")
class Claims:
    """Claims of the paper beside what `tables` (folders of runs, or of folders) measured."""

    tables: str | list[str]
    split: Literal["validation", "test", "all"]
    level: Inside
    resamples: Resamples
    resample_seed: int
    publish: bool
    claims: Mapping[str, Any]

    @cached_property
    def parsed(self) -> list[Claim]:
        """The claims; raises UserError for one that cannot be."""
        out = []
        for name, value in self.claims.items():
            if not isinstance(value, Mapping):
                raise UserError(f"study.claims.{name}={value!r} is not a claim (study.claims.{name})")
            fields = {("direction" if k == "is" else k): v for k, v in value.items()}
            out.append(construct(Claim, {**fields, "name": name}, f"study.claims.{name}"))
        if not out:
            raise UserError("no claims: give some (study.claims)")
        return out

    @cached_property
    def folders(self) -> dict[str, Path]:
        """The last complete run of each table that a claim names, of the wanted split."""
        wanted = {c.table for c in self.parsed}
        found: dict[str, tuple[str, Path]] = {}
        for place in [self.tables] if isinstance(self.tables, str) else self.tables:
            path = place_of(place, "study.tables")
            if not path.is_dir():
                raise UserError(f"{path} is not a folder (study.tables)")
            for run, manifest in manifests_below(path):
                study = manifest.get("config", {}).get("study", {})
                name, when = study.get("name"), str(manifest.get("finished", manifest.get("started", "")))
                if name in wanted and study.get("split") == self.split and when >= found.get(name, ("",))[0]:
                    found[name] = (when, run)
        if not found:
            raise UserError(
                f"no complete run of {', '.join(sorted(wanted))} on the {self.split} split below "
                f"{self.tables}: run experiment=table2 study.split={self.split}, or name their folders "
                "(study.tables)"
            )
        return {name: run for name, (_, run) in found.items()}

    def files(self) -> list[str]:
        """What is read, for the run key."""
        names = (MANIFEST, "records.parquet", "seconds.parquet")
        return [str(run / name) for run in self.folders.values() for name in names]

    def run(self, context: StudyContext) -> None:
        """Read, compare, show."""
        outcomes = self.outcomes()
        rows = [tidy(o) for o in outcomes]
        headline = {word: sum(o.verdict == word for o in outcomes) for word in (*COLORS, "not measured")}
        short = [{k: r[k] for k in ("claim", "difference", "low", "high", "p", "verdict")} for r in rows]
        text = markdown(outcomes, self.level, self.split)
        Finding("claims", headline, text, draw(outcomes), {"claims": rows}, short).deliver(
            context, self.publish
        )

    def outcomes(self) -> list[Outcome]:
        """All claims with their verdicts."""
        how = Resampling(self.level, self.resamples, self.resample_seed)
        read = {name: tables.read_folder(folder) for name, folder in self.folders.items()}
        found = {c.name: _difference(c, read[c.table], how) for c in self.parsed if c.table in read}
        tested = {
            c.name: d.p
            for c in self.parsed
            if c.direction not in BOUNDED and (d := found.get(c.name)) is not None
        }
        corrected = holm(tested)
        manifests = {name: read_manifest(run / MANIFEST) for name, run in self.folders.items()}
        chosen = {name: m.get("choices", {}).get("model", "") for name, m in manifests.items()}
        out = []
        for claim in self.parsed:
            d = found.get(claim.name)
            model = _model(claim, read[claim.table][1], chosen[claim.table]) if claim.table in read else ""
            if d is None:
                out.append(Outcome(claim, None, math.nan, math.nan, "not measured", model))
                continue
            p = corrected.get(claim.name, math.nan)
            seen = detectable(d.error, how, len(tested))
            said: Verdict = verdict(claim, d, p, self.level)
            if claim.mixed and not _is_mixed(claim.mixed, claim.row, read[claim.table]):
                said = "undecided"
            out.append(Outcome(claim, d, p, seen, said, model))
        return out


def _difference(claim: Claim, folder: tables.Folder, how: Resampling) -> Comparison | None:
    _, _, records, units = folder
    values: dict[str, list[tuple[Hashable, Any]]] = {claim.row: [], claim.against: []}
    for record in records:
        if record["row"] in values:
            values[record["row"]].append((record["group"], record.get(claim.metric)))
    found = compare(values[claim.row], values[claim.against], how, units)
    return found if found.groups else None


def _is_mixed(metric: str, row: str, folder: tables.Folder) -> bool:
    share = mean([record.get(metric) for record in folder[2] if record["row"] == row])
    return share is not None and MIXED[0] <= share <= MIXED[1]


def _model(claim: Claim, rows: Sequence[Mapping[str, Any]], chosen: str) -> str:
    """The models of a claim's two rows: the run's own (`chosen`), unless a row names another."""
    words = [r["overrides"] or () for r in rows if r["name"] in (claim.row, claim.against)]
    named = [[w.removeprefix("model=") for w in row if w.startswith("model=")] for row in words]
    return " and ".join(dict.fromkeys(models[-1] if models else chosen for models in named))


def tidy(outcome: Outcome) -> dict[str, Any]:
    """A line of claims.csv."""
    d = outcome.difference
    numbers = asdict(d) if d else dict.fromkeys(("difference", "low", "high", "groups", "test", "error"))
    numbers.pop("p", None)
    claim = asdict(outcome.claim)
    name = claim.pop("name")
    return {
        "claim": name,
        "verdict": outcome.verdict,
        **numbers,
        "p": None if math.isnan(outcome.p) else outcome.p,
        "detectable": None if math.isnan(outcome.detectable) else outcome.detectable,
        **claim,
        "model": outcome.model,
    }


def markdown(outcomes: Sequence[Outcome], level: float, split: str) -> str:
    """The table for the documentation."""
    lines = [
        "| the paper says | where | metric | difference here | p | n | seen 9 times in 10 from | verdict |",
        "| :--- | :--- | :--- | ---: | ---: | ---: | ---: | :--- |",
    ]
    for o in outcomes:
        d, c = o.difference, o.claim
        if d is None:
            lines.append(f"| {c.says} | {c.source} | {_metric(c)} | - | - | 0 | - | {o.verdict} |")
            continue
        number = f"{_text(d.difference, c)} [{_text(d.low, c)}, {_text(d.high, c)}]"
        p = "-" if math.isnan(o.p) else f"{o.p:.3f}"
        unit = _unit(c)
        lines.append(
            f"| {c.says} | {c.source} | {_metric(c)} | {number}{unit} | {p} | {d.groups} "
            f"| {_text(o.detectable, c)[1:]}{unit} | {o.verdict} |"
        )
    models = " and ".join(dict.fromkeys(o.model for o in outcomes if o.model))
    lines += [
        "",
        f"On model {models}, {split} split. Differences are paired by group, with {level * 100:g} % "
        "bootstrap intervals over groups, those of one prompt together; p of a paired test, Holm-corrected "
        "over the claims that have one.",
        f"Supported and contradicted: p is at most {1 - level:.2g}, whatever the size; without p, the "
        f"interval lies within or beyond what matters ({', '.join(_worths(outcomes))}). Not supported: "
        "neither, and the interval excludes what matters. Undecided: else, or a gate nearly always open or "
        "shut.",
    ]
    return "\n".join(lines) + "\n"


def draw(outcomes: Sequence[Outcome]) -> Figure:
    """A line per claim: difference and interval in units of what matters, right of 0 as the paper says."""

    def paint(figure: Figure) -> None:
        _paint(figure.subplots(), outcomes)

    return figures.draw(8, 0.34 * len(outcomes) + 1.2, paint)


def _paint(axis: Axes, outcomes: Sequence[Outcome]) -> None:
    from matplotlib.patches import Patch

    for place, o in enumerate(reversed(outcomes)):
        if o.difference is None:
            continue
        sign = -1 if o.claim.direction in ("lower", "not higher") else 1
        mean, low, high = (
            sign * v / o.claim.worth for v in (o.difference.difference, o.difference.low, o.difference.high)
        )
        axis.plot([low, high], [place, place], color=COLORS[o.verdict], lw=2)
        axis.plot([mean], [place], "o", color=COLORS[o.verdict])
    axis.axvline(0, color="black", lw=0.8)
    axis.axvline(1, color="black", lw=0.8, ls=":")
    axis.set_yticks(range(len(outcomes)), [o.claim.says for o in reversed(outcomes)])
    axis.set_xlabel("difference over the smallest that matters; right of 0 as the paper says")
    axis.legend(handles=[Patch(color=c, label=w) for w, c in COLORS.items()], fontsize=7, loc="best")


def _metric(claim: Claim) -> str:
    """What a metric is called in the tables."""
    return NAMES.get(claim.metric, claim.metric.replace("_", " "))


def _worths(outcomes: Sequence[Outcome]) -> list[str]:
    """The smallest differences that matter, once each."""
    worths: dict[str, None] = {}
    for c in (o.claim for o in outcomes):
        points = 100 if _unit(c) == " points" else 1
        worths[f"{points * c.worth:g}{_unit(c)} of {_metric(c).removesuffix(' ↓')}"] = None
    return list(worths)


def _unit(claim: Claim) -> str:
    return {"truncated": " points", "failure": " points", "face_detected": " points", "seconds": " s"}.get(
        claim.metric, ""
    )


def _text(value: float, claim: Claim) -> str:
    if math.isnan(value):
        return " -"
    return f"{100 * value:+.1f}" if _unit(claim) == " points" else f"{value:+.3f}"
