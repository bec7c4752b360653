"""What the verdict says where the plain case does not hold: losses, ties, several of a method, half-finished rungs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_ladder import made_ladder
from simulated import BASE, made_up

from engine.ladder.aggregate import add_statistics
from engine.ladder.findings import find
from engine.ladder.results import LadderResults
from engine.ladder.statistics import Answers
from engine.ladder.verdict import verdict
from engine.runs.ladder import Ladder, RentalPrice, RungResult, SeedRange

ITEMS = 300


def row(ladder: Ladder, name: str) -> RungResult:
    return next(row for row in ladder.rows if row.name == name)


def said(ladder: Ladder, *topics: str) -> str:
    return " ".join(one.text for one in verdict(ladder) if one.topic in topics or not topics)


def by_loss(**means: float) -> Ladder:
    """A ladder of the metric loss; 0.1 is told apart."""
    random = np.random.default_rng(0)
    hard = random.random(ITEMS)
    losses = {
        name: Answers((mean + hard + 0.1 * random.random(ITEMS))[None], np.ones(ITEMS), untrained=name == BASE)
        for name, mean in means.items()
    }
    ladder = made_up(ITEMS, [0], "loss")
    ladder.rows = [one for one in ladder.rows if one.name in means]
    add_statistics(ladder, LadderResults(losses=losses), "loss")
    return ladder


def test_a_lower_loss_is_better_and_is_said_to_be() -> None:
    ladder = by_loss(base=3.0, qlora=1.2, lora=1.0, full=1.1)
    found = find(ladder)
    assert found.best and found.best.name == "lora" and found.rule_quality == "holds"
    assert found.against_full["qlora"].finding == "worse" and found.against_full["lora"].finding == "better"
    assert row(ladder, "qlora").share_of_score is None and row(ladder, "qlora").share_of_gain
    text = said(ladder)
    assert "lower is better, a difference below 0 is a lead" in text
    assert "Ship LoRA" in text and "it leads full by −0.1" in text and "highest" not in text


def test_a_loss_that_rose_is_not_said_to_be_below() -> None:
    assert "Full fine-tuning did worse than the base" in said(by_loss(base=1.0, full=2.0, lora=0.5))


def test_of_two_small_ones_that_nothing_tells_from_the_best_the_better_is_shipped() -> None:
    """QLoRA and LoRA save equally much; neither can be told from full."""
    ladder = by_loss(base=3.0, qlora=1.002, lora=1.001, full=1.0)
    row(ladder, "full").artifact_bytes = 100
    found = find(ladder)
    assert found.best and found.best.name == "full" and found.ship and found.ship.name == "lora"


def test_of_equal_artefacts_the_better_one_is_shipped() -> None:
    ladder = by_loss(base=3.0, qlora=1.001, lora=1.0, full=2.0)
    found = find(ladder)
    assert found.against_full and found.best and found.ship and found.ship.name == found.best.name == "lora"
    assert "nothing as good has a smaller artefact" in said(ladder, "ship")


def test_what_was_seen_of_times_comes_with_its_range_over_the_seeds() -> None:
    ladder = by_loss(base=3.0, qlora=1.2, lora=1.0, full=1.1)
    times = {"qlora": (48.4, 47.3, 49.9), "lora": (47.0, 45.0, 48.0), "full": (51.3, 50.4, 52.0)}
    for name, (mean, low, high) in times.items():
        row(ladder, name).training_seconds = row(ladder, name).all_seconds = SeedRange(mean=mean, low=low, high=high)
    time = said(ladder, "time")
    assert "training time is 0.94 × full's (48.4 s, 47.3 s – 49.9 s, against 51.3 s, 50.4 s – 52.0 s)" in time
    prototype = said(ladder, "prototype")
    assert "least time, 47.0 s a run, 45.0 s – 48.0 s (QLoRA took as little with some seeds)" in prototype
    row(ladder, "qlora").all_seconds = SeedRange(mean=48.4, low=48.4, high=48.4)
    assert "as little" not in said(ladder, "prototype")
    assert "time in all is 0.94 × full's (48.4 s against" in said(ladder, "time")


def test_without_a_base_nothing_is_recommended_and_nothing_is_denied() -> None:
    ladder = by_loss(lora=1.0, full=1.1)
    assert "The base has no score here" in said(ladder, "prototype")
    assert "No method" not in said(ladder)


def test_a_second_full_rung_is_no_rival_of_the_first(tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path)
    for name in ("qlora", "lora"):
        row(ladder, name).method = "full"
    assert not said(ladder, "full")


def test_seeds_that_have_not_finished_are_not_counted(tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path)
    for name in ("qlora", "lora", "full"):
        one = row(ladder, name)
        one.seeds, one.status = one.seeds[:1], "partly"
    text = said(ladder)
    assert "One seed: " in text and "LoRA has finished 1 of 3 seeds." in text and "and 3 seeds" not in text


@pytest.mark.parametrize(("currency", "price"), [("EUR", 1.0), ("USD", 0.0)])
def test_prices_that_have_no_ratio_get_none(currency: str, price: float, tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path, card=True)
    row(ladder, "full").rent = RentalPrice(gpu="Own 80GB", memory=80 << 30, price_per_hour=price, currency=currency)
    text = said(ladder, "rent")
    assert "Own 80GB" in text and "×" not in text


def test_a_hair_less_memory_is_no_reason(tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path, without=["full"])
    for one, name in zip(ladder.comparisons, ("qlora", "lora"), strict=False):
        one.a, one.b, one.finding = name, "base", "better"
    quick, small = row(ladder, "lora"), row(ladder, "qlora")
    assert "where memory is short" in said(ladder, "prototype")
    assert quick.peak and small.peak
    small.peak.rss_training = int(0.99 * (quick.peak.rss_training or 0))
    assert "where memory is short" not in said(ladder, "prototype")
