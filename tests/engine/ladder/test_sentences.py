"""The verdict in special cases: losses, ties, several rungs of a method, partly finished rungs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from made_ladder import made_ladder
from simulated import BASE, blank_ladder, row_of

from engine.config.text import listed
from engine.ladder.aggregate import add_statistics
from engine.ladder.decisions import Decisions
from engine.ladder.phrases import (
    BASE_NOT_SCORED,
    COST_TITLES,
    SIGNIFICANTLY,
    UNFIT,
    allowed_collapses,
    longer_answers,
    margin_text,
    method_noun,
    metric_title,
    sample_size,
)
from engine.ladder.recommendation import (
    LOW_MEMORY,
    METRIC_FAILED,
    NO_RECOMMENDATION,
    NOT_COMPARED,
    ONLY_RUNG,
    OVERALL,
    as_fast,
    summarize_ladder,
    worse_than_base,
)
from engine.ladder.report.tables import finding, summary_table
from engine.ladder.results import LadderResults, comparison
from engine.ladder.sentences import FEW_TIMINGS, LOWER_IS_BETTER, ONE_RATE, ONE_SEED, RULE_OF_COST, TRAIN_MORE, verdict
from engine.ladder.statistics import ItemScores
from engine.runs.ladder.ladder_state import Ladder, LadderEntry
from engine.runs.ladder.rung_results import NOT_READ, SeedRange
from engine.runs.ladder.summary_drawing import plain_lines, summary_lines
from engine.runs.run.result import MeasuredPeak
from engine.runs.run.usage import LabelConflicts, RowUsage

ITEMS = 300


def text(ladder: Ladder, *topics: str) -> str:
    return " ".join(
        sentence.text for sentence in verdict(ladder, Decisions(ladder)) if sentence.topic in topics or not topics
    )


def by_loss(seeds: int = 3, margin: float | None = None, **means: float) -> Ladder:
    """A ladder with the metric loss, on which a difference of 0.1 is significant and 0.01 is within the margin."""
    random = np.random.default_rng(0)
    hard = random.random(ITEMS)
    losses = {
        name: ItemScores(mean + hard + 0.1 * random.random((seeds, ITEMS)), np.ones(ITEMS))
        if name != BASE
        else ItemScores((mean + hard)[None], np.ones(ITEMS), untrained=True)
        for name, mean in means.items()
    }
    ladder = blank_ladder(ITEMS, list(range(seeds)), "loss")
    ladder.margin = margin
    ladder.rows = [rung for rung in ladder.rows if rung.name in means]
    add_statistics(ladder, LadderResults(losses=losses), "loss")
    return ladder


def test_a_lower_loss_is_reported_as_better() -> None:
    ladder = by_loss(base=3.0, qlora=1.2, lora=1.0, full=1.1)
    decisions = Decisions(ladder)
    assert decisions.best and decisions.best.name == "lora" and decisions.rule_quality == "holds"
    findings = {name: compared.finding for name in ("qlora", "lora") if (compared := comparison(ladder, name, "full"))}
    assert findings == {"qlora": "worse", "lora": "better"}
    assert row_of(ladder, "qlora").share_of_gain
    everything = text(ladder)
    assert LOWER_IS_BETTER in everything and "highest" not in everything
    ship = text(ladder, "ship")
    assert ship.startswith("Ship LoRA: ") and SIGNIFICANTLY["better"] in ship and "LoRA − full = −0.1" in ship


def test_a_loss_that_rose_is_reported_as_worse() -> None:
    ladder = by_loss(base=1.0, full=2.0, lora=0.5)
    summary = summarize_ladder(ladder, Decisions(ladder))
    said = worse_than_base(ladder, [row_of(ladder, "full")])
    assert summary and summary.headline.startswith(said) and "full − base = +1.050 " in said
    assert TRAIN_MORE in text(ladder)


def test_of_equal_rungs_the_cheapest_is_shipped() -> None:
    """All are as good as full within the margin; QLoRA and LoRA have artifacts of equal size."""
    ladder = by_loss(base=3.0, qlora=1.010, lora=1.005, full=1.0)
    row_of(ladder, "full").artifact_bytes = 100
    for name, peak in (("qlora", 90), ("lora", 60), ("full", 100)):
        row_of(ladder, name).peak = MeasuredPeak(rss_training=peak << 20)
    decisions = Decisions(ladder)
    assert decisions.best and decisions.best.name == "full" and decisions.ship and decisions.ship.name == "lora"
    ship = text(ladder, "ship")
    assert [rung.name for rung in decisions.equals] == ["qlora", "lora", "full"]
    any_of, _, reason = ship.partition(": ")
    assert any_of.startswith("Ship any ") and listed([method_noun(rung) for rung in decisions.equals], "or") in any_of
    assert reason.startswith("LoRA ") and margin_text(ladder) in reason and "60.0 MiB vs. 90.0 MiB" in reason


@pytest.mark.parametrize(("seeds", "share"), [(1, "95%"), (2, "78%"), (3, "63%"), (5, "45%"), (8, "31%")])
def test_as_good_always_says_how_many_seeds_may_collapse(seeds: int, share: str) -> None:
    """Every sentence and cell that says so, also if only one of both rungs has few seeds."""
    ladder = by_loss(max(seeds, 3), 0.02, base=3.0, qlora=1.0, lora=1.0, full=1.0)
    row_of(ladder, "lora").seeds = [*range(seeds)]
    decisions = Decisions(ladder)
    summary = summarize_ladder(ladder, decisions)
    assert summary
    said = [sentence.text for sentence in verdict(ladder, decisions)]
    said += [line.decision for line in summary.rows] + [finding(ladder, pair) for pair in ladder.comparisons]
    claims = [text for text in said if re.search(r"as good", text) and "80% power" not in text]
    assert len(claims) >= 7 and all(re.search(r"(up to|≤) \d\d% ", text) for text in claims)
    assert all(share in text for text in claims if "LoRA " in text.replace("QLoRA", ""))


def test_an_artifact_that_is_as_good_as_its_run_has_the_seeds_of_its_run() -> None:
    ladder = by_loss(base=3.0, lora=1.0, full=1.0)
    artifact = msgspec.structs.replace(row_of(ladder, "lora"), name="lora:merged", source="lora")
    ladder.rows.append(artifact)
    assert allowed_collapses(ladder, "lora:merged", "lora") == "" != allowed_collapses(ladder, "lora:merged", "full")


def test_costs_are_reported_with_the_interval_of_their_ratio() -> None:
    ladder = by_loss(base=3.0, qlora=1.2, lora=1.0, full=1.1)
    times = {"qlora": (48.4, 47.3, 49.9), "lora": (47.0, 45.0, 48.0), "full": (51.3, 50.4, 52.0)}
    for name, (mean, low, high) in times.items():
        row_of(ladder, name).training_seconds = row_of(ladder, name).all_seconds = SeedRange(
            mean=mean, low=low, high=high, values=[low, mean, high]
        )
    said = text(ladder, "time")
    training, total = (f"{COST_TITLES[cost]} 0.94×, 95% CI [0.90, 1.00]" for cost in ("training", "time"))
    assert f"{RULE_OF_COST['fails']}: {training}; {total}" in said
    assert FEW_TIMINGS not in said
    prototype = text(ladder, "prototype")
    assert f": 47.0 s per run (seeds: 45.0 s – 48.0 s). {as_fast(['QLoRA'])}" in prototype
    for name, seconds in (("qlora", 80.4), ("full", 51.3)):
        row_of(ladder, name).all_seconds = SeedRange(mean=seconds, low=seconds, high=seconds)
    assert as_fast(["full"]) in text(ladder, "prototype") and FEW_TIMINGS in text(ladder, "time")


def test_without_a_base_nothing_is_recommended_and_nothing_excluded() -> None:
    ladder = by_loss(lora=1.0, full=1.1)
    assert BASE_NOT_SCORED in text(ladder, "prototype")
    assert NO_RECOMMENDATION not in text(ladder)


def test_unfinished_seeds_are_not_counted(tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path)
    for name in ("qlora", "lora", "full"):
        rung = row_of(ladder, name)
        rung.seeds, rung.status = rung.seeds[:1], "partly"
    everything = text(ladder)
    assert ONE_SEED in everything
    for title in ("QLoRA", "LoRA", "Full fine-tuning"):
        assert f"{title} finished 1 of 3 seeds" in text(ladder, "caveat")
    assert sample_size(ladder).endswith(" and 1 seed") and "and 3 seeds" not in everything


def test_one_method_better_than_the_base_is_called_the_only_one() -> None:
    ladder = by_loss(base=3.0, qlora=1.2, lora=1.0, full=1.1)
    for name, seconds in (("qlora", 3.0), ("lora", 2.0), ("full", 9.0)):
        row_of(ladder, name).all_seconds = SeedRange(mean=seconds, low=seconds, high=seconds)
        row_of(ladder, name).peak = MeasuredPeak(rss_training=int(1e9 * seconds))
    assert Decisions(ladder).least_memory is not None and "LoRA, the fastest" in text(ladder, "prototype")
    for compared in ladder.comparisons:
        if "base" in (compared.a, compared.b) and "full" not in (compared.a, compared.b):
            compared.finding = "undecided"
    decisions = Decisions(ladder)
    assert decisions.prototype and decisions.prototype.name == "full" and decisions.least_memory == decisions.prototype
    prototype = text(ladder, "prototype")
    assert "the only method" in prototype and "memory" not in prototype


def test_slightly_less_memory_is_not_recommended(tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path, without=["full"])
    for compared, name in zip(ladder.comparisons, ("qlora", "lora"), strict=False):
        compared.a, compared.b, compared.finding = name, "base", "better"
    quick, small = row_of(ladder, "lora"), row_of(ladder, "qlora")
    assert LOW_MEMORY in text(ladder, "prototype")
    assert quick.peak and small.peak
    small.peak.rss_training = int(0.99 * (quick.peak.rss_training or 0))
    assert LOW_MEMORY not in text(ladder, "prototype")


def test_the_best_rung_is_only_called_the_only_one_if_it_is() -> None:
    alone = text(by_loss(base=3.0, lora=1.0), "ship")
    assert ONLY_RUNG in alone and NOT_COMPARED not in alone
    ladder = by_loss(base=3.0, qlora=1.2, lora=1.0)
    ladder.comparisons = [compared for compared in ladder.comparisons if compared.b == BASE]
    ship = text(ladder, "ship")
    assert f"{NOT_COMPARED} with QLoRA" in ship and ONLY_RUNG not in ship


def test_without_trials_the_caveat_says_that_no_other_rate_was_tried() -> None:
    ladder = by_loss(base=3.0, qlora=1.2, lora=1.0)
    assert ONE_RATE in text(ladder, "caveat")
    ladder.entries = [LadderEntry(rung="lora", kind="trial", seed=0, learning_rate=5e-3)]
    assert ONE_RATE not in text(ladder, "caveat")


def test_the_caveat_on_conflicting_labels_gives_the_best_possible_score() -> None:
    ladder = by_loss(base=3.0, qlora=1.2, lora=1.0)
    assert ladder.work and "several labels" not in text(ladder, "caveat")
    conflicts = LabelConflicts(rows=30, of=200, best=0.925)
    ladder.work.data_usage = RowUsage(read=200, train=150, validation=20, test=30, conflicts=conflicts)
    assert "30 of 200 rows have a prompt with several labels, so that at most 92.5%" in text(ladder, "caveat")


def test_a_renamed_qlora_rung_is_named_in_every_sentence(tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path, gpu=True)
    for compared in ladder.comparisons:
        compared.a, compared.b = (
            name.replace("qlora", "wide") if name == "qlora" else name for name in (compared.a, compared.b)
        )
    row_of(ladder, "qlora").name = "wide"
    costs = text(ladder, "quality", "time")
    assert "wide's" in costs and "QLoRA" not in costs


def test_training_is_not_blamed_where_the_metric_cannot_see_what_it_changed() -> None:
    def ladder_of(score: float, gain: float, base_score: float = 0, noise: float = 0) -> Ladder:
        """The base scores `base_score`, all others `score` with noise; their loss is lower by `gain`."""
        random = np.random.default_rng(0)
        losses, scores = {}, {}
        for name in (BASE, "qlora", "lora", "full"):
            base = name == BASE
            values = 5.8 - gain * (not base) + 0.1 * random.random((1 if base else 2, ITEMS))
            losses[name] = ItemScores(values, np.ones(ITEMS), untrained=base)
            mean = np.full_like(values, base_score if base else score)
            scores[name] = ItemScores(mean + noise * random.standard_normal(mean.shape), untrained=base)
        ladder = blank_ladder(ITEMS, [0, 1])
        add_statistics(ladder, LadderResults(scores=scores, losses=losses), "exact_match")
        return ladder

    blind = ladder_of(0, 1.3)
    assert TRAIN_MORE not in text(blind) and NO_RECOMMENDATION not in text(blind)
    assert "evaluation.metric" in text(blind, "quality") and METRIC_FAILED in text(blind, "prototype")
    summary = summarize_ladder(blind, Decisions(blind))
    assert summary and OVERALL["unknown"] in summary.headline
    assert re.search(rf"same score in {metric_title('exact_match')}, .*\bloss fell", summary.headline)
    assert "does not show" in text(blind, "quality") and "evaluation.metric=open" in text(blind, "quality")
    blind.warning_codes = [UNFIT]
    assert "cannot measure it" in text(blind, "quality") and "evaluation.metric=auto" in text(blind, "quality")
    for rung in blind.rows:
        rung.ended = 0.1
    assert longer_answers(blind) in text(blind, "quality") and "10.0%" in text(blind, "quality")
    assert "cannot measure it" not in text(blind, "quality")
    for rung in blind.rows:
        rung.extra = {"expected_calls": 0.0}
    assert "0.0% where a call" in text(blind, "quality")
    assert TRAIN_MORE in text(ladder_of(0, 0.0))  # here training did nothing
    assert METRIC_FAILED not in text(ladder_of(1, 1.3))
    alike = text(ladder_of(0.6, 1.3, 0.6))  # such as rows without a tool call, where no answer has one
    assert METRIC_FAILED in alike and TRAIN_MORE not in alike
    nearly = text(ladder_of(0.3, 1.3, 0.3, 0.1), "quality")  # such as overlaps of words, which are never equal
    assert METRIC_FAILED not in nearly and TRAIN_MORE not in nearly and "nats/token lower" in nearly
    assert TRAIN_MORE in text(ladder_of(0.3, 0.0, 0.3, 0.1), "quality")


def test_of_open_answers_the_loss_is_compared_and_nobody_has_read_them() -> None:
    ladder = by_loss(base=3.0, qlora=1.2, lora=1.0, full=1.1)
    assert ladder.work
    ladder.work.metric = "open"
    assert NOT_READ in text(ladder, "quality") and Decisions(ladder).rule_quality == "holds"
    summary = summarize_ladder(ladder, Decisions(ladder))
    assert summary is not None and "lower is better" in "\n".join(plain_lines(summary_lines(summary, 80)))
    assert "held-out loss" in summary.headline
    assert "held-out loss" in summary_table(summary).columns[0].head
    assert row_of(ladder, "qlora").share_of_gain


@pytest.mark.parametrize(
    ("settings", "is_caveat"),
    [
        ({"optimizer.step_in_backward": True, "train.max_grad_norm": 1.0}, True),
        ({"optimizer.step_in_backward": True, "train.max_grad_norm": 0.0}, False),
        ({"optimizer.step_in_backward": False, "train.max_grad_norm": 1.0}, False),
    ],
)
def test_other_clipping_of_some_rungs_is_a_caveat(settings: dict[str, Any], is_caveat: bool) -> None:
    ladder = by_loss(base=3.0, lora=1.1, full=1.0)
    ladder.config = {**ladder.config, **settings}
    assert ("clipped tensor by tensor in full, and together" in text(ladder, "caveat").lower()) == is_caveat
    ladder.config = {**ladder.config, "optimizer.step_in_backward": "auto"}  # what the runs recorded
    row_of(ladder, "full").automatic = {key: value for key, value in settings.items() if value is True}
    assert ("clipped tensor by tensor in full, and together" in text(ladder, "caveat").lower()) == is_caveat
