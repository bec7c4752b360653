"""Starts or resumes a ladder in this process, and records how it ended."""

from __future__ import annotations

import time
import traceback

from engine.config.errors import RunFailed, UserError
from engine.config.files import is_no_space_error
from engine.ladder.pipeline import LadderPipeline
from engine.ladder.runner import LadderRunner
from engine.runs import end_record
from engine.runs.ladder import Ladder, LadderPlan, Outcome
from engine.runs.ladder_dir import LadderDir
from engine.runs.stop_request import StopRequest, StopRequested


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
    folder, ladder = pipeline.runner.dir, pipeline.runner.ladder
    try:
        pipeline.run()
    except StopRequested as error:
        return "stopped", f"{str(error) or 'stopped by request'}; `ftbench resume {folder.name}` resumes it"
    except UserError as error:
        ladder.reason_code = error.code
        return "failed", error.line
    except RunFailed as error:
        ladder.reason_code = error.code
        return "failed", str(error)
    except Exception as error:  # noqa: BLE001 - top level: the ladder records any error
        if is_no_space_error(error):
            ladder.reason_code = "disk.full"
            return "failed", f"disk full ({error}); free disk space, then `ftbench resume {folder.name}`"
        traceback.print_exc()
        text = " ".join(str(error).split())[:300]
        return "failed", f"{type(error).__name__}: {text}; the traceback is in {folder.log_file}"
    return ladder.status, ladder.reason
