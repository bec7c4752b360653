"""Ladders that run until their questions are decided (`--until-decided`): levels of the looks, decisions, who goes on.

After every round of seeds, from the second one, each open question is tested: whether two rungs differ or one is as
good as the other, whether a rung is better than the base model, and whether QLoRA keeps its share of the gain. Rungs
without an open question get no further seed. A decision stays, with the interval on which it was made.

Levels
------
Testing at 5% after every round would find something in up to 16% of ladders where nothing is. The error rate is
therefore spent over the looks (Lan & DeMets 1983, "Discrete sequential boundaries for clinical trials"): after the
share t of the most seeds, alpha t^SPENDING in total (Kim & DeMets 1987). The level of a look follows from the joint
distribution of means over growing samples, by the recursive integration of Armitage, McPherson & Rowe (1969), and is
used as a nominal level (Jennison & Turnbull 2000, ch. 11): intervals at these levels are repeated confidence
intervals, which hold for all looks together.

- t is the number of seeds divided by the most. The test items are the same at each look, which makes the looks more
  alike than seeds alone would; errors can only become fewer.
- The recursion is that of a single comparison at alpha divided by their number: the smaller the error rate of a
  comparison, the less alike are the looks. The family gets the level of one comparison times their number.
- Once it is shown that two rungs differ, the others share the error rate of this comparison at later looks (Holm 1979;
  for group sequential tests Maurer & Bretz 2013).
- One seed cannot show how much seeds vary, so that there is no look after the first.

Chance of a decision
--------------------
A question that further seeds are unlikely to decide is no reason to run them: test items may be too few, or the
methods too much alike. Its chance is the share of possible continuations, drawn from the posterior of means and
deviations between seeds, in which the last look decides it (predictive power, Spiegelhalter, Freedman & Blackburn
1986). Below MIN_CHANCE the question is left open, which adds no error.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from engine.config.method_specs import RULE_CANDIDATE, RULE_REFERENCE
from engine.config.metric_specs import metric_spec
from engine.ladder.decisions import RULE_GAIN_SHARE, rule_check_of_gain
from engine.ladder.statistics import CONFIDENCE_LEVEL, Floats, MeanSamples, normal
from engine.runs.ladder.ladder_state import BASE, FIRST_LOOK, Ladder, LadderDecision, LadderPlan, Look, is_base
from engine.runs.ladder.rung_results import Comparison

SPENDING = 3.0
"""Exponent of the spending function: 1 spends evenly, 3 nearly as O'Brien & Fleming's boundary."""
MIN_LEVEL = 0.002
"""Smaller levels are not used: the quasi-random points have too few beyond."""
MIN_CHANCE = 0.05
"""A question with a smaller chance of being decided gets no further seeds."""
GRID_END, GRID_STEP = 8.0, 0.02
"""Of the recursive integration, in standard deviations."""


@lru_cache(maxsize=32)
def look_levels(most: int, comparisons: int) -> tuple[float, ...]:
    """Error rate of a family of comparisons at the look after 1, 2, … `most` seeds; 0 where there is no look.

    Raises ValueError for fewer than FIRST_LOOK seeds.
    """
    if most < FIRST_LOOK:
        raise ValueError(f"{most} seeds have no look")
    alpha = (1 - CONFIDENCE_LEVEL) / comparisons
    grid = np.arange(-GRID_END, GRID_END + GRID_STEP / 2, GRID_STEP)
    order = np.argsort(-np.abs(grid), kind="stable")
    sizes = np.abs(grid[order])
    levels = [0.0] * most
    inside, density, before, spent = grid, np.zeros_like(grid), 0.0, 0.0
    for seeds in range(FIRST_LOOK, most + 1):
        now = seeds / most
        if before:  # from the paths that have not crossed: a normal increment
            spread = math.sqrt(now - before)
            steps = (grid[:, None] * math.sqrt(now) - inside[None] * math.sqrt(before)) / spread
            density_now = (_bell(steps) * density[None]).sum(1) * GRID_STEP * math.sqrt(now) / spread
        else:
            density_now = _bell(grid)
        beyond = np.cumsum(density_now[order]) * GRID_STEP
        target = alpha * now**SPENDING - spent
        critical = float(np.interp(target, beyond, sizes))
        level = 2 * NormalDist().cdf(-critical) * comparisons
        if level < MIN_LEVEL:
            critical, level = GRID_END, 0.0
        levels[seeds - 1] = level
        spent += float(np.interp(-critical, -sizes, beyond)) if level else 0.0
        inside, density, before = grid[np.abs(grid) < critical], density_now[np.abs(grid) < critical], now
    return tuple(levels)


def _bell(values: Floats) -> Floats:
    return np.asarray(np.exp(-(values**2) / 2) / math.sqrt(2 * math.pi))


def chance_of_decision(
    samples: MeanSamples, contrast: Mapping[str, float], most: int, comparisons: int, margin: float | None = None
) -> float:
    """The chance that further seeds decide whether a contrast of means is not 0, or is above −margin.

    Args:
        samples: The scores so far.
        contrast: Rung -> factor of its mean, so that a positive contrast is better.
        most: Seeds of every rung at the last look.
        comparisons: Their number in the family.
        margin: None if only a difference decides.
    """
    trained = [name for name in contrast if name in samples.seed_std]
    present = min((len(samples.scores[name].values) for name in trained), default=most)
    if present >= most:
        return 0.0
    mean = sum(factor * samples.scores[name].mean for name, factor in contrast.items())
    items = float(sum(factor * samples.item_errors[name] for name, factor in contrast.items()).var())  # type: ignore[union-attr]
    variance = sum((contrast[name] * samples.seed_std[name]) ** 2 for name in trained)
    deviation = np.sqrt(np.asarray(variance))
    further = most - present
    # The first coordinates are those of the deviations; these two are free.
    drawn = 4 * len(samples.scores) + 4
    true = mean + deviation * normal(drawn) / math.sqrt(present)
    new = true + deviation * normal(drawn + 1) / math.sqrt(further)
    last = (present * mean + further * new) / most
    level = look_levels(most, comparisons)[-1] / comparisons
    half = NormalDist().inv_cdf(1 - level / 2) * np.sqrt(items + deviation**2 / most)
    decided = np.abs(last) > half
    if margin is not None:
        decided |= last - half > -margin
    return float(decided.mean())


BEFORE_FIRST_LOOK = Look(seeds=1, runs=0, error_rate=0.0, share_error_rate=0.0)
"""What is shown before the first look: scores, without comparisons."""


def next_look(plan: LadderPlan, seeds: int, runs: int) -> Look | None:
    """The look after this many seeds, without its decisions; None if there is none."""
    most = len(plan.seeds)
    rate, share_rate = (look_levels(most, count)[seeds - 1] for count in (comparison_count(plan), 1))
    return Look(seeds=seeds, runs=runs, error_rate=rate, share_error_rate=share_rate) if rate and share_rate else None


def comparison_count(plan: LadderPlan) -> int:
    """Comparisons of a ladder: every rung with every model that is not trained, and every pair of rungs."""
    rungs = len(plan.rungs)
    return rungs * (1 + len(plan.base_shots) + len(plan.added)) + rungs * (rungs - 1) // 2


def decided_comparisons(ladder: Ladder) -> dict[tuple[str, str], Comparison]:
    """Pair -> the comparison that a look decided."""
    decided = (decision.comparison for look in ladder.looks for decision in look.decisions if decision.comparison)
    return {(comparison.a, comparison.b): comparison for comparison in decided}


def keep_shares(ladder: Ladder) -> None:
    """Put shares of the gain that earlier looks decided in the place of the present ones."""
    kept = {decision.rung: decision.share for look in ladder.looks for decision in look.decisions if decision.rung}
    for row in ladder.rows:
        if row.name in kept:
            row.share_of_gain, row.no_share = kept[row.name], ""


def decide_questions(
    ladder: Ladder, samples: MeanSamples, look: Look, plan: LadderPlan, excluded: Collection[str]
) -> None:
    """Fill in what a look decides, and which rungs get a further seed. The ladder has its comparisons and shares."""
    before = decided_comparisons(ladder)
    sign = -1.0 if metric_spec(ladder.metric).lower_is_better else 1.0
    questions: list[tuple[tuple[str, str], dict[str, float], float | None, int]] = []
    for compared in ladder.comparisons:
        pair = (compared.a, compared.b)
        if compared.finding != "undecided" and pair not in before:
            look.decisions.append(LadderDecision(comparison=compared))
        elif compared.finding == "undecided":
            margin = None if is_base(compared.b) else ladder.margin
            questions.append((pair, {compared.a: sign, compared.b: -sign}, margin, comparison_count(plan)))
    full = next((row.name for row in ladder.rows if row.method == RULE_REFERENCE), "")
    rung = next((row for row in ladder.rows if row.method == RULE_CANDIDATE and row.rule_p is not None), None)
    if rung is not None and not any(decision.rung for earlier in ladder.looks for decision in earlier.decisions):
        if rule_check_of_gain(rung.share_of_gain) == "undecided":
            contrast = {rung.name: 1.0, full: -RULE_GAIN_SHARE, BASE: RULE_GAIN_SHARE - 1}
            questions.append(((full, rung.name), contrast, None, 1))
        else:
            look.decisions.append(LadderDecision(rung=rung.name, share=rung.share_of_gain))
    if look.seeds == len(plan.seeds):
        return
    running = ladder.looks[-1].rungs if ladder.looks else [planned.name for planned in plan.rungs]
    closed = {tuple(pair) for earlier in ladder.looks for pair in earlier.unlikely}
    needed: dict[str, None] = {}
    for pair, contrast, margin, family in questions:
        rungs = [name for name in pair if not is_base(name)]
        if pair in closed or not set(rungs) <= set(running) - set(excluded):
            continue  # a rung that has stopped lacks the seeds of the others
        if not contrast.keys() <= samples.scores.keys():
            continue
        if chance_of_decision(samples, contrast, len(plan.seeds), family, margin) >= MIN_CHANCE:
            needed.update(dict.fromkeys(rungs))
        else:
            look.unlikely.append(pair)
    look.rungs = [planned.name for planned in plan.rungs if planned.name in needed]
