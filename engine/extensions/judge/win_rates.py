"""Win rates with the ladder's paired statistics, how far a judge can be believed, what people's ratings show, and the
sentences of the verdict on all of these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean

import msgspec
import numpy as np

from engine.config.files import write_atomically
from engine.config.quantities import integer, percent
from engine.config.text import amount, listed, visible
from engine.extensions.judge.confidence_sequence import OrderedRatings
from engine.extensions.judge.judge_dir import SUMMARY, kappa_text, people_text, ratings_folder, settled_text
from engine.extensions.judge.pairs import AnswerPair, ComparedAnswers, answers_of, pair_hash
from engine.extensions.judge.preferences import (
    MAX_SWAPPED,
    MAX_UNREADABLE,
    JudgeCheck,
    Judgment,
    PreferenceFinding,
    Preferred,
    RatedPair,
    RaterAgreement,
    RatingSummary,
    WinRate,
)
from engine.extensions.judge.ratings import RATED, Choice, Rating, RatingDir, RatingPlan
from engine.ladder.phrases import rung_title
from engine.ladder.statistics import CONFIDENCE_LEVEL, Floats, MeanSamples, item_scores
from engine.runs.ladder.answers import text_hash
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_state import is_added, is_base
from engine.runs.ladder.rung_results import finding_of
from engine.runs.queue import locks
from engine.runs.run.result import MIN_ITEMS, Z_95, Interval
from engine.runs.run.run_dir import RunDir
from engine.runs.score_format import percent_bounds

EVEN = "even"
"""The reference of every win rate: a rung whose answers are preferred to half of the others."""
VALUES: dict[Preferred, float] = {"a": 1.0, "tie": 0.5, "b": 0.0}
"""What a decision adds to the win rate of rung a."""


@dataclass(frozen=True)
class PairScores:
    """The decisions about two rungs as scores of rung a, from 0 to 1."""

    values: Floats
    """(S seeds, n items): the mean over orders or raters."""
    seeds: tuple[int, ...] = ()
    wins: float = 0.0
    """Share of decisions for a."""
    losses: float = 0.0
    """Share of decisions for b."""
    groups: tuple[str, ...] = ()
    """(n,) keys of items that depend on each other; '' for an item alone, () if all are."""


def win_rates(pairs: Mapping[tuple[str, str], PairScores], level: float = CONFIDENCE_LEVEL) -> list[WinRate]:
    """The win rate of each pair; all of the same items, so that the intervals hold simultaneously at this level.

    A pair is a rung of the ladder's statistics whose score is the win rate, compared with one half: item and seed
    effects are those of the ladder.
    """
    if not pairs:
        return []
    first = next(iter(pairs.values()))
    items = first.values.shape[1]
    groups = first.groups or ("",) * items
    keys = {pair: "\n".join(pair) for pair in pairs}
    scores = {keys[pair]: item_scores(of.values, None, groups, of.seeds) for pair, of in pairs.items()}
    scores[EVEN] = item_scores(np.full((1, items), 0.5), None, groups, untrained=True)
    samples = MeanSamples(scores, (0.0, 1.0))
    differences = samples.differences([(key, EVEN) for key in keys.values()], level)
    rates = []
    for (pair, pair_scores), difference in zip(pairs.items(), differences, strict=True):
        known = math.isfinite(difference.low) and math.isfinite(difference.high)
        low, high = (max(0.0, 0.5 + difference.low), min(1.0, 0.5 + difference.high)) if known else (None, None)
        is_outlier = keys[pair] in samples.outliers
        finding = finding_of(difference.low, difference.high, None) if known and not is_outlier else "undecided"
        rates.append(
            WinRate(
                a=pair[0],
                b=pair[1],
                rate=Interval(mean=0.5 + difference.mean, low=low, high=high, rows=items),
                wins=pair_scores.wins,
                ties=max(0.0, 1 - pair_scores.wins - pair_scores.losses),
                losses=pair_scores.losses,
                seeds=len(pair_scores.values),
                p_adjusted=min(1.0, difference.p_adjusted * (1 - CONFIDENCE_LEVEL) / (1 - level)),
                finding="undecided" if finding == "as_good" else finding,
            )
        )
    return rates


def agreement(
    items: Sequence[int | str], ours: Sequence[Preferred], theirs: Sequence[Preferred]
) -> RaterAgreement | None:
    """Cohen's kappa (1960) of what two decided about the same comparisons, with a 95% interval by the jackknife over
    items; None without a comparison.

    `items`: of each comparison its test item, or the group of items, whose comparisons are not independent.
    """
    if not items:
        return None
    tables: dict[int | str, Floats] = {}
    order = list(VALUES)
    for item, own, other in zip(items, ours, theirs, strict=True):
        table = tables.setdefault(item, np.zeros((len(order), len(order))))
        table[order.index(own), order.index(other)] += 1
    counts = np.stack([*tables.values()])
    total = counts.sum(0)
    kappa, count = _kappa(total), len(counts)
    low = high = None
    if count >= MIN_ITEMS and kappa is not None:
        left_out = [partial for partial in (_kappa(total - table) for table in counts) if partial is not None]
        spread = np.array(left_out) - np.mean(left_out)
        error = math.sqrt((len(left_out) - 1) / len(left_out) * float((spread**2).sum()))
        floor = Z_95**2 / (count + Z_95**2) if error == 0 else 0.0  # perfect agreement on few items is not certain
        low, high = max(-1.0, kappa - Z_95 * error - floor), min(1.0, kappa + Z_95 * error)
    return RaterAgreement(
        comparisons=int(total.sum()),
        same=float(np.trace(total) / total.sum()),
        kappa=Interval(mean=kappa, low=low, high=high, rows=count),
    )


def _kappa(table: Floats) -> float | None:
    """None where both always decide alike by chance: one of them has a single answer."""
    total = table.sum()
    if total <= 0:
        return None
    expected = float((table.sum(0) * table.sum(1)).sum() / total**2)
    return None if expected >= 1 else float((np.trace(table) / total - expected) / (1 - expected))


def length_correlation(preferences: Sequence[float], a: Sequence[int], b: Sequence[int]) -> float | None:
    """Pearson's r of preferences for a (0 to 1) and log(length of a / length of b); None if one does not vary."""
    ratios = np.log((np.asarray(a, dtype=float) + 1) / (np.asarray(b, dtype=float) + 1))
    given = np.asarray(preferences, dtype=float)
    if len(given) < 2 or given.std() == 0 or ratios.std() == 0:
        return None
    return float(np.corrcoef(given, ratios)[0, 1])


