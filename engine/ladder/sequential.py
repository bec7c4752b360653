"""Ladders that run until their questions are decided (`--until-decided`): levels of the looks, decisions, who goes on.

After every round of seeds, from the second one, each open question is tested: whether two rungs differ or one is as
good as the other, whether a rung is better than the base model, and whether QLoRA keeps its share of the gain. Rungs
without an open question get no further seed. A decision stays, with the interval on which it was made.

Levels
------
Testing at 5% after every round would find something in up to 16% of ladders where nothing is. The error rate is
therefore spent over the looks (Lan & DeMets 1983, "Discrete sequential boundaries for clinical trials"): after the
share t of the information, alpha t^SPENDING in total (Kim & DeMets 1987). The level of a look follows from the joint
distribution of the looks' means, by the recursive integration of Armitage, McPherson & Rowe (1969), and is
used as a nominal level (Jennison & Turnbull 2000, ch. 11): intervals at these levels are repeated confidence
intervals, which hold for all looks together.

- Information is the inverse variance of a difference. The test items are the same at each look: where they are most of
  the variance, the first seeds have most of the information and later looks are much like the first. How much of the
  variance they are is estimated at each look, with the SPREAD_QUANTILE of what the deviation between seeds may be and
  of the pair of rungs that varies most: two seeds that are alike by chance do not spend the error rate early.
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
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from itertools import combinations, zip_longest
from statistics import NormalDist

import numpy as np

from engine.config.method_specs import RULE_CANDIDATE, RULE_REFERENCE
from engine.config.metric_specs import metric_spec
from engine.ladder.decisions import RULE_GAIN_SHARE, rule_check_of_gain
from engine.ladder.statistics import CONFIDENCE_LEVEL, Floats, MeanSamples, normal
from engine.runs.ladder.ladder_state import BASE, Ladder, LadderDecision, LadderPlan, Look, is_base
from engine.runs.ladder.rung_results import Comparison

SPENDING = 3.0
"""Exponent of the spending function: 1 spends evenly, 3 nearly as O'Brien & Fleming's boundary."""
SPREAD_QUANTILE = 0.9
"""Of the variance between seeds, in the share of the information."""
MIN_LEVEL = 0.002
"""Smallest level of a look: the quasi-random points have too few beyond smaller ones."""
LAST_CRITICAL = 1.02
"""About how much larger the last look's critical value is than that of a single look."""
MIN_CHANCE = 0.02
"""A question with a smaller chance of being decided gets no further seeds."""
GRID_END, GRID_STEP = 8.0, 0.04
"""Of the recursive integration, in standard deviations."""


@lru_cache(maxsize=4096)
def look_level(information: tuple[float, ...], earlier: tuple[float, ...], comparisons: int) -> float:
    """Error rate of a family of comparisons at a look.

    Args:
        information: Share of the most information at the earlier looks and at this one.
        earlier: Error rates of the family at the earlier looks.
        comparisons: Their number in the family.
    """
    alpha = (1 - CONFIDENCE_LEVEL) / comparisons
    grid = np.arange(-GRID_END, GRID_END + GRID_STEP / 2, GRID_STEP)
    order = np.argsort(-np.abs(grid), kind="stable")
    sizes = np.abs(grid[order])
    inside, density, before, spent = grid, _bell(grid), information[0], 0.0
    for now, rate in zip_longest(information, earlier):
        if now > before:  # from the paths that have not crossed: a normal increment
            spread = math.sqrt(now - before)
            steps = (grid[:, None] * math.sqrt(now) - inside[None] * math.sqrt(before)) / spread
            reached = (_bell(steps) * density[None]).sum(1) * GRID_STEP * math.sqrt(now) / spread
        else:  # the same means as at the look before
            reached = np.zeros_like(grid)
            reached[np.isin(grid, inside)] = density
        beyond = np.cumsum(reached[order]) * GRID_STEP
        if rate is None:
            critical = float(np.interp(max(0.0, alpha * now**SPENDING - spent), beyond, sizes))
            return max(MIN_LEVEL, 2 * NormalDist().cdf(-critical) * comparisons)
        critical = -NormalDist().inv_cdf(rate / comparisons / 2) if rate else GRID_END
        spent += float(np.interp(-critical, -sizes, beyond))
        kept = np.abs(grid) < critical
        inside, density, before = grid[kept], reached[kept], now
    raise ValueError("no look without an error rate")


def information_shares(samples: MeanSamples, seeds: Sequence[int], most: int) -> tuple[float, ...]:
    """Information after these numbers of seeds, as shares of that of the most seeds."""
    trained = [*samples.seed_std]
    pairs = [*combinations(trained, 2)] or [(name, base) for name in trained for base in samples.scores if base != name]
    ratios = [0.0]
    for pair in pairs:
        seed = sum(samples.seed_std[name] ** 2 for name in pair if name in samples.seed_std)
        items = float((samples.item_errors[pair[0]] - samples.item_errors[pair[1]]).var())
        ratios.append(float(np.quantile(seed, SPREAD_QUANTILE)) / max(items, 1e-12))
    ratio = max(ratios)  # of the variance between seeds to that of the items
    return tuple(round((1 + ratio / most) / (1 + ratio / count), 2) for count in seeds)


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
    critical = LAST_CRITICAL * NormalDist().inv_cdf(1 - (1 - CONFIDENCE_LEVEL) / comparisons / 2)
    half = critical * np.sqrt(items + deviation**2 / most)
    decided = np.abs(last) > half
    if margin is not None:
        decided |= last - half > -margin
    return float(decided.mean())


BEFORE_FIRST_LOOK = Look(seeds=1, runs=0, error_rate=0.0, share_error_rate=0.0)
"""What is shown before the first look: scores, without comparisons."""


def next_look(plan: LadderPlan, seeds: int, runs: int) -> Look:
    """The look after this many seeds, without its error rate and decisions."""
    return Look(seeds=seeds, runs=runs, error_rate=0.0, share_error_rate=0.0, comparisons=comparison_count(plan))


def set_error_rates(look: Look, ladder: Ladder, samples: MeanSamples) -> None:
    """Fill in the error rates of a new look, from those of the earlier looks and what the scores tell of the seeds."""
    most = ladder.max_seeds or look.seeds
    information = information_shares(samples, [taken.seeds for taken in (*ladder.looks, look)], most)
    earlier = tuple(before.error_rate for before in ladder.looks)
    of_shares = tuple(before.share_error_rate for before in ladder.looks)
    look.error_rate = look_level(information, earlier, look.comparisons)
    look.share_error_rate = look_level(information, of_shares, 1)


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
