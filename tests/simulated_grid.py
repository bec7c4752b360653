"""Simulated ladders with known true means, from two generators that are independent of the statistics, in a grid.

`threshold`: an answer is correct if a latent normal variable is below a quantile. `logistic`: with a logistic
probability, of logit-normal or bimodal item difficulty and normal or t3 seed effects (four variants). Both have
item x method effects. `tools/statistics_grid.py` measures all cells; the results are in
`tools/RESULTS.md`.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator
from functools import cache
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from engine.config.schema import Config
from engine.ladder.aggregate import add_statistics
from engine.ladder.decisions import rule_check_of_gain
from engine.ladder.required_sample import required_sample
from engine.ladder.results import LadderResults
from engine.ladder.sequential import decide_questions, next_look
from engine.ladder.statistics import Difference, Floats, ItemScores, MeanSamples, item_scores
from engine.runs.ladder.ladder_state import FIRST_LOOK, Ladder, LadderPlan, Rung, SharedWork
from engine.runs.ladder.rung_results import RungResult, finding_of

RATES = {"base": 0.40, "qlora": 0.64, "lora": 0.70, "full": 0.70}
"""True means. QLoRA is 6 points worse than full, LoRA is equal to it."""
EQUAL_RATES = dict.fromkeys(RATES, 0.55)
RUNGS = ("qlora", "lora", "full")
MARGIN = 0.02
PAIRS = [(rung, "base") for rung in RUNGS] + [("lora", "full"), ("qlora", "full"), ("qlora", "lora")]
SEED_STDS = (0.5, 1.5, 3.0, 5.0)
SEEDS = (1, 2, 3, 5)
ITEMS = (100, 300, 1000)
VARIANTS = ("threshold", "logit-normal", "logit-normal t3", "bimodal", "bimodal t3")
UNEQUAL_SEEDS = ((1, 3, 3), (3, 3, 1), (2, 5, 5))
UNEQUAL_STDS = ((3.0, 0.5, 0.5), (5.0, 0.5, 0.5), (0.5, 1.5, 3.0))


class Cell(NamedTuple):
    """One cell of the grid; seeds and standard deviations (in points) of QLoRA, LoRA and full."""

    variant: str
    items: int
    seeds: tuple[int, int, int]
    stds: tuple[float, float, float]
    effects: bool
    """Whether the rungs have different means (RATES) or all have the base model's."""
    group: int = 1
    """Items of a group, such as questions on one document, which have the same latent effects."""
    grouped: bool = True
    """Whether the statistics know the groups."""
    diverged: bool = False
    """Whether one seed of LoRA ends 30 points lower."""

    def as_dict(self) -> dict[str, Any]:
        """The fields as they are stored: those after `effects` only where they are not the default."""
        defaults = self._field_defaults
        values = self._asdict()
        return {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}


def cells() -> Iterator[Cell]:
    """All cells: first those with equal seeds and standard deviations."""
    for items, variant, seeds, std in itertools.product(
        (300, 1000, 100), ("threshold", "bimodal t3"), SEEDS, SEED_STDS
    ):
        yield Cell(variant, items, (seeds,) * 3, (std,) * 3, True)
    for variant, unequal, std in itertools.product(("threshold", "bimodal t3"), UNEQUAL_SEEDS, SEED_STDS):
        yield Cell(variant, 300, unequal, (std,) * 3, True)
    for variant, unequal, stds in itertools.product(
        ("threshold", "bimodal t3"), ((2,) * 3, (3,) * 3, (5,) * 3, *UNEQUAL_SEEDS), UNEQUAL_STDS
    ):
        yield Cell(variant, 300, unequal, stds, True)
    for variant, seeds, std in itertools.product(("threshold", "bimodal t3"), SEEDS, SEED_STDS):
        yield Cell(variant, 300, (seeds,) * 3, (std,) * 3, False)
    for variant, items, seeds, std in itertools.product(
        ("logit-normal", "bimodal", "logit-normal t3"), (300, 1000, 100), SEEDS, SEED_STDS
    ):
        yield Cell(variant, items, (seeds,) * 3, (std,) * 3, True)


