"""The tables of a ladder's report on what judges and people prefer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.config.quantities import ABSENT, decimal, integer, percent
from engine.config.text import amount
from engine.extensions.judge.judge_dir import kappa_text, settled_text
from engine.extensions.judge.preferences import Judgment, RatedPair, RatingSummary, WinRate
from engine.ladder.phrases import p_value, rung_title
from engine.ladder.report.tables import Cell, ReportColumn, ReportTable, RowType, TableLine, cell, report_table
from engine.runs.run.result import MIN_ITEMS
from engine.runs.score_format import percent_bounds

EXPLAINED = (
    "The win rate is the share of comparisons in which the first rung’s answer is preferred; ties count one half. "
    "A judge compares each pair of answers in both orders. 95% CIs account for test items and seeds, and hold "
    "simultaneously for all pairs of a table."
)
PREFERRED = {"better": "preferred", "worse": "not preferred", "undecided": "no significant preference"}


def preference_tables(judgments: Sequence[Judgment], ratings: RatingSummary | None) -> list[ReportTable]:
    """One table of people's ratings and one per judge; win rates of unusable judges are marked as such."""
    tables = [_people(ratings)] if ratings and ratings.pairs else []
    return [*tables, *map(_judge, judgments)]


def judge_prompts(judgments: Sequence[Judgment]) -> list[tuple[str, str]]:
    """(title, text) of each judge's prompt with its rubric."""
    return [
        (f"Prompt of the judge {judgment.title}", judgment.prompt.replace("{rubric}", judgment.rubric))
        for judgment in judgments
    ]


def _people(ratings: RatingSummary) -> ReportTable:
    columns = [
        *_columns(lambda pair: pair.win_rate, lambda pair: f"{integer(pair.items)} items"),
        ReportColumn[RatedPair]("both good", lambda pair: percent(pair.both_good), "ratings"),
        ReportColumn[RatedPair]("both bad", lambda pair: percent(pair.both_bad), "ratings"),
    ]
    names = ", ".join(f"{name} ({integer(count)})" for name, count in ratings.raters.items())
    notes = [f"Rated by {names}, without the names of the rungs.", *filter(None, map(settled_text, ratings.pairs))]
    if agreed := ratings.agreement:
        notes.append(
            f"Agreement of two raters: {percent(agreed.same)} of {amount(agreed.comparisons, 'pair')}, "
            f"Cohen’s kappa {kappa_text(agreed.kappa)}."
        )
    if ratings.stale:
        notes.append(f"{amount(ratings.stale, 'rating')} of answers that have changed since are not counted.")
    return report_table("Preferred by people", "pair", ratings.pairs, lambda pair: _pair(pair.win_rate), columns, notes)


def _judge(judgment: Judgment) -> ReportTable:
    """Its win rates, and how far it can be believed."""
    columns = _columns(lambda rate: rate, lambda rate: f"{integer(rate.rate.rows)} items × {integer(rate.seeds)} seeds")
    unusable = f"Unusable: {'; '.join(judgment.unusable)}. These win rates are not in the verdict."
    notes = [unusable] if judgment.unusable else []
    check, agreement = judgment.check, "not measured (`ftbench rate`)"
    if people := check.people:
        few = "" if people.kappa.low is not None else f", fewer than {MIN_ITEMS} items"
        agreement = f"{percent(people.same)} of {amount(people.comparisons, 'pair')}, "
        agreement += f"Cohen’s kappa {kappa_text(people.kappa)}{few}"
    notes.append(
        f"Measured: different when swapped: {percent(check.swapped)} of {amount(check.comparisons, 'pair')}; "
        f"for the first answer: {percent(check.first)}; "
        f"correlation with length: {decimal(check.length_correlation, 2, signed=True)}; "
        f"not readable: {percent(check.unreadable)} of {amount(check.verdicts, 'verdict')}; "
        f"agreement with people: {agreement}."
    )
    if judgment.status != "finished":
        state = f"{integer(judgment.done)} of {integer(judgment.requests)} verdicts"
        notes.append(f"Incomplete: {state}{f': {judgment.reason}' if judgment.reason else ''}.")
    title = f"Preferred by the judge {judgment.title}{' (unusable)' if judgment.unusable else ''}"
    return report_table(title, "pair", judgment.rates, _pair, columns, notes)


def _pair(rate: WinRate) -> TableLine:
    return TableLine(Cell(f"{rung_title(rate.a)} against {rung_title(rate.b)}"))


def _columns(rate: Callable[[RowType], WinRate], sample: Callable[[RowType], str]) -> list[ReportColumn[RowType]]:

    def adjusted(row: RowType) -> str:
        return p_value(rate(row).p_adjusted) if rate(row).rate.low is not None else ABSENT

    def preferred(row: RowType) -> Cell:
        return cell(percent(rate(row).rate.mean), percent_bounds(rate(row).rate), sample(row))

    return [
        ReportColumn("win rate", preferred),
        ReportColumn("win", lambda row: percent(rate(row).wins), "comparisons"),
        ReportColumn("tie", lambda row: percent(rate(row).ties), "comparisons"),
        ReportColumn("loss", lambda row: percent(rate(row).losses), "comparisons"),
        ReportColumn("adjusted p", adjusted),
        ReportColumn("finding", lambda row: PREFERRED[rate(row).finding], words=True),
    ]
