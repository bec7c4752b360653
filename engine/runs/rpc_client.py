"""A question to the engine: one short-lived process that may import what the screen must not.

The question's arguments go in as one line of JSON on stdin; the answer comes out as JSON lines, progress first.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import IO, Any

import msgspec

from engine.config.errors import RunFailed, UserError
from engine.config.text import visible

POLL_SECONDS = 0.1
"""Between two looks at whether the answerer still lives."""
GRACE_SECONDS = 0.5
"""For an answerer that has answered to clean up and end."""
LONGEST_MESSAGE = 1 << 28
"""Bytes; a longer line is no answer."""
STDERR_TAIL = 1 << 16

Counted = Callable[[str, int, int | None], None]
"""Takes what is being done, the number of rows done, and of how many: None where that is not known yet."""


class Cancelled(Exception):
    """Whoever asked no longer wants to know."""


class CancelToken:
    """Gives a question up from another thread: its process is killed, and `ask` raises Left."""

    def __init__(self) -> None:
        self.left = False
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def leave(self) -> None:
        with self._lock:
            self.left = True
            if self._process is not None:
                self._process.kill()

    def hold(self, process: subprocess.Popen[bytes]) -> None:
        """The process that answers; killed at once where the question has been left before it began."""
        with self._lock:
            self._process = process
            if self.left:
                process.kill()


class Refusal(msgspec.Struct):
    """A UserError as the answerer tells it."""

    what: str
    where: str = ""
    do: str = ""
    code: str = ""


def ask(
    question: str,
    arguments: dict[str, Any],
    progress: Callable[[str], None] | None = None,
    leaving: CancelToken | None = None,
    counted: Counted | None = None,
) -> Any:
    """Run `python -m engine.worker.rpc_server QUESTION` and return its answer.

    `progress` is told what is being done, `counted` also how many rows of how many; without `counted` the numbers are
    part of the text.
    Raises UserError for what the answerer refuses, RunFailed within a second of its end however it ends without an
    answer, and Left where `leaving` gave it up. The answerer ends with this process.
    """
    content = _encoded(arguments)
    try:
        with tempfile.TemporaryFile() as errors:
            process = _start(question, errors)
            try:
                if leaving:
                    leaving.hold(process)
                message = _converse(process, content, progress, counted)
            except BaseException:
                process.kill()
                raise
            finally:
                _finish(process)
            if leaving and leaving.left:
                raise Cancelled
            return _answer(question, message, process, errors)
    except OSError as error:
        raise RunFailed(f"the engine cannot be asked ({question}): {error.strerror}") from error


def _encoded(arguments: dict[str, Any]) -> bytes:
    """One line of JSON. Raises UserError for a file name that JSON cannot hold."""
    try:
        return msgspec.json.encode(arguments) + b"\n"
    except UnicodeEncodeError as error:
        what, do = "this name is not valid UTF-8", "rename the file or folder"
        raise UserError(what, str(error.object), do, "name.not_utf8") from error


def _start(question: str, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "engine.worker.rpc_server", question, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env={**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1"},
    )


def _converse(
    process: subprocess.Popen[bytes],
    content: bytes,
    progress: Callable[[str], None] | None,
    counted: Counted | None,
) -> dict[str, Any] | None:
    """The last message: an answer or an error. None where there is none, and for a line that is no message."""
    assert process.stdin
    with contextlib.suppress(BrokenPipeError):  # it has ended: `_answer` looks at how
        process.stdin.write(content)
        process.stdin.flush()  # and stays open: its end tells the answerer that we have gone
    for line in _lines(process):
        try:
            message = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError:
            return {"failed": f"it printed {visible(line[:80].decode('utf-8', 'replace'))!r} in place of an answer"}
        if "progress" not in message:
            return message
        _tell(message, progress, counted)
    return None


def _tell(message: dict[str, Any], progress: Callable[[str], None] | None, counted: Counted | None) -> None:
    text, done, total = str(message["progress"]), message.get("done"), message.get("total")
    if done is not None and counted:
        counted(text, done, total)
    elif progress:
        progress(text if done is None else f"{text}: {rows_done(done, total)}")


def rows_done(done: int, total: int | None) -> str:
    """`12,000 of 100,000 rows`."""
    return f"{done:,}{f' of {total:,}' if total is not None else ''} rows"


def _lines(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """Lines of its output until it has ended: a process of its own that holds the pipe open does not count."""
    assert process.stdout
    descriptor, held, searched = process.stdout.fileno(), bytearray(), 0
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while True:
        ended = process.poll() is not None
        if not poll.poll(0 if ended else POLL_SECONDS * 1000):
            if ended:
                return
            continue
        if not (block := os.read(descriptor, 1 << 16)):
            return
        held += block
        while (end := held.find(b"\n", searched)) >= 0:
            yield bytes(held[:end])
            del held[: end + 1]
            searched = 0
        searched = len(held)
        if searched > LONGEST_MESSAGE:
            yield b"more than a message may have"


def _finish(process: subprocess.Popen[bytes]) -> None:
    """Let it clean up for a moment, then end it: it has nothing more to say."""
    assert process.stdin and process.stdout
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    process.kill()
    process.wait()
    process.stdout.close()
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()


def _answer(question: str, message: dict[str, Any] | None, process: subprocess.Popen[bytes], errors: IO[bytes]) -> Any:
    if message is None:
        raise RunFailed(f"the engine ended without an answer ({question}): {_ending(process.returncode, errors)}")
    if "error" in message:
        refused = msgspec.convert(message["error"], Refusal)
        raise UserError(refused.what, refused.where, refused.do, refused.code)
    if "answer" not in message:
        raise RunFailed(f"the engine failed ({question}): {message.get('failed', 'no reason given')}")
    return message["answer"]


def _ending(status: int, errors: IO[bytes]) -> str:
    """How a process ended: its signal and the last line it wrote to stderr, else its exit status."""
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - STDERR_TAIL))
    lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    said = visible(lines[-1].strip(), 300) if lines else ""
    if status >= 0:
        return said or f"exit status {status}"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    hint = "; the machine may be out of memory" if status == -signal.SIGKILL else ""
    return f"{name}{hint}{f'; last line: {said}' if said else ''}"
