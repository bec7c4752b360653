"""A sweep's report: one HTML page and the same in Markdown, next to `sweep.json`."""

from __future__ import annotations

from collections.abc import Sequence

from engine.config.files import write_atomically
from engine.config.quantities import ABSENT, duration, percent
from engine.config.text import amount
from engine.ladder.report import captions, markdown, page
from engine.ladder.report.table import Cell, ReportColumn, ReportTable, TableLine, cell
from engine.ladder.sweep_figures import sweep_figures
from engine.ladder.sweep_summary import cost_text, rule_text
from engine.runs.score_format import percent_bounds
from engine.runs.sweep import Sweep, SweepCell, SweepPoint, cell_text, value_text
from engine.runs.sweep_dir import SweepDir

READING = (
    "Each row is a rung of one ladder. Brackets are pointwise 95% confidence intervals. Costs are ratios to full "
    "fine-tuning's in the same ladder, with the lowest and highest ratio over all pairs of seeds. Trends are slopes of "
    "weighted least squares on the logarithm of the setting; all ladders have the same test items, which makes their "
    "intervals conservative (too wide)."
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
    columns = [
        *(ReportColumn(key) for key in keys[1:]),
        ReportColumn("rung", words=True),
        ReportColumn("share of full’s gain"),
        ReportColumn(f"share of full’s {sweep.cost}" if sweep.cost else "cost"),
        ReportColumn("rule of thumb", words=True),
        ReportColumn("ladder", words=True),
    ]
    lines = []
    for number, one in enumerate(sweep.cells):
        points = [point for point in sweep.points if point.cell == number]
        lines += [_line(one, point, keys) for point in points] or [_without_results(one, keys)]
    return ReportTable("Results", keys[0], columns, lines)


def _line(one: SweepCell, point: SweepPoint, keys: Sequence[str]) -> TableLine:
    share = point.share_of_gain
    shown = cell(percent(share.mean), percent_bounds(share)) if share else cell(ABSENT, point.why)
    cells = [
        *(Cell(value_text(one.values[key])) for key in keys[1:]),
        Cell(point.title),
        shown,
        Cell(cost_text(point) or ABSENT),
        Cell(rule_text(point)),
        Cell(one.ladder),
    ]
    return TableLine(Cell(value_text(one.values[keys[0]])), cells)


def _without_results(one: SweepCell, keys: Sequence[str]) -> TableLine:
    why = f"{one.status}: {one.reason}" if one.reason else one.status
    others = {key: one.values[key] for key in keys[1:]}
    return TableLine(Cell(value_text(one.values[keys[0]])), instead=f"{cell_text(others)}: {why}" if others else why)


def text(sweep: Sweep) -> str:
    """The report as Markdown."""
    parts = [f"# {markdown.escape_inline(title(sweep))}", markdown.escape_inline(" · ".join(facts(sweep)))]
    parts += [f"**{markdown.escape_inline(sweep.headline)}**"] if sweep.headline else []
    parts += [markdown.bullets(map(markdown.escape_inline, sweep.sentences))] if sweep.sentences else []
    parts += [markdown.table(results(sweep)), markdown.escape_inline(READING)]
    parts += ["Run the sweep:", markdown.fenced(sweep.command)] if sweep.command else []
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
        )
    )
