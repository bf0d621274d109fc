"""The gallery: what it reads, and what a person does with it in a browser."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from browsing import benchmark, browser, opened

from experiments.gallery.pictures import slug
from experiments.gallery.reading import read_pictures
from sow.errors import UserError

ROWS = [
    {
        "name": "full",
        "label": "SOW",
        "paper": {"id_distance": 0.8068},
        "overrides": [],
    },
    {"name": "no_dam", "label": "without DAM", "paper": {}, "overrides": ["modulation=none"]},
]
# (row, group, setting, seed, id_distance, failure); b has no distance in the full row, c no image without DAM
NUMBERS = [
    ("full", "a", "normal", 1, 0.5, False),
    ("full", "b", "style", 1, None, True),
    ("full", "c", "style", 1, 0.25, False),
    ("no_dam", "a", "normal", 1, 0.75, True),
    ("no_dam", "b", "style", 1, 0.4, True),
]
RECORDS = [
    dict(zip(("row", "group", "setting", "seed", "id_distance", "failure"), n, strict=True)) for n in NUMBERS
]
PROMPTS = {"a": "a person in a forest", "b": "a <b>bold</b> person", "c": "a person at sea"}
WORDS = ["study=gallery", "model=tiny", "tracker=none", "metrics=none"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return benchmark(tmp_path / "run", RECORDS, ROWS, PROMPTS)


def test_a_benchmark_folder_is_read(table: Path) -> None:
    found = read_pictures(str(table), "study.runs")
    assert [r.label for r in found.rows] == ["SOW", "without DAM"]
    assert found.rows[0].paper == {"id_distance": 0.8068} and found.rows[1].note == "modulation=none"
    assert found.metrics == ["id_distance", "failure"]
    places = found.by_place()
    assert list(places) == [("a", 1), ("b", 1), ("c", 1)]
    assert places["b", 1]["full"].metrics == {"id_distance": None, "failure": True}
    assert set(places["c", 1]) == {"full"}
    assert found.groups["a"].prompt == PROMPTS["a"] and found.groups["b"].setting == "style"
    assert found.groups["a"].condition().getpixel((0, 0)) == (255, 0, 0)


def test_a_row_without_a_label_is_called_by_its_marks(table: Path) -> None:
    rows = [
        {**ROWS[0], "label": "", "marks": ["✓", "✗"]},
        {**ROWS[1], "label": ""},
        {"name": "paper", "label": "only"},
    ]
    (table / "rows.json").write_text(json.dumps(rows))
    (table / "table.json").write_text(json.dumps({"title": "Table II", "marks": ["AP", "DAM"]}))
    (table / "groups.json").write_text(json.dumps([{"id": "a", "prompt": "told in a list"}]))
    found = read_pictures(str(table), "study.runs")
    assert [r.label for r in found.rows] == [
        "AP ✓, DAM ✗",
        "no_dam",
    ]  # a row of the paper's numbers has no pictures
    assert found.title == "Table II" and found.groups["a"].prompt == "told in a list"


def test_several_conditions_are_shown_beside_one_another(table: Path) -> None:
    Image.new("RGB", (32, 16), "lime").save(table / "conditions" / "a.1.png")
    groups = read_pictures(str(table), "study.runs").groups
    both = groups["a"].condition()
    assert both.size == (256 + 4 + 512, 256) and groups["b"].condition().size == (256, 256)
    assert both.getpixel((10, 10)) == (255, 0, 0) and both.getpixel((400, 10)) == (0, 255, 0)


def test_shards_make_one_table_and_overlaps_are_refused(tmp_path: Path) -> None:
    benchmark(tmp_path / "0", RECORDS[:2], ROWS, PROMPTS)
    benchmark(tmp_path / "1", RECORDS[2:], ROWS, PROMPTS)
    found = read_pictures([str(tmp_path / "0"), str(tmp_path / "1")], "study.runs")
    assert len(found.pictures) == 5 and len(found.rows) == 2
    assert len(read_pictures(str(tmp_path), "study.runs").pictures) == 5
    benchmark(tmp_path / "2", RECORDS[:1], ROWS, PROMPTS)
    with pytest.raises(UserError, match="row full, group a, seed 1"):
        read_pictures(str(tmp_path), "study.runs")


def test_prompts_and_conditions_come_from_the_data_where_the_run_has_none(tmp_path: Path) -> None:
    from sow.data import Group
    from sow.types import Request, VisualCondition

    class Data:
        def groups(self, split: str) -> list[Group]:
            picture = Image.new("RGB", (8, 8), (0, 0, 255))
            mask = Image.new("L", (8, 8), 0)
            mask.putpixel((0, 0), 255)
            request = Request((VisualCondition(picture, mask),), "from the data")
            return [Group(n, "normal", split, request) for n in ("a", "b", "c", "unused")]

    found = read_pictures(str(benchmark(tmp_path / "run", RECORDS, ROWS)), "study.runs", Data())
    assert found.groups["a"].prompt == "from the data" and "unused" not in found.groups
    shown = found.groups["a"].condition()
    assert shown.size == (256, 256)
    assert shown.getpixel((255, 255)) == (128, 128, 128)  # outside the mask
    assert shown.getpixel((4, 4))[2] > 200


def test_plain_run_folders_become_rows_and_groups(tmp_path: Path) -> None:
    from sow.config.compose import compose

    for i, words in enumerate((["seed=1"], ["seed=2"], ["seed=1", "seed_init=noise"])):
        config = compose(["experiment=debug", "condition.size=32", *words])
        folder = tmp_path / str(i)
        folder.mkdir()
        Image.new("RGB", (8, 8)).save(folder / "image.png")
        (folder / "metrics.json").write_text(json.dumps({"seed": config.seed, "open_gates": 0.5}))
        manifest = {"config": config.resolved, "choices": config.choices, "seed": config.seed}
        told = {**manifest, "overrides": ["experiment=debug", *words], "finished": str(i)}
        (folder / "manifest.json").write_text(json.dumps(told, default=str))
    unfinished = tmp_path / "3"
    unfinished.mkdir()
    Image.new("RGB", (8, 8)).save(unfinished / "image.png")

    found = read_pictures(str(tmp_path), "study.runs")
    assert [r.label for r in found.rows] == ["as composed", "seed_init=noise"]
    assert sorted(len(v) for v in found.by_place().values()) == [1, 2]
    assert "random weights" in found.about
    faces = [g.condition().tobytes() for g in found.groups.values()]
    assert len(faces) == 2 and faces[0] != faces[1]  # each seed has the face of its seed
    assert found.metrics == ["open_gates"]


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda p: p / "nowhere", "no folder"),
        (lambda p: p, "no finished run"),
    ],
)
def test_bad_folders_are_one_line(make: Callable[[Path], Path], part: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=part) as failure:
        read_pictures(str(make(tmp_path)), "study.runs")
    assert "study.runs" in str(failure.value)


def test_file_names_stay_apart() -> None:
    names = ["a b", "a-b", "A-b", "a/b", "x" * 80, "x" * 81, "", "..", "ü"]
    assert len({slug(n) for n in names}) == len(names)
    assert all("/" not in slug(n) and len(slug(n)) < 64 for n in names)
    assert slug("normal-001-0") == "normal-001-0"


def test_the_page_in_a_browser(
    table: Path, command_line: Callable[..., Any], run_folders: Callable[[], list[Path]]
) -> None:
    done = command_line(*WORDS, f"study.runs={table}", "study.title='Table of the test'")
    assert done.status == 0, done.err
    page_file = run_folders()[-1] / "gallery" / "index.html"
    assert str(page_file) in done.out
    with browser() as started, opened(page_file, started, viewport={"width": 1000, "height": 900}) as page:
        groups = lambda: page.eval_on_selector_all("#body tr", "rows => rows.map(r => r.dataset.group)")
        assert page.title() == "Table of the test"
        assert groups() == ["a", "b", "c"]
        assert "a <b>bold</b> person" in page.inner_text("#body")  # shown as text, not run as HTML
        page.wait_for_function(
            "[...document.images].filter(i => i.src).every(i => i.complete && i.naturalWidth)"
        )
        assert (
            page.locator(".cell").count() == 5 and page.inner_text("tr[data-group=c]").count("no image") == 1
        )
        head = page.inner_text("thead")
        assert "id distance 0.375, n 2" in head and "paper 0.8068" in head
        assert "failed 1 of 3" in head and "failed 2 of 2" in head

        for choice, wanted in (("any", "ab"), ("none", "c"), ("differ", "a"), ("row0", "b"), ("", "abc")):
            page.select_option("#failure", choice)
            assert groups() == list(wanted), choice
        page.select_option("#setting", "style")
        assert groups() == ["b", "c"]
        page.select_option("#setting", "")
        page.select_option("#sort", "row0")
        assert groups() == ["c", "a", "b"]  # without a number last
        page.select_option("#order", "down")
        assert groups() == ["a", "c", "b"]
        page.select_option("#sort", "spread")
        assert groups()[0] == "a"
        page.select_option("#sort", "")

        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("/")
        page.keyboard.type("forest")
        assert groups() == ["a"] and "1 of 3 groups" in page.inner_text("#count")
        page.fill("#search", "")

        page.locator(".cell").first.focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        viewer = page.locator("#viewer")
        assert viewer.is_visible() and "without DAM, b" in page.inner_text("#viewer-title")
        assert page.inner_text("#viewer-prompt") == PROMPTS["b"]
        assert "0.4" in page.inner_text("#viewer-numbers") and "yes" in page.inner_text("#viewer-numbers")
        page.keyboard.press("ArrowDown")  # nothing below: stays
        assert "without DAM, b" in page.inner_text("#viewer-title")
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowLeft")
        assert "SOW, a" in page.inner_text("#viewer-title")
        page.keyboard.press("Escape")
        assert not viewer.is_visible()
        page.wait_for_function(  # the browser first gives the focus back to the cell that opened the viewer
            "document.activeElement.dataset.group + document.activeElement.dataset.row === '00'"
        )
        page.locator(".cell").nth(1).click()
        assert viewer.is_visible() and "without DAM, a" in page.inner_text("#viewer-title")
        page.click("#close")

        page.select_option("#failure", "any")
        page.reload()  # the view is in the address
        assert groups() == ["a", "b"]
        page.keyboard.press("f")
        assert page.input_value("#failure") == "none" and groups() == ["c"]


def test_the_folder_is_self_contained_and_follows_its_images(table: Path, tmp_path: Path) -> None:
    from experiments.gallery.gallery import page_data
    from sow.config.compose import compose
    from sow.report.pages import write_page
    from sow.runs.records import RunFolder
    from sow.store.inputs import files_read

    made = RunFolder(tmp_path / "made")
    data = page_data(read_pictures(str(table), "study.runs"), made, "t", "failure")
    write_page(made, "gallery", data, "gallery")
    folder = made.path / "gallery"
    told = (folder / "data.js").read_text().removeprefix("window.DATA = ").rstrip(";\n")
    data = json.loads(told)
    names = [c["src"] for g in data["groups"] for c in g["cells"] if c] + [
        g["condition"] for g in data["groups"]
    ]
    assert len(names) == 8 and all((folder / n).is_file() for n in names)
    assert "http" not in (folder / "index.html").read_text() + (folder / "gallery.js").read_text()
    named = files_read(compose([*WORDS, f"study.runs={table}"]).study)  # another picture, another page
    assert {p for p in named if p.suffix == ".png"} == {p.resolve() for p in table.rglob("*.png")}
