"""Errors and warnings of the CLI: one line each on stderr, and the exit code.

With `--json` the line is a JSON object, the same for every subcommand:
`{"error": {"code", "problem", "location", "hint"}}` or `{"warning": {"code", "text"}}`.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterable

import msgspec

from engine.config.errors import ErrorParts, Notice, RunFailed, UserError, system_hint, system_refusal
from engine.config.files import IrregularFile, is_no_space_error
from tui.output import streams

INVALID_NAME = (errno.ENAMETOOLONG, errno.ELOOP)
"""Errors caused by a file name that the user gave."""


def handle_errors(work: Callable[[], object]) -> None:
    """Run `work` with stdout and stderr protected; exit with the error's exit code where it raises one.

    Raises an OSError again if it names no file and has no cause outside of the program: it may be a bug.
    """
    streams.install()
    try:
        try:
            work()
        finally:
            streams.flush()  # here, because nobody catches a closed pipe's error when the interpreter exits
    except UserError as error:
        _exit_for(error, error.exit_code)
    except RunFailed as error:
        _exit(ErrorParts(code=error.code, problem=str(error)), str(error), error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader (head, less) has closed the pipe: not an error
        streams.discard()
        sys.exit(0)
    except OSError as error:
        if error.filename is None and not system_hint(error):
            raise
        refusal = system_refusal(error)
        if isinstance(error, IrregularFile):
            refusal.hint, refusal.code = "delete it, or replace it by a file", "file.irregular"
        elif error.errno in INVALID_NAME:
            refusal.code = "name.invalid"
        elif is_no_space_error(error):
            streams.discard()
            where = str(error.filename or "the output")
            _exit_for(UserError(f"cannot write: {error.strerror}", where, refusal.hint, "disk.full"), 1)
        _exit_for(refusal, 1 if refusal.code == "system.refused" else 2)


def show_notices(notices: Iterable[Notice], json: bool) -> None:
    """Print each warning on stderr: `warning: text [code]`, or a JSON object."""
    for notice in notices:
        as_json = {"warning": {"code": notice.code, "text": notice.text}}
        streams.write_error(streams.json_text(as_json) if json else f"warning: {notice.text} [{notice.code}]")


def _exit_for(error: UserError, exit_code: int) -> None:
    parts = ErrorParts.of(error)
    _exit(msgspec.structs.replace(parts, code=parts.code or "cli.error"), error.line, exit_code)


def _exit(parts: ErrorParts, line: str, exit_code: int) -> None:
    # Read here, because the parser may have refused the command line; after `--`, `--json` is an argument.
    arguments = sys.argv[1:]
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    as_json = {"error": msgspec.structs.asdict(parts)}
    streams.write_error(streams.json_text(as_json) if "--json" in options else f"ftbench: {line}")
    sys.exit(exit_code)
