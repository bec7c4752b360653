"""What people prefer: their ratings as win rates with the ladder's statistics, and their agreement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean

import msgspec
import numpy as np

from engine.config.files import write_atomically
from engine.judge.win_rates import VALUES, PairScores, agreement, settled, win_rates
from engine.ladder.statistics import CONFIDENCE_LEVEL
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.preferences import Preferred, RatedPair, RaterAgreement, RatingSummary
from engine.runs.preference.answers import AnswerPair, RungAnswers, answers_of, pair_hash, text_hash
from engine.runs.preference.judge_dir import SUMMARY, ratings_folder
from engine.runs.preference.preference_text import rating_sentences
from engine.runs.preference.ratings import RATED, Rating, RatingDir, RatingPlan, pairs_to_rate
from engine.runs.queue import locks
from engine.runs.run.run_dir import RunDir


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


def make_summary(answers: RungAnswers, plan: RatingPlan, raters: Mapping[str, Mapping[str, Rating]]) -> RatingSummary:
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
    summary = RatingSummary(
        raters={name: len(ratings) for name, ratings in rated.items()},
        agreement=_agreement(rated, known),
        stale=sum(pair not in known for ratings in rated.values() for pair in ratings),
    )
    level = 1 - (1 - CONFIDENCE_LEVEL) / len(plan.pairs)  # Bonferroni: the pairs are rated on different items
    pairs = (_rated_pair(answers, plan, a, b, rated, level) for a, b in plan.pairs)
    summary.pairs = [pair for pair in pairs if pair is not None]
    summary.sentences = rating_sentences(summary)
    return summary


def _all(answers: RungAnswers, a: str, b: str) -> Iterator[tuple[int, AnswerPair]]:
    """Every pair of different answers of two rungs, with its item."""
    for seed in answers.seeds(a, b):
        for item in range(len(answers.items)):
            pair = answers.pair(a, b, seed, item)
            if not pair.is_tie:
                yield item, pair


def _rated_pair(
    answers: RungAnswers, plan: RatingPlan, a: str, b: str, raters: Mapping[str, Mapping[str, Rating]], level: float
) -> RatedPair | None:
    """One pair of rungs: the mean over raters, then over items; None without a rating."""
    by_item: dict[int, list[float]] = {}
    choices: list[str] = []
    names: set[str] = set()
    for item, pair in _all(answers, a, b):
        key = pair_hash(answers.items[item], *pair.texts)
        for name, ratings in raters.items():
            if rating := ratings.get(key):
                share = _left_share(rating)
                by_item.setdefault(item, []).append(share if rating.left == text_hash(pair.answer_a) else 1 - share)
                choices.append(rating.choice)
                names.add(name)
    if not by_item:
        return None
    values = np.array([fmean(shares) for shares in by_item.values()])
    shares = [share for item_shares in by_item.values() for share in item_shares]
    wins, losses = fmean(share == 1 for share in shares), fmean(share == 0 for share in shares)
    groups = tuple(answers.items[item].group for item in by_item)
    (rate,) = win_rates({(a, b): PairScores(values[None], (), wins, losses, groups)}, level)
    of = len(pairs_to_rate(answers, RatingPlan(pairs=[(a, b)], runs=plan.runs), ""))
    return RatedPair(
        win_rate=rate,
        both_good=fmean(choice == "both_good" for choice in choices),
        both_bad=fmean(choice == "both_bad" for choice in choices),
        items=len(by_item),
        of=max(of, len(by_item)),
        raters=len(names),
        settled=settled(values, of),
    )


def _left_share(rating: Rating) -> float:
    """1 if the left answer is preferred, 0 for the right one, else one half."""
    return {"left": 1.0, "right": 0.0}.get(rating.choice, 0.5)


def _agreement(raters: Mapping[str, Mapping[str, Rating]], items: Mapping[str, int | str]) -> RaterAgreement | None:
    """Of every two raters on the pairs that both rated."""
    numbers: list[int | str] = []
    ours: list[Preferred] = []
    theirs: list[Preferred] = []
    for one, other in combinations(raters.values(), 2):
        for pair in one.keys() & other.keys() & items.keys():
            numbers.append(items[pair])
            ours.append(side(_left_share(one[pair])))
            share = _left_share(other[pair])
            theirs.append(side(share if other[pair].left == one[pair].left else 1 - share))
    return agreement(numbers, ours, theirs)


def side(share: float) -> Preferred:
    """Which of two answers a share of preferences is for: above one half for a."""
    return "a" if share > VALUES["tie"] else "b" if share < VALUES["tie"] else "tie"
