"""The grids of pictures: what is made for which place, what the figure shows,
and that the paper's compose."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from experiments.benchmark.rows import Row, compose_row, parse_rows
from experiments.gallery.reading import read_pictures
from experiments.grid_figure import _stressed, _wrapped, panels
from sow.config.compose import CONF, compose
from sow.errors import UserError
from sow.types import Plan, Request, Sample

FIGURES = sorted(p.stem for p in (CONF / "experiment").glob("fig*.yaml"))
WORDS = ["study=grid", "model=tiny", "planner=fixed", "metrics=none", "tracker=none", "cycle.cycles=1"]
ROWS = "+study.rows={full: {label: SOW}, plain: {label: without DAM, overrides: ['+ablation=no_dam']}}"
REQUESTS = (
    "study.requests=[{prompt: a person in a forest, seed: 3}, {prompt: an **old** person, task: style}]"
)


def test_the_figures_of_the_paper_are_there() -> None:
    assert {"fig1", "fig7", "fig9", "fig10", "figA4"} <= set(FIGURES)


@pytest.mark.parametrize("name", ["fig1", "fig7", "fig9", "fig10", "figA4"])
def test_every_row_of_a_figure_composes_and_differs(name: str) -> None:
    config = compose([f"experiment={name}", "model=tiny"])
    study = config.study
    made = [compose_row(config, row, "normal") for row in parse_rows(study.rows)]
    told = [json.dumps({**m.resolved, "study": None}, sort_keys=True, default=str) for m in made]
    assert len(set(told)) == len(told)
    assert len(study.asked) >= 3 and all(a.plain and "**" not in a.plain for a in study.asked)
    for condition, task in {(a.condition, a.task or "normal") for a in study.asked}:
        assert compose_row(config, Row("request", "", condition), task).task.name == task
    assert name.removeprefix("fig").lstrip("A") in study.title and "arXiv 2411.19182" in study.caption


def test_photographs_take_the_conditions_places(tmp_path: Path) -> None:
    for name in ("cat", "car"):
        Image.new("RGB", (64, 64), "red" if name == "cat" else "blue").save(tmp_path / f"{name}.png")
    base = ["experiment=fig9", "model=tiny"]
    alone = compose(base)
    assert "No photographs were given" in alone.study.words({"SOW": alone})
    assert all("person" in a.prompt for a in alone.study.asked)
    mixed = {"SOW": alone, "SD inpainting": compose([*base, "method=sd_inpaint"])}
    assert "10 steps (SOW), 50 steps (SD inpainting), seeds 0, 1, 2" in alone.study.words(mixed)
    cat = compose([*base, f"study.images={tmp_path / 'cat.png'}"])
    assert [a.prompt.split()[1] for a in cat.study.asked] == ["cat"] * 3
    assert str(tmp_path / "cat.png") in cat.study.files()
    both = compose([*base, f"study.images=[{tmp_path / 'cat.png'},{tmp_path / 'car.png'}]"])
    assert "No photographs" not in both.study.words({"SOW": both})
    requests = both.study._requests(both)
    reds = [r.conditions[0].image.getpixel((0, 0))[0] for r in requests]
    assert reds == [255] * 3 + [0] * 3


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["study.requests=[]"], "study.requests"),
        (["study.requests=[{seed: 1}]"], "study.requests.0.prompt has no value"),
        (["study.requests=[{prompt: a, place: b}]"], "study.requests.0.place is unknown"),
        (["study.requests=[{prompt: a, seed: b}]"], "seed='b'"),
        (["study.requests=[{prompt: a, condition: ['seed=3']}]"], "seed=3 does not belong to the condition"),
        (["study.images=[a.png,b.png]", "study.masks=[a.png]"], None),
        (["study.images=[a.png,b.png]", "study.masks=[a.png,b.png,c.png]"], "3 masks for 2"),
        (["+study.rows={a: {overrides: null}}"], "makes no images"),
        (["study.name='a/b'"], "a/b"),
        (["study.columns=0"], "study.columns"),
        (["study.across=pages"], "pages"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_a_grid_that_cannot_be_is_one_line(words: list[str], part: str | None) -> None:
    if part is None:
        assert compose([*WORDS, *words]).study.images == ["a.png", "b.png"]
        return
    with pytest.raises(UserError) as failure:
        compose([*WORDS, *words])
    assert part in str(failure.value)


def samples_of(study: Any, side: int = 8) -> tuple[list[Request], dict[str, list[Sample]]]:
    """Samples without a model: an image's red is its row, its green its request."""
    from sow.types import Canvas, VisualCondition

    plan = Plan((), (), "", "test")
    canvas = Canvas(side, side, 1, 1, 1)
    condition = VisualCondition(Image.new("RGB", (side, side), (0, 0, 255)))
    requests = [Request((condition,), a.plain, "normal", i, str(i)) for i, a in enumerate(study.asked)]
    samples: dict[str, list[Sample]] = {}
    for i, row in enumerate(parse_rows(study.rows)):
        images = [Image.new("RGB", (side, side), (40 * i, 20 * j, 0)) for j in range(len(requests))]
        samples[row.name] = [
            Sample(r, plan, image, None, canvas)  # type: ignore[arg-type]
            for r, image in zip(requests, images, strict=True)
        ]
    return requests, samples


