"""When the verdict on a simulated ladder is right, and when it overclaims, for each simulated truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from simulated import A_LITTLE_WORSE, EQUAL, MUCH_WORSE, NO_GAIN, Truth, simulate

from engine.ladder.decisions import Decisions
from engine.ladder.phrases import SIGNIFICANTLY, not_significant
from engine.ladder.recommendation import NO_RECOMMENDATION
from engine.ladder.results import comparison
from engine.ladder.sentences import NO_SIGNIFICANT_GAIN
from engine.runs.ladder.ladder_state import Ladder

Judgment = Callable[[Ladder, Decisions], bool]


@dataclass(frozen=True)
class Criterion:
    """What a verdict on ladders of one truth must say, and must not."""

    name: str
    truth: Truth
    right: Judgment
    overclaims: Judgment

    def rates(self, ladders: Iterable[int]) -> tuple[float, float]:
        """(fraction of right verdicts, fraction of overclaims) over simulated ladders of these numbers."""
        results = [simulate(self.truth, number) for number in ladders]
        right = sum(self.right(*result) for result in results)
        return right / len(results), sum(self.overclaims(*result) for result in results) / len(results)


def text_of(ladder: Ladder) -> str:
    """The sentences of the verdict."""
    return " ".join(sentence.text for sentence in ladder.verdict)


def _finding(ladder: Ladder, rung: str) -> str:
    compared = comparison(ladder, rung, "full")
    assert compared is not None
    return compared.finding


def _equal_overclaims(ladder: Ladder, decisions: Decisions) -> bool:
    differ = any(_finding(ladder, rung) != "undecided" for rung in ("qlora", "lora"))
    return differ or decisions.rule_quality == "fails" or f": {SIGNIFICANTLY['worse']}" in text_of(ladder)


def _equal_right(ladder: Ladder, decisions: Decisions) -> bool:
    return (
        not _equal_overclaims(ladder, decisions) and text_of(ladder).lower().count(not_significant(ladder).lower()) == 2
    )


def _little_overclaims(ladder: Ladder, decisions: Decisions) -> bool:
    return _finding(ladder, "qlora") == "better" or decisions.rule_quality == "fails"


def _little_right(ladder: Ladder, decisions: Decisions) -> bool:
    reported = _finding(ladder, "qlora") == "worse" or not_significant(ladder).lower() in text_of(ladder).lower()
    return decisions.gained["qlora"] == "yes" and reported and not _little_overclaims(ladder, decisions)


def _much_overclaims(_: Ladder, decisions: Decisions) -> bool:
    return decisions.rule_quality == "holds" or (decisions.ship is not None and decisions.ship.name == "qlora")


def _much_right(ladder: Ladder, decisions: Decisions) -> bool:
    text = text_of(ladder)
    assert ladder.summary is not None
    rule = "QLoRA's quality" in ladder.summary.headline or "does not hold" in ladder.summary.headline
    reported = rule and f": {SIGNIFICANTLY['worse']}" in text
    return reported and _finding(ladder, "qlora") == "worse" and decisions.rule_quality == "fails"


def _no_gain_overclaims(ladder: Ladder, decisions: Decisions) -> bool:
    shares = any(row.share_of_gain for row in ladder.rows)
    return shares or "yes" in decisions.gained.values() or decisions.rule_quality != "unknown"


def _no_gain_right(ladder: Ladder, decisions: Decisions) -> bool:
    text = text_of(ladder)
    return not _no_gain_overclaims(ladder, decisions) and NO_SIGNIFICANT_GAIN in text and NO_RECOMMENDATION in text


CRITERIA = (
    Criterion("equal", EQUAL, _equal_right, _equal_overclaims),
    Criterion("a little worse", A_LITTLE_WORSE, _little_right, _little_overclaims),
    Criterion("much worse", MUCH_WORSE, _much_right, _much_overclaims),
    Criterion("no gain", NO_GAIN, _no_gain_right, _no_gain_overclaims),
)
