"""The studies of the process through the command line, at toy size on random weights:
their files, numbers and errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from conftest import Result
from PIL import Image

from experiments.core import finding
from sow.method import diffusion
from sow.report import blocks
from sow.runs import tracking

Call = Callable[..., Result]
Folders = Callable[[], list[Path]]
DEBUG = "experiment=debug"
SMALL = ("width=64", "height=64")


@dataclass
class Told:
    """A tracked run that remembers."""

    pictures: dict[str, Path] = field(default_factory=dict)
    rows: list[Mapping[str, Any]] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    def history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows += rows

    def images(self, images: Mapping[str, Path]) -> None:
        self.pictures |= images

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self.tables[name] = rows

    def summary(self, values: Mapping[str, Any]) -> None:
        self.numbers |= values

    def finish(self, exit_code: int) -> None:
        assert exit_code == 0


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """What a study tells its tracker."""
    run = Told()
    monkeypatch.setattr(tracking.NoTracker, "start", lambda self, job: run)
    return run


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Path]]:
    """What a study would put on its page of docs/."""
    calls: list[tuple[str, str, Path]] = []
    monkeypatch.setattr(blocks, "publish", lambda *words, **_: calls.append(words))
    return calls


def checked(folder: Path, name: str, told: Told) -> tuple[pandas.DataFrame, dict[str, Any]]:
    """The tidy table and the headline of a finished study, whose other files are all there and told."""
    assert (folder / "manifest.json").is_file()
    assert Image.open(folder / f"{name}.png").width > 500
    assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    table = pandas.read_parquet(folder / f"{name}.parquet")
    assert list(pandas.read_csv(folder / f"{name}.csv").columns) == list(table.columns)
    assert told.pictures[name] == folder / f"{name}.png" and len(told.tables[name]) == len(table)
    assert told.rows and told.numbers
    headline = json.loads((folder / "headline.json").read_text())
    assert set(told.numbers) <= set(finding.flat(headline))
    assert (folder / f"{name}.md").read_text().startswith("![")
    return table, headline


def test_diffusion_in_diffusion(
    command_line: Call, run_folders: Folders, told: Told, published: list[Any]
) -> None:
    words = "study=diffusion_in_diffusion", "study.steps=3", "study.publish=true", *SMALL
    result = command_line(DEBUG, *words, "study.first=[255, 255, 255]")
    assert result.status == 0, result.err
    (folder,) = run_folders()
    table, headline = checked(folder, "diffusion_in_diffusion", told)
    assert len(table) == 4 * 4 * 4  # k = 0 .. 3, four rows, four layouts
    assert sorted(table.k.unique()) == [0, 1, 2, 3]
    assert (
        set(table.row) == {"alone", "unprocessed", "enhanced", "suppressed"} and table.layout.nunique() == 4
    )
    assert np.allclose(table.mixing, 1 - table.contrast_kept)
    quadrants = pandas.read_parquet(folder / "diffusion_in_diffusion_quadrants.parquet")
    assert len(quadrants) == 4 * len(table) and quadrants.red.between(0, 255).all()
    clean = table[table.k == 0].pivot(index="layout", columns="row", values="contrast")
    assert (clean.unprocessed == clean.enhanced).all()  # nothing is denoised, so nothing is steered
    later = table[table.k == 3].pivot(index="layout", columns="row", values="upper_right_kept")
    assert (later.unprocessed != later.enhanced).any() and (later.unprocessed != later.suppressed).any()
    mean = table[(table.row == "unprocessed") & (table.k == 3)].contrast_kept.mean()
    assert headline["contrast_kept"]["3"] == pytest.approx(mean)
    assert headline["latest_third"]["mean"] == pytest.approx(mean) and "1" in headline["enhanced_nearer_by"]
    assert set(headline["holds"].values()) <= {True, False}
    ((name, block, png),) = published
    assert name == "diffusion_in_diffusion" and png.is_file()
    assert f"]({name}.png)" in block and "| k |" in block
    assert "contrast" in result.out and str(png) in result.out


def test_two_pictures_diffuse_into_each_other(
    command_line: Call, run_folders: Folders, told: Told, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    words = "study=diffusion_in_diffusion", "study.steps=3", "study.layouts=[left_right]", *SMALL
    result = command_line(DEBUG, *words, f"study.first={tmp_path / 'a.png'}")
    assert result.status == 0, result.err
    (folder,) = run_folders()
    first = pandas.read_parquet(folder / "diffusion_in_diffusion_quadrants.parquet").query(
        "source == 'first'"
    )
    assert set(first.quadrant) == {"upper_left", "lower_left"}
    assert command_line(DEBUG, *words, f"study.first={tmp_path / 'b.png'}").err.startswith("error: no file")


def test_text_sensitivity(command_line: Call, run_folders: Folders, told: Told, published: list[Any]) -> None:
    words = ("study.steps=4", "study.length=2", "study.every=1", "study.seeds=2", "study.resamples=100")
    prompts = "study.prompts=['An old person in the rain.','a person in a forest']"
    result = command_line(
        DEBUG, "study=text_sensitivity", "metrics=people", *words, prompts, "study.publish=true", *SMALL
    )
    assert result.status == 0, result.err
    (folder,) = run_folders()
    table, headline = checked(folder, "text_sensitivity", told)
    assert len(table) == 2 * 2 * (3 + 1)  # prompts, seeds, windows and none
    assert table.start.dropna().unique().tolist() == [4, 3, 2] and table.seed.nunique() == 4
    inside = table.dropna(subset="start")
    assert (inside.stop == inside.start - 2).all() and (inside.effect > 0).all()
    assert headline["measure"] == "text_agreement" and headline["images"] == 4
    effect = inside.groupby("start").effect.mean()
    assert headline["effect_by_start"]["4"] == pytest.approx(effect[4])
    assert -1 <= headline["spearman_effect"]["value"] <= 1
    assert published[0][0] == "text_sensitivity"


def test_text_sensitivity_needs_a_metric_of_text(command_line: Call) -> None:
    result = command_line(DEBUG, "study=text_sensitivity")  # which would sample for minutes
    assert result.status == 1
    assert result.err.startswith("error: metrics=none has none of text_similarity, text_agreement")


def test_semantic_formation(
    command_line: Call, run_folders: Folders, told: Told, published: list[Any]
) -> None:
    words = ("study.steps=4", "study.length=1", "study.every=1", "study.seeds=2", "study.resamples=100")
    result = command_line(DEBUG, "study=semantic_formation", *words, "study.publish=true", *SMALL)
    assert result.status == 0, result.err
    (folder,) = run_folders()
    table, headline = checked(folder, "semantic_formation", told)
    assert len(table) == 2 * 2 * 4 and sorted(table["size"].unique()) == [16, 32]
    assert np.allclose(table.excess, table.mse - table.mse_undisturbed)
    assert table.cosine.between(-1, 1).all() and (table.mse > 0).all()
    assert (table.groupby(["seed", "size"]).mse_undisturbed.nunique() == 1).all()
    assert set(headline["sizes"]) == {"16", "32"} and "larger_settles_earlier_by" in headline
    by_start = table[table["size"] == 16].groupby("start").mse.mean()
    assert headline["sizes"]["16"]["mse_by_start"]["4"] == pytest.approx(by_start[4])
    assert published[0][0] == "semantic_formation"


def test_cycle_progress(
    command_line: Call,
    run_folders: Folders,
    told: Told,
    published: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    etas, step = set(), diffusion.ddim_step

    def watched(x: Any, e: Any, a: Any, b: Any, eta: float = 0.0, *more: Any) -> Any:
        etas.add(eta)
        return step(x, e, a, b, eta, *more)

    monkeypatch.setattr(diffusion, "ddim_step", watched)
    words = ("study.seeds=2", "study.resamples=100", "cycle.cycles=3", "metrics=people", "study.publish=true")
    result = command_line(DEBUG, "study=cycle_progress", *words, "cycle.eta=1", "preservation.eta=0.25")
    assert result.status == 0, result.err
    (folder,) = run_folders()
    table, headline = checked(folder, "cycle_progress", told)
    assert len(table) == 2 * 3 and sorted(table.cycle.unique()) == [1, 2, 3]
    assert table[table.cycle == 1].change_outside.isna().all()
    assert (table[table.cycle > 1].change_outside > 0).all()
    assert (table[table.cycle == 3].to_last_outside == 0).all()
    last = table[table.cycle == 3]
    assert headline["change_outside"]["last"] == pytest.approx(last.change_outside.mean())
    assert headline["change_outside"]["first"] == pytest.approx(table[table.cycle == 2].change_outside.mean())
    assert etas == {0.0, 0.25}  # in the cycles the study's eta, not the configuration's
    assert "boundary" in headline and published[0][0] == "cycle_progress"


def test_seed_init(command_line: Call, run_folders: Folders, told: Told, published: list[Any]) -> None:
    words = ("study.seeds=2", "study.resamples=100", "cycle.cycles=1", "metrics=people", "study.publish=true")
    result = command_line(DEBUG, "study=seed_init", *words)
    assert result.status == 0, result.err
    (folder,) = run_folders()
    table, headline = checked(folder, "seed_init", told)
    assert table.arm.tolist() == [a for a in ("gray", "noise", "black", "none") for _ in range(2)]
    pictures = {(folder / arm / "seed_0.png").read_bytes() for arm in headline["arms"]}
    assert len(pictures) == 4  # every arm makes its own image
    gray = headline["arms"]["gray"]["boundary"]
    assert gray["mean"]["value"] == pytest.approx(table[table.arm == "gray"].boundary.mean())
    assert gray["against_reference"]["value"] == 0
    gap = table[table.arm == "black"].boundary.to_numpy() - table[table.arm == "gray"].boundary.to_numpy()
    assert headline["arms"]["black"]["boundary"]["against_reference"]["value"] == pytest.approx(gap.mean())
    assert published[0][0] == "seed_init"


@pytest.mark.parametrize(
    ("study", "word", "message"),
    [
        ("diffusion_in_diffusion", "study.layouts=[diagonal]", "layouts are of top_bottom"),
        ("diffusion_in_diffusion", "study.first=[0, 0, 300]", r"a colour is [r, g, b] of 0..255"),
        ("diffusion_in_diffusion", "study.steps=2", "at least 3 steps"),
        ("diffusion_in_diffusion", "study.enhance=-1", "need enhance >= 0"),
        ("text_sensitivity", "study.prompts=[]", "error: study.prompts is empty: give at least one"),
        ("text_sensitivity", "study.length=101", "1 <= length <= 100"),
        ("semantic_formation", "study.sizes=[1.5]", "shares of the canvas"),
        ("semantic_formation", "study.sizes=[0.5, 0.51]", "take sizes farther apart"),
        ("semantic_formation", "study.similarity=clip", "take metrics=clip"),
        ("semantic_formation", "study.noise=pink", "study.noise"),
        ("cycle_progress", "study.eta=2", "0 <= eta <= 1"),
        ("seed_init", "study.reference=white", "choose one of gray, noise, black, none"),
        ("seed_init", "study.arms.gray.color=[1, 2]", "color is [r, g, b]"),
    ],
)
def test_bad_input_is_one_line(command_line: Call, study: str, word: str, message: str) -> None:
    result = command_line(DEBUG, f"study={study}", word)
    lines = [line for line in result.err.splitlines() if line.strip()]
    assert result.status == 1 and len(lines) == 1 and lines[0].startswith("error: ")
    assert message in lines[0]


def test_numbers_as_readers_see_them() -> None:
    assert finding.number(float("nan")) == "-" and finding.number(0.123456) == "0.123"
    assert finding.bracket({"value": -0.931, "low": -1.0, "high": -0.812}) == "-0.93 [-1.00, -0.81]"
    assert finding.bracket({"value": 2.0, "low": float("nan"), "high": float("nan")}, 0) == "2"
    nested = {"a": {"b": 1.5, "c": [1]}, "d": float("nan"), "e": True}
    assert finding.flat(nested) == {"a.b": 1.5, "e": True}
    rows = [{"x": 1, "some_name": 0.5}, {"x": 2, "some_name": None}]
    assert finding.markdown_table(rows).splitlines()[0] == "| x | some name |"
    assert finding.markdown_table(rows).splitlines()[-1] == "| 2 | - |"
