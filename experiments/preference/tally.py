"""`study=preference_tally`: answers to a survey and its key -> Table I with intervals,
and how far raters agree."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sow.errors import UserError
from sow.report import writers
from sow.report.statistics import Resampling, estimate
from sow.report.tables import Cell, Column, Line, Table, parse_columns
from sow.store.files import place_of
from sow.types import component

from ..core.fields import Inside, Resamples
from ..preference.preference import KEY
from ..preference.statistics import Vote, alpha_interval, fleiss_kappa, krippendorff_alpha, share

if TYPE_CHECKING:
    from ..core.study import StudyContext

ALL = "all"


@dataclass(frozen=True)
class Ballot:
    """A vote with the criterion and the setting it belongs to."""

    criterion: str
    setting: str
    vote: Vote


@component("study")
class Tally:
    """Shares of the votes by row and criterion, over all and by setting;
    `paper` holds the paper's, named by `source`."""

    key: str
    answers: Any
    level: Inside
    resamples: Resamples
    resample_seed: int
    source: str
    paper: dict[str, Any]

    def files(self) -> list[str]:
        """What is counted, for the run key."""
        return [self.key, *map(str, _listed(self.answers))]

    def run(self, context: StudyContext) -> None:
        """Read, check, count, write."""
        key = read_key(self.key)
        ballots, people = read_ballots(key, _listed(self.answers))
        settings = list(dict.fromkeys(b.setting for b in ballots if b.setting))
        tables = [self._table(key, ballots, people, ALL)]
        tables += [self._table(key, ballots, people, s) for s in settings if len(settings) > 1]
        for table in tables:
            writers.save(context.folder, table, table.name)
        numbers = self._numbers(key, ballots, people, tables)
        context.folder.save_json("metrics.json", numbers)
        context.tracked.summary({k: v for k, v in numbers.items() if not isinstance(v, (dict, list))})
        for table in tables:
            context.console.print(writers.terminal(table), width=None if context.console.is_terminal else 160)
        context.console.print(f"table: {context.folder.path / (tables[0].name + '.md')}")

    def _numbers(
        self,
        key: Mapping[str, Any],
        ballots: Sequence[Ballot],
        people: Sequence[Mapping[str, Any]],
        tables: Sequence[Table],
    ) -> dict[str, Any]:
        how = Resampling(self.level, self.resamples, self.resample_seed)
        out: dict[str, Any] = {"survey": key["survey"], "people": len(people), "answers": len(ballots)}
        for criterion in key["criteria"]:
            votes = [b.vote for b in ballots if b.criterion == criterion["name"]]
            name = criterion["name"]
            out[f"{name}_fleiss_kappa"] = fleiss_kappa(votes)
            out[f"{name}_krippendorff_alpha"] = krippendorff_alpha(votes)
            out[f"{name}_krippendorff_low"], out[f"{name}_krippendorff_high"] = alpha_interval(votes, how)
        out["raters"] = list(people)
        out["tables"] = {
            t.name: {
                line.name: {
                    c.metric: asdict(cell.ours) for c, cell in zip(t.columns, line.cells) if cell.ours
                }
                for line in t.lines
            }
            for t in tables
        }
        return out

    def _table(
        self, key: Mapping[str, Any], ballots: Sequence[Ballot], people: Sequence[Any], setting: str
    ) -> Table:
        how = Resampling(self.level, self.resamples, self.resample_seed)
        here = [b for b in ballots if setting in (ALL, b.setting)]
        items = [i for i in key["items"].values() if setting in (ALL, i["setting"])]
        objective = parse_columns(key["objective"]) if key["objective"] else ()
        objective = tuple(c for c in objective if any(_measured(i, c.metric) for i in items))
        # Table I names what was judged with the conditions first.
        criteria = sorted(key["criteria"], key=lambda c: not c["conditions"])
        voted = tuple(Column(c["name"], c["label"], "higher", "percent") for c in criteria)
        of_criterion = {c.metric: [b.vote for b in here if b.criterion == c.metric] for c in voted}
        lines = []
        for row in key["rows"]:
            paper = dict(row["paper"]) if setting == ALL else {}
            paper |= (self.paper.get(setting) or {}).get(row["name"]) or {}
            cells = []
            for column in objective:
                of_row = [(i["group"], i["metrics"].get(row["name"]) or {}) for i in items]
                found = [(g, m[column.metric]) for g, m in of_row if m.get(column.metric) is not None]
                cells.append(estimate(found, how, column.share) if found else None)
            for column in voted:
                votes = of_criterion[column.metric]
                cells.append(share(votes, row["name"], self.level) if votes else None)
            line = [
                Cell(ours, None, math.nan, math.nan, paper.get(column.metric))
                for ours, column in zip(cells, (*objective, *voted), strict=True)
            ]
            lines.append(Line(row["name"], row["label"], (), tuple(line)))
        name, title = "preference", "Preference of people"
        if setting != ALL:
            name, title = f"{name}_{setting}", f"{title}, {setting} setting"
        caption = self._caption(key, of_criterion, people, [c.label for c in voted], how)
        columns = (*objective, *voted)
        return Table(name, title, (), columns, tuple(lines), None, self.level, len(items), caption)

    def _caption(
        self,
        key: Mapping[str, Any],
        votes: Mapping[str, Sequence[Vote]],
        people: Sequence[Any],
        labels: Sequence[str],
        how: Resampling,
    ) -> tuple[str, ...]:
        words = [
            f"{len(people)} people, of {key['raters']} asked, chose the best of {len(key['rows'])} images."
        ]
        if key.get("about"):
            words.append(f"The images were made by {key['about']}.")
        for cast, label in zip(votes.values(), labels, strict=True):
            low, high = alpha_interval(cast, how)
            groups = len({v.item for v in cast})
            words.append(
                f"{label}: {len(cast)} answers on {groups} groups, {len({v.rater for v in cast})} people; "
                f"Fleiss' kappa {_text(fleiss_kappa(cast))}, Krippendorff's alpha "
                f"{_text(krippendorff_alpha(cast))} [{_text(low)}, {_text(high)}]."
            )
        words.append(
            f"In brackets: {self.level * 100:g} % intervals; of votes Wilson's at the effective number that "
            "votes clustered by person and by group amount to; of other shares Wilson's over groups; else "
            "bias-corrected bootstrap over groups, of alpha percentile bootstrap over groups."
        )
        return (*words, f"paper: {self.source}.")


