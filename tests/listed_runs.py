"""Finished runs, and what the runs screen lists of them."""

from __future__ import annotations

from pathlib import Path

from made_runs import write_events
from textual.widgets import Static

from engine.config import preset_library
from engine.runs.run import run_dir
from engine.runs.run.result import Interval, MeasuredPeak, Score
from engine.runs.run.run_dir import RunDir
from tui.app import Workbench
from tui.widgets.table import Table


def made(runs: Path, number: int, preset: str = "demo-lora", status: str = "finished", **settings: object) -> RunDir:
    """A run with a result, as a worker writes it."""
    run = run_dir.create(runs, preset, preset_library.resolve_preset(preset, None, dict(settings)))
    method = run_dir.read_frozen(run).config.method
    write_events(run, method, number)
    result = run_dir.blank_result(run, run_dir.read_frozen(run))
    half = Interval(mean=number / 10, low=number / 10 - 0.05, high=number / 10 + 0.05, rows=40)
    result.status, result.reason, result.created = status, "", 1_795_600_000.0 + number  # type: ignore[assignment]
    result.after = Score(loss=Interval(mean=0.5, low=0.4, high=0.6, rows=40), perplexity=1.6, metric="json", score=half)
    result.peak = MeasuredPeak(rss_training=(100 - number) << 20)
    result.seconds = {"training": 100.0 * (number % 3) + number}
    run_dir.write_result(run, result)
    return run


def keys(app: Workbench) -> list[str]:
    return [row.key for row in app.screen.query_one(Table).rows]


def title(app: Workbench) -> str:
    return str(app.screen.query_one("#title", Static).visual)


def cell(app: Workbench, name: str, column: str) -> str:
    table = app.screen.query_one(Table)
    number = [heading.strip("↑↓") for heading in table.names].index(column)
    return next(row.cells[number][0] for row in table.rows if row.key == name)
