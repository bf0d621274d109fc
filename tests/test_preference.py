"""The human study: a blind page, answers from a real browser, and a tally that agrees with hand-made counts."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

sys.path.insert(0, str(Path(__file__).parent))

from browsing import benchmark, browser, opened

from experiments.core.study import StudyContext
from experiments.preference.preference import deal
from experiments.preference.statistics import Vote, alpha_interval, fleiss_kappa, krippendorff_alpha, share
from experiments.preference.tally import read_ballots, read_key
from sow.config.compose import compose
from sow.errors import UserError
from sow.report.statistics import Resampling, wilson
from sow.runs.records import RunFolder

METHODS = ("sow", "cow", "dreambooth")
GROUPS = {f"g{i}": f"prompt {i}" for i in range(4)}
WORDS = ["model=tiny", "tracker=none", "metrics=none"]
ROWS = [{"name": n, "label": n.upper(), "paper": {}, "overrides": []} for n in METHODS]


def records() -> list[dict[str, Any]]:
    out = []
    for i, group in enumerate(GROUPS):
        for j, row in enumerate(METHODS):
            setting = "normal" if i < 2 else "style"
            values = {"id_distance": 0.25 + j / 4, "face_detected": j != 2 or i > 0}
            out.append({"row": row, "group": group, "setting": setting, "seed": 0, **values})
    return out


def make(folder: Path, *words: str) -> Path:
    """Run a study into `folder` as run.py does, without its bookkeeping."""
    folder.mkdir(parents=True, exist_ok=True)
    config = compose([*WORDS, *words])
    config.study.run(StudyContext(config, RunFolder(folder)))
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return benchmark(tmp_path_factory.mktemp("table") / "run", records(), ROWS, GROUPS)


@pytest.fixture(scope="module")
def survey(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ["study=preference", f"study.runs={table}", "study.raters=3", "study.votes=2"]
    return make(tmp_path_factory.mktemp("survey"), *words)


def page_data(survey: Path) -> dict[str, Any]:
    return json.loads(
        (survey / "survey" / "data.js").read_text().removeprefix("window.DATA = ").rstrip(";\n")
    )


def answer(key: dict[str, Any], rater: str, row: str | None, limit: int | None = None) -> dict[str, Any]:
    """What a person sends who always takes `row`, or always the first image."""
    out = []
    for number, (criterion, item, order) in enumerate(key["assignments"][rater][:limit]):
        images = key["items"][item]["images"]
        choice = next(b for b in order if row is None or images[b] == row)
        name = key["criteria"][criterion]["name"]
        out.append({"number": number, "criterion": name, "item": item, "choice": choice})
    return {"survey": key["survey"], "rater": int(rater), "answers": out}


# The survey.


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


# In a browser.


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


# The tally.


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
        (lambda a: a | {"answers": [a["answers"][0] | {"choice": "0" * 16}]}, "no image"),
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
    for text, part in (("{}", "no key"), ("[", "no JSON")):
        (tmp_path / "key.json").write_text(text)
        with pytest.raises(UserError, match=part):
            read_key(str(tmp_path))
    with pytest.raises(UserError, match="cannot read"):
        read_key(str(tmp_path / "nowhere.json"))


# Statistics, against counts made by hand.


def votes_of(*items: str) -> list[Vote]:
    """An item a word, a vote a letter, the n-th letter by rater n."""
    return [Vote(r, i, c) for i, word in enumerate(items) for r, c in enumerate(word)]


def test_fleiss_by_hand() -> None:
    # P = (1/3 + 1) / 2 = 2/3, q = (1/3, 2/3), chance 5/9: (6/9 - 5/9) / (4/9) = 1/4
    assert fleiss_kappa(votes_of("aab", "bbb")) == pytest.approx(1 / 4)
    # P = 0, q = (1/2, 1/2): -1
    assert fleiss_kappa(votes_of("ab", "ba")) == pytest.approx(-1)
    # P = (1 + 0 + 1) / 3, q = (3/6, 1/6, 2/6), chance 14/36: (24 - 14) / (36 - 14)
    assert fleiss_kappa(votes_of("aa", "ab", "cc")) == pytest.approx(10 / 22)
    assert fleiss_kappa(votes_of("aaa", "bbb")) == 1
    # items with another number of votes than usual do not count
    assert fleiss_kappa(votes_of("aab", "bbb", "ab", "a")) == pytest.approx(1 / 4)
    assert math.isnan(fleiss_kappa(votes_of("aa", "aa"))) and math.isnan(fleiss_kappa(votes_of("a", "b")))


def test_krippendorff_by_hand() -> None:
    # D_o = ((9 - 5) / 2 + 0) / 6 = 1/3, D_e = (36 - 4 - 16) / 30 = 16/30: 1 - 10/16
    assert krippendorff_alpha(votes_of("aab", "bbb")) == pytest.approx(6 / 16)
    # unequal numbers of votes: D_o = (2 / 1 + 0) / 5, D_e = (25 - 16 - 1) / 20; a single vote says nothing
    assert krippendorff_alpha(votes_of("ab", "aaa", "b")) == pytest.approx(0)
    # D_o = (2 + 2 + 0) / 7, D_e = (49 - 16 - 9) / 42: 1 - 4/4
    assert krippendorff_alpha(votes_of("ab", "ab", "aab"[:2] + "b")) == pytest.approx(
        1 - (2 + 2 + 2) / 7 / (24 / 42)
    )
    assert krippendorff_alpha(votes_of("aa", "bbb")) == 1
    assert math.isnan(krippendorff_alpha(votes_of("aa", "aaa")))


def test_alpha_and_kappa_differ_by_what_theory_says() -> None:
    rng = np.random.default_rng(0)
    for votes in (2, 3, 5):
        cast = votes_of(*("".join(rng.choice(list("abcde"), votes)) for _ in range(40)))
        kappa = fleiss_kappa(cast)
        assert krippendorff_alpha(cast) == pytest.approx(kappa + (1 - kappa) / len(cast))
        low, high = alpha_interval(cast, Resampling(0.95, 2000, 0))
        assert low < krippendorff_alpha(cast) < high
    assert all(map(math.isnan, alpha_interval(votes_of("ab"), Resampling(0.95, 2000, 0))))


def test_independent_votes_have_about_wilsons_interval() -> None:
    cast = [Vote(i, i, "a" if i % 4 else "b") for i in range(200)]
    found = share(cast, "a", 0.95)
    low, high = wilson(0.75, 200, 0.95)
    assert (found.mean, found.images, found.groups) == (0.75, 200, 200)
    assert found.low == pytest.approx(low, abs=0.003) and found.high == pytest.approx(high, abs=0.003)
    nothing = share(cast, "c", 0.95)
    assert nothing.mean == 0 and nothing.low >= 0 and 0.01 < nothing.high < 0.03
    assert math.isnan(share([], "a", 0.95).mean)


def test_votes_that_repeat_a_person_or_an_item_count_less() -> None:
    one_person = [Vote(r, (r, i), "a" if r % 2 else "b") for r in range(10) for i in range(20)]
    alone = share([Vote(r, r, "a" if r % 2 else "b") for r in range(10)], "a", 0.95)
    found = share(one_person, "a", 0.95)  # ten people of one mind each: ten votes, not two hundred
    assert found.high - found.low == pytest.approx(alone.high - alone.low, rel=0.1)


def test_intervals_cover_where_plain_ones_do_not() -> None:
    rng = np.random.default_rng(1)
    raters, items, votes, runs = 25, 60, 3, 300

    def chance(by_rater: Any, by_item: Any) -> Any:
        return 1 / (1 + np.exp(-(by_rater + by_item)))

    truth = float(chance(rng.normal(0, 1, 400_000), rng.normal(0, 1, 400_000)).mean())
    covered = plain = 0
    for _ in range(runs):
        by_rater, by_item = rng.normal(0, 1, raters), rng.normal(0, 1, items)
        who = [r for i in range(items) for r in rng.permutation(raters)[:votes]]
        what = np.repeat(np.arange(items), votes)
        hits = rng.random(len(who)) < chance(by_rater[who], by_item[what])
        cast = [Vote(r, i, "a" if h else "b") for r, i, h in zip(who, what, hits, strict=True)]
        found = share(cast, "a", 0.95)
        low, high = wilson(found.mean, len(cast), 0.95)
        covered += found.low <= truth <= found.high
        plain += low <= truth <= high
    assert covered / runs > 0.915 > plain / runs
