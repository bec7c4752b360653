"""RPC client: send a request to the engine in another process, which unlike the TUI may import libraries.

Arguments go to its stdin as one line of JSON; progress and answer arrive as JSON lines (`engine.worker.rpc_server`).
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import IO, Any

import msgspec

from engine.config.errors import ErrorParts, RunFailed, UserError
from engine.config.quantities import size
from engine.config.text import visible
from engine.runs.stopping import describe_exit

POLL_SECONDS = 0.1
"""Interval of the check whether the server process is alive."""
GRACE_SECONDS = 0.5
"""Time for the server to clean up and exit after its answer."""
MAX_MESSAGE = 1 << 28
"""Bytes; a longer line is an error."""
STDERR_TAIL = 1 << 16
"""Bytes of stderr that are searched for the last line."""

TOKENIZER_ONLY = ("data.check", "data.show", "data.inspect")
"""Requests that need transformers without torch; one process can handle several."""
SERVER, SERVE = "engine.worker.rpc_server", "serve"
"""Its module, and instead of the name of a request: the process handles one after another."""
IDLE_SECONDS = 600.0
"""After which a process without a request ends: it keeps about 200 MiB."""

Counted = Callable[[str, int, int | None], None]
"""Called with a description, the rows done and the total, None while unknown."""


class Cancelled(Exception):
    """The request was cancelled."""


class CancelToken:
    """Cancels a request from another thread: its process is killed and `ask` raises Cancelled."""

    def __init__(self) -> None:
        self.cancelled = False
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def cancel(self) -> None:
        with self._lock:
            self.cancelled = True
            if self._process is not None:
                self._process.kill()

    def attach(self, process: subprocess.Popen[bytes] | None) -> None:
        """Register the server process, None once the request has ended; kill it now if that is already cancelled."""
        with self._lock:
            self._process = process
            if self.cancelled and process is not None:
                process.kill()


def ask(
    question: str,
    arguments: dict[str, Any],
    progress: Callable[[str], None] | None = None,
    cancel_token: CancelToken | None = None,
    counted: Counted | None = None,
    transferred: Counted | None = None,
) -> Any:
    """Run `python -m engine.worker.rpc_server QUESTION` and return its answer.

    `progress` is called with a description of the current work, `counted` also with row counts; without `counted` the
    counts are part of the description. `transferred` is called with the bytes of downloads. The server process ends
    with this process.
    Raises UserError if the server refuses the request, RunFailed within a second if it ends without an answer, and
    Cancelled if `cancel_token` cancelled the request.
    """
    content, hear = encoded_line(arguments), _heard(progress, counted, transferred)
    server = _Server(question, question)
    try:
        return server.ask(question, content, hear, cancel_token or CancelToken())
    finally:
        server.end()


class _Server:
    def __init__(self, question: str, request: str) -> None:
        """`request`: what is handled, SERVE for one request after another. Raises RunFailed if it cannot be started."""
        try:
            self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
            self.process = start_server(SERVER, self.errors, request)
        except OSError as error:
            text = f"cannot start an engine process for {question}: {error.strerror}"
            raise RunFailed(text, "system.no_process") from error

    def ask(self, question: str, content: bytes, hear: Hear, cancel_token: CancelToken) -> Any:
        """The answer to a request, as the function `ask`; after a failure without one the process has ended."""
        message = None
        cancel_token.attach(self.process)
        try:
            message = _converse(self.process, content, hear)
        except BaseException:
            self.process.kill()
            raise
        finally:
            cancel_token.attach(None)
            if message is None:  # cancelled, killed or broken
                self._wait()
        if cancel_token.cancelled:
            raise Cancelled
        if message is None:
            reason = exit_reason(self.process.returncode, self.errors)
            raise RunFailed(f"engine process exited unexpectedly ({question}): {reason}", "engine.died")
        if "error" in message:
            raise msgspec.convert(message["error"], ErrorParts).error()
        if "answer" not in message:
            text = f"engine process failed ({question}): {message.get('failed', 'no reason given')}"
            raise RunFailed(text, message.get("code", "engine.failed"))
        return message["answer"]

    def end(self) -> None:
        self._wait()
        self.errors.close()

    def _wait(self) -> None:
        """Wait GRACE_SECONDS for the process to exit, then kill it."""
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE_SECONDS)
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()


def needs_tokenizer_only(question: str, arguments: dict[str, Any]) -> bool:
    """Whether a request loads a tokenizer and no model: converting a .gguf file needs torch."""
    if question not in TOKENIZER_ONLY:
        return False
    from engine.config import schema  # after the bench's first frame
    from engine.config.model_files import model_place

    return model_place(msgspec.convert(arguments["model"], schema.Model)).kind != "gguf"


class KeptServer:
    """A process that handles several requests, one at a time, so that only the first one waits for libraries.

    It is started and heard by one thread: the kernel ends it with the thread that started it.
    """

    def __init__(self) -> None:
        self._free = threading.Lock()
        self._calls: queue.SimpleQueue[tuple[Future[Any], str, bytes, Hear, CancelToken] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._server: _Server | None = None

    def ask(
        self,
        question: str,
        arguments: dict[str, Any],
        progress: Callable[[str], None],
        cancel_token: CancelToken,
        counted: Counted,
        transferred: Counted,
    ) -> Any:
        """As the function `ask`; by a process of its own if it needs torch, or while the kept one is busy."""
        if not needs_tokenizer_only(question, arguments) or not self._free.acquire(blocking=False):
            return ask(question, arguments, progress, cancel_token, counted, transferred)
        try:
            content = encoded_line([question, arguments])
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="kept RPC server")
                self._thread.start()
            answer: Future[Any] = Future()
            self._calls.put((answer, question, content, _heard(progress, counted, transferred), cancel_token))
            return answer.result()
        finally:
            self._free.release()

    def close(self) -> None:
        """End the process after the present request, and the thread."""
        self._calls.put(None)

    def _work(self) -> None:
        while True:
            try:
                asked = self._calls.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                self._end()
                continue
            if asked is None:
                self._end()
                return
            answer, question, content, hear, cancel_token = asked
            try:
                if self._server is None or self._server.process.poll() is not None:
                    self._end()
                    self._server = _Server(question, SERVE)
                answer.set_result(self._server.ask(question, content, hear, cancel_token))
            except BaseException as error:  # noqa: BLE001 - raised where it was asked
                answer.set_exception(error)

    def _end(self) -> None:
        if self._server is not None:
            self._server.process.kill()
            self._server.end()
        self._server = None


def encoded_line(arguments: dict[str, Any] | list[Any]) -> bytes:
    """One line of JSON. Raises UserError for a file name that is not valid UTF-8."""
    try:
        return msgspec.json.encode(arguments) + b"\n"
    except UnicodeEncodeError as error:
        problem, hint = "file name is not valid UTF-8", "rename the file or folder"
        raise UserError(problem, str(error.object), hint, "name.not_utf8") from error


def start_server(module: str, errors: IO[bytes], *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start `python -m MODULE ARGUMENTS PID`, which reads requests from stdin, and ends with this process, PID."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env={**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
    )


def send_line(process: subprocess.Popen[bytes], content: bytes) -> None:
    """Write a request to a server; nothing where it has ended, which the end of its output tells."""
    assert process.stdin
    with contextlib.suppress(OSError, ValueError):  # ValueError: closed by another thread
        process.stdin.write(content)
        process.stdin.flush()  # stdin stays open: when it closes, the server knows that this process has gone


Message = dict[str, Any]
Hear = Callable[[Message], None]
"""Called with each message about the progress."""


def _heard(progress: Callable[[str], None] | None, counted: Counted | None, transferred: Counted | None) -> Hear:
    """What passes messages on to these functions."""

    def hear(message: Message) -> None:
        text, done, total = str(message["progress"]), message.get("done"), message.get("total")
        if message.get("unit") == "bytes":
            if transferred:  # several times per second: only for a progress bar
                transferred(text, done or 0, total)
        elif done is not None and counted:
            counted(text, done, total)
        elif progress:
            progress(text if done is None else f"{text}: {rows_done(done, total)}")

    return hear


def _converse(process: subprocess.Popen[bytes], content: bytes, hear: Hear) -> Message | None:
    """The last message: an answer or an error. None if the process sent neither."""
    send_line(process, content)
    for line in message_lines(process):
        try:
            message = msgspec.json.decode(line, type=Message)
        except msgspec.DecodeError:
            process.kill()  # else a kept process could answer the next request with the rest of its output
            process.wait()
            return {"failed": f"invalid response {visible(line[:80].decode('utf-8', 'replace'))!r}"}
        if "progress" not in message:
            return message
        hear(message)
    return None


def rows_done(done: int, total: int | None) -> str:
    """`12,000 of 100,000 rows`."""
    return f"{done:,}{f' of {total:,}' if total is not None else ''} rows"


def bytes_done(done: int, total: int | None) -> str:
    """`12.3 MiB of 257 MiB`."""
    return f"{size(done)}{f' of {size(total)}' if total is not None else ''}"


def message_lines(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """Lines of its output until it ends, even if one of its child processes keeps the pipe open."""
    assert process.stdout
    descriptor, buffer, searched = process.stdout.fileno(), bytearray(), 0
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
        buffer += block
        while (end := buffer.find(b"\n", searched)) >= 0:
            yield bytes(buffer[:end])
            del buffer[: end + 1]
            searched = 0
        searched = len(buffer)
        if searched > MAX_MESSAGE:
            yield b"message too long"


def exit_reason(status: int, errors: IO[bytes]) -> str:
    """The signal that ended the process and its last lines on stderr, else its exit status."""
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - STDERR_TAIL))
    last = visible(describe_exit(errors.read().decode("utf-8", "replace").splitlines()), 500)
    if status >= 0:
        return last or f"exit status {status}"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    hint = "; the machine may be out of memory" if status == -signal.SIGKILL else ""
    return f"{name}{hint}{f'; its output ends: {last}' if last else ''}"
