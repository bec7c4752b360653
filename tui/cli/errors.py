"""Top-level error handling for the CLI: prints one line to stderr and sets the exit code."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

from engine.config.errors import RunFailed, UserError
from tui.output import streams

NAMES = (errno.ENAMETOOLONG, errno.ELOOP)
"""Errors of a name that was given, whatever was to be done with the file."""
NO_RESOURCES = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""No further process, memory or file."""


def at_the_edge(work: Callable[[], object]) -> None:
    """Do the work behind the gate of the terminal, and exit with its exit code where it ends by an error."""
    streams.install()
    try:
        try:
            work()
        finally:
            streams.flush()  # here and not when the process ends, where nobody catches what a closed pipe raises
    except (UserError, RunFailed) as error:
        _leave(error.line if isinstance(error, UserError) else str(error), error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader (head, less) has gone: not an error
        streams.discard()
        sys.exit(0)
    except OSError as error:
        if error.errno in NAMES:
            refused = UserError(f"{error.strerror}", str(error.filename), "check the name", "name.invalid")
            _leave(refused.line, refused.exit_code)
        if error.errno != errno.ENOSPC:
            if error.filename is None and error.errno not in NO_RESOURCES:
                raise
            _leave(f"{error.filename or 'the system refused'}: {error.strerror}", 1)
        streams.discard()
        _leave(f"{error.filename or 'the output'} cannot be written: {error.strerror}; free some space", 1)


def _leave(line: str, code: int) -> None:
    streams.write_error(f"ftbench: {line}")
    sys.exit(code)
