"""A tally agrees with hand-made counts and refuses answers to what was not asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_survey import WORDS, answer

from experiments.preference.tally import read_ballots, read_key
from sow.errors import UserError

pytest_plugins = ["small_survey"]  # fixtures


def test_the_tally_is_table_one(
    survey: Path, tmp_path: Path, command_line: Callable[..., Any], run_folders: Callable[[], list[Path]]
) -> None:
    key = read_key(str(survey))
    folder = tmp_path / "answers"
    folder.mkdir()
    for rater, row in (("1", "sow"), ("2", "sow"), ("3", "cow")):
        (folder / f"answers-x-{rater}.json").write_text(json.dumps(answer(key, rater, row)))
    done = command_line("study=preference_tally", *WORDS, f"study.key={survey}", f"study.answers={folder}")
    assert done.status == 0 and "Preference of people" in done.out, done.err
    out = run_folders()[-1]
    numbers = json.loads((out / "metrics.json").read_text())
    of_cow = sum(q[0] == 0 for q in key["assignments"]["3"]) / 8  # every criterion has 8 votes
    sow = numbers["tables"]["preference"]["sow"]
    assert sow["general_fidelity"]["mean"] == pytest.approx(1 - of_cow)
    assert sow["general_fidelity"]["low"] < 1 - of_cow < sow["general_fidelity"]["high"]
    assert sow["id_distance"]["mean"] == pytest.approx(0.25)
    nobody = numbers["tables"]["preference"]["dreambooth"]
    assert nobody["general_fidelity"]["mean"] == 0 < nobody["general_fidelity"]["high"]
    assert nobody["face_detected"]["mean"] == pytest.approx(0.75)
    assert set(numbers["tables"]) == {"preference", "preference_normal", "preference_style"}
    text = (out / "preference.md").read_text()
    head = [h.strip() for h in text.splitlines()[2].strip("|").split("|")]
    order = [
        head.index(next(h for h in head if h.startswith(n)))
        for n in ("ID-Distance ↓", "Face Detection Rate ↑", "Condition Consistency ↑", "General Fidelity ↑")
    ]
    assert order == sorted(order)
    assert "52.8" in text and "32.3" in text  # the paper's votes beside ours
    assert "Fleiss' kappa" in text and "arXiv 2411.19182" in text
    assert "65.2" in (out / "preference_normal.md").read_text()
    assert (out / "preference.csv").is_file() and (out / "preference.tex").is_file()
    assert numbers["people"] == 3 and numbers["answers"] == 16


def test_partial_and_repeated_files(survey: Path, tmp_path: Path) -> None:
    key = read_key(str(survey))
    files = []
    for name, told in (
        ("early", answer(key, "1", "sow", 2)),
        ("late", answer(key, "1", "sow")),
        ("other", answer(key, "2", "cow", 1)),
    ):
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(told))
    ballots, people = read_ballots(key, files)
    assert len(ballots) == len(key["assignments"]["1"]) + 1
    assert [p["file"] for p in people] == ["late.json", "other.json"]
    files[0].write_text(json.dumps(answer(key, "1", "cow", 2)))
    with pytest.raises(UserError, match="both of person 1 and differ"):
        read_ballots(key, files)


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda a: a | {"survey": "other"}, "answers survey other"),
        (lambda a: a | {"rater": 77}, "person 77"),
        (lambda a: {"rater": 1}, "holds no answers"),
        (lambda a: a | {"answers": [a["answers"][0] | {"number": 1}]}, "was not put"),
        (lambda a: a | {"answers": [a["answers"][0] | {"number": -1}]}, "was not put"),
        (lambda a: a | {"answers": [a["answers"][0] | {"choice": "0" * 16}]}, "not an image"),
        (lambda a: a | {"answers": a["answers"][:1] * 2}, "twice"),
        (lambda a: a | {"answers": []}, "without a single answer"),
    ],
)
def test_answers_that_cannot_be_are_refused(
    spoil: Callable[[dict[str, Any]], Any], part: str, survey: Path, tmp_path: Path
) -> None:
    key = read_key(str(survey))
    file = tmp_path / "a.json"
    file.write_text(json.dumps(spoil(answer(key, "1", None))))
    with pytest.raises(UserError, match=part):
        read_ballots(key, [file])


def test_a_key_that_is_none_is_refused(tmp_path: Path) -> None:
    for text, part in (("{}", "not the key"), ("[", "not JSON")):
        (tmp_path / "key.json").write_text(text)
        with pytest.raises(UserError, match=part):
            read_key(str(tmp_path))
    with pytest.raises(UserError, match="cannot read"):
        read_key(str(tmp_path / "nowhere.json"))
