"""`study=judge_check`: the report as tables, the sheet with the judge's words,
and where they are published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.training import judge_check, judge_samples
from experiments.training.judge_check import JudgeCheck, markdown, words
from sow.errors import UserError
from sow.people.judge import Reading
from sow.people.judge.reader import load_judge
from sow.types import Box


def reading(face: bool, **seen: str) -> Reading:
    box = Box(1, 1, 20, 20) if face else None
    return Reading(0.9, box, seen, dict.fromkeys(seen, 0.9), np.ones(64, np.float32) / 8, 0.9, 0.1, int(face))


def test_words_say_what_was_read_and_what_was_judged() -> None:
    row = {
        "id_distance": 0.314,
        "same_person": True,
        "whole": 0.98,
        "truncated": False,
        "faces": 1,
        "text_missed": "hat",
    }
    seen = dict(
        expression="happy", age="adult", hair_color="red", hair="bun", glasses="none", hat="beret",
        clothing="suit",
        clothing_color="blue", scene="beach", style="photo",
    )  # fmt: skip
    assert words(reading(True, **seen), row).splitlines() == [
        "happy adult, red bun, beret",
        "blue suit, beach, photo",
        "same 0.31, whole 0.98",
        "misses: hat",
    ]
    lost = {
        "id_distance": None,
        "same_person": None,
        "whole": 0.1,
        "truncated": True,
        "faces": 2,
        "text_missed": "",
    }
    assert words(reading(False, scene="beach", style="photo"), lost).splitlines() == [
        "no face",
        "beach, photo",
        "no distance, truncated 0.10, a second face",
        "misses: nothing",
    ]


def test_the_report_becomes_tables() -> None:
    state = {
        "face_found": 1.0,
        "identity_auc": 0.9554,
        "attributes_mean": 0.75,
        "attributes": {"eyes": 0.7, "hair_color": 0.8},
    }
    text = markdown(
        {"renders": 50, "clean": state, "closeups": {"face_found": 0.5, "attributes": {"eyes": 0.9}}}
    )
    lines = text.splitlines()
    assert lines[0] == "| 50 held-out renders | as rendered | close-ups |"
    assert "| identity, ROC-AUC of the distances | 0.955 |  |" in lines
    assert "| eyes | 0.700 | 0.900 |" in lines and "| hair color | 0.800 |  |" in lines
    assert "| face found | 1.000 | 0.500 |" in lines


def test_the_card_has_the_published_report() -> None:
    """The numbers in the judge's card are those of report.json, which is that of the shipped weights."""
    card = judge_check.CARD.read_text()
    report = json.loads(judge_check.CARD.with_name("report.json").read_text())
    assert markdown(report).strip() in card
    assert report["renders"] >= 1000
    assert "<!-- measured:begin -->" in card and "<!-- measured:end -->" in card


def test_the_study_measures_and_draws(
    command_line: Callable,
    run_folders: Callable[[], list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("SOW_CACHE", str(tmp_path / "cache"))
    words = [
        "study=judge_check",
        "model=tiny",
        "study.groups=2",
        "study.columns=2",
        "study.held_out=20",
        "study.samples=0",
    ]
    result = command_line(*words, "num_inference_steps=10", "cycle.cycles=1", "tracker=none", "data.size=48")
    assert result.status == 0, result.err
    folder = run_folders()[0]
    report = json.loads((folder / "report.json").read_text())
    assert report["renders"] == 20 and 0 <= report["clean"]["outline_accuracy"] <= 1
    judged = json.loads((folder / "judged.json").read_text())
    assert [j["group"].split("-")[0] for j in judged] == ["normal", "attribute"]
    assert all("whole" in j and j["prompt"] for j in judged)
    picture = Image.open(folder / "judge_check.png")
    assert picture.width > 300 and (folder / "judge_check.pdf").is_file()
    refused = command_line(
        "study=judge_check",
        "model=tiny",
        "study.held_out=0",
        "study.samples=0",
        "metrics=none",
        "tracker=none",
    )
    assert refused.status == 1 and "metrics=people" in refused.err


def test_bad_sizes_are_one_line() -> None:
    for wrong in ((-1, 8, 1000), (4, 0, 1000), (4, 8, 3)):
        with pytest.raises(UserError, match="study.held_out"):
            JudgeCheck(wrong[0], "validation", wrong[1], wrong[2], 0, 10, False)
    assert load_judge().calibration.whole > 0


def test_generated_pictures_hold_the_judge_against_mtcnn_and_the_captions() -> None:
    face = Box(1, 1, 20, 20)
    stated: list[dict[str, str]] = [{}, {"presence": "nobody"}, {"hat": "cap"}, {"presence": "nobody"}]
    readings = [reading(True), reading(False), reading(True), reading(True)]
    found = judge_samples.agreement(stated, readings, [face, None, Box(60, 60, 20, 20), None])
    assert found == {
        "pictures": 4, "mtcnn_finds": 2, "both_find": 2, "same_place": 1, "captions_of_a_person": 2,
        "face_read_of_them": 2, "captions_of_nobody": 2, "no_face_read_of_them": 1,
    }  # fmt: skip
    assert "| finds none where it names nobody | 1 of 2 |" in judge_samples.markdown({**found, "steps": 10})
    measured = judge_samples.measure(2, 1)  # one step: noise, but through every part
    assert measured["pictures"] == 2 and measured["steps"] == 1
