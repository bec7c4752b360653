"""Findings, decisions and sentences by the margin, the gain and the seeds; what must not change them."""

from __future__ import annotations

import math
import re

import msgspec
import numpy as np
import pytest
from simulated import BASE, EQUAL, METHODS, Truth, blank_ladder, row_of, simulate
from simulated_grid import Cell, measure

from engine.config import quantities
from engine.config.errors import UserError
from engine.config.preset import Preset, resolve
from engine.ladder.aggregate import OUTLIER, add_statistics, memory_of_full
from engine.ladder.decisions import RULE_GAIN_SHARE, Decisions
from engine.ladder.phrases import (
    ASSUMED_SPREAD,
    POWER,
    SIGNIFICANTLY,
    SIMULTANEOUS,
    margin_text,
    method_noun,
    needed_sample,
)
from engine.ladder.recommendation import OVERALL, UNTESTABLE, worse_than_base
from engine.ladder.results import LadderResults, comparison
from engine.ladder.sentences import FEW_TIMINGS, TRAIN_MORE, conclude, no_significant_gain, verdict
from engine.ladder.statistics import Floats, ItemScores
from engine.runs.ladder.ladder_plan import make_plan
from engine.runs.ladder.ladder_state import Ladder, LadderPlan, Rung
from engine.runs.ladder.rung_results import RungResult, SeedRange, finding_of
from engine.runs.run.result import MeasuredPeak

ITEMS = 400


def scores(seeds: int = 3, spread: float = 0.0, **rates: float) -> dict[str, ItemScores]:
    """Answers of which exactly these shares are correct, the same items first; seeds differ by `spread`."""
    made = {}
    for name, rate in rates.items():
        count = 1 if name == BASE else seeds
        shares = [rate + spread * (seed - (count - 1) / 2) for seed in range(count)]
        made[name] = ItemScores(np.stack([right(share) for share in shares]), untrained=name == BASE)
    return made


def right(share: float) -> Floats:
    return (np.arange(ITEMS) < round(share * ITEMS)).astype(float)


def ladder_of(answers: dict[str, ItemScores], margin: float = 0.02) -> Ladder:
    ladder = blank_ladder(ITEMS, list(range(max(len(item_scores.values) for item_scores in answers.values()))))
    rows = {row.name: row for row in ladder.rows}
    ladder.rows = [rows.get(name) or RungResult(name=name, method="lora", status="finished") for name in answers]
    for row in ladder.rows:
        row.artifact_bytes, row.seeds = 1000, [] if row.name == BASE else list(range(len(answers[row.name].values)))
    ladder.margin = margin
    add_statistics(ladder, LadderResults(scores=answers, losses={}), "exact_match")
    conclude(ladder)
    return ladder


@pytest.mark.parametrize(
    ("low", "high", "margin", "finding"),
    [
        (0.001, 0.1, 0.02, "better"),
        (-0.1, -0.001, 0.02, "worse"),
        (-0.019, 0.1, 0.02, "as_good"),
        (-0.021, 0.1, 0.02, "undecided"),
        (-0.02, 0.0, 0.02, "undecided"),
        (-0.019, 0.1, None, "undecided"),
    ],
)
def test_the_finding_of_an_interval(low: float, high: float, margin: float | None, finding: str) -> None:
    assert finding_of(low, high, margin) == finding


@pytest.mark.parametrize("value", [-0.01, math.nan, math.inf])
def test_an_invalid_margin_is_refused(value: float) -> None:
    with pytest.raises(UserError, match="invalid margin") as refused:
        make_plan("demo", [], {}, margin=value)
    assert refused.value.code == "ladder.margin"
    assert make_plan("demo", [], {}).margin == 0.02


