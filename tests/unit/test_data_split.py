"""Splitting by content: nothing is shared, equal rows stay together, and nobody's test set changes."""

from __future__ import annotations

import random

import pytest

from engine.data.conversation import Example
from engine.data.split import split


def examples(*contents):
    return [Example(None, f"q{content}", "a", f"line {n}") for n, content in enumerate(contents, 1)]


def parted(train, validation=None, test=None, shares=(0.05, None), seed=0, max_rows=None):
    return split(train, validation, test, shares, seed, max_rows)


def keys(rows):
    return {example.key for example in rows}


@pytest.mark.parametrize("trial", range(20))
def test_no_content_is_on_two_sides_and_no_row_is_lost(trial):
    rng = random.Random(trial)
    rows = examples(*(rng.randrange(60) for _ in range(rng.randrange(20, 200))))
    done = parted(rows, shares=(rng.choice([0.05, 0.2]), rng.choice([None, 0.3])), seed=trial)
    assert not keys(done.train) & keys(done.validation)
    assert not keys(done.train) & keys(done.test)
    assert not keys(done.validation) & keys(done.test)
    places = [example.where for side in (done.train, done.validation, done.test) for example in side]
    assert sorted(places) == sorted(example.where for example in rows)


def test_sides_depend_on_content_and_seed_not_on_order():
    rows = examples(*range(200))
    shuffled = random.Random(1).sample(rows, len(rows))
    assert keys(parted(rows).validation) == keys(parted(shuffled).validation)
    assert keys(parted(rows).test) == keys(parted(shuffled).test)
    assert keys(parted(rows).validation) != keys(parted(rows, seed=1).validation)
    assert [e.where for e in parted(rows).train] == sorted(
        (e.where for e in parted(rows).train), key=lambda w: int(w[5:])
    )


@pytest.mark.parametrize(("rows", "expected"), [(20, 1), (100, 5), (10, 0)])
def test_the_validation_share_gives_at_least_one_row_of_twenty(rows, expected):
    assert len(parted(examples(*range(rows)), test=[]).validation) == expected


def test_without_a_test_set_a_tenth_is_held_out_and_at_most_500():
    done = parted(examples(*range(300)), shares=(0.0, None))
    assert (len(done.test), len(done.train)) == (30, 270)
    assert "no test split was given" in done.about[0]
    assert len(parted(examples(*range(7000)), shares=(0.0, None)).test) == 500


def test_a_test_share_of_nothing_is_nothing():
    done = parted(examples(*range(300)), shares=(0.0, 0.0))
    assert done.test == [] and done.warnings == []


def test_a_given_test_set_is_kept_and_its_overlap_told():
    test = examples(0, 1, 2)
    done = parted(examples(*range(100)), test=test)
    assert done.test == test
    assert "3 of 3 test rows are also training rows" in done.warnings[0].text
    assert done.overlaps["test/train"][0] == ("line 1", "line 1")


def test_a_given_validation_set_loses_what_it_shares():
    done = parted(examples(*range(10)), validation=examples(3, 50, 99), test=examples(99))
    assert [example.prompt for example in done.validation] == ["q50"]
    assert "2 of 3 validation rows" in done.warnings[0].text


def test_max_rows_chooses_by_content_and_leaves_the_held_out_rows_alone():
    rows = examples(*range(300))
    small, large = parted(rows, max_rows=10), parted(rows, max_rows=50)
    assert len(small.train) == 10
    assert keys(small.train) < keys(large.train)
    assert keys(small.test) == keys(large.test)
    assert keys(small.validation) == keys(large.validation)
