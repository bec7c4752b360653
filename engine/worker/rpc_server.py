"""RPC server: `python -m engine.worker.rpc_server REQUEST PID` handles one request and exits.

Arguments arrive as one line of JSON on stdin. With `serve` as the request, each line is a list of a request that needs
only a tokenizer and its arguments, and they are handled one after another. A closed stdin means that the client has
gone. JSON lines on stdout: any number of {"progress": text}, for countable work with "done", "total" and "unit" (rows
or bytes); then {"answer": …}, {"error": {what, where, do, code}} or {"failed": reason, "code": code}.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import msgspec

from engine.config.errors import ErrorParts, RunFailed, UserError, error_text
from engine.config.redaction import redact_output
from engine.methods.library_imports import import_without_torch
from engine.runs.rpc_client import SERVE, needs_tokenizer_only
from engine.runs.stopping import die_with_parent
from engine.worker.requests import handler

MAX_REASON = 500
"""Characters of a failure's reason; the traceback goes to stderr."""


class Channel:
    """Lines of JSON from a client, read in a thread, and messages to it. Without the client this process ends."""

    def __init__(self, client: int, take: Callable[[bytes], object]) -> None:
        """`client`: its process id. `take` is called with each line, in the thread.

        Libraries may print to stdout: messages use a duplicate of it, and stdout itself becomes stderr.
        """
        self._messages, self._take = os.dup(1), take
        os.dup2(2, 1)
        die_with_parent(client)
        threading.Thread(target=self._read, daemon=True, name="requests").start()

    def send(self, message: Any) -> None:
        line = memoryview(encoded(msgspec.to_builtins(message)))
        try:
            while line:
                line = line[os.write(self._messages, line) :]
        except BrokenPipeError:
            os._exit(1)

    def _read(self) -> None:
        """Pass on lines until stdin closes; then end the process, even while it works on a request."""
        try:
            with os.fdopen(os.dup(0), "rb") as file:  # not sys.stdin: child processes close it, and wait for its lock
                for line in file:
                    self._take(line)
        finally:
            os._exit(1)


def tell_outcome(
    work: Callable[[], object], refused: Callable[[UserError], object], failed: Callable[[str, str], object]
) -> int:
    """Do the work, and tell the client what ended it; returns the exit status. `failed`: with reason and code."""
    try:
        work()
    except UserError as error:
        refused(error)
        return 2
    except RunFailed as error:
        failed(str(error), error.code)
        return 1
    except Exception as error:  # noqa: BLE001 - top level: report every error to the client
        failed(error_text(error, MAX_REASON), "engine.failed")
        traceback.print_exc()
        return 1
    return 0


def main() -> int:
    """Handle one request, or one after another."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    channel = Channel(int(sys.argv[2]), lines.put)
    while sys.argv[1] == SERVE:
        _handle(channel, lambda: tuple(json.loads(lines.get())))
    return _handle(channel, lambda: (sys.argv[1], json.loads(lines.get())))


def _handle(channel: Channel, read: Callable[[], tuple[str, dict[str, Any]]]) -> int:
    """Handle one request; the exit status. The last message is always an answer, an error or a failure."""

    def progress(text: str, done: int | None = None, total: int | None = None, unit: str = "rows") -> None:
        channel.send({"progress": text} | ({} if done is None else {"done": done, "total": total, "unit": unit}))

    def work() -> None:
        question, arguments = read()
        if needs_tokenizer_only(question, arguments):
            progress("loading libraries")
            import_without_torch()
        channel.send({"answer": handler(question)(arguments, progress)})

    return tell_outcome(
        work,
        lambda error: channel.send({"error": ErrorParts.of(error)}),
        lambda reason, code: channel.send({"failed": reason, "code": code}),
    )


def encoded(message: dict[str, Any]) -> bytes:
    """One line of JSON. Lone Unicode surrogates, as in file names that are not UTF-8, are written as escapes."""
    try:
        return msgspec.json.encode(message) + b"\n"
    except UnicodeEncodeError:
        return msgspec.json.encode(_valid(message)) + b"\n"


def _valid(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_valid(key): _valid(element) for key, element in value.items()}
    return [_valid(element) for element in value] if isinstance(value, (list, tuple)) else value


if __name__ == "__main__":
    redact_output()
    sys.exit(main())
