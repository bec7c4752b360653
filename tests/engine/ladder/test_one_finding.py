"""No two statements of one report disagree: where two rungs are related, it is by the finding of their comparison."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import permutations
from typing import NamedTuple

import numpy as np
import pytest
from msgspec import structs
from simulated import BASE, Truth, row_of, simulate, with_times

from engine.ladder.decisions import is_non_inferior
from engine.ladder.recommendation import OVERALL
from engine.ladder.results import comparison
from engine.ladder.sentences import RULE_OF_COST, conclude
from engine.runs.ladder.ladder_state import Ladder

LADDERS = 400
NAMES = {"QLoRA": "qlora", "LoRA": "lora", "full": "full", "full fine-tuning": "full", "base": BASE}
NAMES |= {"the base model": BASE, "Full fine-tuning": "full"}
NAME = r"(?:QLoRA|LoRA|[Ff]ull fine-tuning|full|the base model|base)"
LIST = rf"{NAME}(?:, {NAME})*(?:,? (?:and|or) {NAME})?"


class Statement(NamedTuple):
    """That `a` stands to `b` as said, and where."""

    a: str
    said: str
    b: str
    where: str


def named(text: str) -> list[str]:
    return [NAMES[name] for name in re.findall(NAME, text)]


def statements(ladder: Ladder) -> Iterator[Statement]:
    """Every relation of two rungs that the headline, the table or a sentence states."""
    assert ladder.summary is not None
    for text in (ladder.summary.headline, *(sentence.text for sentence in ladder.verdict)):
        for left, said, right in re.findall(rf"({LIST}) (?:is|are) significantly (better|worse) than ({LIST})", text):
            yield from (Statement(a, said, b, text) for a in named(left) for b in named(right))
        for left, right, said in re.findall(rf"({NAME}) − ({NAME}) = [^:;]*: (no|as good|significantly \w+)", text):
            yield Statement(named(left)[0], said.removeprefix("significantly "), named(right)[0], text)
        for left in re.findall(rf"No significant gain of ({NAME})", text):
            yield Statement(named(left)[0], "no", BASE, text)
        if match := re.search(rf"No significant difference between ({LIST}) with", text):
            first, *others = named(match[1])
            yield from (Statement(first, "no better", other, text) for other in others)
    for row in ladder.summary.rows:
        if match := re.search(r"(as good|better|worse|no significant difference|no significant gain)(.*)", row.finding):
            other = named(match[2]) or [BASE]
            yield Statement(row.rung, match[1].removesuffix(" significant difference"), other[0], row.finding)


def contradictions(ladder: Ladder) -> list[str]:
    wrong = []
    for statement in statements(ladder):
        compared = comparison(ladder, statement.a, statement.b)
        finding = compared.finding if compared else "not compared"
        said = {"as good": ["as_good"], "no": ["undecided"], "no significant gain": ["undecided", "as_good"]}
        said["no better"] = ["undecided", "as_good", "worse"]
        if statement.said == "no" and statement.b == BASE:
            said["no"] = ["undecided", "as_good"]
        if finding not in said.get(statement.said, [statement.said]):
            wrong.append(f"{statement} but {statement.a} − {statement.b}: {finding}")
    return wrong + disagreeing_advice(ladder)


def disagreeing_advice(ladder: Ladder) -> list[str]:
    """What to ship and prototype with, whether the rule holds: in the decision, in the table and in the sentences."""
    summary, texts = ladder.summary, dict.fromkeys(("ship", "prototype", "time"), "")
    assert summary is not None
    texts |= {sentence.topic: sentence.text for sentence in ladder.verdict}
    shipped, wrong = named(summary.decision[0]), []
    marked = [row.rung for row in summary.rows if re.search(r"\bship\b", row.decision)]
    if not shipped == marked == [name for name in [ladder.recommended] if name]:
        wrong.append(f"{summary.decision} but marked {marked}, recommended {ladder.recommended!r}")
    advised = named(texts["ship"].partition(":")[0])
    if bool(shipped) != bool(advised) or not set(shipped) <= set(advised):
        wrong.append(f"{summary.decision} but {texts['ship']!r}")
    prototype = named(texts["prototype"].partition(",")[0]) if texts["prototype"].startswith("Prototype") else []
    if prototype != [row.rung for row in summary.rows if "prototype" in row.decision]:
        wrong.append(f"{texts['prototype']!r} but the table marks another rung")
    gains = {name: comparison(ladder, name, BASE) for name in {*advised, *prototype}}
    wrong += [
        f"{name} is advised without a gain" for name, gain in gains.items() if not gain or gain.finding != "better"
    ]
    wrong += [
        f"{a} is advised beside {b}, which is better by more than the margin"
        for a, b in permutations(advised, 2)
        if (found := comparison(ladder, b, a)) and found.finding == "better" and not is_non_inferior(ladder, a, b)
    ]
    if OVERALL["holds"] in summary.headline and RULE_OF_COST["holds"] not in texts["time"]:
        wrong.append(f"{summary.headline!r} but {texts['time']!r}")
    return wrong


def drawn(number: int) -> Ladder:
    """A ladder of random true scores, items, seeds, margin and times; some rungs without a score or the base's."""
    random = np.random.default_rng(number)
    start = random.choice([-2.0, -0.5, 0.5])
    odds = {name: start + random.choice([-0.8, 0.0, 0.5, 0.6, 1.0, 2.0, 2.05]) for name in ("qlora", "lora", "full")}
    items, seeds = int(random.choice([12, 40, 300, 1000, 4000])), int(random.choice([1, 2, 5]))
    truth = Truth({BASE: start, **odds}, 0.04, items, seeds, random.choice([0.01, 0.02, 0.1]))
    ladder, _ = simulate(truth, number)
    for row in ladder.rows:
        row.artifact_bytes = int(random.choice([1, 1000, 1020]))
    seconds = {name: float(random.choice([5.0, 11.0, 60.0, 100.0])) for name in odds}
    if random.random() < 0.8:
        ladder = with_times(ladder, **seconds)
    if random.random() < 0.3:
        gone = row_of(ladder, str(random.choice([*odds])))
        gone.score, gone.status = None, "out_of_memory"
        ladder.comparisons = [own for own in ladder.comparisons if gone.name not in (own.a, own.b)]
        for row in ladder.rows:
            row.share_of_gain = None if gone.name == "full" else row.share_of_gain
    conclude(ladder)
    return ladder


@pytest.mark.parametrize("part", range(4))
def test_no_two_statements_of_a_report_disagree(part: int) -> None:
    said: set[str] = set()
    for number in range(part, LADDERS, 4):
        ladder = drawn(number)
        said |= {statement.said for statement in statements(ladder)}
        assert not contradictions(ladder), number
    assert said >= {"better", "worse", "no", "no better", "as good", "no significant gain"}


def test_a_statement_that_disagrees_is_noticed() -> None:
    ladder = drawn(0)
    for place, compared in enumerate(ladder.comparisons):
        other = {"better": "worse", "worse": "better", "undecided": "better", "as_good": "worse"}[compared.finding]
        ladder.comparisons[place] = structs.replace(compared, finding=other)
    assert contradictions(ladder)
