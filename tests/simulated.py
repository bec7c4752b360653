"""Simulated ladders with known true scores: items of different difficulty, variation between seeds, binary scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.ladder.aggregate import add_statistics
from engine.ladder.decisions import Decisions
from engine.ladder.results import LadderResults
from engine.ladder.sentences import conclude
from engine.ladder.statistics import ItemScores
from engine.runs.ladder.ladder_state import BASE, Ladder, SharedWork
from engine.runs.ladder.rung_results import RungResult, SeedRange

METHODS = {BASE: BASE, "qlora": "qlora", "lora": "lora", "full": "full"}


@dataclass(frozen=True)
class Truth:
    """Log-odds of a correct answer to an item of average difficulty by rung, and the variation between seeds."""

    odds: dict[str, float]
    seed_std: float = 0.08
    """Standard deviation of the log-odds between seeds; 0.08 is about 1.5 points of score."""
    items: int = 400
    seeds: int = 3
    margin: float | None = None

    def rate(self, rung: str) -> float:
        """The true score, over the distribution of items and seeds."""
        random = np.random.default_rng(99)
        logits = self.odds[rung] + random.normal(0, np.sqrt(1.5**2 + 0.6**2 + self.seed_std**2), 400_000)
        return float((1 / (1 + np.exp(-logits))).mean())

    def sample(self, random: np.random.Generator) -> dict[str, ItemScores]:
        """Scores of one simulated ladder."""
        difficulty = random.normal(0, 1.5, self.items)
        scores = {}
        for rung, odds in self.odds.items():
            base = rung == BASE
            seeds = 1 if base else self.seeds
            deviation = 0.0 if rung == BASE else random.normal(0, self.seed_std, (seeds, 1))
            logits = difficulty + odds + deviation + random.normal(0, 0.6, (seeds, self.items))
            correct = random.random((seeds, self.items)) < 1 / (1 + np.exp(-logits))
            scores[rung] = ItemScores(correct.astype(float), untrained=base)
        return scores


EQUAL = Truth({BASE: -2.0, "qlora": 0.5, "lora": 0.5, "full": 0.5})
A_LITTLE_WORSE = Truth({BASE: -2.0, "qlora": 0.38, "lora": 0.42, "full": 0.5})
MUCH_WORSE = Truth({BASE: -2.0, "qlora": -0.6, "lora": -0.3, "full": 0.5})
NO_GAIN = Truth({BASE: -0.5, "qlora": -0.5, "lora": -0.5, "full": -0.5})


def simulate(truth: Truth, number: int) -> tuple[Ladder, Decisions]:
    """One simulated ladder with statistics and verdict, and its decisions."""
    random = np.random.default_rng([number, truth.items, truth.seeds])
    scores = truth.sample(random)
    ladder = blank_ladder(truth.items, list(range(truth.seeds)))
    ladder.margin = truth.margin
    add_statistics(ladder, LadderResults(scores=scores), "exact_match")
    conclude(ladder)
    return ladder, Decisions(ladder)


def blank_ladder(items: int, seeds: list[int], metric: str = "exact_match") -> Ladder:
    """A ladder with rows but without scores."""
    ladder = Ladder(name="simulated", preset="simulated", command="", created=0.0, seeds=seeds)
    ladder.work = SharedWork(
        model="m", data="d", train=100, validation=10, test=items, tokens=1, steps=1, batch=1, metric=metric
    )
    ladder.rows = [
        RungResult(name=name, method=method, status="finished", artifact_bytes=1, seeds=[] if name == BASE else seeds)
        for name, method in METHODS.items()
    ]
    return ladder


def row_of(ladder: Ladder, name: str) -> RungResult:
    return next(row for row in ladder.rows if row.name == name)


def with_times(ladder: Ladder, **seconds: float) -> Ladder:
    for name, value in seconds.items():
        spread = SeedRange(mean=value, low=0.97 * value, high=1.03 * value)
        row_of(ladder, name).training_seconds = row_of(ladder, name).all_seconds = spread
    return ladder


def timed(number: int = 1) -> Ladder:
    return with_times(simulate(EQUAL, number)[0], qlora=10.0, lora=40.0, full=100.0)
