"""The benchmark of the embedded world: size, splits, disjointness, contradictions,
and that it never changes."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest

from experiments.benchmark.store import batch_key
from sow.data import SETTINGS, Data
from sow.data.people import FIRST_IDENTITY, FIRST_SEED, Entry, PeopleBenchmark, entries, manifest_hash
from sow.errors import UserError
from sow.people.captions.attributes import VOCABULARY, Attributes, sample_attributes, sample_identity
from sow.people.captions.parse import parse

MANIFEST = "b8577490eaa674ca66438bedc67dd872e96d9c19a9b642affffeb63fdc9639fa"


@cache
def all_entries() -> tuple[Entry, ...]:
    return tuple(entries())


def test_the_manifest_is_the_committed_one() -> None:
    assert manifest_hash() == MANIFEST


def test_three_settings_of_two_hundred_with_a_tenth_for_validation() -> None:
    count = Counter((e.setting, e.split) for e in all_entries())
    assert count == {(s, split): n for s in SETTINGS for split, n in (("validation", 20), ("test", 180))}
    assert len({e.id for e in all_entries()}) == 600


def test_each_prompt_has_two_faces_in_one_split_and_no_prompt_repeats_in_a_setting() -> None:
    for setting in SETTINGS:
        mine = [e for e in all_entries() if e.setting == setting]
        assert set(Counter(e.prompt for e in mine).values()) == {2}
        for first, second in zip(mine[::2], mine[1::2], strict=True):
            assert first.prompt == second.prompt and first.split == second.split
            assert first.identity != second.identity


def test_seeds_and_identities_are_reserved_and_distinct() -> None:
    identities = [e.identity for e in all_entries()]
    assert len(set(identities)) == 600 and min(identities) >= FIRST_IDENTITY
    assert min(e.seed for e in all_entries()) >= FIRST_SEED
    rng = np.random.default_rng(0)  # what a training draws lies below
    assert max(sample_identity(rng, a) for a in (sample_attributes(rng) for _ in range(300))) < FIRST_IDENTITY


def test_prompts_say_what_the_entry_wants() -> None:
    for entry in all_entries():
        assert {n: v for n, v in parse(entry.prompt).items() if n != "presence"} == entry.wanted
        assert entry.wanted.get("scene") in VOCABULARY["scene"]


def test_faces_contradict_their_prompt_in_the_attribute_setting_only() -> None:
    shown = {"expression", "age", "glasses"}
    for entry in all_entries():
        named = shown & entry.wanted.keys()
        if entry.setting == "attribute":
            assert named | ({"hair"} & entry.wanted.keys())
            assert all(
                entry.attributes[n] != entry.wanted[n] for n in named | ({"hair"} & entry.wanted.keys())
            )
        else:
            assert not named
        assert entry.attributes["style"] == "photo"
        assert ("style" in entry.wanted) == (entry.setting == "style")


def test_groups_are_requests_with_a_face_a_mask_and_the_truth() -> None:
    data = PeopleBenchmark(size=48)
    assert isinstance(data, Data)
    groups = data.groups("validation")
    assert len(groups) == 60 and len({g.request.seed for g in groups}) == 60
    by_id = {e.id: e for e in all_entries()}
    for group in groups[::7]:
        (condition,) = group.request.conditions
        entry = by_id[group.id]
        assert condition.image.size == (48, 48) and group.request.prompt == entry.prompt
        covered = (np.asarray(condition.mask) > 0).mean()
        assert 0.3 < covered < 0.95
        assert condition.truth["attributes"] == entry.attributes
        assert Attributes(**condition.truth["attributes"]).presence == "person"
    again = PeopleBenchmark(size=48).groups("validation")[0].request.conditions[0]
    assert np.array_equal(np.asarray(again.image), np.asarray(groups[0].request.conditions[0].image))


def test_every_group_has_a_key_of_its_own_that_stays() -> None:
    def keys() -> list[str]:
        return [batch_key("method", [g.request]) for g in PeopleBenchmark(size=48).groups("validation")[:6]]

    assert keys() == keys() and len(set(keys())) == 6


def test_bad_input_is_one_line() -> None:
    with pytest.raises(UserError, match="validation, test or all"):
        PeopleBenchmark(size=64).groups("train")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="data.size"):
        PeopleBenchmark(size=4)
