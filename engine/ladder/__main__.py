"""`python -m engine.ladder LADDER_DIR`: takes the ladder's lock and climbs. No torch in this process."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from pathlib import Path

from engine.config.errors import RunFailed, UserError
from engine.config.files import no_room
from engine.ladder.pipeline import LadderPipeline
from engine.ladder.runner import LadderRunner
from engine.runs import end_record, locks
from engine.runs.end_record import EndRecord
from engine.runs.ladder import Ladder, LadderPlan, Outcome
from engine.runs.ladder_dir import LadderDir
from engine.runs.stop_request import StopRequest, StopRequested


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m engine.ladder LADDER_DIR", file=sys.stderr)
        return 2
    folder = LadderDir(Path(arguments[0]).absolute())
    try:
        plan = folder.plan()
    except UserError as error:
        print(error.line, file=sys.stderr)
        return 2
    try:
        lock = locks.hold(folder.lock_file)
    except UserError as error:
        print(error.line, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{folder.lock_file} cannot be locked: {error.strerror}", file=sys.stderr)
        return 1
    if lock is None:
        print(f"{folder.name} is climbing already", file=sys.stderr)
        return 2
    status, reason = "failed", ""
    try:
        locks.sign(lock, str(os.getpid()))
        status, reason = live(folder, plan)
    except UserError as error:  # its state is damaged
        print(error.line, file=sys.stderr)
        return 2
    except OSError as error:
        text = f"{reason or status}; {error.filename or folder.path} cannot be written: {error.strerror}"
        reason = f"{text}; free some space, then `ftbench resume {folder.name}`"
        end_record.write(folder.end_file, EndRecord(status="failed", reason=reason, t=time.time()))
        with contextlib.suppress(OSError):  # the raw log may be on the same full disk
            print(reason, file=sys.stderr, flush=True)
    return 0 if status in ("finished", "stopped") else 1


def live(folder: LadderDir, plan: LadderPlan) -> tuple[Outcome, str]:
    """One life of a ladder: (status, reason). Raises OSError where its state cannot be written."""
    stopping = StopRequest()
    stopping.listen()
    end_record.reserve(folder.end_file)
    climb = LadderRunner(folder, begin(folder, plan), stopping, plan.fresh)
    climb.save()
    status, reason = attempt(LadderPipeline(climb, plan))
    if status != "finished":
        climb.ladder.status, climb.ladder.reason = status, reason
        climb.save()
    return climb.ladder.status, climb.ladder.reason


def begin(folder: LadderDir, plan: LadderPlan) -> Ladder:
    """The ladder as an earlier life left it, or a new one."""
    ladder = folder.state() or Ladder(
        name=folder.name,
        preset=plan.preset,
        command=plan.command,
        created=plan.created,
        seeds=plan.seeds,
        started_in=plan.started_in,
    )
    ladder.status, ladder.stage, ladder.reason, ladder.updated = "running", "planned", "", time.time()
    return ladder


def attempt(stages: LadderPipeline) -> tuple[Outcome, str]:
    """(status, reason)."""
    try:
        stages.all()
    except StopRequested as error:
        why = str(error) or "stopped as asked"
        return "stopped", f"{why}; `ftbench resume {stages.climb.dir.name}` goes on"
    except UserError as error:
        return "failed", error.line
    except RunFailed as error:
        return "failed", str(error)
    except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the ladder ends with a word about it
        if no_room(error):
            do = f"free some space, then `ftbench resume {stages.climb.dir.name}`"
            return "failed", f"the disk is full ({error}); {do}"
        traceback.print_exc()
        text = " ".join(str(error).split())[:300]
        return "failed", f"{type(error).__name__}: {text}; the traceback is in {stages.climb.dir.log_file}"
    return stages.climb.ladder.status, stages.climb.ladder.reason


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
