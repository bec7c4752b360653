"""A worker that sends itself a signal at an event: `python -m faults.interrupted_worker RUN_DIR SIGNAL EVENT`.

The signal is sent before the event is written, and so after the work that it reports.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import msgspec

from engine.__main__ import main
from engine.runs.run.event_log import EventLog

UNTIMED = ("memory", "progress", "warning")
"""Events whose number depends on time, or that other events precede in a resumed run."""


def name_of(event: dict[str, Any]) -> str:
    """`eval:during:validation:3`, `phase:saving` or `plan`; '' for an event at which no worker is interrupted."""
    if event["type"] in UNTIMED:
        return ""
    parts = (event.get(name) for name in ("name", "when", "split", "step"))
    return ":".join([event["type"], *(str(part) for part in parts if part is not None)])


def interrupt(number: signal.Signals, at: str) -> None:
    """Send this process the signal when it is about to write the first event of this name."""
    write, reached = EventLog.write, False

    def interrupted(log: EventLog, event: Any) -> Any:
        nonlocal reached
        if at and not reached and name_of(msgspec.to_builtins(event)) == at:
            reached = True
            os.kill(os.getpid(), number)
        return write(log, event)

    EventLog.write = interrupted  # type: ignore[assignment, method-assign]


if __name__ == "__main__":
    interrupt(signal.Signals[sys.argv[2]], sys.argv[3])
    sys.exit(main(sys.argv[1:2]))
