"""The verdict on simulated ladders with known true scores: right in at least 95%, overclaiming in at most 5%.

These are fixed samples; `tools/statistics_grid.py` simulates thousands of ladders.
"""

from __future__ import annotations

import pytest
from simulated import A_LITTLE_WORSE, EQUAL, MUCH_WORSE, Truth, simulate
from verdict_criteria import CRITERIA, Criterion, text_of

from engine.ladder.phrases import ASSUMED_SPREAD
from engine.ladder.results import comparison
from engine.ladder.sentences import ONE_SEED

LADDERS = 80
INTERVALS = 100


def test_the_simulated_truths_are_what_they_are_called() -> None:
    assert 0.94 < A_LITTLE_WORSE.rate("qlora") / A_LITTLE_WORSE.rate("full") < 0.98
    assert MUCH_WORSE.rate("qlora") / MUCH_WORSE.rate("full") < 0.75


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda criterion: criterion.name)
def test_the_verdict_is_right_and_does_not_overclaim(criterion: Criterion) -> None:
    right, overclaims = criterion.rates(range(LADDERS))
    assert right >= 0.95 and overclaims <= 0.05


@pytest.mark.parametrize("truth", [EQUAL, MUCH_WORSE], ids=["equal", "much worse"])
def test_intervals_cover_the_true_values(truth: Truth) -> None:
    rate = {rung: truth.rate(rung) for rung in truth.odds}
    gain = (rate["qlora"] - rate["base"]) / (rate["full"] - rate["base"])
    covered = {"score": 0, "gain": 0, "together": 0}
    for ladder, _ in (simulate(truth, number) for number in range(INTERVALS)):
        row = next(row for row in ladder.rows if row.name == "qlora")
        covered["score"] += row.score.low <= rate["qlora"] <= row.score.high
        covered["gain"] += bool(row.share_of_gain and row.share_of_gain.low <= gain <= row.share_of_gain.high)
        covered["together"] += all(
            compared.difference.low <= rate[compared.a] - rate[compared.b] <= compared.difference.high
            for compared in ladder.comparisons
        )
    assert min(covered.values()) >= 0.92 * INTERVALS, covered  # 95% less more than one standard error of 100 ladders


def test_the_needed_number_of_items_makes_the_difference_significant() -> None:
    """Without variation between seeds, so that only the number of items matters."""
    odds = {"base": -2.0, "qlora": 0.1, "lora": 0.1, "full": 0.5}
    small = Truth(odds, seed_std=0.0, items=100, seeds=3)
    needed = []
    for number in range(80):
        against = comparison(simulate(small, number)[0], "qlora", "full")
        assert against is not None
        true_difference = small.rate("qlora") - small.rate("full")
        if against.needed_items and not against.needed_seeds and abs(against.difference.mean - true_difference) < 0.01:
            needed.append(against.needed_items)
    assert len(needed) > 10
    enough = Truth(odds, seed_std=0.0, items=sorted(needed)[len(needed) // 2], seeds=3)
    compared = [comparison(simulate(enough, number)[0], "qlora", "full") for number in range(60)]
    significant = sum(result is not None and result.finding == "worse" for result in compared)
    assert 0.6 <= significant / 60 <= 0.95, (enough.items, significant)


def test_the_needed_sample_shows_that_equal_rungs_are_as_good() -> None:
    """Three seeds without spread do not show that there is none, so that more seeds are needed as well."""
    odds = {"base": -2.0, "qlora": 0.5, "lora": 0.5, "full": 0.5}
    needed = []
    for number in range(60):
        against = comparison(simulate(Truth(odds, seed_std=0.0, margin=0.06), number)[0], "qlora", "full")
        assert against is not None
        if against.needed_items and abs(against.difference.mean) < 0.01:
            assert against.needed_for == "as_good"
            needed.append((against.needed_items, against.needed_seeds or 3))
    assert len(needed) > 3
    items, seeds = sorted(needed)[len(needed) // 2]
    both, enough = 0, Truth(odds, seed_std=0.0, items=items, seeds=seeds, margin=0.06)
    for number in range(30):
        ladder, _ = simulate(enough, number)
        assert all(compared.needed_for == "difference" for compared in ladder.comparisons if compared.b == "base")
        directions = comparison(ladder, "qlora", "full"), comparison(ladder, "full", "qlora")
        both += all(result is not None and result.finding == "as_good" for result in directions)
    assert both / 30 >= 0.8, (items, seeds, both)


def test_the_verdict_names_a_single_seed() -> None:
    ladder, _ = simulate(Truth(EQUAL.odds, seeds=1), 0)
    assert ONE_SEED in text_of(ladder)
    quality = [sentence.text for sentence in ladder.verdict if sentence.topic == "quality"]
    assert quality and all(ASSUMED_SPREAD in text for text in quality)
