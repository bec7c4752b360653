"""RPC server: `python -m engine.worker.rpc_server REQUEST PID` handles one request of the workbench and exits.

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
from typing import Any, NoReturn

import msgspec

from engine.config.errors import ErrorParts, RunFailed, UserError, error_text
from engine.config.redaction import redact_output
from engine.methods.library_imports import import_without_torch
from engine.runs import stopping
from engine.runs.rpc_client import SERVE, needs_tokenizer_only
from engine.worker.requests import REQUESTS

MAX_REASON = 500
"""Characters of a failure's reason; the traceback goes to stderr."""


Tell = Callable[[dict[str, Any]], None]


def main() -> int:
    """Handle one request, or one after another."""
    # Libraries may print to stdout: responses use a duplicate of it, and stdout itself becomes stderr.
    channel = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(message: dict[str, Any]) -> None:
        with os.fdopen(os.dup(channel), "wb") as file:
            file.write(encoded(message))

    stopping.die_with_parent(int(sys.argv[2]))
    if sys.argv[1] == SERVE:
        _serve(tell)
    line = sys.stdin.buffer.readline()
    stopping.watch(sys.stdin.fileno())
    return _handle(lambda: (sys.argv[1], json.loads(line)), tell)


def _serve(tell: Tell) -> NoReturn:
    """Handle one request after another, until stdin is closed."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        rest = b""
        while block := os.read(0, 1 << 16):  # not sys.stdin: child processes close it, and wait for its lock
            *complete, rest = (rest + block).split(b"\n")
            for line in complete:
                lines.put(line)
        os._exit(1)  # also while a request is handled

    threading.Thread(target=read, daemon=True, name="requests").start()
    while True:
        line = lines.get()
        _handle(lambda line=line: tuple(json.loads(line)), tell)


def _handle(read: Callable[[], tuple[str, dict[str, Any]]], tell: Tell) -> int:
    """Handle one request; the exit status. The last message is always an answer, an error or a failure."""

    def progress(text: str, done: int | None = None, total: int | None = None, unit: str = "rows") -> None:
        tell({"progress": text} | ({} if done is None else {"done": done, "total": total, "unit": unit}))

    try:
        question, arguments = read()
        if needs_tokenizer_only(question, arguments):
            progress("loading libraries")
            import_without_torch()
        tell({"answer": REQUESTS[question](arguments, progress)})
    except UserError as error:
        tell({"error": msgspec.structs.asdict(ErrorParts.of(error))})
        return 2
    except RunFailed as error:
        tell({"failed": str(error), "code": error.code})
        return 1
    except Exception as error:  # noqa: BLE001 - top level: report every error to the client
        tell({"failed": error_text(error, MAX_REASON)})
        traceback.print_exc()
        return 1
    return 0


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