def preference_finding(low: float, high: float) -> PreferenceFinding:
    """What the interval of a win rate shows."""
    return "better" if low > 0.5 else "worse" if high < 0.5 else "undecided"


def win_rate_so_far(
    pair: tuple[str, str], ratings: OrderedRatings, wins: float, losses: float, level: float = CONFIDENCE_LEVEL
) -> WinRate:
    """The win rate while items are left, with an interval that is valid at any time of stopping."""
    rated = len(ratings.values)
    low = high = None
    p_adjusted = 1.0
    finding: PreferenceFinding = "undecided"
    if rated >= MIN_ITEMS:
        low, high = ratings.bounds(level)
        finding = preference_finding(low, high)
        p_adjusted = min(1.0, ratings.even_p() * (1 - CONFIDENCE_LEVEL) / (1 - level))
    return WinRate(
        a=pair[0],
        b=pair[1],
        rate=Interval(mean=ratings.mean, low=low, high=high, rows=rated),
        wins=wins,
        ties=max(0.0, 1 - wins - losses),
        losses=losses,
        seeds=1,
        p_adjusted=p_adjusted,
        finding=finding,
    )


@dataclass
class PeoplesChoice:
    """What people decided about two answers."""

    of: str
    """Hash of one of them."""
    shares: list[float] = field(default_factory=list)
    """By rater: 1 for this answer, 0 for the other one, one half for neither."""

    def share(self, answer: str) -> float:
        """The mean share that prefers this one of the two answers."""
        mean = fmean(self.shares)
        return mean if text_hash(answer) == self.of else 1 - mean


def decided_by_people(subject: LadderDir | RunDir) -> dict[str, PeoplesChoice]:
    """The decisions of all raters together, by the hash of the pair. Raises UserError if a file is damaged."""
    decided: dict[str, PeoplesChoice] = {}
    for ratings in RatingDir(subject).raters().values():
        for rating in ratings.values():
            if rating.choice in RATED:
                choice = decided.setdefault(rating.pair, PeoplesChoice(rating.left))
                share = _left_share(rating)
                choice.shares.append(share if rating.left == choice.of else 1 - share)
    return decided


def summarize(subject: LadderDir | RunDir) -> RatingSummary | None:
    """Summarize all ratings and write `ratings/summary.json`; None without a plan. Raises UserError as the files do."""
    folder = RatingDir(subject)
    plan = folder.plan()
    if plan is None:
        return None
    answers = answers_of(subject, plan.runs)
    with locks.exclusive(folder.path):  # several raters at a time
        summary = make_summary(answers, plan, folder.raters())
        content = msgspec.json.format(msgspec.json.encode(summary), indent=1)
        write_atomically(ratings_folder(subject) / SUMMARY, content)
    return summary


