"""Runs side by side: curves on one chart, a table of what they reached and took, what differed in their settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from textual.content import Content

from engine.contract import rundir
from engine.contract.errors import UserError
from engine.contract.follow import Follower
from engine.contract.preset import flatten
from engine.contract.result import Result
from engine.contract.rundir import RunDir
from engine.contract.text import visible
from tui.chart import Curve, Look, draw
from tui.runstate import RunState
from tui.scores import mean_text, range_text
from tui.show import duration, size

COLOURS = ("$primary", "$warning", "$success", "$error", "$accent", "$secondary")
ROWS = 12
QUIET = ("title", "about", "slot")


def compare(runs: Sequence[RunDir], width: int, ascii_only: bool = False) -> Content:
    """Everything as one text."""
    wide = max(40, min(int(0.9 * width), 110) - 6)  # the box it is read in, less frame, padding and scroll bar
    lines = [*_chart(runs, wide, ascii_only), Content(""), *_table(runs), Content(""), *_differences(runs)]
    return Content("\n").join(lines)


def _chart(runs: Sequence[RunDir], width: int, ascii_only: bool) -> Iterator[Content]:
    curves = []
    for number, run in enumerate(runs):
        state = RunState()
        for portion in Follower(run.events_file).portions():
            state.feed(portion)
        colour = COLOURS[number % len(COLOURS)]
        curves.append(Curve(state.loss, colour))
        yield Content.assemble(("- " if ascii_only else "━ ", colour), visible(run.name))
    for row in draw(curves, width, ROWS, Look(log=True, smooth=0.6, ascii=ascii_only)):
        yield Content.assemble(*((text, "$foreground-muted" if style == "axis" else style) for text, style in row))


def _table(runs: Sequence[RunDir]) -> Iterator[Content]:
    yield Content.styled(
        f"{'':<10}{'score':>8} {'95 %':>14} {'loss':>7} {'train':>8} {'all':>8} {'peak':>9} {'saved':>9}",
        "$foreground-muted",
    )
    for number, run in enumerate(runs):
        colour = COLOURS[number % len(COLOURS)]
        yield Content.assemble((f"{run.name[-9:]:<10}", colour), _figures(run))


def _figures(run: RunDir) -> str:
    try:
        result = run.result()
    except UserError:
        return "damaged"
    if result is None:
        return run.state()
    return _result_figures(result)


def _result_figures(result: Result) -> str:
    percent = result.metric != "loss"
    score = result.after.score if result.after else None
    loss = result.after.loss if result.after else None
    peak = result.peak
    return (
        f"{mean_text(score, percent):>8} {range_text(score, percent):>14} {mean_text(loss, False):>7} "
        f"{duration(result.step_seconds):>8} {duration(sum(result.seconds.values())):>8} "
        f"{size(peak.training):>9} {size(result.artefact_bytes):>9}"
    )


def _differences(runs: Sequence[RunDir]) -> Iterator[Content]:
    """Only keys in which they are not all alike."""
    flats = []
    for run in runs:
        try:
            flats.append(flatten(rundir.read_frozen(run).config))
        except UserError as error:
            yield Content.styled(visible(error.line), "$text-error")
            return
    keys = [key for key in flats[0] if key not in QUIET and any(flat[key] != flats[0][key] for flat in flats)]
    yield Content.styled("what differed" if keys else "their configurations are alike", "bold")
    for key in keys:
        parts: list[tuple[str, str]] = [(f"{key:<26}", "")]
        for number, flat in enumerate(flats):
            parts.append((f"{visible(str(flat[key])):<18} ", COLOURS[number % len(COLOURS)]))
        yield Content.assemble(*parts)
