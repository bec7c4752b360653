"""The results of a sweep: where the rule of thumb holds, trends with intervals, what is missing; page and Markdown."""

from __future__ import annotations

import itertools
import math
import re
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from made_runs import HOSTILE
from made_sweep import RANKS, ladder_with, sweep_of

from engine.config.metric_specs import metric_spec
from engine.extensions.sweeps.sweep import Axis, Sweep, SweepPoint, cell_text
from engine.extensions.sweeps.sweep_dir import SweepDir
from engine.extensions.sweeps.sweep_report import RULE_VERBS, _adjust, html, slope, summarize_sweep, text, write
from engine.ladder.decisions import Decisions
from engine.ladder.phrases import RULE
from engine.ladder.recommendation import summarize_ladder
from engine.runs.ladder.ladder_state import Ladder
from engine.runs.run.result import EXACT_DEGREES, student_quantile
from engine.runs.score_format import with_bounds


def rising() -> Sweep:
    return sweep_of([ladder_with(0.80 + 0.06 * number, 9.0) for number in range(4)])


def test_the_headline_says_in_which_ladders_the_rule_holds() -> None:
    sweep = rising()
    holds, fails, undecided = (RULE_VERBS[check] for check in ("holds", "fails", "undecided"))
    assert sweep.headline.startswith(f"QLoRA: of 4 ladders, {RULE} {holds} in 1 (adapter.rank=32), ")
    assert f"{fails} in 2 and {undecided} in 1, " in sweep.headline and "5% for all 4" in sweep.headline
    assert [point.rule for point in sweep.points if point.rung == "qlora"] == ["fails", "fails", "undecided", "holds"]


def test_a_sweep_in_which_nothing_is_to_be_found_finds_something_in_at_most_five_percent() -> None:
    random, sweeps = np.random.default_rng(0), 2000
    alone = together = 0
    for _ in range(sweeps):
        ps = random.random(12)
        points = [SweepPoint(cell=n, rung="qlora", title="", quality="fails" if p < 0.05 else "undecided", p=p)
                  for n, p in enumerate(ps)]  # fmt: skip
        alone += any(point.quality == "fails" for point in points)
        _adjust(points)
        together += any(point.quality == "fails" for point in points)
    assert alone / sweeps > 0.4 and 0.03 < together / sweeps < 0.06


def test_a_cost_ratio_needs_no_share_of_the_gain() -> None:
    ladder = ladder_with(0.95, 36.0)
    for row in ladder.rows:
        row.share_of_gain, row.no_share = None, "no gain"
    ladder.summary = summarize_ladder(ladder, Decisions(ladder))
    sweep = sweep_of([ladder] * 4)
    point = next(sweep_point for sweep_point in sweep.points if sweep_point.rung == "qlora")
    assert point.cost and point.cost.mean == pytest.approx(0.36) and point.share_of_gain is None
    assert (point.quality, point.cheap, point.rule) == ("unknown", "fails", "unknown")
    assert f"{RULE_VERBS['unknown']} in 4" in sweep.headline


def test_a_trend_has_an_interval_and_is_per_doubling() -> None:
    (trend,) = [sweep_trend for sweep_trend in rising().trends if sweep_trend.rung == "qlora"]
    share = trend.share_of_gain
    assert share and share.mean == pytest.approx(0.06) and share.low is not None and share.low > 0
    assert trend.cost and trend.cost.mean == pytest.approx(1.0)
    sentence = next(candidate for candidate in rising().sentences if candidate.startswith("QLoRA"))
    assert re.match(r"QLoRA: .* adapter\.rank, .* \+6\.0 .*\[\+\d", sentence)
    flat = sweep_of([ladder_with(0.9, 11.0)] * 4)
    assert "no significant trend" in next(candidate for candidate in flat.sentences if candidate.startswith("QLoRA"))


def test_there_is_no_trend_along_words_or_with_two_values() -> None:
    words = Axis(key="adapter.target_modules", values=["all-linear", "q_proj", "v_proj"])
    assert sweep_of([ladder_with(0.9, 11.0)] * 3, [words]).trends == []
    assert sweep_of([ladder_with(0.9, 11.0)] * 2, [Axis(key="adapter.rank", values=[4, 8])]).trends == []


def test_the_trend_along_each_axis_is_at_each_value_of_the_other() -> None:
    axes = [RANKS, Axis(key="data.max_rows", values=[100, 200, 400])]
    sweep = sweep_of([ladder_with(0.9, 11.0)] * 12, axes)
    at = [(trend.key, trend.at) for trend in sweep.trends if trend.rung == "qlora"]
    assert at[:3] == [("adapter.rank", {"data.max_rows": rows}) for rows in (100, 200, 400)]
    assert at[3:] == [("data.max_rows", {"adapter.rank": rank}) for rank in (4, 8, 16, 32)]


def test_what_is_missing_is_said_with_its_reason() -> None:
    ladders: list[Ladder | None] = [ladder_with(0.99, 11.0), None, None, None]
    sweep = sweep_of(ladders, cell_1="missing", cell_2="missing", cell_3="failed")
    sweep.cells[1].reason = sweep.cells[2].reason = "the budget of 8:00:00 does not suffice"
    sweep.cells[3].reason = "out of memory"
    summarize_sweep(sweep, ladders)
    assert "1 ladder of 4" in sweep.headline
    *_, budget, memory = sweep.sentences
    assert f"{'; '.join(cell_text(cell.values) for cell in sweep.cells[1:3])}: {sweep.cells[1].reason}." in budget
    assert f"{cell_text(sweep.cells[3].values)}: {sweep.cells[3].reason}; `ftbench resume s`" in memory
    assert f"failed: {sweep.cells[3].reason}" in text(sweep)


