"""Starts or resumes a ladder in this process, and records how it ended."""

from __future__ import annotations

import time

from engine.ladder.outcomes import run_to_outcome
from engine.ladder.pipeline import LadderPipeline
from engine.ladder.runner import LadderRunner
from engine.runs import end_record
from engine.runs.ladder import Ladder, Outcome
from engine.runs.ladder_dir import LadderDir
from engine.runs.rungs import LadderPlan
from engine.runs.stop_request import StopRequest


def run_ladder(folder: LadderDir, plan: LadderPlan) -> tuple[Outcome, str]:
    """Start or resume the ladder; returns (status, reason). Raises OSError if its state cannot be written."""
    stopping = StopRequest()
    stopping.listen()
    end_record.reserve(folder.end_file)
    runner = LadderRunner(folder, load_or_create(folder, plan), stopping, plan.fresh, plan.retime)
    for notice in [*plan.notices, *folder.renamed_settings()]:
        runner.warn(notice.code, notice.text)
    runner.save()
    status, reason = run_pipeline(LadderPipeline(runner, plan))
    if status != "finished":
        runner.ladder.status, runner.ladder.reason = status, reason
        runner.save()
    return runner.ladder.status, runner.ladder.reason


def load_or_create(folder: LadderDir, plan: LadderPlan) -> Ladder:
    """The ladder's stored state, or a new one."""
    ladder = folder.state() or Ladder(
        name=folder.name,
        preset=plan.preset,
        command=plan.command,
        created=plan.created,
        seeds=plan.seeds,
        started_in=plan.started_in,
    )
    ladder.status, ladder.stage, ladder.reason, ladder.reason_code = "running", "planned", "", ""
    ladder.updated = time.time()
    return ladder


def run_pipeline(pipeline: LadderPipeline) -> tuple[Outcome, str]:
    """Run all stages; returns (status, reason)."""
    return run_to_outcome(pipeline.run, pipeline.runner.ladder, pipeline.runner.dir)