def test_a_larger_artifact_is_shipped_only_if_it_is_shown_to_be_better() -> None:
    answers = scores(base=0.2, qlora=0.6, lora=0.695, full=0.70)
    for value, expected in ((0.05, "lora"), (0.0001, "lora"), (0.3, "qlora")):
        ladder = ladder_of(answers, value)
        row_of(ladder, "qlora").artifact_bytes, row_of(ladder, "lora").artifact_bytes = 10, 100
        decisions = Decisions(ladder)
        assert decisions.best and decisions.best.name == "full"
        assert decisions.ship and decisions.ship.name == expected
        assert ("qlora" in {rung.name for rung in decisions.equals}) == (value == 0.3)
        assert len(decisions.equals) >= 2
        conclude(ladder)
        (ship,) = [sentence.text for sentence in ladder.verdict if sentence.topic == "ship"]
        assert ship.startswith("Ship any of ") and "full fine-tuning" in ship
        assert ladder.recommended == expected
    ladder = ladder_of(scores(base=0.2, qlora=0.5, lora=0.55, full=0.7))
    row_of(ladder, "full").artifact_bytes = 10_000
    assert Decisions(ladder).ship is row_of(ladder, "full")
    (ship,) = [sentence.text for sentence in verdict(ladder, Decisions(ladder)) if sentence.topic == "ship"]
    assert SIGNIFICANTLY["better"] in ship and quantities.size(10_000) in ship


def test_the_choice_among_equal_methods_is_by_cost_and_the_same_in_every_repeat() -> None:
    """By the best observed score it would change in about half of the repeats."""
    shipped = set()
    for number in range(20):
        ladder, _ = simulate(EQUAL, number)
        for name, size, peak in (("qlora", 100, 50), ("lora", 100, 70), ("full", 1000, 200)):
            row_of(ladder, name).artifact_bytes, row_of(ladder, name).peak = size, MeasuredPeak(rss_training=peak)
        decisions = Decisions(ladder)
        if len(decisions.equals) == 3 and decisions.ship:
            shipped.add(decisions.ship.name)
    assert shipped == {"qlora"}


def test_without_a_gain_the_rule_does_not_hold() -> None:
    ladder = ladder_of(scores(base=0.5, qlora=0.5, lora=0.5, full=0.5))
    assert Decisions(ladder).rule_quality == "unknown"
    assert ladder.summary and OVERALL["unknown"] in ladder.summary.headline
    assert all(row.share_of_gain is None for row in ladder.rows)


def test_a_gain_that_two_seeds_cannot_show_is_not_called_none_and_needs_more_seeds() -> None:
    """53.3 points that one of two seeds has lost: the remedy is more seeds, and longer training for no gain at all."""
    ladder = ladder_of(scores(2, spread=0.7, base=0.1, full=0.6325, lora=0.6325))
    compared = comparison(ladder, "full", BASE)
    assert compared and compared.difference.mean == pytest.approx(0.5325, abs=2e-3) and compared.finding == "undecided"
    stated = no_significant_gain(ladder, row_of(ladder, "full"))
    (said,) = [sentence.text for sentence in ladder.verdict if stated in sentence.text]
    assert compared.needed_seeds and needed_sample(compared) in said and POWER in said and TRAIN_MORE not in said
    for gain in (0.0, -0.005, 0.0025):
        ladder = ladder_of(scores(2, base=0.5, full=0.5 + gain, lora=0.5))
        assert TRAIN_MORE in " ".join(sentence.text for sentence in ladder.verdict)


def test_the_rule_is_judged_on_the_share_of_the_gain() -> None:
    """QLoRA keeps 95% of the score, which would be enough, and 90% of the gain."""
    ladder = ladder_of(scores(base=0.4, qlora=0.76, lora=0.8, full=0.8))
    qlora, full = row_of(ladder, "qlora"), row_of(ladder, "full")
    assert qlora.score and full.score and full.score.mean and qlora.score.mean
    assert qlora.score.mean / full.score.mean >= RULE_GAIN_SHARE
    assert qlora.share_of_gain and qlora.share_of_gain.mean == pytest.approx(0.9)
    assert Decisions(ladder).rule_quality != "holds"
    assert ladder.summary and ladder.summary.headline.startswith(f"QLoRA keeps 90.0% of {ladder.summary.reference}'s ")
    assert ladder.summary.reference == method_noun(full)