def make_summary(
    answers: ComparedAnswers, plan: RatingPlan, raters: Mapping[str, Mapping[str, Rating]]
) -> RatingSummary:
    """The summary of these ratings; those of other answers than the rungs' are stale."""
    known = {
        pair_hash(answers.items[item], *pair.texts): answers.items[item].group or item
        for a, b in answers.pairs()
        for item, pair in _all(answers, a, b)
    }
    rated = {
        name: {pair: rating for pair, rating in ratings.items() if rating.choice in RATED}
        for name, ratings in raters.items()
    }
    compared: list[int | str] = []
    ours: list[Preferred] = []
    theirs: list[Preferred] = []
    for one, other in combinations(rated.values(), 2):  # pairs that both raters decided
        for key in one.keys() & other.keys() & known.keys():
            share = _left_share(other[key])
            compared.append(known[key])
            ours.append(side(_left_share(one[key])))
            theirs.append(side(share if other[key].left == one[key].left else 1 - share))
    summary = RatingSummary(
        raters={name: len(ratings) for name, ratings in rated.items()},
        agreement=agreement(compared, ours, theirs),
        stale=sum(pair not in known for ratings in rated.values() for pair in ratings),
    )
    level = 1 - (1 - CONFIDENCE_LEVEL) / len(plan.pairs)  # Bonferroni: the pairs are rated on different items
    pairs = (_rated_pair(answers, plan, a, b, raters, level) for a, b in plan.pairs)
    summary.pairs = [pair for pair in pairs if pair is not None]
    summary.sentences = rating_sentences(summary)
    return summary


def _all(answers: ComparedAnswers, a: str, b: str) -> Iterator[tuple[int, AnswerPair]]:
    """Every pair of different answers of two rungs, with its item."""
    for seed in answers.seeds(a, b):
        for item in range(len(answers.items)):
            pair = answers.pair(a, b, seed, item)
            if not pair.is_tie:
                yield item, pair


def _rated_pair(
    answers: ComparedAnswers, plan: RatingPlan, a: str, b: str, raters: Mapping[str, Mapping[str, Rating]], level: float
) -> RatedPair | None:
    """One pair of rungs: the mean over raters, then over items; None without a rating.

    Items that somebody skipped and nobody rated are left out: they are not asked for again.
    """
    rated: dict[int, list[tuple[float, Choice]]] = {}
    skipped, names = set[int](), set[str]()
    for item, pair in _all(answers, a, b):
        key = pair_hash(answers.items[item], *pair.texts)
        for name, ratings in raters.items():
            if (rating := ratings.get(key)) and rating.choice not in RATED:
                skipped.add(item)
            elif rating:
                share = _left_share(rating)
                share = share if rating.left == text_hash(pair.answer_a) else 1 - share
                rated.setdefault(item, []).append((share, rating.choice))
                names.add(name)
    if not rated:
        return None
    weights = {ordered.item: ordered.weight for ordered, _ in plan.order(answers, a, b)}
    weights = {item: weight for item, weight in weights.items() if item in rated or item not in skipped}
    weights |= {item: 1 for item in rated if item not in weights}  # rated for a seed that is not asked about now
    items = sorted(weights, key=lambda item: item not in rated)
    in_order = OrderedRatings(
        np.array([fmean(share for share, _ in rated[item]) for item in items if item in rated]),
        np.array([weights[item] for item in items], dtype=float),
        tuple(answers.items[item].group for item in items),
    )

    def part(counts: Callable[[float, Choice], bool]) -> float:
        """The part of the ratings that count, weighted as the win rate is."""
        parts = [fmean(counts(*rating) for rating in rated[item]) for item in items if item in rated]
        return float((in_order.estimation_weights * parts).mean())

    wins, losses = part(lambda share, _: share == 1), part(lambda share, _: share == 0)
    if len(rated) < len(weights):
        rate = win_rate_so_far((a, b), in_order, wins, losses, level)
    else:
        scores = PairScores(in_order.values[None], (), wins, losses, in_order.groups)
        (rate,) = win_rates({(a, b): scores}, level)
    return RatedPair(
        win_rate=rate,
        both_good=part(lambda _, choice: choice == "both_good"),
        both_bad=part(lambda _, choice: choice == "both_bad"),
        items=len(rated),
        of=len(weights),
        raters=len(names),
        settled=in_order.settled(rate.finding, level),
    )


def _left_share(rating: Rating) -> float:
    """1 if the left answer is preferred, 0 for the right one, else one half."""
    return {"left": 1.0, "right": 0.0}.get(rating.choice, 0.5)


def side(share: float) -> Preferred:
    """Which of two answers a share of preferences is for: above one half for a."""
    return "a" if share > VALUES["tie"] else "b" if share < VALUES["tie"] else "tie"


def rung_noun(name: str) -> str:
    """`LoRA`, `the base model`, `lora-3f2a`."""
    title = visible(rung_title(name))
    return f"the {title} model" if is_base(name) and not is_added(name) else title


