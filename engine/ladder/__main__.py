"""`python -m engine.ladder DIR`: runs a ladder or a sweep while holding its lock. It does not import torch."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from engine.config.errors import UserError, system_refusal
from engine.config.redaction import redact_output
from engine.ladder.pipeline import run_ladder
from engine.ladder.sweep_runner import run_sweep
from engine.runs.ladder.ladder_dir import LadderDir, SweepDir
from engine.runs.queue import locks


def main(arguments: list[str]) -> int:
    """Returns 0 if the ladder finished or was stopped, 2 if it could not be started, else 1."""
    if len(arguments) != 1:
        print("usage: python -m engine.ladder DIR", file=sys.stderr)
        return 2
    path = Path(arguments[0]).absolute()
    folder: LadderDir | SweepDir = SweepDir(path) if (path / "sweep.toml").exists() else LadderDir(path)
    kind = "sweep" if isinstance(folder, SweepDir) else "ladder"
    try:
        folder.plan()
        lock = folder.acquire()
        if lock is None:
            hint = f"`ftbench attach {folder.argument}` shows it"
            raise UserError(f"{kind} is already running", folder.name, hint, code=f"{kind}.already_running")
    except UserError as error:
        print(error.line, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"cannot lock {folder.lock_file}: {error.strerror}", file=sys.stderr)
        return 1
    status, reason = "failed", ""
    try:
        locks.write_holder(lock, str(os.getpid()))
        if isinstance(folder, SweepDir):
            status, reason = run_sweep(folder)
        else:
            status, reason = run_ladder(folder, folder.plan())
    except UserError as error:  # ladder.json or sweep.json is damaged
        print(error.line, file=sys.stderr)
        return 2
    except OSError as error:
        refusal = system_refusal(error, str(folder.path))
        reason = f"{reason or status}; {refusal.line}, then `ftbench resume {folder.argument}`"
        folder.record_end("failed", reason)
        with contextlib.suppress(OSError):  # the log may be on the same full disk
            print(reason, file=sys.stderr, flush=True)
    return 0 if status in ("finished", "stopped") else 1


if __name__ == "__main__":
    redact_output()
    sys.exit(main(sys.argv[1:]))
