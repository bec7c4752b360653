"""The verdict on made-up ladders of known truth: right in 95 of 100, and over-claiming in at most 5."""

from __future__ import annotations

import re

import pytest
from simulated import A_LITTLE_WORSE, EQUAL, MUCH_WORSE, NO_GAIN, Truth, simulate

from engine.ladder.findings import Findings
from engine.runs.ladder import Ladder

LADDERS = 1000


def text_of(ladder: Ladder) -> str:
    return " ".join(sentence.text for sentence in ladder.verdict)


def run(truth: Truth) -> list[tuple[Ladder, Findings]]:
    return [simulate(truth, number) for number in range(LADDERS)]


def share(ladders: list[tuple[Ladder, Findings]], says) -> float:  # type: ignore[no-untyped-def]
    return sum(map(bool, (says(ladder, found) for ladder, found in ladders))) / len(ladders)


def finding(found: Findings, rung: str) -> str:
    return found.against_full[rung].finding


def test_equal_methods_are_not_told_apart_and_the_rule_is_not_said_to_fail() -> None:
    ladders = run(EQUAL)

    def overclaims(ladder: Ladder, found: Findings) -> bool:
        differ = any(finding(found, rung) != "undecided" for rung in ("qlora", "lora"))
        return differ or found.rule_quality == "fails" or "That is worse" in text_of(ladder)

    def right(ladder: Ladder, found: Findings) -> bool:
        return not overclaims(ladder, found) and text_of(ladder).count("cannot be told apart with these 400 items") == 2

    assert share(ladders, overclaims) <= 0.05
    assert share(ladders, right) >= 0.95


def test_a_little_worse_is_never_better_nor_a_failed_rule() -> None:
    truth = A_LITTLE_WORSE
    assert 0.94 < truth.rate("qlora") / truth.rate("full") < 0.98
    ladders = run(truth)

    def overclaims(ladder: Ladder, found: Findings) -> bool:
        return finding(found, "qlora") == "better" or found.rule_quality == "fails"

    def right(ladder: Ladder, found: Findings) -> bool:
        worse = finding(found, "qlora") == "worse"
        honest = "told apart with these 400 items" in text_of(ladder)
        return found.gained["qlora"] == "yes" and (worse or honest) and not overclaims(ladder, found)

    assert share(ladders, overclaims) <= 0.05
    assert share(ladders, right) >= 0.95


def test_much_worse_is_said_to_be_worse_and_the_rule_to_fail() -> None:
    truth = MUCH_WORSE
    assert truth.rate("qlora") / truth.rate("full") < 0.75
    ladders = run(truth)

    def right(ladder: Ladder, found: Findings) -> bool:
        said = "94 % of the quality does not hold here" in text_of(ladder) and "That is worse" in text_of(ladder)
        return said and finding(found, "qlora") == "worse" and found.rule_quality == "fails"

    def overclaims(ladder: Ladder, found: Findings) -> bool:
        return found.rule_quality == "holds" or (found.ship is not None and found.ship.name == "qlora")

    assert share(ladders, right) >= 0.95
    assert share(ladders, overclaims) <= 0.05


def test_where_full_gains_nothing_there_is_no_share_and_no_advice() -> None:
    ladders = run(NO_GAIN)

    def overclaims(ladder: Ladder, found: Findings) -> bool:
        shares = any(row.share_of_gain for row in ladder.rows)
        return shares or "yes" in found.gained.values() or found.rule_quality != "unknown"

    def right(ladder: Ladder, found: Findings) -> bool:
        text = text_of(ladder)
        return not overclaims(ladder, found) and "There is no gain" in text and "none can be recommended" in text

    assert share(ladders, overclaims) <= 0.05
    assert share(ladders, right) >= 0.95


@pytest.mark.parametrize("truth", [EQUAL, MUCH_WORSE], ids=["equal", "much worse"])
def test_intervals_hold_what_they_promise(truth: Truth) -> None:
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


def test_the_number_of_items_said_to_be_needed_tells_the_difference_apart() -> None:
    """Where one item more or less decides, not where seeds do: these seeds do not stray."""
    odds = {"base": -2.0, "qlora": 0.1, "lora": 0.1, "full": 0.5}
    small = Truth(odds, seeds_stray=0.0, items=150, seeds=1)
    needed = []
    for number in range(200):
        _, found = simulate(small, number)
        against = found.against_full["qlora"]
        true_difference = small.rate("qlora") - small.rate("full")
        if against.needed_items and abs(against.difference.mean - true_difference) < 0.01:
            needed.append(against.needed_items)
    assert len(needed) > 10
    enough = Truth(odds, seeds_stray=0.0, items=sorted(needed)[len(needed) // 2], seeds=1)
    told = sum(simulate(enough, number)[1].against_full["qlora"].finding == "worse" for number in range(200))
    assert 0.65 <= told / 200 <= 0.95, (enough.items, told)


NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def test_one_seed_is_said_to_be_one_seed() -> None:
    ladder, _ = simulate(Truth(EQUAL.odds, seeds=1), 0)
    assert "how far another seed would differ is unknown" in text_of(ladder)
    assert "seeds" not in next(s.text for s in ladder.verdict if s.topic == "quality")
