"""What a run achieved, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from engine.contract.result import Result
from tui.show import count, duration, interval, size, table

COLUMNS = (
    "method",
    "score % before",
    "after",
    "loss before",
    "after",
    "training",
    "in all",
    "peak memory",
    "trained",
    "saved",
)


def show_results(title: str, results: Sequence[Result]) -> None:
    """One row per run. Peak memory is the card's pool where there is a card, else the worker's resident set."""
    table(title, COLUMNS, [_row(result) for result in results], right=(5, 6, 7, 8, 9))


def as_json(results: Sequence[Result]) -> Any:
    return msgspec.to_builtins(results)


def _row(result: Result) -> list[str]:
    before, after, peak = result.before, result.after, result.peak
    percent = result.metric != "loss"
    return [
        result.method,
        interval(before.score if before else None, percent),
        interval(after.score if after else None, percent) if after else result.status,
        interval(before.loss if before else None),
        interval(after.loss if after else None),
        duration(result.seconds.get("training")),
        duration(sum(result.seconds.values())),
        size(peak.reserved or peak.rss),
        f"{count(result.trainable)} ({100 * result.trainable / max(1, result.parameters):.3g} %)",
        size(result.artefact_bytes),
    ]