def special_cells() -> Iterator[Cell]:
    """Cells of what the grid assumes not to be: dependent items, an unstable rung, a seed that diverges, few items."""
    for size, grouped, seeds in itertools.product((5, 10), (True, False), (2, 3)):
        yield Cell("threshold", 400, (seeds,) * 3, (0.5,) * 3, False, size, grouped)
    for items, seeds in itertools.product((300, 1000), (2, 3, 5)):
        yield Cell("threshold", items, (seeds,) * 3, (0.5, 0.5, 5.0), False)
    for seeds in (2, 3, 5):
        yield Cell("threshold", 300, (seeds,) * 3, (1.5,) * 3, True, diverged=True)
    for items, effects in itertools.product((20, 50), (True, False)):
        yield Cell("bimodal t3", items, (3,) * 3, (1.5,) * 3, effects)


def simulate(cell: Cell, random: np.random.Generator) -> dict[str, ItemScores]:
    """The scores of one ladder."""
    rates = RATES if cell.effects else EQUAL_RATES
    make = _threshold if cell.variant == "threshold" else _logistic
    return make(cell, rates, random)


def _threshold(cell: Cell, rates: dict[str, float], random: np.random.Generator) -> dict[str, ItemScores]:
    """An answer is correct if a normal variable, of item, item x method and residual, is below a quantile."""
    grid, table = _normal_table()

    def drawn(variance: float, *shape: int) -> Floats:
        """Normal values, equal for the items of a group."""
        values = random.normal(0, math.sqrt(variance), (*shape, -(-cell.items // cell.group)))
        return np.repeat(values, cell.group, -1)[..., : cell.items]

    item, scores = drawn(0.6), {}
    for name, rate in rates.items():
        seeds, std = _of(cell, name)
        means = rate + random.normal(0, std, (seeds, 1))
        if cell.diverged and name == "lora":
            means[0] -= 0.3
        threshold = np.interp(np.clip(means, 0.001, 0.999), table, grid)
        latent = item + drawn(0.2) + drawn(0.2, seeds)
        values = (latent < threshold).astype(float)
        keys = [f"{number // cell.group}" if cell.group > 1 and cell.grouped else "" for number in range(cell.items)]
        scores[name] = item_scores(values, None, keys, untrained=name == "base")
    return scores


def _logistic(cell: Cell, rates: dict[str, float], random: np.random.Generator) -> dict[str, ItemScores]:
    """An answer is correct with a logistic probability of item difficulty, item x method effect and seed effect."""
    difficulty, scores = _difficulty(cell.variant, random, cell.items), {}
    grid, table = _logistic_table(cell.variant.split()[0])
    for name, rate in rates.items():
        seeds, std = _of(cell, name)
        effect = (
            random.standard_t(3, (seeds, 1)) / math.sqrt(3) if "t3" in cell.variant else random.normal(size=(seeds, 1))
        )
        odds = np.interp(np.clip(rate + std * effect, 0.001, 0.999), table, grid)
        logits = odds + difficulty + random.normal(0, 0.7, cell.items)
        correct = random.random((seeds, cell.items)) < 1 / (1 + np.exp(-logits))
        scores[name] = ItemScores(correct.astype(float), untrained=name == "base")
    return scores


def _difficulty(variant: str, random: np.random.Generator, count: int) -> Floats:
    if variant.startswith("bimodal"):
        return np.where(random.random(count) < 0.5, 2.5, -2.5) + random.normal(0, 0.7, count)
    return random.normal(0, 2.0, count)


@cache
def _logistic_table(variant: str) -> tuple[Floats, Floats]:
    """(log-odds, mean score over difficulties and item x method effects), so that seed effects are in points."""
    random = np.random.default_rng(7)
    difficulty = _difficulty(variant, random, 200_000) + random.normal(0, 0.7, 200_000)
    grid = np.linspace(-8, 8, 321)
    return grid, np.array([(1 / (1 + np.exp(-(odds + difficulty)))).mean() for odds in grid])


@cache
def _normal_table() -> tuple[Floats, Floats]:
    grid = np.linspace(-5, 5, 4001)
    return grid, np.array([*map(NormalDist().cdf, grid)])


def _of(cell: Cell, name: str) -> tuple[int, float]:
    """(seeds, standard deviation between seeds) of a rung; the base model has one row and no deviation."""
    if name == "base":
        return 1, 0.0
    number = RUNGS.index(name)
    return cell.seeds[number], cell.stds[number] / 100


def measure(cell: Cell, ladders: int) -> dict[str, Any]:
    """How often a cell's intervals cover and its findings are wrong, over so many ladders."""
    random = np.random.default_rng(zlib.crc32(repr(cell).encode()))
    rates = RATES if cell.effects else EQUAL_RATES
    counts = dict.fromkeys(("covered", "false", "power", "as_good", "unlike", "score"), 0)
    width = 0.0
    for _ in range(ladders):
        samples = MeanSamples(simulate(cell, random), (0.0, 1.0))
        pairs = [pair for pair in PAIRS if not set(pair) & set(samples.outliers)]
        covered, false = True, False
        for difference in samples.differences(pairs) if pairs else ():
            true = rates[difference.a] - rates[difference.b]
            finding = finding_of(difference.low, difference.high, MARGIN)
            covered &= difference.low <= true <= difference.high
            false |= {"better": true <= 0, "worse": true >= 0, "as_good": true <= -MARGIN}.get(finding, False)
            if (difference.a, difference.b) == ("qlora", "full"):
                counts["power"] += finding == "worse"
                width += difference.high - difference.low
            counts["as_good"] += (difference.a, difference.b) == ("lora", "full") and finding == "as_good"
        counts["covered"] += covered
        counts["false"] += false
        counts["unlike"] += bool(samples.outliers)
        score = samples.interval("lora")
        counts["score"] += score.low <= rates["lora"] <= score.high
    return {"cell": cell.as_dict(), "ladders": ladders, "half_width": width / 2 / ladders, **counts}


def measure_power(items: int, seeds: int, std: float, difference: float, ladders: int) -> tuple[int, float]:
    """How often a ladder of the required size finds the difference, and of how many ladders that was measured.

    Each pilot ladder gives a size for the true difference, on which one new ladder is simulated.
    """
    random, detected, count = np.random.default_rng(1), 0, 0
    rates = {"base": 0.4, "qlora": 0.7 - difference, "lora": 0.7, "full": 0.7}

    def compared(cell: Cell) -> tuple[MeanSamples, Difference]:
        samples = MeanSamples(_threshold(cell, rates, random), (0.0, 1.0))
        return samples, samples.differences(PAIRS)[PAIRS.index(("qlora", "full"))]

    for _ in range(ladders):
        samples, pilot = compared(Cell("threshold", items, (seeds,) * 3, (std,) * 3, True))
        known = samples.variances(pilot, PAIRS)
        needed = required_sample(difference, None, known) if known else None
        if needed and needed.items and needed.items <= 20_000 and (needed.seeds or 0) <= 40:
            size = (needed.seeds or seeds,) * 3
            _, result = compared(Cell("threshold", needed.items, size, (std,) * 3, True))
            count, detected = count + 1, detected + (result.high < 0)
    return count, detected / max(1, count)


def measure_until_decided(cell: Cell, ladders: int) -> dict[str, Any]:
    """How often `--until-decided` decides wrongly, and after how many runs, against fixed numbers of seeds.

    The most seeds are those of the cell. `fixed`: how often a fixed design of 2, 3, … seeds finds that QLoRA is worse
    than full, on the same simulated ladders; `naive`: how often looking after each of them at 5% finds something wrong.
    """
    random = np.random.default_rng(zlib.crc32(repr(cell).encode()))
    rates, most = RATES if cell.effects else EQUAL_RATES, cell.seeds[0]
    counts = dict.fromkeys(("false", "naive", "false_share", "share", "power", "seeds", "runs"), 0)
    fixed = [0] * (most - FIRST_LOOK + 1)
    for _ in range(ladders):
        scores = simulate(cell, random)
        ladder = until_decided(scores, most)
        naive = False
        for seeds in range(FIRST_LOOK, most + 1):
            for difference in MeanSamples(_first(scores, dict.fromkeys(RUNGS, seeds)), (0.0, 1.0)).differences(PAIRS):
                finding = finding_of(difference.low, difference.high, MARGIN)
                fixed[seeds - FIRST_LOOK] += (difference.a, difference.b, finding) == ("qlora", "full", "worse")
                naive |= _is_wrong(finding, rates[difference.a] - rates[difference.b])
        decided = [(look, decision) for look in ladder.looks for decision in look.decisions]
        compared = [(look, decision.comparison) for look, decision in decided if decision.comparison]
        wrong = [_is_wrong(comparison.finding, rates[comparison.a] - rates[comparison.b]) for _, comparison in compared]
        counts["false"] += any(wrong)
        counts["naive"] += naive
        kept = [rule_check_of_gain(decision.share) for _, decision in decided if decision.rung]
        counts["share"] += "fails" in kept
        counts["false_share"] += "holds" in kept
        found_worse = [comparison for _, comparison in compared if {comparison.a, comparison.b} == {"qlora", "full"}]
        counts["power"] += any(
            comparison.finding == ("worse" if comparison.a == "qlora" else "better") for comparison in found_worse
        )
        until = [look.seeds for look in ladder.looks if {"qlora", "full"} <= {*look.rungs}]
        answered = [look.seeds for look, comparison in compared if comparison in found_worse]
        counts["seeds"] += answered[0] if answered else 1 + max(until, default=1)
        counts["runs"] += ladder.looks[-1].runs
    return {"cell": cell.as_dict(), "ladders": ladders, "fixed": fixed, **counts}


def _is_wrong(finding: str, true: float) -> bool:
    return {"better": true <= 0, "worse": true >= 0, "as_good": true <= -MARGIN}.get(finding, False)


def _first(scores: dict[str, ItemScores], seeds: dict[str, int]) -> dict[str, ItemScores]:
    """The first seeds of each rung."""
    return {
        name: rung_scores
        if rung_scores.untrained
        else ItemScores(rung_scores.values[: seeds[name]], seeds=tuple(range(seeds[name])))
        for name, rung_scores in scores.items()
    }


def until_decided(scores: dict[str, ItemScores], most: int) -> Ladder:
    """A ladder whose runs have these scores, run until its questions are decided by the functions of real ladders."""
    ladder = Ladder(name="simulated", preset="simulated", command="", created=0.0, max_seeds=most, margin=MARGIN)
    ladder.work = SharedWork(
        model="m", data="d", train=1, validation=1, test=1, tokens=1, steps=1, batch=1, metric="exact_match"
    )
    rungs = [Rung(name=name, config=Config(method=name)) for name in RUNGS]
    plan = LadderPlan(preset="", created=0.0, rungs=rungs, seeds=[*range(most)], until_decided=True, margin=MARGIN)
    needed, done, runs = [*RUNGS], dict.fromkeys(RUNGS, 1), len(RUNGS)
    for seeds in range(FIRST_LOOK, most + 1):
        done |= dict.fromkeys(needed, seeds)
        runs += len(needed)
        look = next_look(plan, seeds, runs)
        ladder.rows = [RungResult(name=name, method=name, status="finished") for name in scores]
        samples = add_statistics(ladder, LadderResults(scores=_first(scores, done)), "exact_match", look)
        assert samples is not None
        decide_questions(ladder, samples, look, plan, ())
        ladder.looks.append(look)
        needed = look.rungs
        if not needed:
            break
    return ladder
