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

from engine.config.errors import UserError
from engine.judge.win_rates import agreement, settled, summarize
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.preference.answers import answers_of, ladder_answers
from engine.runs.preference.judge_dir import progress_of_ratings
from engine.runs.preference.ratings import (
    PAGE_KIND,
    RatingPlan,
    RatingSession,
    checksum,
    fingerprint,
    import_page,
    pairs_to_rate,
)
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
def test_items_on_which_the_rungs_disagree_come_first(ladder: LadderDir, metric: str, score: str) -> None:
    """With the metric `open`, which is the loss, the similarity of the answers to the references (chrF) decides."""
    score_by(ladder, NAMES, metric, score)
    answers = ladder_answers(ladder)
    pairs = pairs_to_rate(answers, RatingPlan(pairs=[("full", "base")]), "ann")
    gaps = [abs(answers.scores["full"][pair.item] - answers.scores["base"][pair.item]) for pair in pairs]
    assert gaps == sorted(gaps, reverse=True) and gaps[0] > gaps[-1]


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


def test_more_ratings_change_an_open_result_and_not_a_clear_one() -> None:
    clear, even = np.array([1.0] * 28 + [0.0] * 2), np.array([1.0, 0.0] * 10 + [1.0] * 4)
    assert (settled(clear, 60) or 0) > 0.95
    assert (settled(even, 400) or 1) < 0.9
    assert settled(even[:4], 400) is None
    assert settled(even, 24) == 1.0


def test_how_often_a_settled_result_changes() -> None:
    """Of results that are said not to change with 95%, at most about 5% do."""
    chance = np.random.default_rng(7)
    told = changed = 0
    for rate in (0.5, 0.65, 0.8):
        for _ in range(25):
            values = (chance.random(120) < rate).astype(float)
            for n in (30, 60):
                if (settled(values[:n], 120) or 0) >= 0.95:
                    told += 1
                    changed += finding(values[:n]) != finding(values)
                    break
    assert told > 20
    assert changed / told < 0.15


def finding(values: Any) -> str:
    from engine.judge.win_rates import PairScores, win_rates

    (rate,) = win_rates({("a", "b"): PairScores(values[None])})
    return rate.finding


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
