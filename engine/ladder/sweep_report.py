"""A sweep's report: one HTML page and the same in Markdown, next to `sweep.json`."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from engine.config.files import write_atomically
from engine.config.quantities import ABSENT, duration, percent
from engine.config.text import amount
from engine.ladder.phrases import metric_title
from engine.ladder.report import captions, markdown, page
from engine.ladder.report.record import from_anywhere
from engine.ladder.report.table import Cell, ReportColumn, ReportTable, TableLine, cell
from engine.ladder.sweep_figures import sweep_figures
from engine.ladder.sweep_summary import cost_texts, rule_text
from engine.runs.folder import short_name
from engine.runs.result import Interval
from engine.runs.score_format import percent_bounds, score, score_bounds
from engine.runs.sweep import Sweep, SweepCell, SweepPoint, cell_text, value_text
from engine.runs.sweep_dir import SweepDir

READING = (
    "Each row is a rung of one ladder, whose report is linked. Brackets are pointwise 95% confidence intervals. Costs "
    "are ratios to full fine-tuning's in the same ladder, with the lowest and highest ratio over all pairs of seeds. "
    "Trends are slopes of weighted least squares on the logarithm of the setting; all ladders have the same test "
    "items, which makes their intervals conservative (too wide)."
)


def write(folder: SweepDir, sweep: Sweep) -> None:
    """Write `report.html` and `report.md`, each atomically. Raises OSError if they cannot be written."""
    write_atomically(folder.page, html(sweep).encode())
    write_atomically(folder.markdown, text(sweep).encode())


def title(sweep: Sweep) -> str:
    """`demo by adapter.rank and data.max_rows`."""
    return f"{sweep.preset} by {' and '.join(axis.key for axis in sweep.axes)}"


def facts(sweep: Sweep) -> list[str]:
    """The line below the title."""
    done = sum(one.status == "finished" for one in sweep.cells)
    spent = f"{duration(sweep.spent)} spent" + (f" of {duration(sweep.budget)}" if sweep.budget else "")
    return [f"{done} of {amount(len(sweep.cells), 'ladder')} finished", spent, captions.date(sweep.created)]


def results(sweep: Sweep) -> ReportTable:
    """One line per rung and cell."""
    keys = [axis.key for axis in sweep.axes]
    metric = metric_title(sweep.metric) if sweep.metric else "score"
    columns = [
        ReportColumn("rung", words=True),
        *(ReportColumn(head, metric) for head in ("rung", "full", "base")),
        ReportColumn("gain", "share of full’s"),
        ReportColumn(sweep.cost or "cost", "share of full’s"),
        ReportColumn("rule of thumb", words=True),
        ReportColumn("ladder"),
    ]
    lines = []
    for number, one in enumerate(sweep.cells):
        points = [point for point in sweep.points if point.cell == number]
        lines += [_line(sweep, one, point, keys) for point in points] or [_without_results(one, keys)]
    return ReportTable("Results", keys[0], columns, lines)


def _line(sweep: Sweep, one: SweepCell, point: SweepPoint, keys: Sequence[str]) -> TableLine:
    share = point.share_of_gain
    shown = cell(percent(share.mean), percent_bounds(share)) if share else cell(ABSENT, point.why)
    cells = [
        Cell(point.title),
        *(_score(interval, sweep.metric) for interval in (point.score, one.full, one.base)),
        shown,
        cell(*cost_texts(point)),
        Cell(rule_text(point)),
        Cell(short_name(one.ladder), link=f"../{quote(one.ladder)}/report.html" if one.status == "finished" else ""),
    ]
    return TableLine(_head(one, keys), cells)


def _score(score_of: Interval | None, metric: str) -> Cell:
    return cell(score(score_of.mean, metric), score_bounds(score_of, metric)) if score_of else Cell(ABSENT)


def _without_results(one: SweepCell, keys: Sequence[str]) -> TableLine:
    return TableLine(_head(one, keys), instead=f"{one.status}: {one.reason}" if one.reason else one.status)


def _head(one: SweepCell, keys: Sequence[str]) -> Cell:
    """The value of the first axis, with that of the other one."""
    return cell(value_text(one.values[keys[0]]), cell_text({key: one.values[key] for key in keys[1:]}))


def text(sweep: Sweep) -> str:
    """The report as Markdown."""
    parts = [f"# {markdown.escape_inline(title(sweep))}", markdown.escape_inline(" · ".join(facts(sweep)))]
    parts += [f"**{markdown.escape_inline(sweep.headline)}**"] if sweep.headline else []
    parts += [markdown.bullets(map(markdown.escape_inline, sweep.sentences))] if sweep.sentences else []
    parts += [markdown.table(results(sweep)), markdown.escape_inline(READING)]
    parts += ["Run the sweep:", markdown.fenced(from_anywhere(sweep))] if sweep.command else []
    return "\n\n".join(parts) + "\n"


def html(sweep: Sweep) -> str:
    """The report as a page without scripts and requests."""
    return (
        page.environment()
        .get_template("sweep.html.jinja")
        .render(
            sweep=sweep,
            title=title(sweep),
            facts=facts(sweep),
            table=results(sweep),
            figures=sweep_figures(sweep),
            reading=READING,
            styles={},
            command=from_anywhere(sweep),
        )
    )
