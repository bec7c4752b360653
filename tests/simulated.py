"""Made-up ladders whose truth is known: items of unequal difficulty, seeds that stray, answers right or wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.ladder.aggregate import add_statistics
from engine.ladder.findings import Findings, find
from engine.ladder.results import LadderResults
from engine.ladder.statistics import Answers
from engine.ladder.verdict import verdict
from engine.runs.ladder import BASE, Ladder, RungResult, SharedWork

METHODS = {BASE: BASE, "qlora": "qlora", "lora": "lora", "full": "full"}


@dataclass(frozen=True)
class Truth:
    """Log-odds of a right answer to an item of middling difficulty, by rung, and how far seeds stray."""

    odds: dict[str, float]
    seeds_stray: float = 0.08
    """Standard deviation of a seed's log-odds: about 1.5 points of score."""
    items: int = 400
    seeds: int = 3

    def rate(self, rung: str) -> float:
        """The true score: over all items and seeds there could be."""
        random = np.random.default_rng(99)
        logits = self.odds[rung] + random.normal(0, np.sqrt(1.5**2 + 0.6**2 + self.seeds_stray**2), 400_000)
        return float((1 / (1 + np.exp(-logits))).mean())

    def answers(self, random: np.random.Generator) -> dict[str, Answers]:
        difficulty = random.normal(0, 1.5, self.items)
        made = {}
        for rung, odds in self.odds.items():
            base = rung == BASE
            seeds = 1 if base else self.seeds
            stray = 0.0 if rung == BASE else random.normal(0, self.seeds_stray, (seeds, 1))
            logits = difficulty + odds + stray + random.normal(0, 0.6, (seeds, self.items))
            right = random.random((seeds, self.items)) < 1 / (1 + np.exp(-logits))
            made[rung] = Answers(right.astype(float), untrained=base)
        return made


EQUAL = Truth({BASE: -2.0, "qlora": 0.5, "lora": 0.5, "full": 0.5})
A_LITTLE_WORSE = Truth({BASE: -2.0, "qlora": 0.38, "lora": 0.42, "full": 0.5})
MUCH_WORSE = Truth({BASE: -2.0, "qlora": -0.6, "lora": -0.3, "full": 0.5})
NO_GAIN = Truth({BASE: -0.5, "qlora": -0.5, "lora": -0.5, "full": -0.5})


def simulate(truth: Truth, number: int) -> tuple[Ladder, Findings]:
    """One ladder as `judge` would leave it, and what was found in it."""
    random = np.random.default_rng([number, truth.items, truth.seeds])
    scores = truth.answers(random)
    tokens = np.full(truth.items, 5.0)
    losses = {
        name: Answers(2.0 - one.values + random.gamma(2.0, 0.2, one.values.shape), tokens, untrained=one.untrained)
        for name, one in scores.items()
    }
    ladder = made_up(truth.items, list(range(truth.seeds)))
    add_statistics(ladder, LadderResults(scores=scores, losses=losses), "exact_match")
    ladder.verdict = verdict(ladder)
    return ladder, find(ladder)


def made_up(items: int, seeds: list[int], metric: str = "exact_match") -> Ladder:
    """A ladder with rows and no numbers yet."""
    ladder = Ladder(name="made-up", preset="made-up", command="", created=0.0, seeds=seeds)
    ladder.work = SharedWork(
        model="m", data="d", train=100, validation=10, test=items, tokens=1, steps=1, batch=1, metric=metric
    )
    ladder.rows = [
        RungResult(name=name, method=method, status="finished", artifact_bytes=1, seeds=[] if name == BASE else seeds)
        for name, method in METHODS.items()
    ]
    return ladder