def why_unusable(check: JudgeCheck) -> list[str]:
    """Why a judge cannot be believed; empty for a usable one."""
    reasons = []
    if check.swapped is not None and check.swapped > MAX_SWAPPED:
        reasons.append(
            f"it decides {percent(check.swapped)} of {amount(check.comparisons, 'pair')} differently when the answers "
            f"are swapped (at most {percent(MAX_SWAPPED, 0)})"
        )
    if check.unreadable is not None and check.unreadable > MAX_UNREADABLE:
        reasons.append(
            f"{percent(check.unreadable)} of its verdicts are not readable (at most {percent(MAX_UNREADABLE, 0)})"
        )
    if check.people is not None:
        kappa = check.people.kappa
        if kappa.mean is None:
            reasons.append("it decides all pairs alike, so its agreement with people is no better than chance")
        elif kappa.low is not None and kappa.low <= 0:
            reasons.append(f"its agreement with people may be chance: Cohen's kappa {kappa_text(kappa)}")
    if check.verdicts and check.comparisons == 0 and not reasons:
        reasons.append("no pair has a readable verdict in both orders")
    return reasons


def judge_sentences(state: Judgment, complete: int) -> list[str]:
    """What the verdict says of a judge: its win rates, or why they are left out."""
    judge = f"The judge {visible(state.title, 80)}"
    if state.unusable:
        return [f"{judge} is unusable: {'; '.join(state.unusable)}. Its win rates are not in the verdict."]
    if not state.rates:
        return []
    check, parts = state.check, list[str]()
    if check.swapped is not None:
        parts.append(f"decides {percent(check.swapped)} of the pairs differently when they are swapped")
    if check.people is not None:
        agrees = f"agrees with people on {percent(check.people.same)} of {amount(check.people.comparisons, 'pair')}"
        few = "" if check.people.kappa.low is not None else f", fewer than {MIN_ITEMS} items"
        parts.append(f"{agrees} (kappa {kappa_text(check.people.kappa)}{few})")
    checked = f"; it {listed(parts)}" if parts else ""
    partly = f" of {integer(state.items)}" if complete < state.items else ""
    head = f"{judge} compared {integer(complete)}{partly} test items in both orders{checked}."
    return [head, *(rate_sentence(rate) for rate in state.rates)]


def rate_sentence(rate: WinRate) -> str:
    """`The judge prefers LoRA to the base model: win rate 71.2%, simultaneous 95% CI [65.0, 77.1].`"""
    a, b = rung_noun(rate.a), rung_noun(rate.b)
    if rate.finding == "worse":
        a, b = b, a
    said = f"No significant preference between {a} and {b}" if rate.finding == "undecided" else f"It prefers {a} to {b}"
    return f"{said}: {win_rate_text(rate)}."


def win_rate_text(rate: WinRate) -> str:
    """The win rate of the preferred rung; of rung a if none is."""
    value, name = rate.rate, rung_noun(rate.a)
    if rate.finding == "worse":
        name = rung_noun(rate.b)
        mean, low, high = (None if end is None else 1 - end for end in (value.mean, value.high, value.low))
        value = Interval(mean=mean, low=low, high=high, rows=value.rows)
    bounds = f", 95% CI {percent_bounds(value)}" if value.low is not None else f" with fewer than {MIN_ITEMS} items"
    ties = f", {percent(rate.ties)} ties" if rate.ties >= 0.0005 else ""
    return f"win rate of {name} {percent(value.mean)}{bounds}{ties}"


def rating_sentences(summary: RatingSummary) -> list[str]:
    """`LoRA is preferred to the base model by 2 people on 60 items: …`."""
    texts = []
    for pair in summary.pairs:
        rate, by = pair.win_rate, f"by {people_text(pair)} on {amount(pair.items, 'item')}"
        a, b = rung_noun(rate.a), rung_noun(rate.b)
        if rate.finding == "undecided":
            text = f"No significant preference between {a} and {b} {by}"
        else:
            better, worse = (a, b) if rate.finding == "better" else (b, a)
            text = f"{better[:1].upper()}{better[1:]} is preferred to {worse} {by}"
        good = f"both good {percent(pair.both_good)}, both bad {percent(pair.both_bad)}"
        texts.append(f"{text}: {win_rate_text(rate)} ({good}). {settled_text(pair)}".rstrip())
    if texts and summary.agreement:
        few = "" if summary.agreement.kappa.low is not None else f", fewer than {MIN_ITEMS} common items"
        texts.append(
            f"Two raters agree on {percent(summary.agreement.same)} of {amount(summary.agreement.comparisons, 'pair')} "
            f"that both rated (Cohen's kappa {kappa_text(summary.agreement.kappa)}{few})."
        )
    if summary.stale:
        texts.append(f"{amount(summary.stale, 'rating')} of answers that have changed since are not counted.")
    return texts