def test_without_full_the_rungs_are_compared_with_the_best_one() -> None:
    ladder = ladder_of(scores(base=0.2, qlora=0.5, lora=0.7))
    ladder.full_needs = "it takes about 99 GiB of GPU memory (predicted)"
    conclude(ladder)
    decisions, summary = Decisions(ladder), ladder.summary
    assert (
        decisions.reference is row_of(ladder, "lora")
        and decisions.rule_quality == "unknown"
        and not decisions.rule_costs
        and decisions.rule_quality == "unknown"
        and not decisions.rule_costs
    )
    share = row_of(ladder, "qlora").share_of_gain
    assert share and share.mean == pytest.approx(0.6) and share.high and share.high < 0.75
    assert summary and UNTESTABLE in summary.headline and ladder.full_needs in summary.headline
    assert f"LoRA is {SIGNIFICANTLY['better']} than QLoRA" in summary.headline and not summary.tests_rule
    assert decisions.ship is decisions.best is row_of(ladder, "lora")
    base, qlora, lora = (rung.decision for rung in summary.rows)
    assert (base, qlora) == ("", "worse than LoRA") and lora.startswith("ship; ") and "best" in lora
    assert "QLoRA − LoRA = −20.0 points" in " ".join(sentence.text for sentence in ladder.verdict)


@pytest.mark.parametrize(("model", "memory"), [("llama-3.1-8b", (64, 141)), ("gpt-oss-20b", (160, 512))])
def test_without_full_the_memory_is_predicted_that_it_takes(model: str, memory: tuple[int, int]) -> None:
    config = resolve(Preset("demo-lora", {}), "lora", {"model.id": model}).config
    plan = LadderPlan(preset="p", created=0.0, rungs=[Rung(name="lora", config=config)], seeds=[0], command="")
    ladder = ladder_of(scores(base=0.2, lora=0.7))
    said = memory_of_full(ladder, plan)
    predicted = re.search(r"([\d.]+) GiB\b.*\(predicted\)", said)
    assert predicted and memory[0] < float(predicted[1]) < memory[1]
    assert memory_of_full(ladder_of(scores(base=0.2, full=0.7)), plan) == ""


def test_a_share_of_a_barely_detected_gain_is_withheld() -> None:
    full = next(
        ladder
        for points in range(1, 20)
        if (ladder := ladder_of(scores(base=0.5, lora=0.5, full=0.5 + points / 100)))
        and Decisions(ladder).gained["full"] == "yes"
    )
    assert row_of(full, "lora").share_of_gain is None and "too uncertain" in row_of(full, "lora").no_share


def test_a_rung_that_is_worse_than_the_base_is_first() -> None:
    ladder = ladder_of(scores(base=0.5, qlora=0.3, lora=0.7, full=0.8))
    assert ladder.summary
    said = worse_than_base(ladder, [row_of(ladder, "qlora")])
    assert ladder.summary.headline.startswith(said) and SIGNIFICANTLY["worse"] in said
    assert f"QLoRA − base = −20.0 points, {SIMULTANEOUS} [" in said
    assert Decisions(ladder).gained["qlora"] == "worse" and "worse" in ladder.summary.rows[1].decision


def test_a_rung_that_lacks_seeds_and_varies_more_is_not_compared() -> None:
    answers = scores(seeds=5, spread=0.005, base=0.2, lora=0.68, full=0.70)
    answers["qlora"] = scores(seeds=2, spread=0.2, qlora=0.6)["qlora"]
    ladder = ladder_of(answers)
    assert row_of(ladder, "qlora").not_compared == OUTLIER and not row_of(ladder, "lora").not_compared
    assert (
        not any("qlora" in (compared.a, compared.b) for compared in ladder.comparisons) and len(ladder.comparisons) == 3
    )
    decisions = Decisions(ladder)
    assert decisions.gained == {"lora": "yes", "full": "yes", "qlora": "unknown"}
    assert decisions.ship is not None and not decisions.has_unknown_gain
    assert {rung.name for rung in decisions.untimed} == {"full", "lora"}
    (said,) = [sentence for sentence in ladder.verdict if OUTLIER in sentence.text]
    assert said.topic == "quality" and said.text.startswith("QLoRA ")
    row_of(ladder, "qlora").not_compared = ""  # now its gain is unknown
    conclude(ladder)
    assert Decisions(ladder).ship is Decisions(ladder).prototype is None and not ladder.recommended
    assert not [shown for shown in ladder.summary.rows if "ship" in shown.decision or "prototype" in shown.decision]
    assert "ship" not in [sentence.topic for sentence in ladder.verdict]


