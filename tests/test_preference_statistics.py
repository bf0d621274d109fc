"""Agreement and intervals of votes are those made by hand, and cover what they promise."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from experiments.preference.statistics import Vote, alpha_interval, fleiss_kappa, krippendorff_alpha, share
from sow.report.statistics import Resampling, wilson


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
