"""The summary at the start of a report: its headline, sentences and figure, equal in terminal, page, Markdown, JSON."""

from __future__ import annotations

import html
import io
import re
from pathlib import Path

import pytest
from made_ladder import made_ladder
from made_runs import HOSTILE
from msgspec import structs
from simulated import EQUAL, NO_GAIN, Truth, row_of, simulate, timed, with_times

from engine.ladder.cost_ratios import ratio_interval
from engine.ladder.decisions import Decisions
from engine.ladder.phrases import SIGNIFICANTLY, rung_title
from engine.ladder.recommendation import OVERALL, RULE, UNTESTABLE, summarize_ladder, worse_than_base
from engine.ladder.report import page
from engine.ladder.report.figures import summary_figure
from engine.ladder.report.page import ReportData
from engine.runs.ladder.ladder_state import Ladder
from engine.runs.ladder.rung_results import CostRatio, LadderSummary
from engine.runs.ladder.summary_drawing import letters, plain_lines, summary_lines, tradeoff_lines
from engine.runs.run.result import Interval
from tui.cli.ladder import show
from tui.output.console import console


def summary_of(ladder: Ladder) -> LadderSummary:
    summary = summarize_ladder(ladder, Decisions(ladder))
    assert summary is not None
    return summary


def holding() -> Ladder:
    ladder = timed()
    row_of(ladder, "qlora").share_of_gain = Interval(mean=0.99, low=0.95, high=1.03, rows=300)
    return ladder


def test_the_headline_says_that_the_rule_holds_only_if_quality_and_cost_do() -> None:
    ladder = holding()
    headline = summary_of(ladder).headline
    assert re.match(r"QLoRA keeps 99\.0% .*\[95\.0, 103\.0\].* 0\.10× ", headline)
    assert headline.endswith(f": {OVERALL['holds']}.")
    headline = summary_of(with_times(ladder, qlora=90.0)).headline
    assert OVERALL["fails"] in headline and headline.endswith("QLoRA's cost.")
    row_of(ladder, "qlora").share_of_gain = Interval(mean=0.8, low=0.7, high=0.9, rows=300)
    headline = summary_of(ladder).headline
    assert OVERALL["fails"] in headline and headline.endswith("quality and cost.")
    row_of(ladder, "qlora").share_of_gain = Interval(mean=0.95, low=0.9, high=1.0, rows=300)
    assert f"{OVERALL['undecided']}, because QLoRA's quality" in summary_of(with_times(ladder, qlora=10.0)).headline


def test_a_rung_that_is_worse_than_the_base_model_is_the_first_sentence() -> None:
    ladder = holding()
    for compared in ladder.comparisons:
        if (compared.a, compared.b) == ("lora", "base"):
            compared.finding, compared.difference = "worse", compared.difference.negated()
    headline = summary_of(ladder).headline
    said = worse_than_base(ladder, [row_of(ladder, "lora")])
    assert headline.startswith(said) and SIGNIFICANTLY["worse"] in said and "LoRA − base = −" in said
    assert OVERALL["holds"] in headline


def test_without_a_gain_the_headline_says_why_the_rule_cannot_be_checked() -> None:
    summary = summary_of(simulate(NO_GAIN, 1)[0])
    assert OVERALL["unknown"] in summary.headline and "keeps" not in summary.headline
    assert summary.tradeoffs == []


def test_a_ladder_without_qlora_or_full_has_a_headline() -> None:
    ladder = timed()
    ladder.rows = [rung for rung in ladder.rows if rung.name != "qlora"]
    assert summary_of(ladder).headline.startswith("LoRA keeps ") and RULE not in summary_of(ladder).headline
    ladder.rows = [rung for rung in ladder.rows if rung.name != "full"]
    assert UNTESTABLE in summary_of(ladder).headline
    ladder.rows = [rung for rung in ladder.rows if rung.name == "base"]
    assert summarize_ladder(ladder, Decisions(ladder)) is None


def test_costs_are_ratios_with_an_interval_of_their_logarithm() -> None:
    qlora, lora, full = summary_of(timed()).tradeoffs
    assert (qlora.rung, lora.rung, full.rung) == ("qlora", "lora", "full")
    assert qlora.cost.mean == pytest.approx(0.1)
    assert (qlora.cost.low, qlora.cost.high) == pytest.approx(ratio_interval([9.7, 10.3], [97.0, 103.0]))
    assert qlora.cost.low < 0.09 < 0.11 < qlora.cost.high < 1 / 8
    assert full.cost == CostRatio(mean=1.0, low=1.0, high=1.0)


def test_terminal_page_markdown_and_json_show_the_same_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, ladder = made_ladder(tmp_path)
    summary = ladder.summary
    stored = directory.state()
    assert summary and stored and stored.summary == summary
    data = ReportData(directory, ladder)
    shown_html = html.unescape(re.sub(r"\s+", " ", page.render_page(data).replace("\u00a0", " ")))
    shown_markdown = page.render_markdown(data)
    decision, score = " · ".join(summary.decision), summary.rows[1].score
    figure, said = "\n".join(plain_lines(tradeoff_lines(summary, 76))), ladder.verdict[0].text
    buffer = io.StringIO()
    monkeypatch.setattr(console, "_file", buffer)  # not `file`: undone, it would stay the present stdout
    monkeypatch.setattr(console, "_width", 200)
    show(directory, ladder)
    terminal = buffer.getvalue()
    for shown, between in ((shown_html, "<figure"), (shown_markdown, figure), (terminal, "share of full")):
        order = (decision[:9], score, between, summary.headline[:30], said[:30], ladder.verdict[-1].text[:20])
        places = [shown.index(part) for part in order]
        assert places == sorted(places)
    for row in summary.rows:
        for text in filter(
            None, (row.score, row.score_bounds, row.share, row.share_bounds, row.cost_bounds, row.decision)
        ):
            assert text in shown_html and page.escape_inline(text) in shown_markdown and text in terminal