def test_a_gain_that_an_earlier_look_decided_counts_for_a_rung_that_is_no_longer_compared() -> None:
    answers = scores(seeds=5, spread=0.005, base=0.2, lora=0.68, full=0.70)
    answers["qlora"] = scores(seeds=2, spread=0.2, qlora=0.8)["qlora"]
    ladder = ladder_of(answers)
    assert row_of(ladder, "qlora").not_compared == OUTLIER and ladder.recommended != "qlora"
    gain = comparison(ladder, "full", BASE)
    assert gain is not None
    ladder.comparisons.append(msgspec.structs.replace(gain, a="qlora"))
    conclude(ladder)
    assert Decisions(ladder).best is row_of(ladder, "qlora") and ladder.recommended == "qlora"


def test_a_statement_on_one_seed_carries_its_scope() -> None:
    for seeds, expected in ((1, True), (3, False)):
        ladder = ladder_of(scores(seeds, base=0.1, qlora=0.6, lora=0.7, full=0.7))
        for name in METHODS:
            row_of(ladder, name).all_seconds = SeedRange(mean=10.0, low=10.0, high=10.0, values=[10.0] * seeds)
        texts = verdict(ladder, Decisions(ladder))
        assert all((ASSUMED_SPREAD in s.text) == expected for s in texts if "simultaneous 95% CI [" in s.text)
        assert all((FEW_TIMINGS in s.text) == expected for s in texts if s.topic == "time")
    assert margin_text(ladder) == "2 points"


def test_the_order_of_seeds_items_and_rungs_changes_no_finding() -> None:
    truth, random = Truth(EQUAL.odds | {"qlora": 0.1}), np.random.default_rng(5)
    answers = truth.sample(random)
    first = ladder_of_any(answers)
    items = random.permutation(truth.items)
    moved = {
        name: ItemScores(
            item_scores.values[random.permutation(len(item_scores.values))][:, items], untrained=item_scores.untrained
        )
        for name, item_scores in reversed(answers.items())
    }
    other = {(compared.a, compared.b): compared for compared in ladder_of_any(dict(sorted(moved.items()))).comparisons}
    for compared in first.comparisons:
        same = other.get((compared.a, compared.b))
        bounds = (compared.difference.low, compared.difference.high)
        if same is None:
            same = other[(compared.b, compared.a)]
            same.difference = same.difference.negated()
        assert (same.difference.low, same.difference.high) == pytest.approx(bounds, abs=1e-9)


def ladder_of_any(answers: dict[str, ItemScores]) -> Ladder:
    ladder = blank_ladder(next(iter(answers.values())).values.shape[1], [0, 1, 2])
    ladder.margin = 0.02
    order = list(answers)
    ladder.rows.sort(key=lambda row: order.index(row.name))
    add_statistics(ladder, LadderResults(scores=answers, losses={}), "exact_match")
    return ladder


def test_an_identical_rung_is_never_found_different() -> None:
    answers = scores(spread=0.01, base=0.2, lora=0.6, full=0.75)
    before = {(compared.a, compared.b): compared.finding for compared in ladder_of(answers).comparisons}
    after = ladder_of({**answers, "twin": answers["full"]})
    twins = next(compared for compared in after.comparisons if {compared.a, compared.b} == {"full", "twin"})
    assert twins.difference.mean == 0.0 and twins.finding in ("as_good", "undecided")
    for compared in after.comparisons:
        if (compared.a, compared.b) in before:
            assert compared.finding in (before[(compared.a, compared.b)], "undecided")


@pytest.mark.parametrize(
    "cell", [Cell("threshold", 100, (2,) * 3, (3.0,) * 3, True), Cell("bimodal t3", 100, (1, 3, 3), (1.5,) * 3, False)]
)
def test_a_small_sample_of_the_grid_covers(cell: Cell) -> None:
    """Fixed ladders; `tools/statistics_cells.jsonl` has a thousand of each cell."""
    counts = measure(cell, 60)
    assert counts["covered"] >= 54 and counts["false"] <= 5 and counts["score"] >= 52


def test_the_same_ladder_has_the_same_verdict() -> None:
    first, other = (simulate(EQUAL, 3)[0] for _ in range(2))
    assert first.verdict == other.verdict and first.comparisons == other.comparisons
