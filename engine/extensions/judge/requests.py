"""What the bench and the commands ask: what a judge will take, and what people's ratings show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from engine.extensions.judge.judge_dir import subject_of
from engine.extensions.judge.preferences import JudgePlan
from engine.worker.requests import Progress


def judge_plan(arguments: dict[str, Any], progress: Progress) -> Any:
    """The plan of a judge with the pairs of rungs that it compares, and what it takes at most."""
    from engine.extensions.judge.judging import prepare

    progress("reading answers")
    return msgspec.to_builtins(prepare(Path(arguments["path"]), msgspec.convert(arguments["plan"], JudgePlan)))


def rating_summary(arguments: dict[str, Any], progress: Progress) -> Any:
    """Summarize the ratings of a ladder or run, and with `report` write the ladder's report again; None without any."""
    from engine.extensions.judge.win_rates import summarize
    from engine.ladder import report

    subject = subject_of(Path(arguments["path"]))
    summary = summarize(subject)
    if arguments["report"]:
        report.write_again(subject)
    return msgspec.to_builtins(summary)
