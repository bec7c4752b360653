"""`python -m engine.ladder LADDER_DIR`: runs a ladder while holding its lock. This process does not import torch."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from pathlib import Path

from engine.config.errors import RunFailed, UserError
from engine.config.files import is_no_space_error
from engine.ladder.pipeline import LadderPipeline
from engine.ladder.runner import LadderRunner
from engine.runs import end_record, locks
from engine.runs.end_record import EndRecord
from engine.runs.ladder import Ladder, LadderPlan, Outcome
from engine.runs.ladder_dir import LadderDir
from engine.runs.stop_request import StopRequest, StopRequested


def main(arguments: list[str]) -> int:
    """Returns 0 if the ladder finished or was stopped, 2 if it could not be started, else 1."""
    if len(arguments) != 1:
        print("usage: python -m engine.ladder LADDER_DIR", file=sys.stderr)
        return 2
    folder = LadderDir(Path(arguments[0]).absolute())
    try:
        plan = folder.plan()
        lock = locks.hold(folder.lock_file)
        if lock is None:
            do = f"`ftbench attach {folder.name}` shows it"
            raise UserError("ladder is already running", folder.name, do, code="ladder.already_running")
    except UserError as error:
        print(error.line, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"cannot lock {folder.lock_file}: {error.strerror}", file=sys.stderr)
        return 1
    status, reason = "failed", ""
    try:
        locks.sign(lock, str(os.getpid()))
        status, reason = run_ladder(folder, plan)
    except UserError as error:  # ladder.json is damaged
        print(error.line, file=sys.stderr)
        return 2
    except OSError as error:
        cause = f"cannot write {error.filename or folder.path}: {error.strerror}"
        reason = f"{reason or status}; {cause}; free disk space, then `ftbench resume {folder.name}`"
        end_record.write(folder.end_file, EndRecord(status="failed", reason=reason, t=time.time()))
        with contextlib.suppress(OSError):  # the log may be on the same full disk
            print(reason, file=sys.stderr, flush=True)
    return 0 if status in ("finished", "stopped") else 1


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
