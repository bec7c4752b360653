"""Where chance is judged wrongly most easily: unequal seeds, few items, losses that are no numbers, tiny scores."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from simulated import BASE, made_up

from engine.ladder.aggregate import add_statistics
from engine.ladder.results import FinishedRun, LadderResults, gather
from engine.ladder.statistics import FEWEST, Answers, BootstrapSamples, Difference, Floats, mcnemar, needed
from engine.ladder.verdict import verdict
from engine.runs.ladder import Comparison, Ladder, LadderRun
from engine.runs.result import Interval, Result, Score


def yes_no(rate: float, seeds: int, items: int, number: int = 0) -> Floats:
    return (np.random.default_rng(number).random((seeds, items)) < rate).astype(float)


def judged(
    answers: dict[str, Answers], metric: str = "exact_match", losses: dict[str, Answers] | None = None
) -> Ladder:
    """A ladder of `answers`, which are the losses too unless those are given."""
    items = next(iter(answers.values())).values.shape[1]
    ladder = made_up(items, [0, 1, 2], metric)
    ladder.rows = [row for row in ladder.rows if row.name in answers]
    add_statistics(ladder, LadderResults(scores=answers, losses=losses or answers), metric)
    return ladder


def compared(ladder: Ladder, a: str, b: str) -> Comparison:
    return next(one for one in ladder.comparisons if (one.a, one.b) == (a, b))


def test_a_rung_with_one_seed_strays_as_much_as_those_with_more() -> None:
    base = Answers(yes_no(0.1, 1, 200), untrained=True)
    three = Answers(np.concatenate([yes_no(rate, 1, 200, 5) for rate in (0.3, 0.5, 0.7)]))
    draws = BootstrapSamples({BASE: base, "lora": three, "full": Answers(yes_no(0.5, 1, 200, 6))}, bounded=True)
    assert draws.spread["full"] == pytest.approx(draws.spread["lora"]) and draws.spread["full"] > 0.1
    assert draws.spread[BASE] == 0.0
    (found,) = draws.differences([("full", BASE)])
    assert found.high - found.low > 0.5  # one seed of such rungs says little


def test_mcnemar_sets_equal_seeds_side_by_side() -> None:
    mine, other = yes_no(0.5, 2, 60, 1), yes_no(0.6, 2, 60, 2)
    ladder = judged(
        {
            BASE: Answers(yes_no(0.1, 1, 60), untrained=True),
            "lora": Answers(mine, seeds=(0, 2)),
            "full": Answers(other, seeds=(1, 2)),
        }
    )
    assert compared(ladder, "lora", "full").mcnemar == [mcnemar(mine[1], other[1])]
    assert len(compared(ladder, "lora", BASE).mcnemar) == 2


@pytest.mark.parametrize("items", [1, 2, FEWEST - 1])
def test_fewer_items_than_a_sign_test_needs_tell_nothing_apart(items: int) -> None:
    answers = {
        BASE: Answers(np.zeros((1, items)), untrained=True),
        "lora": Answers(np.full((1, items), 0.5)),
        "full": Answers(np.ones((1, items))),
    }
    ladder = judged(answers, losses={name: Answers(a.values + 1, np.ones(items)) for name, a in answers.items()})
    for one in ladder.comparisons:
        assert (one.finding, one.p, one.p_adjusted, one.needed_items) == ("undecided", 1.0, 1.0, None)
        assert one.difference.low is None and one.loss_difference and one.loss_difference.high is None
    assert msgspec.json.decode(msgspec.json.encode(ladder), type=Ladder).comparisons == ladder.comparisons


def test_a_handful_of_losses_is_not_believed_too_easily() -> None:
    tokens, wrong = np.full(8, 5.0), 0
    for number in range(200):
        random = np.random.default_rng(number)
        rungs = {name: Answers(random.gamma(2.0, 0.2, (1, 8)), tokens) for name in ("qlora", "lora", "full")}
        wrong += any(
            one.told_apart
            for one in BootstrapSamples(rungs, bounded=False).differences([("qlora", "full"), ("lora", "full")])
        )
    assert wrong / 200 <= 0.08


def test_a_loss_that_is_no_number_spoils_nothing_but_its_own_rung() -> None:
    losses = {
        BASE: Answers(np.full((1, 40), 3.0), np.ones(40), untrained=True),
        "qlora": Answers(np.where(np.arange(40) == 7, math.nan, 1.0)[None], np.ones(40)),
        "lora": Answers(np.random.default_rng(0).random((1, 40)), np.ones(40)),
        "full": Answers(np.random.default_rng(1).random((1, 40)), np.ones(40)),
    }
    ladder = judged(losses, "loss")
    rows = {row.name: row for row in ladder.rows}
    assert rows["qlora"].status == "diverged" and rows["qlora"].score is None
    assert compared(ladder, "lora", BASE).finding == "better"
    scored = judged({name: Answers(yes_no(0.5, 1, 40), untrained=name == BASE) for name in losses}, losses=losses)
    assert compared(scored, "qlora", BASE).loss_difference is None
    assert compared(scored, "lora", BASE).loss_difference
    for state in (ladder, scored):
        assert msgspec.json.decode(msgspec.json.encode(state), type=Ladder) == state


def test_a_share_of_a_score_is_never_below_nothing() -> None:
    full, part = np.zeros((1, 100)), np.zeros((1, 100))
    full[0, :6], part[0, :1] = 1, 1
    share = BootstrapSamples({"lora": Answers(part), "full": Answers(full)}, bounded=True).share("lora", "full")
    assert share.low == 0.0 and share.high and share.high > 0.5


def difference(mean: float, items: float, seeds: float) -> Difference:
    return Difference("a", "b", mean, -1, 1, 0.5, 0.5, items, seeds, 2.4, 2.4)


def test_what_is_needed_is_more_than_there_is_and_enough() -> None:
    assert needed(difference(0.02, 0.2, 0.0), 300, 1) == (math.ceil(0.2 / (0.02 / 3.2416) ** 2), None)
    items, seeds = needed(difference(0.02, 0.001, 0.01), 300, 3)
    assert items == 300 and seeds and seeds > 3  # the items that there are, and more seeds
    assert 0.001 / items + 0.01 / seeds <= (0.02 / 3.2416) ** 2
    assert needed(difference(0.0, 0.2, 0.0), 300, 1) == (None, None)


@pytest.mark.parametrize("outcome", ["out_of_memory", "diverged", "failed", "skipped"])
def test_where_only_qlora_finished_its_own_base_is_the_base(outcome: str) -> None:
    line = {"nll": 1.0, "tokens": 2, "scores": {"exact_match": 1.0}}
    interval = Interval(mean=1.0, low=1.0, high=1.0, rows=1)
    before = Score(loss=interval, perplexity=None, metric="exact_match", score=interval)
    result = Result(
        status="finished",
        reason="",
        name="",
        preset="",
        method="qlora",
        model="",
        data="",
        metric="",
        created=0,
        ended=0,
    )
    result.before = before
    entry = LadderRun(rung="qlora", kind="run", seed=0, learning_rate=1, status="finished")
    ladder = made_up(1, [0])
    ladder.entries = [entry, LadderRun(rung="lora", kind="run", seed=0, learning_rate=1, status=outcome)]
    evidence = LadderResults([FinishedRun(entry, result, [{"base": line, "tuned": line}])])
    gather(evidence, ladder)
    assert list(evidence.bases) == [BASE] and evidence.scores[BASE].untrained


@pytest.mark.parametrize(("items", "low"), [(20, 0.8389), (300, 0.9873)])
def test_a_rung_that_answers_everything_right_is_not_certain(items: int, low: float) -> None:
    found = BootstrapSamples({"full": Answers(np.ones((1, items)))}, bounded=True).interval("full")
    assert found.mean == found.high == 1.0 and found.low == pytest.approx(low, abs=1e-3)


def test_no_difference_of_scores_is_held_to_be_larger_than_one() -> None:
    answers = {"full": Answers(np.ones((1, 6))), BASE: Answers(np.zeros((1, 6)), untrained=True)}
    (found,) = BootstrapSamples(answers, bounded=True).differences([("full", BASE)])
    assert found.told_apart and 0 < found.low < found.mean == found.high == 1.0


def test_p_is_below_a_twentieth_exactly_where_the_interval_leaves_out_zero() -> None:
    """Also between the two draws at the border."""
    values = yes_no(0.5, 2, 40, 3)
    draws = BootstrapSamples({"a": Answers(values[:1]), "b": Answers(values[1:])}, bounded=True)
    (found,) = draws.differences([("a", "b")])
    drawn = np.abs(draws.means["a"] - draws.means["b"] - found.mean)
    last = np.sort(drawn)[-210:-190]
    for size in (last[1:] + last[:-1]) / 2:
        beyond = (1 + (drawn >= size).sum()) / (1 + len(drawn))
        half = (found.high - found.low) / 2
        assert (beyond < 0.05) == (size > half)


@pytest.mark.parametrize("metric", ["exact_match", "loss"])
@pytest.mark.parametrize("items", [1, 2, 3])
@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_a_ladder_on_hardly_any_items_is_judged_and_finds_nothing(metric: str, items: int, rate: float) -> None:
    weights = np.full(items, 2.0) if metric == "loss" else None
    seeds = (0, 1)
    answers = {
        name: Answers(yes_no(rate, 2, items, number), weights, seeds) for number, name in enumerate(("lora", "full"))
    }
    answers["base"] = Answers(np.zeros((1, items)), weights, (0,), untrained=True)
    ladder = judged(answers, metric)
    assert [one.finding for one in ladder.comparisons] == ["undecided"] * len(ladder.comparisons)
    assert verdict(ladder)
    for row in ladder.rows:
        assert row.score and row.score.mean is not None and row.score.rows == items
        assert (row.score.low is None) == (items == 1)
