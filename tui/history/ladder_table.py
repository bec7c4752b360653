"""The results table of a ladder, within 80 columns."""

from __future__ import annotations

from engine.config.metric_specs import metric_spec
from engine.config.quantities import duration, size
from engine.config.text import amount, visible
from engine.runs.ladder import Ladder
from engine.runs.rung_results import RungResult
from engine.runs.score_format import plain_difference, plain_with_bounds
from tui.history.scores import mean_text, range_text
from tui.output.console import table

COLUMNS = ("rung", "score", "95% CI", "of gain", "loss", "training", "total", "peak", "artifact")
BENCHMARK_COLUMNS = 24
"""Columns of the name of a benchmark or metric."""


def show_ladder(ladder: Ladder) -> None:
    """Print one row per rung: score, share of full fine-tuning's gain, loss, times, peak memory and artifact size."""
    work = ladder.work
    metric = work.metric if work else ""
    seeds = amount(len(ladder.seeds), "seed")
    title = (
        f"{work.model} on {work.data}: {metric} on {amount(work.test, 'test item')}, {seeds}" if work else ladder.name
    )
    unit = " %" if metric_spec(metric).is_share else ""
    columns = (COLUMNS[0], f"score{unit}", *COLUMNS[2:])
    table(title, columns, [_row(row, metric) for row in ladder.rows], right=(1, 3, 4, 5, 6, 7, 8))


def show_benchmarks(ladder: Ladder) -> None:
    """Print one row per benchmark and rung: score, and difference from the base model; nothing without benchmarks."""
    if not ladder.benchmarks:
        return
    rows = [
        [
            row.name,
            visible(benchmark.name, BENCHMARK_COLUMNS),
            visible(benchmark.metric, BENCHMARK_COLUMNS),
            plain_with_bounds(row.score, benchmark.is_share),
            plain_difference(row.difference, benchmark.is_share) if row.difference else "–",
            {"worse": "forgets", "better": "gains"}.get(row.finding or "", ""),
        ]
        for benchmark in ladder.benchmarks
        for row in benchmark.rows
    ]
    table(
        "benchmarks (95% CI)", ("rung", "benchmark", "metric", "score", "difference from base", ""), rows, right=(3, 4)
    )


def _row(row: RungResult, metric: str) -> list[str]:
    percent = metric_spec(metric).is_share
    if row.score is None:
        return [row.name, row.status.replace("_", " "), *[""] * (len(COLUMNS) - 2)]
    gain = row.share_of_gain
    peak = row.peak
    return [
        row.name,
        mean_text(row.score, percent),
        range_text(row.score, percent),
        f"{gain.mean:.0%}" if gain and gain.mean is not None else "–",
        mean_text(row.loss, False),
        duration(row.training_seconds.mean) if row.training_seconds else "–",
        duration(row.all_seconds.mean) if row.all_seconds else "–",
        size(peak.training) if peak else "–",
        size(row.artifact_bytes) if row.artifact_bytes else "–",
    ]