def read_key(path: str) -> dict[str, Any]:
    """A survey's key; raises UserError for anything else."""
    file = place_of(path, "study.key")
    file = file / KEY if file.is_dir() else file
    try:
        key = json.loads(file.read_text())
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error} (study.key)") from error
    except ValueError as error:
        raise UserError(f"{file} is not JSON: {error} (study.key)") from error
    needed = {"survey", "raters", "criteria", "rows", "items", "assignments", "objective"}
    if not isinstance(key, dict) or not needed <= set(key):
        raise UserError(f"{file} is not the key of a survey: give key.json of study=preference (study.key)")
    return key


def read_ballots(key: Mapping[str, Any], files: Sequence[Path]) -> tuple[list[Ballot], list[dict[str, Any]]]:
    """All votes, and what each person sent; of several files of one person the fullest, if the others agree
    with it.

    Raises UserError for a file of another survey, an answer to what was not asked, and files that contradict.
    """
    if not files:
        raise UserError("no answers: give the files that people sent back (study.answers)")
    sent: dict[str, tuple[Path, dict[int, tuple[str, str, str]]]] = {}
    for file in files:
        rater, given = _read_answers(key, file)
        if rater in sent:
            other, before = sent[rater]
            if any(before[n] != given[n] for n in before.keys() & given.keys()):
                raise UserError(
                    f"{other} and {file} are both of person {rater} and differ: remove one (study.answers)"
                )
            if len(before) >= len(given):
                continue
        sent[rater] = (file, given)
    ballots, people = [], []
    for rater, (file, given) in sorted(sent.items(), key=lambda s: int(s[0])):
        asked = len(key["assignments"][rater])
        people.append({"rater": int(rater), "answered": len(given), "asked": asked, "file": file.name})
        for criterion, item, choice in given.values():
            asked_of = key["items"][item]
            vote = Vote(rater, item, asked_of["images"][choice])
            ballots.append(Ballot(criterion, asked_of["setting"], vote))
    if not ballots:
        raise UserError(f"{len(files)} files without a single answer (study.answers)")
    return ballots, people


def _read_answers(key: Mapping[str, Any], file: Path) -> tuple[str, dict[int, tuple[str, str, str]]]:
    """(person, {number of the question: (criterion, item, choice)}),
    held against what that person was asked."""
    try:
        sent = json.loads(file.read_text())
        survey, rater = sent["survey"], str(sent["rater"])
        answers = [(int(a["number"]), a["criterion"], a["item"], a["choice"]) for a in sent["answers"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} holds no answers to a survey: {error!r} (study.answers)") from error
    if survey != key["survey"]:
        raise UserError(
            f"{file} answers survey {survey}, the key is of {key['survey']} (study.answers, study.key)"
        )
    if rater not in key["assignments"]:
        raise UserError(f"{file} is of person {rater}, but {key['raters']} were asked (study.answers)")
    asked = key["assignments"][rater]
    given: dict[int, tuple[str, str, str]] = {}
    for number, criterion, item, choice in answers:
        wanted = asked[number] if 0 <= number < len(asked) else None
        if wanted is None or (key["criteria"][wanted[0]]["name"], wanted[1]) != (criterion, item):
            raise UserError(f"{file}: question {number} was not put to person {rater} (study.answers)")
        if choice not in wanted[2]:
            raise UserError(f"{file}: {choice} is not an image of question {number} (study.answers)")
        if number in given:
            raise UserError(f"{file} answers question {number} twice (study.answers)")
        given[number] = (criterion, item, choice)
    return rater, given


def _listed(answers: Any) -> list[Path]:
    """Files named by study.answers; a folder stands for its answers-*.json,
    or all its *.json if it has none."""
    out: list[Path] = []
    for value in answers if isinstance(answers, (list, tuple)) else [answers]:
        path = place_of(str(value), "study.answers")
        inside = sorted(path.rglob("answers-*.json")) or sorted(path.rglob("*.json"))
        found = inside if path.is_dir() else [path]
        out += [f for f in found if f not in out]
    return out


def _measured(item: Mapping[str, Any], metric: str) -> bool:
    return any(m.get(metric) is not None for m in item["metrics"].values())


def _text(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
