"""`python -m engine.extensions.judge DIR`: ask a judge until its verdicts are complete, holding the directory's lock.

It imports torch for a model on this machine only, after its turn in the device queue.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from engine.config.errors import UserError, system_refusal
from engine.config.redaction import redact_output
from engine.extensions.judge.judge_dir import JudgeDir
from engine.extensions.judge.judging import Judging
from engine.ladder import report
from engine.runs.stopping import StopRequest


def main(arguments: list[str]) -> int:
    """Returns 0 if the judgment finished or was stopped, 2 for invalid input, else 1."""
    if len(arguments) != 1:
        print("usage: python -m engine.extensions.judge DIR", file=sys.stderr)
        return 2
    folder, stopping = JudgeDir(Path(arguments[0]).absolute()), StopRequest()
    try:
        if folder.acquire(str(os.getpid())) is None:
            hint = "wait for it, or stop it"
            raise UserError("this judge is already running", folder.name, hint, "judge.already_running")
        stopping.listen()
        folder.reserve_end()
        judging = Judging(folder, folder.plan(), stopping)
        state = judging.run()
        if state.done:  # else it has nothing to add, and who stopped it waits
            report.write_again(folder.subject)
    except UserError as error:
        print(error.line, file=sys.stderr)
        return 2
    except OSError as error:
        refusal = system_refusal(error, str(folder.path))
        text = f"{refusal.line}, then start the same judge again: the verdicts so far are kept"
        folder.record_end("failed", text)
        print(text, file=sys.stderr, flush=True)
        return 1
    if state.reason:
        print(state.reason, flush=True)
    return 0 if state.status in ("finished", "stopped") else 2 if judging.refused else 1


if __name__ == "__main__":
    redact_output()
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the interpreter would wait for a thread that still loads a model after a stop request
