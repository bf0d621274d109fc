"""The human study's page is blind, and a real browser answers it."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

sys.path.insert(0, str(Path(__file__).parent))
from browsing import benchmark, browser, opened
from small_survey import GROUPS, METHODS, ROWS, make, page_data, records

from experiments.preference.preference import deal
from experiments.preference.statistics import Vote
from experiments.preference.tally import read_ballots, read_key
from sow.errors import UserError

pytest_plugins = ["small_survey"]  # fixtures


def test_the_survey_is_blind(table: Path, survey: Path) -> None:
    key, data = read_key(str(survey)), page_data(survey)
    sent = {
        p.relative_to(survey / "survey").as_posix() for p in (survey / "survey").rglob("*") if p.is_file()
    }
    told = (survey / "survey" / "data.js").read_text() + " ".join(sent)
    for word in (*METHODS, *(m.upper() for m in METHODS), *GROUPS, "key", str(table), '"seed"'):
        assert word not in told
    assert not (survey / "survey" / "key.json").exists() and (survey / "key.json").is_file()
    assert len(sent) == 4 + 4 * 3 + 4  # page, images, conditions
    for item in key["items"].values():
        for blind, row in item["images"].items():
            original = Image.open(table / "images" / row / f"{item['group']}-0.png")
            assert Image.open(survey / "survey" / "images" / f"{blind}.png").tobytes() == original.tobytes()
    assert set(data["items"]) == set(key["items"])


def test_metadata_of_an_image_stays_behind(tmp_path: Path) -> None:
    table = benchmark(tmp_path / "run", records(), ROWS, GROUPS)
    told = PngImagePlugin.PngInfo()
    told.add_text("method", "planted-in-the-file")
    for path in (table / "images").rglob("*.png"):
        Image.open(path).save(path, pnginfo=told)
    made = make(tmp_path / "made", "study=preference", f"study.runs={table}", "study.raters=2")
    sent = [p for p in (made / "survey").rglob("*") if p.is_file()]
    assert sent and not any(b"planted-in-the-file" in p.read_bytes() for p in sent)


def test_criteria_are_those_of_the_paper(survey: Path) -> None:
    data = page_data(survey)
    fidelity, consistency = data["criteria"]
    assert (fidelity["name"], fidelity["conditions"]) == ("general_fidelity", False)
    assert (consistency["name"], consistency["conditions"]) == ("condition_consistency", True)
    for asked in data["assignments"].values():  # what is judged blind comes before the conditions are seen
        assert [q[0] for q in asked] == sorted(q[0] for q in asked)
    votes = Counter((q[0], q[1]) for asked in data["assignments"].values() for q in asked)
    assert len(votes) == 8 and set(votes.values()) == {2}
    for asked in data["assignments"].values():
        assert len({(q[0], q[1]) for q in asked}) == len(asked)  # nobody is asked twice
        assert all(len(set(q[2])) == 3 for q in asked)


def test_shuffling_follows_the_seed_and_hides_the_row(table: Path, tmp_path: Path) -> None:
    words = ["study=preference", f"study.runs={table}", "study.raters=60", "study.votes=60"]
    keys = [
        (make(tmp_path / str(i), *words, f"seed={seed}") / "key.json").read_bytes()
        for i, seed in enumerate((0, 0, 1))
    ]
    assert keys[0] == keys[1] != keys[2]
    key = json.loads(keys[0])
    first = Counter(
        key["items"][item]["images"][order[0]] for a in key["assignments"].values() for _, item, order in a
    )
    total = sum(first.values())
    assert total == 480
    for row in METHODS:  # a third each, within 4 standard deviations
        assert abs(first[row] / total - 1 / 3) < 4 * math.sqrt(2 / 9 / total)
    assert key["seed"] == 0


@pytest.mark.parametrize(("items", "raters", "votes"), [(600, 50, 2), (7, 3, 3), (10, 7, 3), (1, 4, 2)])
def test_work_is_dealt_evenly(items: int, raters: int, votes: int) -> None:
    names = [str(i) for i in range(items)]
    hands = deal(names, raters, votes, np.random.default_rng(0))
    assert Counter(n for hand in hands for n in hand) == Counter(dict.fromkeys(names, votes))
    assert all(len(set(hand)) == len(hand) for hand in hands)
    assert max(map(len, hands)) - min(map(len, hands)) <= 1


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["study.votes=4"], ["study.votes=4", "3 people"]),
        (["study.rows=[sow]"], ["two to 5", "got 1"]),
        (["study.rows=[sow,tow]"], ["tow", "sow, cow, dreambooth"]),
        (["study.groups=9"], ["study.groups=9", "4 groups"]),
        (["study.raters=9", "study.votes=1"], ["study.raters=4"]),
        (["study.criteria=[]"], ["study.criteria"]),
        (["study.objective=[{metric: a}]"], ["study.objective"]),
    ],
    ids=lambda v: " ".join(v),
)
def test_a_survey_that_cannot_be_is_one_line(
    words: list[str], parts: list[str], table: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as failure:
        make(tmp_path, "study=preference", f"study.runs={table}", "study.raters=3", *words)
    assert all(part in str(failure.value) for part in parts), failure.value
    assert not list(tmp_path.iterdir())


def test_groups_without_every_image_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = benchmark(tmp_path / "run", records(), ROWS, GROUPS)
    (table / "images" / "cow" / "g1-0.png").unlink()
    made = make(tmp_path / "made", "study=preference", f"study.runs={table}", "study.raters=2")
    assert "1 groups left out" in capsys.readouterr().out
    assert {i["group"] for i in read_key(str(made))["items"].values()} == {"g0", "g2", "g3"}


def test_a_person_answers_is_interrupted_goes_on_and_sends_the_file(survey: Path, tmp_path: Path) -> None:
    data, key = page_data(survey), read_key(str(survey))
    asked = data["assignments"]["2"]
    state = tmp_path / "profile.json"
    page_file = survey / "survey" / "index.html"
    with browser() as started, opened(page_file, started, viewport={"width": 1200, "height": 900}) as page:
        assert page.input_value("#rater") == ""
        page.fill("#rater", "2")
        page.keyboard.press("Enter")
        assert page.inner_text("#part-title") == "Part 1 of 2" and "Only the images" in page.inner_text(
            "#part-shown"
        )
        page.keyboard.press("Enter")
        chosen: list[str] = []

        def choose(position: int) -> None:
            page.keyboard.press("Enter")  # nothing chosen yet: stays
            assert f"Question {len(chosen) + 1} of {len(asked)}" in page.inner_text("#progress-label")
            criterion, item, order = asked[len(chosen)]
            shows = data["criteria"][criterion]["conditions"]
            assert page.locator("#conditions").is_visible() == shows
            prompt = page.inner_text("#prompt") if shows else ""
            assert prompt == (data["items"][item]["prompt"] if shows else "")
            shown = page.eval_on_selector_all(
                "#choices img", "images => images.map(i => i.getAttribute('src'))"
            )
            assert shown == [f"images/{name}.png" for name in order]
            page.wait_for_function(
                "[...document.querySelectorAll('#choices img')].every(i => i.naturalWidth)"
            )
            assert "sow" not in page.inner_html("#question") and "dreambooth" not in page.inner_html(
                "#question"
            )
            page.keyboard.press(str(position))
            chosen.append(order[position - 1])
            page.keyboard.press("Enter")

        half = sum(q[0] == 0 for q in asked)
        for number in range(half):
            choose(number % 3 + 1)
        page.keyboard.press("Backspace")  # change the last answer of the part
        page.keyboard.press("9")  # no such image
        page.keyboard.press("1")
        chosen[-1] = asked[half - 1][2][0]
        page.keyboard.press("Enter")
        assert page.inner_text("#part-title") == "Part 2 of 2" and "shown above" in page.inner_text(
            "#part-shown"
        )
        assert page.get_attribute("#progress", "value") == str(half)

        page.reload()  # closed, and opened again another day
        assert page.input_value("#rater") == "2" and f"{half} answered" in page.inner_text("#stored")
        page.click("#go")
        assert page.inner_text("#part-title") == "Part 2 of 2"
        page.click("#begin")
        for number in range(half, len(asked)):
            choose(number % 3 + 1)
        assert page.locator("#end").is_visible()
        with page.expect_download() as download:
            page.click("#save")
        assert download.value.suggested_filename == f"answers-{data['survey']}-2.json"
        download.value.save_as(state)
        sent = json.loads(state.read_text())
        assert json.loads(page.input_value("#text"))["answers"] == sent["answers"]
        page.reload()
        page.once("dialog", lambda dialog: dialog.accept())
        page.click("#again")
        page.click("#begin")
        assert page.get_attribute("#progress", "value") == "0" and page.locator("#next").is_disabled()
    assert sent["complete"] and sent["rater"] == 2 and [a["choice"] for a in sent["answers"]] == chosen
    assert all(a["seconds"] >= 0 for a in sent["answers"])
    ballots, people = read_ballots(key, [state])
    assert len(ballots) == len(asked) and people[0]["answered"] == people[0]["asked"]
    for ballot, (criterion, item, _), blind in zip(ballots, asked, chosen, strict=True):
        assert ballot.criterion == key["criteria"][criterion]["name"]
        assert ballot.vote == Vote("2", item, key["items"][item]["images"][blind])
