"""Intervals cover what they promise, tests reject as often as they may,
and a table says the same in every format."""

from __future__ import annotations

import csv
import io
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from sow.errors import UserError
from sow.report import tables, writers
from sow.report.statistics import (
    Resampling,
    bca,
    compare,
    detectable,
    estimate,
    holm,
    mcnemar,
    sign_flips,
    wilson,
)

HOW = Resampling(0.95, 1000, 0)


def groups(values: np.ndarray) -> list[tuple[int, float]]:
    """(group, value) of an array (groups, images)."""
    return [(g, float(v)) for g, row in enumerate(np.atleast_2d(values)) for v in row]


def test_the_bootstrap_interval_covers_a_skewed_mean() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(120):
        found = estimate(groups(rng.exponential(1.0, (60, 1))), HOW)
        inside += found.low <= 1.0 <= found.high
    assert 0.88 <= inside / 120 <= 0.99


def test_images_of_one_group_do_not_count_as_independent() -> None:
    """Three nearly equal images per group: resampling groups covers, resampling images would not."""
    rng = np.random.default_rng(2)
    by_group = by_image = 0
    for _ in range(120):
        values = rng.normal(0, 1, (40, 1)) + rng.normal(0, 0.1, (40, 3))
        found = estimate(groups(values), HOW)
        by_group += found.low <= 0 <= found.high
        alone = estimate(groups(values.reshape(-1, 1)), HOW)
        by_image += alone.low <= 0 <= alone.high
    assert 0.88 <= by_group / 120 <= 0.99
    assert by_image / 120 < 0.85


@pytest.mark.parametrize("share", [0.02, 0.05, 0.2, 0.5, 0.95])
def test_wilsons_interval_covers_a_share(share: float) -> None:
    """Exactly, over every count that 60 groups can have."""
    covered = 0.0
    for k in range(61):
        low, high = wilson(k / 60, 60, 0.95)
        covered += stats.binom.pmf(k, 60, share) * (low <= share <= high)
    assert 0.92 <= covered <= 0.99


def test_wilsons_interval_is_scipys() -> None:
    for k, n in ((0, 60), (3, 60), (60, 60), (7, 20)):
        wanted = stats.binomtest(k, n).proportion_ci(0.95, "wilson")
        assert wilson(k / n, n, 0.95) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_a_share_without_a_miss_has_an_honest_interval() -> None:
    found = estimate([(g, True) for g in range(60)], HOW, share=True)
    assert (found.mean, found.high) == pytest.approx((1.0, 1.0))
    assert 0.93 < found.low < 0.95


def test_the_bootstrap_interval_is_efrons() -> None:
    """Sec. 14.3 of Efron and Tibshirani, written out, on the same resamples."""
    rng = np.random.default_rng(3)
    sums, counts = rng.gamma(2.0, 1.0, 25), rng.integers(1, 4, 25).astype(float)
    drawn = np.random.default_rng(HOW.seed).integers(0, 25, (HOW.resamples, 25))
    thetas, theta = sums[drawn].sum(1) / counts[drawn].sum(1), sums.sum() / counts.sum()
    z0 = stats.norm.ppf((thetas < theta).mean())
    spread = -(sums.sum() - sums) / (counts.sum() - counts)
    spread = spread - spread.mean()
    a = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
    z = z0 + stats.norm.ppf([0.025, 0.975])
    wanted = np.quantile(thetas, stats.norm.cdf(z0 + z / (1 - a * z)))
    assert bca(sums, counts, HOW) == pytest.approx(tuple(wanted), abs=1e-12)


def test_the_same_numbers_give_the_same_interval() -> None:
    values = groups(np.random.default_rng(4).normal(size=(30, 2)))
    assert estimate(values, HOW) == estimate(values, HOW)
    assert estimate(values, HOW) != estimate(values, Resampling(0.95, 1000, 1))


