"""Comparison of runs: a table of scores, costs and the settings that differ, and loss curves on one chart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from textual.content import Content

from engine.config.errors import UserError
from engine.config.quantities import ABSENT
from engine.config.schema import DESCRIPTIVE_KEYS
from engine.config.settings import Flat, flatten
from engine.config.text import visible
from engine.runs.run import run_dir
from engine.runs.run.folder import short_name
from engine.runs.run.result import Result
from engine.runs.run.run_dir import RunDir
from tui.charts import DASHES, ChartStyle, Curve, Series, draw, line_sample
from tui.format import setting
from tui.history.run_list import describe
from tui.history.tables import figures
from tui.live.run_state import EventLoader, RunState

COLORS = (
    "$text-primary",
    "$text-warning",
    "$text-success",
    "$text-error",
    "$text-accent",
    "$text-secondary",
)
ROWS = 12
CELL, LONGEST_LABEL = 16, 30
"""Columns of a run's values, and of the longest label that is not cut."""


@dataclass(frozen=True)
class ComparedRun:
    """Everything compared of one run, read once."""

    name: str
    state: str
    color: str
    loss: Series
    result: Result | None
    settings: Flat | None
    error: str = ""


def read(runs: Sequence[RunDir]) -> list[ComparedRun]:
    """Read curves, results and configurations of the runs."""
    compared = []
    for number, run in enumerate(runs):
        error, result, settings, state = "", None, None, RunState(run.name)
        try:
            state = EventLoader(run.events_file).first()  # a huge log as samples: reading several whole would be slow
        except OSError as caught:
            error = f"cannot read {run.events_file}: {caught.strerror}"
        try:
            settings = flatten(run_dir.read_frozen(run).config)
        except UserError as caught:
            error = error or caught.line
        try:
            result = run.result()
        except UserError as caught:
            error = error or caught.line
        shown, color = describe(run).state, COLORS[number % len(COLORS)]
        compared.append(ComparedRun(run.name, shown, color, state.loss, result, settings, error))
    return compared


def compare(runs: Sequence[ComparedRun], width: int, ascii_only: bool) -> Content:
    """The comparison as one text of `width` columns: the table first, then the curves."""
    return Content("\n").join([*_table(runs, width), Content(""), *_chart(runs, width, ascii_only)])


def _chart(runs: Sequence[ComparedRun], width: int, ascii_only: bool) -> Iterator[Content]:
    """Names of the runs and a chart of their smoothed training losses."""
    for place, run in enumerate(runs):
        yield Content.assemble((f"{line_sample(place % len(DASHES), ascii_only)} ", run.color), visible(run.name))
        if run.error:
            yield Content.styled(visible(run.error), "$text-error")
    curves = [Curve(run.loss, run.color, place=place % len(DASHES)) for place, run in enumerate(runs)]
    if not any(curve.series.buckets for curve in curves):
        yield Content.styled("no training steps: no curves", "$foreground-muted")
        return
    for row in draw(curves, width, ROWS, ChartStyle(log=True, smooth=0.6, ascii=ascii_only)):
        yield Content.assemble(*((text, "$foreground-muted" if style == "axis" else style) for text, style in row))
    yield Content.styled("training loss (nats/token) over steps, log scale, smoothed", "$foreground-muted")


def _table(runs: Sequence[ComparedRun], width: int) -> Iterator[Content]:
    """One column per run, scores and costs, then the settings that differ; several blocks where it is too wide."""
    known = [run.settings for run in runs if run.settings is not None]
    keys = [
        key
        for key in (known[0] if known else ())
        if key not in DESCRIPTIVE_KEYS and any(flat.get(key) != known[0][key] for flat in known)
    ]
    values = {
        run.name: {"state": run.state.replace("_", " "), **(figures(run.result) if run.result else {})} for run in runs
    }
    labels = max(values.values(), key=len)  # all labels, if any of the runs has a result
    label = min(LONGEST_LABEL, max(map(len, [*keys, *labels]))) + 2
    room = max(1, (width - label) // CELL)
    for first in range(0, len(runs), room):
        block = runs[first : first + room]
        heads = [(f"{visible(short_name(run.name), CELL - 2):<{CELL}}", run.color) for run in block]
        yield Content.assemble((" " * label, ""), *heads)
        for name in labels:
            yield _line(name, [values[run.name].get(name, ABSENT) for run in block], block, label)
        if known:
            yield Content.styled("settings that differ" if keys else "the configurations are identical", "bold")
        for key in keys:
            yield from _setting_lines(key, block, label)


def _line(name: str, values: Sequence[str], block: Sequence[ComparedRun], label: int) -> Content:
    cells = ((f"{value:<{CELL}}", run.color) for value, run in zip(values, block, strict=True))
    return Content.assemble((f"{visible(name, label - 1):<{label}}", "$foreground-muted"), *cells)


def _setting_lines(key: str, block: Sequence[ComparedRun], label: int) -> Iterator[Content]:
    """A value per column; each on its own line, after the name of its run, where one is too long for its column."""
    values = [visible(setting(run.settings[key])) if run.settings is not None else "–" for run in block]
    if all(len(value) < CELL for value in values):
        yield _line(key, values, block, label)
        return
    yield Content.styled(key, "$foreground-muted")
    for run, value in zip(block, values, strict=True):
        yield Content.assemble((f"  {visible(short_name(run.name), label - 3):<{label - 2}}", run.color), value)
