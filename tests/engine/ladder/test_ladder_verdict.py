"""The verdict on simulated ladders with known true scores: right in at least 95%, overclaiming in at most 5%."""

from __future__ import annotations

import pytest
from simulated import A_LITTLE_WORSE, EQUAL, MUCH_WORSE, NO_GAIN, Truth, simulate

from engine.ladder import phrases
from engine.ladder.findings import Findings
from engine.ladder.phrases import NO_RECOMMENDATION, ONE_SEED, RULE_OF_QUALITY, SIGNIFICANTLY, not_significant
from engine.runs.ladder import Ladder

LADDERS = 1000


def text_of(ladder: Ladder) -> str:
    return " ".join(sentence.text for sentence in ladder.verdict)


def run(truth: Truth) -> list[tuple[Ladder, Findings]]:
    return [simulate(truth, number) for number in range(LADDERS)]


def fraction(ladders: list[tuple[Ladder, Findings]], says) -> float:  # type: ignore[no-untyped-def]
    return sum(map(bool, (says(ladder, found) for ladder, found in ladders))) / len(ladders)


def finding(found: Findings, rung: str) -> str:
    return found.against_full[rung].finding


def test_equal_methods_do_not_differ_significantly_and_the_rule_does_not_fail() -> None:
    ladders = run(EQUAL)

    def overclaims(ladder: Ladder, found: Findings) -> bool:
        differ = any(finding(found, rung) != "undecided" for rung in ("qlora", "lora"))
        return differ or found.rule_quality == "fails" or f" is {SIGNIFICANTLY['worse']} than" in text_of(ladder)

    def right(ladder: Ladder, found: Findings) -> bool:
        return not overclaims(ladder, found) and text_of(ladder).count(not_significant(ladder)) == 2

    assert fraction(ladders, overclaims) <= 0.05
    assert fraction(ladders, right) >= 0.95


def test_a_little_worse_is_never_better_nor_a_failed_rule() -> None:
    truth = A_LITTLE_WORSE
    assert 0.94 < truth.rate("qlora") / truth.rate("full") < 0.98
    ladders = run(truth)

    def overclaims(ladder: Ladder, found: Findings) -> bool:
        return finding(found, "qlora") == "better" or found.rule_quality == "fails"

    def right(ladder: Ladder, found: Findings) -> bool:
        worse = finding(found, "qlora") == "worse"
        honest = not_significant(ladder) in text_of(ladder)
        return found.gained["qlora"] == "yes" and (worse or honest) and not overclaims(ladder, found)

    assert fraction(ladders, overclaims) <= 0.05
    assert fraction(ladders, right) >= 0.95


def test_a_much_worse_method_is_reported_as_worse_and_the_rule_fails() -> None:
    truth = MUCH_WORSE
    assert truth.rate("qlora") / truth.rate("full") < 0.75
    ladders = run(truth)

    def right(ladder: Ladder, found: Findings) -> bool:
        text = text_of(ladder)
        reported = RULE_OF_QUALITY["fails"] in text and f"QLoRA is {SIGNIFICANTLY['worse']} than full" in text
        return reported and finding(found, "qlora") == "worse" and found.rule_quality == "fails"

    def overclaims(ladder: Ladder, found: Findings) -> bool:
        return found.rule_quality == "holds" or (found.ship is not None and found.ship.name == "qlora")

    assert fraction(ladders, right) >= 0.95
    assert fraction(ladders, overclaims) <= 0.05


def test_without_a_gain_of_full_there_is_no_share_and_no_recommendation() -> None:
    ladders = run(NO_GAIN)

    def overclaims(ladder: Ladder, found: Findings) -> bool:
        shares = any(row.share_of_gain for row in ladder.rows)
        return shares or "yes" in found.gained.values() or found.rule_quality != "unknown"

    def right(ladder: Ladder, found: Findings) -> bool:
        text = text_of(ladder)
        return not overclaims(ladder, found) and phrases.NO_GAIN in text and NO_RECOMMENDATION in text

    assert fraction(ladders, overclaims) <= 0.05
    assert fraction(ladders, right) >= 0.95


@pytest.mark.parametrize("truth", [EQUAL, MUCH_WORSE], ids=["equal", "much worse"])
def test_intervals_cover_the_true_values(truth: Truth) -> None:
    rate = {rung: truth.rate(rung) for rung in truth.odds}
    gain = (rate["qlora"] - rate["base"]) / (rate["full"] - rate["base"])
    covered = {"score": 0, "gain": 0, "together": 0}
    for ladder, _ in (simulate(truth, number) for number in range(500)):
        row = next(row for row in ladder.rows if row.name == "qlora")
        covered["score"] += row.score.low <= rate["qlora"] <= row.score.high
        covered["gain"] += bool(row.share_of_gain and row.share_of_gain.low <= gain <= row.share_of_gain.high)
        covered["together"] += all(
            one.difference.low <= rate[one.a] - rate[one.b] <= one.difference.high for one in ladder.comparisons
        )
    assert min(covered.values()) >= 0.93 * 500, covered


def test_the_needed_number_of_items_makes_the_difference_significant() -> None:
    """Without variation between seeds, so that only the number of items matters."""
    odds = {"base": -2.0, "qlora": 0.1, "lora": 0.1, "full": 0.5}
    small = Truth(odds, seed_std=0.0, items=150, seeds=1)
    needed = []
    for number in range(200):
        _, found = simulate(small, number)
        against = found.against_full["qlora"]
        true_difference = small.rate("qlora") - small.rate("full")
        if against.needed_items and abs(against.difference.mean - true_difference) < 0.01:
            needed.append(against.needed_items)
    assert len(needed) > 10
    enough = Truth(odds, seed_std=0.0, items=sorted(needed)[len(needed) // 2], seeds=1)
    significant = sum(simulate(enough, number)[1].against_full["qlora"].finding == "worse" for number in range(200))
    assert 0.65 <= significant / 200 <= 0.95, (enough.items, significant)


def test_the_verdict_names_a_single_seed() -> None:
    ladder, _ = simulate(Truth(EQUAL.odds, seeds=1), 0)
    assert ONE_SEED in text_of(ladder)
    assert "seeds" not in next(s.text for s in ladder.verdict if s.topic == "quality")
