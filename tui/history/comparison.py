"""Runs side by side: curves on one chart, a table of what they reached and took, what differed in their settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from textual.content import Content

from engine.config.errors import UserError
from engine.config.metric_specs import metric_spec
from engine.config.preset import Flat, flatten
from engine.config.split_version import OLDEST, versions_differ
from engine.config.text import visible
from engine.runs import run_dir
from engine.runs.folder import short_name
from engine.runs.result import Result
from engine.runs.run_dir import RunDir
from tui.charts.chart import ChartStyle, Curve, draw
from tui.charts.series import Series
from tui.format import count, duration, setting, size
from tui.history.run_list import describe
from tui.history.scores import mean_text, range_text
from tui.live.opening import Opening
from tui.live.run_state import RunState

COLOURS = (
    "$text-primary",
    "$text-warning",
    "$text-success",
    "$text-error",
    "$text-accent",
    "$text-secondary",
)
ROWS = 12
QUIET = ("title", "about", "slot")
LABEL, CELL = 12, 16


@dataclass(frozen=True)
class Compared:
    """What is known of one run, read once."""

    name: str
    state: str
    colour: str
    loss: Series
    validation: Series
    result: Result | None
    settings: Flat | None
    split_version: int
    error: str = ""


def read(runs: Sequence[RunDir]) -> list[Compared]:
    """Their curves, results and configurations."""
    return [_read(run, COLOURS[number % len(COLOURS)]) for number, run in enumerate(runs)]


def _read(run: RunDir, colour: str) -> Compared:
    error, result, settings, state, version = "", None, None, RunState(run.name), OLDEST
    try:
        state = Opening(run.events_file).first()  # a huge run by samples: several of them would take a while
    except OSError as caught:
        error = f"{run.events_file}: cannot be read: {caught.strerror}"
    try:
        frozen = run_dir.read_frozen(run)
        settings, version = flatten(frozen.config), frozen.split_version
    except UserError as caught:
        error = error or caught.line
    try:
        result = run.result()
    except UserError as caught:
        error = error or caught.line
    shown = describe(run).state
    return Compared(run.name, shown, colour, state.loss, state.validation, result, settings, version, error)


def compare(runs: Sequence[Compared], width: int, ascii_only: bool = False) -> Content:
    """Everything as one text of `width` columns."""
    lines = [*_chart(runs, width, ascii_only), Content(""), *_other_rules(runs), *_table(runs, width), Content("")]
    return Content("\n").join([*lines, *_differences(runs, width)])


def _newest_rule(runs: Sequence[Compared]) -> int:
    return max((run.split_version for run in runs), default=OLDEST)


def _other_rules(runs: Sequence[Compared]) -> Iterator[Content]:
    """Why the scores of some runs are not shown beside the others."""
    newest = _newest_rule(runs)
    for run in runs:
        if reason := versions_differ(run.split_version, newest):
            yield Content.styled(visible(f"{run.name}: no scores here: {reason}"), "$text-warning")


def _chart(runs: Sequence[Compared], width: int, ascii_only: bool) -> Iterator[Content]:
    """The training loss, smoothed; where none has one, nothing."""
    for run in runs:
        yield Content.assemble(("━ ", run.colour), visible(run.name))
        if run.error:
            yield Content.styled(visible(run.error), "$text-error")
    curves = [Curve(run.loss, run.colour) for run in runs]
    if not any(curve.series.buckets for curve in curves):
        yield Content.styled("no steps: no curves", "$foreground-muted")
        return
    for row in draw(curves, width, ROWS, ChartStyle(log=True, smooth=0.6, ascii=ascii_only)):
        yield Content.assemble(*((text, "$foreground-muted" if style == "axis" else style) for text, style in row))
    yield Content.styled("training loss over steps, logarithmic, smoothed", "$foreground-muted")


def _table(runs: Sequence[Compared], width: int) -> Iterator[Content]:
    """A column a run; several blocks where there is no room for all."""
    room = max(1, (width - LABEL) // CELL)
    for first in range(0, len(runs), room):
        block = runs[first : first + room]
        rows = [_figures(run, run.split_version == _newest_rule(runs)) for run in block]
        heads = [(f"{visible(short_name(run.name), CELL - 1):<{CELL}}", run.colour) for run in block]
        yield Content.assemble((" " * LABEL, ""), *heads)
        for name in rows[0]:
            values = "".join(f"{row[name]:<{CELL}}" for row in rows)
            yield Content.assemble((f"{name:<{LABEL}}", "$foreground-muted"), values)


def _figures(run: Compared, comparable: bool) -> dict[str, str]:
    """What was reached and what it took; a dash for what is not known, and for scores on other test rows."""
    result = run.result
    percent = result is not None and metric_spec(result.metric).is_share
    before = result.before if result and comparable else None
    after = result.after if result and comparable else None
    return {
        "state": run.state.replace("_", " "),
        "metric": result.metric if result else "–",
        "before": mean_text(before.score if before else None, percent),
        "after": mean_text(after.score if after else None, percent),
        "95 %": range_text(after.score if after else None, percent),
        "test loss": mean_text(after.loss if after else None, False),
        "steps": f"{result.steps:,}" if result else "–",
        "step time": duration(result.step_seconds) if result else "–",
        "all time": duration(result.worked) if result else "–",
        "tokens/s": f"{result.tokens_per_second:,.0f}" if result and result.tokens_per_second else "–",
        "peak": size(result.peak.training if result else None),
        "trained": count(result.trainable) if result else "–",
        "saved": size(result.artefact_bytes if result else None),
        "energy": f"{result.energy / 3600:.1f} Wh" if result and result.energy is not None else "–",
    }


def _differences(runs: Sequence[Compared], width: int) -> Iterator[Content]:
    """Only keys in which they are not all alike; a line a run where a line for all has no room."""
    known = [(run, run.settings) for run in runs if run.settings is not None]
    if not known:
        return
    first = known[0][1]
    keys = [key for key in first if key not in QUIET and any(flat[key] != first[key] for _, flat in known)]
    yield Content.styled("what differed" if keys else "their configurations are alike", "bold")
    for key in keys:
        values = [(visible(setting(flat[key])), run.colour) for run, flat in known]
        if 30 + sum(max(14, len(text)) + 2 for text, _ in values) <= width:
            yield Content.assemble((f"{key:<30}", ""), *((f"{text:<14}  ", colour) for text, colour in values))
            continue
        yield Content(key)
        for text, colour in values:
            yield Content.assemble("  ", (text, colour))
