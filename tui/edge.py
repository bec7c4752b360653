"""The outer edge of the command: every error of ours becomes one line on stderr and an exit code."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

from engine.contract.errors import RunFailed, UserError
from engine.contract.text import visible

NO_RESOURCES = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""No further process, memory or file."""
LIKE = str.maketrans(
    {"–": "-", "—": "-", "−": "-", "━": "-", "╸": "-", "╺": "-", "─": "-", "·": ".", "…": "...", "→": "->", "×": "x",
     "│": "|", "✓": "+", "✗": "x", "⏎": "$", "’": "'"}
)  # fmt: skip
"""What our lines hold beside ASCII, and what stands for it where the output's encoding has no such sign."""


def at_the_edge(work: Callable[[], object]) -> None:
    """Do the work, and leave the process with its exit code where it ends by an error."""
    try:
        try:
            work()
        finally:
            if sys.stdout:  # here and not when the process ends, where nobody catches what a closed pipe raises
                sys.stdout.flush()
    except (UserError, RunFailed) as error:
        _leave(error.line if isinstance(error, UserError) else visible(str(error)), error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader (head, less) has gone: not an error
        _no_more_output()
        sys.exit(0)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            if error.filename is None and error.errno not in NO_RESOURCES:
                raise
            _leave(visible(f"{error.filename or 'the system refused'}: {error.strerror}"), 1)
        _no_more_output()
        _leave(f"{error.filename or 'the output'} cannot be written: {error.strerror}; free some space", 1)


def take_any_text() -> None:
    """Let stdout and stderr take every text: where they are closed, and in encodings that do not hold it."""
    codecs.register_error("like", _like)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - until the process ends
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="like")


def _like(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(LIKE)
    return text.encode("ascii", "backslashreplace").decode(), error.end


def _leave(line: str, code: int) -> None:
    print(f"ftbench: {line}", file=sys.stderr)
    sys.exit(code)


def _no_more_output() -> None:
    """Nothing that is still held back may be written when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