@pytest.mark.parametrize("columns", [40, 60, 70, 76, 78, 80, 100, 140])
@pytest.mark.parametrize("rungs", [3, 8])
def test_the_table_in_characters_has_a_line_per_rung_and_every_value_in_any_width(
    columns: int, rungs: int, tmp_path: Path
) -> None:
    _, ladder = made_ladder(tmp_path)
    assert ladder.summary
    base, *trained = ladder.summary.rows
    more = [structs.replace(trained[0], rung=f"r{n}", title=f"LoRA r={n}", finding="worse") for n in range(rungs - 3)]
    ladder.summary.rows = [base, *trained, *more]
    lines = plain_lines(summary_lines(ladder.summary, columns))
    assert max(map(len, lines)) <= columns
    table, shown = lines[1 : rungs + 2], " ".join(" ".join(lines).split())
    for row, line in zip(ladder.summary.rows, table, strict=True):
        assert line.startswith(row.title) and ("●" in line) == (row is not base) and ("◂" in line) == (row is base)
        values = (row.score, row.share, row.cost, row.memory, row.artifact)
        assert all(text in shown for text in (*values, row.decision))
        assert columns < 100 or (row.score_bounds in line and row.share_bounds in line)
        assert columns < 76 or all(
            value in line for value in (row.score, row.share, row.cost, row.memory, row.artifact)
        )


def test_equal_scores_are_at_equal_places_of_the_axis() -> None:
    summary = summary_of(timed())
    for row, drawn in zip(summary.rows[1:], ([0.0, 0.5, 1.0], [0.2, 0.5, 0.6], [0.5, 0.5, 0.5]), strict=True):
        row.drawn = drawn
    lines = plain_lines(summary_lines(summary, 80))[2:5]
    assert len({line.index("●") for line in lines}) == 1


@pytest.mark.parametrize("truth, said", [(EQUAL, "SHIP "), (NO_GAIN, "NO RECOMMENDATION")])
def test_the_decision_is_that_of_the_recommendation(truth: Truth, said: str) -> None:
    ladder, decisions = simulate(truth, 1)
    summary = summary_of(ladder)
    assert summary.decision[0].startswith(said) and summary.ship == ladder.recommended
    assert decisions.ship is None or summary.decision[0] == f"SHIP {rung_title(decisions.ship.name)}"


def test_the_figure_in_characters_marks_rungs_intervals_and_the_corner() -> None:
    summary = summary_of(holding())
    lines = plain_lines(tradeoff_lines(summary, 80))
    assert max(map(len, lines)) <= 80 and len(lines) < 20
    plot = "\n".join(lines)
    for mark in ("Q", "L", "F", "░", "│", "─", "94%", "100%", "1/8"):
        assert mark in plot
    for columns in (40, 44, 52, 60):
        assert max(map(len, plain_lines(tradeoff_lines(summary, columns)))) <= columns


def test_rungs_with_equal_shares_have_their_letters_side_by_side() -> None:
    summary = summary_of(holding())
    for tradeoff in summary.tradeoffs[:-1]:
        tradeoff.share_of_gain, tradeoff.cost = summary.tradeoffs[-1].share_of_gain, summary.tradeoffs[-1].cost
    plot = "".join(line.split("│", 1)[1] for line in plain_lines(tradeoff_lines(summary, 80)) if "│" in line)
    assert sorted(re.findall("[A-Z]", re.sub("CI", "", plot))) == sorted(letters(summary.tradeoffs))


def test_rungs_with_the_same_first_letter_have_different_letters() -> None:
    tradeoffs = summary_of(timed()).tradeoffs
    for tradeoff, name in zip(tradeoffs, ("wide", "wider", "widest"), strict=True):
        tradeoff.title = name
    assert letters(tradeoffs) == ["W", "I", "D"]
    tradeoffs[0].title = HOSTILE[0]
    assert all(len(letter) == 1 and letter.isascii() for letter in letters(tradeoffs))


def test_extreme_intervals_stay_inside_the_figure() -> None:
    summary = summary_of(timed())
    summary.tradeoffs[0].share_of_gain = Interval(mean=0.5, low=-40.0, high=90.0, rows=3)
    summary.tradeoffs[1].cost = CostRatio(mean=30.0, low=0.001, high=900.0)
    assert len(tradeoff_lines(summary, 80)) == len(tradeoff_lines(summary_of(timed()), 80))


def test_the_figure_of_the_page_needs_two_rungs(tmp_path: Path) -> None:
    directory, ladder = made_ladder(tmp_path)
    data = ReportData(directory, ladder)
    figure = summary_figure(ladder.summary, data.styles)
    assert figure and "QLoRA" in figure.svg and "aria-label" in figure.svg
    assert ladder.summary
    ladder.summary.tradeoffs = ladder.summary.tradeoffs[:1]
    assert summary_figure(ladder.summary, data.styles) is None and tradeoff_lines(ladder.summary, 80) == []
