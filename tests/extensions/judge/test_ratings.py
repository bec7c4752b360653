"""Ratings of people: what is asked in which order, what is stored, imported and refused, and when it is decided."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_ladder import made_ladder
from planted_judge import plant_answers, quality
from simulated_ratings import Ratings, measure_stops, predicted_stop

from engine.config.errors import UserError
from engine.extensions.judge.confidence_sequence import OrderedRatings
from engine.extensions.judge.judge_dir import progress_of_ratings
from engine.extensions.judge.pairs import answers_of, ladder_answers
from engine.extensions.judge.preferences import WinRate
from engine.extensions.judge.ratings import (
    PAGE_KIND,
    RatingPlan,
    RatingSession,
    checksum,
    fingerprint,
    import_page,
    pairs_to_rate,
)
from engine.extensions.judge.win_rates import PairScores, agreement, summarize, win_rate_so_far, win_rates
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir

NAMES = ("base", "qlora", "lora", "full")


@pytest.fixture
def ladder(tmp_path: Path) -> LadderDir:
    folder, _ = made_ladder(tmp_path / "runs", seeds=(0, 1))
    plant_answers(folder, {"base": 0.0, "qlora": 0.6, "lora": 0.7, "full": 1.2}, items=40)
    return folder


def rated(ladder: LadderDir, name: str, count: int, choices: Any = None) -> RatingSession:
    """Rate the first pairs: the better answer."""
    session = RatingSession(ladder, [], name, ["full,base"])
    for _ in range(count):
        pair = session.current
        assert pair is not None
        better = "left" if quality(pair.left) > quality(pair.right) else "right"
        session.choose(pair, (choices or (lambda pair, better: better))(pair, better), "", 1.0)
    return session


def test_nothing_that_is_shown_or_stored_tells_which_rung_wrote_an_answer(ladder: LadderDir) -> None:
    answers = ladder_answers(ladder)
    plan = RatingPlan(pairs=[("full", "base")])
    shown = {name: pairs_to_rate(answers, plan, name) for name in ("ann", "bob", "eve")}
    order = [pair.id for pair in shown["ann"]]
    assert all([pair.id for pair in pairs] == order for pairs in shown.values())
    base = {answer.output for seed in answers.by_rung["base"].values() for answer in seed}
    for pairs in shown.values():
        on_left = [pair.left in base for pair in pairs]
        assert 8 <= sum(on_left) <= 32  # of 40: random sides
        halves = sum(on_left[:20]), sum(on_left[20:])
        assert all(3 <= half <= 17 for half in halves)  # and no order
    assert [pair.left for pair in shown["ann"]] != [pair.left for pair in shown["bob"]]
    # Swapping the rungs' names changes neither what is shown nor in which order.
    assert [(pair.id, pair.left) for pair in pairs_to_rate(answers, RatingPlan(pairs=[("base", "full")]), "ann")] == [
        (pair.id, pair.left) for pair in shown["ann"]
    ]
    session = rated(ladder, "ann", 5)
    session.own.close()
    stored = session.own.path.read_text()
    assert not any(name in stored for name in NAMES)


def score_by(ladder: LadderDir, rungs: Sequence[str], metric: str, score: str) -> list[str]:
    """Store the scores of these rungs' runs as `score`, and `metric` as the metric of the runs and the ladder.

    Returns the directories of the runs.
    """
    state = ladder.state()
    assert state is not None and state.work is not None
    state.work.metric = metric
    ladder.write_state(state)
    runs = [RunDir(ladder.runs / entry.run) for entry in state.entries if entry.kind == "run" and entry.rung in rungs]
    for run in runs:
        file = run.predictions_file
        file.write_text(file.read_text().replace('"exact_match"', f'"{score}"'))
        result = run_dir.blank_result(run, run_dir.read_frozen(run))
        result.metric = metric
        run_dir.write_result(run, result)
    return [str(run.path) for run in runs]


@pytest.mark.parametrize(("metric", "score"), [("exact_match", "exact_match"), ("open", "chrf")])
def test_the_order_is_random_in_each_stratum_of_disagreement(ladder: LadderDir, metric: str, score: str) -> None:
    """With the metric `open`, which is the loss, the similarity of the answers to the references (chrF) decides."""
    score_by(ladder, NAMES, metric, score)
    plant_answers(ladder, {"base": 0.0, "qlora": 0.6, "lora": 0.7, "full": 1.2}, items=400)
    score_by(ladder, NAMES, metric, score)
    answers = ladder_answers(ladder)
    order = answers.random_order("full", "base")
    assert sorted(ordered.item for ordered in order) == list(range(400))
    gaps = [abs(answers.scores["full"][ordered.item] - answers.scores["base"][ordered.item]) for ordered in order]
    weights = np.array([ordered.weight for ordered in order])
    assert min(gap for gap, weight in zip(gaps, weights, strict=True) if weight == 2) >= float(np.median(gaps))
    assert (weights == 2).sum() == 200
    # Two of three of the first items differ more, as a draw by weight has it; within a stratum nothing else decides.
    assert 0.58 < (weights[:100] == 2).mean() < 0.75
    for stratum in (1, 2):
        places = [place for place, weight in enumerate(weights) if weight == stratum]
        for given in ([gaps[place] for place in places], [order[place].item for place in places]):
            assert abs(float(np.corrcoef(np.argsort(np.argsort(given)), np.arange(200))[0, 1])) < 0.2


def test_resuming_keeps_the_order_in_which_items_are_rated(ladder: LadderDir) -> None:
    """A run of another seed that finishes during rating would change scores, strata and the seed of each item."""
    state = ladder.state()
    assert state is not None
    later = [entry for entry in state.entries if (entry.kind, entry.seed) == ("run", 1)]
    for entry in later:
        entry.status = "live"
    ladder.write_state(state)
    session = rated(ladder, "ann", 7)
    order = [(pair.id, pair.left) for pair in session.pairs]
    session.own.close()
    for entry in later:
        entry.status = "finished"
    ladder.write_state(state)
    for rater, count in (("ann", 7), ("bob", 0)):
        again = RatingSession(ladder, [], rater, [])
        assert again.rated == count
        assert [pair.id for pair in again.pairs] == [pair for pair, _ in order]
        assert rater != "ann" or [(pair.id, pair.left) for pair in again.pairs] == order
        again.own.close()
    fresh = ladder_answers(ladder)
    assert [pair.id for pair in pairs_to_rate(fresh, RatingPlan(pairs=[("full", "base")]), "ann")] != [
        pair for pair, _ in order
    ]


def test_compared_runs_are_ordered_by_their_own_metrics(ladder: LadderDir) -> None:
    runs = [score_by(ladder, [rung], metric, metric)[0] for rung, metric in (("lora", "exact_match"), ("full", "json"))]
    assert len(answers_of(RunDir(Path(runs[0])), runs).scores) == 3  # both runs and the base model


def test_ratings_continue_where_they_were_left_and_can_be_undone(ladder: LadderDir) -> None:
    session = rated(ladder, "ann", 3)
    pair = session.current
    session.own.close()
    again = RatingSession(ladder, [], "ann", [])
    assert again.current == pair and again.rated == 3
    assert again.undo()  # also of the earlier session
    taken = again.current
    assert again.rated == 2 and taken is not None
    again.choose(taken, "both_bad", "neither answers", 2.0)
    again.choose(again.current, "skip", "", 1.0)
    assert (again.rated, again.skipped) == (3, 1)
    again.own.close()
    content = again.own.path.read_bytes()
    again.own.path.write_bytes(content + b'{"pair": "torn')  # a killed process
    kept = RatingSession(ladder, [], "ann", [])
    assert (kept.rated, kept.skipped) == (3, 1)
    while kept.undo():
        pass
    assert (kept.rated, kept.skipped) == (0, 0)
    kept.own.close()
    assert RatingSession(ladder, [], "ann", []).rated == 0  # what followed the incomplete line can be read


def test_two_raters_at_a_time_but_not_two_of_one_name(ladder: LadderDir) -> None:
    first, second = rated(ladder, "ann", 4), rated(ladder, "bob", 6)
    with pytest.raises(UserError) as raised:
        RatingSession(ladder, [], "ann", [])
    assert raised.value.code == "rating.in_use"
    first.own.close()
    second.own.close()
    summary = summarize(ladder)
    assert summary is not None and summary.raters == {"ann": 4, "bob": 6}
    assert summary.agreement is not None and summary.agreement.comparisons == 4


@pytest.mark.parametrize("name", ["", "../x", "a b", "x" * 41, "summary", "plan", "a\nb"])
def test_a_name_that_is_no_file_name_is_refused(ladder: LadderDir, name: str) -> None:
    with pytest.raises(UserError) as raised:
        RatingSession(ladder, [], name, [])
    assert raised.value.code == "rating.rater_name"


def test_what_people_prefer_is_found_with_its_sentence(ladder: LadderDir) -> None:
    rated(ladder, "ann", 40).own.close()
    rated(ladder, "bob", 30, lambda pair, better: "both_good" if pair.item % 10 == 0 else better).own.close()
    summary = summarize(ladder)
    assert summary is not None
    (pair,) = summary.pairs
    assert (pair.items, pair.of, pair.raters, pair.win_rate.finding) == (40, 40, 2, "better")
    assert pair.settled == 1.0
    assert re.match(r"Full .* base .* 2 people .* 40 ", summary.sentences[0])
    assert summary.agreement is not None and (summary.agreement.kappa.low or 0) > 0.5
    assert not any(name in " ".join(progress_of_ratings(summary)).lower() for name in NAMES)  # on the screen


def test_ratings_of_answers_that_changed_are_not_counted(ladder: LadderDir) -> None:
    rated(ladder, "ann", 40).own.close()
    for run in ladder.runs.glob("*-full-*"):
        file = run / "predictions.jsonl"
        file.write_text(file.read_text().replace("Item 7,", "Item seven,"))
    summary = summarize(ladder)
    assert summary is not None
    assert (summary.stale, summary.pairs[0].items) == (1, 39)
    assert [text for text in summary.sentences if text.startswith("1 rating ") and "changed" in text]


def page_file(session: RatingSession, path: Path, rater: str, count: int, **changed: Any) -> Path:
    """A file as the page writes it."""
    ratings = [pair.rating("left", "a note") for pair in session.pairs[:count]]
    content = {"kind": PAGE_KIND, "rater": rater, "set": fingerprint(session.pairs)}
    content["checksum"] = checksum(rater, content["set"], ratings)
    plain = [
        {"pair": rating.pair, "left": rating.left, "choice": rating.choice, "note": rating.note, "t": rating.t}
        for rating in ratings
    ]
    path.write_text(json.dumps({**content, "ratings": plain} | changed))
    return path


def refused(session: RatingSession, file: Path) -> str:
    with pytest.raises(UserError) as raised:
        import_page(session.folder, file, session.pairs)
    return raised.value.code


def test_foreign_duplicate_edited_and_outdated_files_are_refused_with_a_reason(
    ladder: LadderDir, tmp_path: Path
) -> None:
    session = RatingSession(ladder, [], "me", ["full,base"])
    file = page_file(session, tmp_path / "ann.json", "ann", 12)
    plain = json.loads(file.read_text())

    def variant(**changed: Any) -> Path:
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(plain | changed))
        return path

    other = [{**rating, "choice": "right"} for rating in plain["ratings"]]
    assert refused(session, variant(ratings=other)) == "rating.edited"
    assert refused(session, variant(ratings=plain["ratings"][:-1])) == "rating.edited"
    assert refused(session, variant(rater="eve")) == "rating.edited"
    assert refused(session, variant(kind="something")) == "rating.not_a_page"
    (tmp_path / "text").write_text("hello")
    assert refused(session, tmp_path / "text") == "rating.not_a_page"
    assert refused(session, tmp_path / "missing.json") == "rating.unreadable"
    twice = [*session.pairs[:2], session.pairs[0]]
    assert refused(session, page_of(twice, session, tmp_path)) == "rating.duplicate"
    foreign, _ = made_ladder(tmp_path / "other", seeds=(0,))
    plant_answers(foreign, {"base": 0.0, "qlora": 0.5, "lora": 0.5, "full": 3.0}, items=30)
    others = RatingSession(foreign, [], "me", ["full,base"])
    assert refused(others, file) == "rating.foreign"
    assert import_page(session.folder, file, session.pairs) == ("ann", 12)
    assert refused(session, file) == "rating.duplicate"
    session.own.close()
    for run in ladder.runs.glob("*-full-*"):
        changed = run / "predictions.jsonl"
        changed.write_text(changed.read_text().replace("Item 3,", "Item three,").replace("Item 5,", "Item five,"))
    now = RatingSession(ladder, [], "me", [])
    assert refused(now, page_file(session, tmp_path / "eve.json", "eve", 40)) == "rating.changed_items"
    now.own.close()
    others.own.close()


def page_of(pairs: Any, session: RatingSession, folder: Path) -> Path:
    """A file with these pairs and a right checksum."""
    ratings, name = [pair.rating("left") for pair in pairs], fingerprint(session.pairs)
    plain = [{"pair": rating.pair, "left": rating.left, "choice": rating.choice} for rating in ratings]
    path = folder / "made.json"
    sum_ = checksum("eve", name, ratings)
    path.write_text(json.dumps({"kind": PAGE_KIND, "rater": "eve", "set": name, "ratings": plain, "checksum": sum_}))
    return path


def ordered(values: Sequence[float], of: int, weights: Any = None) -> OrderedRatings:
    """The ratings of the first items."""
    return OrderedRatings(np.array(values), np.ones(of) if weights is None else np.array(weights, dtype=float))


def test_more_ratings_change_an_open_result_and_not_a_clear_one() -> None:
    clear, even = [1.0, 1.0, 1.0, 1.0, 0.0] * 8, [1.0, 0.0] * 10 + [1.0] * 4
    assert (ordered(clear, 60).settled("better", 0.95) or 0) > 0.95
    assert (ordered([1 - value for value in clear], 60).settled("worse", 0.95) or 0) > 0.95
    assert (ordered(clear, 60).settled("undecided", 0.95) or 0) == 0
    assert (ordered(even, 400).settled("undecided", 0.95) or 0) < 0.9
    assert (ordered([0.5] * 60, 120).settled("undecided", 0.95) or 0) > 0.95
    assert ordered(even[:4], 400).settled("undecided", 0.95) is None
    assert ordered(even, 24).settled("undecided", 0.95) == 1.0


def test_an_interval_of_some_ratings_is_wider_than_that_of_all_and_ends_in_it() -> None:
    chance = np.random.default_rng(3)
    values = (chance.random(300) < 0.62).astype(float)
    whole = finding_rate(values)
    assert whole.rate.low is not None and whole.rate.high is not None
    widths = []
    for count in (20, 60, 150, 280, 299):
        rate = win_rate_so_far(("a", "b"), ordered(values[:count].tolist(), 300), 0.0, 0.0)
        assert rate.rate.low is not None and rate.rate.high is not None and rate.rate.mean is not None
        assert rate.rate.low < rate.rate.mean < rate.rate.high
        assert (rate.p_adjusted < 0.05) == (rate.finding != "undecided")
        widths.append(rate.rate.high - rate.rate.low)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == pytest.approx(whole.rate.high - whole.rate.low, rel=0.05)


def test_a_stratum_that_is_asked_about_more_often_counts_as_often_as_its_items() -> None:
    """All of the upper stratum are wins, and three in four of the first ratings are of it."""
    weights = [2, 2, 2, 1] * 10 + [1] * 60
    values = [1.0, 1.0, 1.0, 0.0] * 5
    ratings = ordered(values, 100, weights)
    assert ratings.mean == pytest.approx(0.30)  # 30 of 100 items are of the upper stratum
    assert ratings.estimation_weights.mean() == pytest.approx(1.0)


STOPS = [Ratings(80, 0.6, 0.0, "binary"), Ratings(80, 0.6, 0.3, "graded"), Ratings(80, 0.7, 0.0, group=5)]


@pytest.mark.parametrize("cell", STOPS)
def test_at_most_five_percent_of_stops_are_overturned_by_all_ratings(cell: Ratings) -> None:
    """A normal prediction from items in the order of disagreement is overturned in 20 to 100%."""
    measured, predicted = measure_stops(cell, 60), measure_stops(cell, 40, predicted_stop)
    assert measured["stops"] > 30
    assert measured["overturned"] <= 0.05 * measured["stops"]
    assert measured["covered"] >= 0.94 * measured["stops"]
    assert predicted["overturned"] > 0.15 * predicted["stops"]


def finding_rate(values: Any) -> WinRate:
    (rate,) = win_rates({("a", "b"): PairScores(values[None])})
    return rate


def test_kappa_of_known_tables() -> None:
    # Cohen (1960), with proportions .25 .13 .12 / .12 .02 .16 / .03 .15 .02: kappa = (.29 - .35) / (1 - .35)
    table = {("a", "a"): 25, ("a", "b"): 13, ("a", "tie"): 12, ("b", "a"): 12, ("b", "b"): 2, ("b", "tie"): 16}
    table |= {("tie", "a"): 3, ("tie", "b"): 15, ("tie", "tie"): 2}
    decided = [pair for pair, count in table.items() for _ in range(count)]
    ours, theirs = [choice for choice, _ in decided], [choice for _, choice in decided]
    rater_agreement = agreement(list(range(100)), ours, theirs)
    assert rater_agreement is not None and rater_agreement.kappa.mean == pytest.approx(-0.092, abs=0.005)
    assert rater_agreement.kappa.low is not None and rater_agreement.kappa.high is not None
    assert rater_agreement.kappa.low < 0 < rater_agreement.kappa.high
    same = agreement(list(range(60)), ["a", "b", "tie"] * 20, ["a", "b", "tie"] * 20)
    assert same is not None and same.kappa.mean == 1.0 and 0.8 < (same.kappa.low or 0) < 1.0
    one_item = agreement([0] * 60, ["a", "b"] * 30, ["a", "b"] * 30)
    assert one_item is not None and one_item.kappa.low is None  # dependent comparisons are one
    assert agreement([], [], []) is None