def shown(name: str) -> tuple[Any, list[list[Any]]]:
    study = compose([f"experiment={name}", "model=tiny"]).study
    requests, samples = samples_of(study)
    rows = {row.label or row.name: [s.image for s in samples[row.name]] for row in parse_rows(study.rows)}
    conditions = [r.conditions[0].image for r in requests]
    columns = None if study.across == "rows" else study.columns
    return study, panels(rows, [a.prompt for a in study.asked], conditions, columns, study.inset)


def colour(panel: Any) -> tuple[int, int, int] | None:
    return panel.picture.getpixel((1, 1)) if panel.picture else None


def test_requests_across_put_each_image_in_its_place() -> None:
    study, lines = shown("fig7")
    assert len(lines) == 4 and {len(line) for line in lines} == {6}
    assert [colour(p) for p in lines[0]] == [(0, 0, 255)] * 6  # the conditions
    assert [p.top for p in lines[0]] == [a.prompt for a in study.asked]
    for i, line in enumerate(lines[1:]):
        assert [colour(p) for p in line] == [(40 * i, 20 * j, 0) for j in range(6)]
        assert line[0].left == ["without DAM and PI", "with DAM", "with DAM and PI"][i]
        assert not any(p.top for p in line)


def test_rows_across_put_each_image_in_its_place() -> None:
    study, lines = shown("fig1")
    assert [p.top for p in lines[0]] == ["condition", "SD inpainting", "ControlNet", "COW", "SOW"]
    for j, line in enumerate(lines):
        assert line[0].left == study.asked[j].prompt
        assert [colour(p) for p in line] == [(0, 0, 255), *((40 * i, 20 * j, 0) for i in range(4))]


def test_insets_wrap_into_blocks() -> None:
    study, lines = shown("fig10")
    assert len(lines) == 2 and {len(line) for line in lines} == {4}
    assert [colour(p) for line in lines for p in line] == [(0, 20 * j, 0) for j in range(8)]
    assert all(p.inset.getpixel((1, 1)) == (0, 0, 255) for line in lines for p in line)
    assert [p.top for line in lines for p in line] == [a.prompt for a in study.asked]


def test_stressed_words_stay_stressed_over_lines() -> None:
    wrapped = _wrapped("A person with a **retro 1950s hairstyle** at a show for 5$.", 16)
    assert all(line.count("**") % 2 == 0 for line in wrapped.splitlines())
    bold = _stressed(wrapped)
    assert r"$\mathbf{retro}$" in bold and r"$\mathbf{1950s}$" in bold and "**" not in bold and r"5\$" in bold


def test_a_grid_from_the_command_line_is_a_figure_and_a_table(
    command_line: Callable[..., Any], run_folders: Callable[[], list[Path]]
) -> None:
    done = command_line(*WORDS, ROWS, REQUESTS, "study.name=test", "study.caption='What it is.'", "seed=5")
    assert done.status == 0, done.err
    folder = run_folders()[-1]
    picture = Image.open(folder / "test.png")
    assert picture.width > 300 and picture.height > 300 and (folder / "test.pdf").read_bytes()[:4] == b"%PDF"
    caption = (folder / "caption.md").read_text()
    assert caption.startswith("What it is. Made by random weights (model=tiny)") and "seeds 3, 5" in caption
    records = pandas.read_parquet(folder / "records.parquet")
    assert records[["row", "setting", "seed"]].to_numpy().tolist() == [
        ["full", "normal", 3],
        ["full", "style", 5],
        ["plain", "normal", 3],
        ["plain", "style", 5],
    ]
    gates = records.groupby("row").open_gates.apply(lambda g: g.notna().any())
    assert gates["full"] and not gates["plain"]
    found = read_pictures(str(folder), "study.runs")
    assert [r.label for r in found.rows] == ["SOW", "without DAM"] and len(found.pictures) == 4
    assert [g.prompt for g in found.groups.values()] == ["a person in a forest", "an old person"]
    assert found.about.startswith("random weights")
    pixels = {p.path.read_bytes() for p in found.pictures}
    assert len(pixels) == 4
