"""`python -m engine.ladder DIR`: runs a ladder, or several, while holding its lock. It does not import torch."""

from __future__ import annotations

import contextlib
import os
import sys
from importlib import import_module
from pathlib import Path

from engine.config.errors import UserError, system_refusal
from engine.config.redaction import redact_output
from engine.runs.ladder.ladder_dir import comparison_at
from engine.runs.queue import locks


def main(arguments: list[str]) -> int:
    """Returns 0 if the ladder finished or was stopped, 2 if it could not be started, else 1."""
    if len(arguments) != 1:
        print("usage: python -m engine.ladder DIR", file=sys.stderr)
        return 2
    folder = comparison_at(Path(arguments[0]).absolute())
    kind, module = folder.KIND, folder.WORK.partition(":")[0]
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
        status, reason = getattr(import_module(module), folder.WORK.partition(":")[2])(folder)
    except UserError as error:  # its state is damaged
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
