"""The outer edge of the command: every error of ours becomes one line on stderr and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from engine.contract.errors import RunFailed, UserError
from engine.contract.text import visible


def at_the_edge(work: Callable[[], object]) -> None:
    """Do the work, and leave the process with its exit code where it ends by an error."""
    try:
        try:
            work()
        finally:
            sys.stdout.flush()  # here and not when the process ends, where nobody catches what a closed pipe raises
    except (UserError, RunFailed) as error:
        line = error.line if isinstance(error, UserError) else visible(str(error))
        print(f"ftbench: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader (head, less) has gone: not an error. Nothing more may be flushed into the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