def test_missing_numbers_leave_the_mean_and_are_counted() -> None:
    found = estimate([(0, 1.0), (0, None), (1, 3.0), (2, math.nan)], HOW)
    assert (found.mean, found.groups, found.images) == (2.0, 2, 2)
    empty = estimate([(0, None)], HOW)
    assert math.isnan(empty.mean) and empty.images == 0
    one = estimate([(0, 1.0)], HOW)
    assert one.mean == 1.0 and math.isnan(one.low)
    alike = estimate([(g, 0.5) for g in range(5)], HOW)
    assert (alike.low, alike.high) == (0.5, 0.5)


def test_sign_flips_count_every_way_or_draw_some() -> None:
    d = np.array([0.3, -0.1, 0.4, 0.2, 0.25, -0.05, 0.6, 0.1])
    signs = np.array(list(itertools.product((-1, 1), repeat=len(d))))
    wanted = (np.abs(signs @ d) >= abs(d.sum()) - 1e-12).mean()
    assert sign_flips(d, HOW) == pytest.approx(wanted)
    assert sign_flips(np.zeros(5), HOW) == sign_flips(np.array([0.3, 0.0]), HOW) == 1.0
    large = np.random.default_rng(6).normal(0.3, 1, 40)
    close = sign_flips(large, Resampling(0.95, 20000, 0))
    assert close == pytest.approx(stats.ttest_1samp(large, 0).pvalue, abs=0.02)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (5, 0), (3, 9), (8, 8), (1, 12)])