def test_different_test_rows_are_said() -> None:
    ladders = [ladder_with(0.9, 11.0) for _ in range(4)]
    for number, ladder in enumerate(ladders):
        assert ladder.work
        ladder.work.fingerprints["test"] = str(number > 1)
    assert any("same test rows" in sentence for sentence in sweep_of(list(ladders)).sentences)


def test_page_and_markdown_have_headline_sentences_results_and_figures(tmp_path: Path) -> None:
    sweep = rising()
    write(SweepDir(tmp_path), sweep)
    page, markdown = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    for sentence in (sweep.headline, *sweep.sentences):
        assert sentence.replace("'", "&#39;").split("[")[0][:60] in page.replace("\u00a0", " ")
    assert page.count("<svg") == 3 and "Shaded: " in page and "<script" not in page
    assert "| 0.090× · [0.086, 0.094] | holds | [ladder-3](../ladder-3/report.html) |" in markdown
    for cell, row in itertools.product(sweep.cells, ("full", "base")):
        shown = with_bounds(getattr(cell, row), metric_spec(sweep.metric).is_share).split(" ", 1)
        assert all(part in page for part in shown) and " · ".join(shown) in markdown
    assert all(point.score and point.score.low for point in sweep.points)
    links = re.findall(r'href="(\.\./[^"]+)"', page)
    assert set(links) == {f"../{cell.ladder}/report.html" for cell in sweep.cells}


def test_a_ladder_without_a_report_is_not_linked(tmp_path: Path) -> None:
    assert "../ladder-1/" not in html(sweep_of([ladder_with(0.9, 11.0)] * 4, cell_1="stopped"))


def test_the_command_reproduces_the_sweep_from_any_directory(tmp_path: Path) -> None:
    """Its relative paths refer to the directory that it was started in."""
    (tmp_path / "my data").mkdir()
    sweep = sweep_of([ladder_with(0.9, 11.0)] * 4)
    sweep.command, sweep.started_in = "test -e 'my data'", str(tmp_path)
    (command,) = re.findall(r'<pre class="command">(.*?)</pre>', html(sweep), re.DOTALL)
    assert unescape(command) in text(sweep)
    assert subprocess.run(["sh", "-c", unescape(command)], cwd="/", check=False).returncode == 0


def test_a_value_of_the_second_setting_is_below_that_of_the_first() -> None:
    sweep = sweep_of([ladder_with(0.9, 11.0)] * 8, [RANKS, Axis(key="data.max_rows", values=[100, 200])])
    assert "| 4 · data.max_rows=100 | QLoRA |" in text(sweep) and "<small>data.max_rows=200</small>" in html(sweep)


def test_two_axes_have_three_figures_for_each_value_of_the_second() -> None:
    axes = [RANKS, Axis(key="data.max_rows", values=[100, 200])]
    page = html(sweep_of([ladder_with(0.9, 11.0)] * 8, axes))
    assert page.count("<svg") == 6 and "at data.max_rows=200" in page


def test_hostile_values_are_text() -> None:
    hostile = Axis(key="adapter.target_modules", values=[HOSTILE[0], HOSTILE[1]])
    sweep = sweep_of([ladder_with(0.9, 11.0)] * 2, [hostile])
    page = html(sweep)
    assert "<script" not in page and "\x1b" not in page + text(sweep)


@pytest.mark.parametrize(("degrees", "expected"), [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (30, 2.042)])
def test_quantiles_of_students_t(degrees: int, expected: float) -> None:
    """Values of printed tables."""
    assert student_quantile(degrees) == pytest.approx(expected, abs=5e-4)
    many = (student_quantile(EXACT_DEGREES), student_quantile(EXACT_DEGREES + 1))
    assert many == (pytest.approx(1.98397, abs=1e-4), pytest.approx(1.98373, abs=1e-4))


def test_the_slope_is_that_of_least_squares() -> None:
    x, y = [1.0, 2.0, 3.0, 5.0], [2.0, 2.5, 4.5, 5.0]
    fitted = slope([(a, b, 0.0) for a, b in zip(x, y, strict=True)])
    expected, covariance = np.polyfit(x, y, 1, cov=True)
    assert fitted and fitted.mean == pytest.approx(expected[0])
    half = 4.303 * math.sqrt(covariance[0, 0])
    assert fitted.low == pytest.approx(expected[0] - half, abs=1e-3)
    assert slope([(1.0, 1.0, 0.1), (1.0, 2.0, 0.1), (1.0, 3.0, 0.1)]) is None


def test_intervals_of_slopes_contain_the_true_slope() -> None:
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        y = 0.5 * np.arange(5) + random.normal(0, 0.2, 5)
        fitted = slope([(float(x), float(value), 0.2) for x, value in enumerate(y)])
        assert fitted and fitted.low is not None and fitted.high is not None
        hits += fitted.low <= 0.5 <= fitted.high
    assert hits / 400 >= 0.94
