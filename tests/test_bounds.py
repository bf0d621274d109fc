"""A number out of its bounds is said in one line: the bound, the value, the key."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sow.config.bounds import need_above, need_at_least, need_between, need_one_of, need_within
from sow.errors import UserError


@dataclass
class Component:
    count: int | None = 1
    rate: float = 0.5


@pytest.mark.parametrize("group", ["study", ""])
@pytest.mark.parametrize(
    ("check", "value", "words"),
    [
        (lambda c, g: need_at_least(c, g, count=0, rate=1), 0.9, "need rate >= 1, got 0.9"),
        (lambda c, g: need_at_least(c, g, rate=0), float("nan"), "need rate >= 0, got nan"),
        (lambda c, g: need_above(c, g, rate=0), 0, "need rate > 0, got 0"),
        (lambda c, g: need_within(c, g, 0, 1, "count", "rate"), 1.5, "need 0 <= rate <= 1, got 1.5"),
        (lambda c, g: need_between(c, g, 0, 1, "rate"), 1, "need 0 < rate < 1, got 1"),
        (lambda c, g: need_between(c, g, 0, 1, "rate"), 0, "need 0 < rate < 1, got 0"),
    ],
)
def test_what_is_out_of_bounds_is_named(check, value, words, group):
    with pytest.raises(UserError) as caught:
        check(Component(rate=value), group)
    assert str(caught.value) == f"{words} ({'study.rate' if group else 'rate'})"


def test_a_word_that_is_no_choice_is_named():
    part = Component(count=None, rate="fast")
    with pytest.raises(UserError) as caught:
        need_one_of(part, "study", count=("one",), rate=("slow", "steady"))
    assert str(caught.value) == "rate is one of slow, steady, got 'fast' (study.rate)"
    need_one_of(part, "study", count=("one",), rate=("slow", "fast"))


def test_bounds_themselves_and_open_fields_pass():
    part = Component(count=None, rate=1)
    need_at_least(part, "study", count=5, rate=1)
    need_above(part, "study", count=5, rate=0.999)
    need_within(part, "study", 0, 1, "rate", "count")
    need_within(part, "study", 1, 2, "rate")
    need_between(part, "study", 0, 2, "rate", "count")