def test_mcnemar_is_a_binomial_test(wins: int, losses: int) -> None:
    n = wins + losses
    wanted = min(1.0, 2 * sum(math.comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n)
    assert mcnemar(wins, losses) == pytest.approx(wanted)


def test_a_true_null_is_rejected_as_rarely_as_promised() -> None:
    rng = np.random.default_rng(7)
    how = Resampling(0.95, 400, 0)
    rejected = sum(sign_flips(rng.standard_t(4, 30), how) <= 0.05 for _ in range(400))
    assert 0.02 <= rejected / 400 <= 0.08


def test_comparisons_pair_by_group() -> None:
    """A shift that is small beside the spread of the groups is found, whatever the order of the records."""
    rng = np.random.default_rng(8)
    base = rng.normal(0, 10, 40)
    mine = [(g, base[g] + 0.2 + 0.05 * rng.normal()) for g in range(40)]
    found = compare(list(reversed(mine)), [*enumerate(base), (99, 1000.0)], HOW)
    assert found.groups == 40 and found.test == "permutation"
    assert 0.15 < found.low < found.difference < found.high < 0.25
    assert found.p < 0.01
    shares = compare([(g, g < 20) for g in range(30)], [(g, g < 14) for g in range(30)], HOW)
    assert shares.test == "McNemar" and shares.p == pytest.approx(2 * 0.5**6)
    assert shares.difference == pytest.approx(0.2)


def test_groups_of_one_prompt_are_one_unit() -> None:
    """Two groups that say the same are no more evidence than one."""
    rng = np.random.default_rng(9)
    d = rng.normal(0.4, 1, 20)
    single = compare([*enumerate(d)], [(g, 0.0) for g in range(20)], HOW)
    twice = [(2 * g + k, d[g]) for g in range(20) for k in range(2)]
    pairs = compare(twice, [(g, 0.0) for g in range(40)], HOW, {g: g // 2 for g in range(40)})
    assert pairs.groups == 40 and pairs.error == pytest.approx(single.error)
    assert (pairs.difference, pairs.low, pairs.high) == pytest.approx(
        (single.difference, single.low, single.high)
    )
    assert pairs.p == pytest.approx(single.p) and single.error == pytest.approx(d.std(ddof=1) / 20**0.5)
    blind = compare(twice, [(g, 0.0) for g in range(40)], HOW)
    assert blind.error < 0.75 * single.error
    shares = [(g, g % 3 == 0) for g in range(12)], [(g, g % 4 == 0) for g in range(12)]
    assert compare(*shares, HOW).test == "McNemar"
    assert compare(*shares, HOW, {g: g // 2 for g in range(12)}).test == "permutation"


def test_the_smallest_difference_is_found_as_often_as_promised() -> None:
    rng = np.random.default_rng(10)
    how, n, tests = Resampling(0.95, 1000, 0), 80, 3
    true = detectable(1 / n**0.5, how, tests)
    found = [stats.ttest_1samp(rng.normal(true, 1, n), 0).pvalue <= 0.05 / tests for _ in range(2000)]
    assert 0.87 <= np.mean(found) <= 0.92


def test_holm_steps_down() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": math.nan})
    assert (found["a"], found["b"], found["c"]) == pytest.approx((0.03, 0.06, 0.06))
    assert math.isnan(found["d"])


@pytest.mark.parametrize(
    ("level", "resamples", "key"), [(1.0, 1000, "study.level"), (0.95, 10, "study.resamples")]
)
def test_bad_numbers_name_their_key(level: float, resamples: int, key: str) -> None:
    with pytest.raises(UserError, match=key):
        Resampling(level, resamples, 0)


SPEC = {
    "name": "table9",
    "title": "Table IX: a 100 % made-up one",
    "marks": ["AP"],
    "columns": [
        {"metric": "id_distance", "label": "ID-Distance", "better": "lower", "format": "number"},
        {"metric": "failure", "label": "Failure Rate", "better": "lower", "format": "percent", "worth": 0.05},
    ],
    "reference": "full",
    "resampling": {"level": 0.95, "resamples": 200, "seed": 0},
    "caption": ["Here: nowhere_at_all."],
}
ROWS = [
    {
        "name": "none",
        "label": "",
        "marks": ["✗"],
        "paper": {"id_distance": 0.9, "failure": 0.2},
        "note": "odd.",
    },
    {"name": "full", "label": "", "marks": ["✓"], "paper": {"id_distance": 0.8, "failure": 0.05}},
    {"name": "told", "label": "", "marks": ["?"], "paper": {"id_distance": 0.7}},
]


def records() -> list[dict[str, object]]:
    rng = np.random.default_rng(0)
    out: list[dict[str, object]] = []
    for row, mean, share in (("none", 1.0, 0.5), ("full", 0.5, 0.1)):
        for g in range(20):
            distance = None if g == 3 and row == "none" else mean + 0.1 * rng.normal()
            out.append(
                {"row": row, "group": g, "seed": 0, "id_distance": distance, "failure": g < 20 * share}
            )
    return out


def test_a_table_holds_ours_the_difference_and_the_papers() -> None:
    table = tables.make(SPEC, ROWS, records())
    none, full, told = table.lines
    assert none.cells[0].ours is not None and none.cells[0].ours.images == 19
    assert none.cells[0].against is not None and none.cells[0].against.difference == pytest.approx(
        0.5, abs=0.1
    )
    assert none.cells[0].p_holm < 0.05
    assert full.cells[0].against is None and told.cells[0].ours is None
    assert (none.cells[1].ours.mean, none.cells[1].paper) == (0.5, 0.2)  # type: ignore[union-attr]
    assert tables.orders(table) == ["ID-Distance in 1 of 1", "Failure Rate in 1 of 1"]
    assert "AP ✗: odd." in table.caption
    seen, groups = none.cells[1].detectable, none.cells[1].against.groups  # type: ignore[union-attr]
    assert (
        f"Failure Rate {100 * seen:.1f} (5.0 takes {math.ceil(groups * (seen / 0.05) ** 2)} groups)"
        in " ".join(table.caption)
    )


def test_every_format_says_the_same() -> None:
    table = tables.make(SPEC, ROWS, records())
    text = writers.markdown(table)
    rows = [
        [c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    assert rows[0] == ["AP", "ID-Distance ↓", "Δ (p)", "paper", "Failure Rate ↓, %", "Δ (p)", "paper"]
    assert len({len(row) for row in rows}) == 1
    assert rows[2][1].endswith("(n=19)") and rows[2][4].startswith("50.0 [") and rows[2][6] == "20.0"
    assert rows[4] == ["?", "-", "-", "0.700", "-", "-", "-"]
    values = list(csv.DictReader(io.StringIO(writers.comma_separated(table))))
    assert values[0]["failure_mean"] == "0.5" and values[2]["failure_mean"] == ""
    assert f"{float(values[0]['id_distance_mean']):.3f}" in rows[2][1]
    latex = writers.latex(table)
    assert r"100 \% made-up" in latex and r"nowhere\_at\_all" in latex and r"$\downarrow$" in latex
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert {line.count("&") for line in body} == {len(rows[0]) - 1}
    assert "✗" not in latex

    from rich.console import Console

    console = Console(file=io.StringIO(), width=120)
    console.print(writers.terminal(table))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "50.0" in shown and "paper 20.0" in shown and "Δ +" in shown


def test_rows_of_unlike_length_show_their_n_and_are_compared_on_shared_groups() -> None:
    """The first groups are easy ones: only over the shared groups is the short row the worse one,
    as in the paper."""
    values = [0.1] * 6 + [1.0] * 14
    made = [{"row": "full", "group": g, "seed": 0, "id_distance": v} for g, v in enumerate(values)]
    made += [{"row": "none", "group": g, "seed": 0, "id_distance": v + 0.2} for g, v in enumerate(values[:6])]
    table = tables.make(SPEC, ROWS, made)
    none, full, told = table.lines
    assert table.counted and (none.images, full.images, told.images) == (6, 20, 0)
    short, long = none.cells[0], full.cells[0]
    assert short.ours is not None and long.ours is not None and short.ours.mean < long.ours.mean
    assert short.against is not None and short.against.groups == 6
    assert short.against.difference == pytest.approx(0.2)
    assert tables.orders(table) == ["ID-Distance in 1 of 1"]
    lines = [line.strip("| ").split(" | ") for line in writers.markdown(table).splitlines() if "|" in line]
    assert lines[0][:3] == ["AP", "n", "ID-Distance ↓"]
    assert [line[1] for line in lines[2:]] == ["6", "20", "-"]
    assert "(n=" not in writers.markdown(table)
    values_of = list(csv.DictReader(io.StringIO(writers.comma_separated(table))))
    assert [row["id_distance_images"] for row in values_of] == ["6", "20", ""]
    body = [line for line in writers.latex(table).splitlines() if line.endswith(r"\\")]
    assert len({line.count("&") for line in body}) == 1


def test_rows_of_one_length_show_no_n() -> None:
    table = tables.make(SPEC, ROWS, records())
    assert not table.counted
    assert "| n |" not in writers.markdown(table)


def test_a_table_goes_between_its_marks(tmp_path: Path) -> None:
    table = tables.make(SPEC, ROWS, records())
    page = tmp_path / "docs" / "results.md"
    page.parent.mkdir()
    page.write_text("before\n<!-- table9:begin -->\nold\n<!-- table9:end -->\nafter\n")
    writers.publish(table, tmp_path)
    text = page.read_text()
    assert text.startswith("before\n<!-- table9:begin -->\n**Table IX") and text.endswith("-->\nafter\n")
    assert "old" not in text and text.count("Table IX") == 1
    page.write_text("nothing here")
    with pytest.raises(UserError, match="table9:begin"):
        writers.publish(table, tmp_path)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ({"metric": "a"}, r"study\.columns\.0\.label has no value"),
        (
            {"metric": "a", "label": "A", "better": "big", "format": "number"},
            "better='big': choose one of lower",
        ),
        ({"metric": "a", "label": "A", "better": "lower", "format": "roman"}, "format='roman'"),
        ({"metric": "a", "label": "A", "beter": "lower"}, "did you mean study.columns.0.better"),
    ],
)
def test_a_bad_column_is_named(column: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        tables.parse_columns([column])


def test_a_folder_that_is_no_benchmark_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder of study=benchmark"):
        tables.from_folder(tmp_path)
